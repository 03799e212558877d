//! Where a scheduler's workers come from: what a process must have in common with them to be a child of theirs that hides it.
//!
//! Used where workers are not held by control groups. A child of a worker's that has left its process group, has lost its environment and whose
//! parents are gone looks like anybody's. But it is in the control groups of the scheduler, which only the privileged can leave, and
//! its parent is one of those that orphans are given to: a process above the scheduler.

use std::{collections::HashMap, io};

use serde::{Deserialize, Serialize};

use super::{
    proc::{self, Identity, Process, Variable},
    watchdog::PLAN,
};

/// What every worker of a scheduler has from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Origin {
    scheduler: Identity,
    /// The processes above the scheduler.
    above: Vec<i32>,
    /// The scheduler's `/proc/self/cgroup`.
    groups: String,
}

impl Origin {
    /// Of this process.
    pub(super) fn here() -> io::Result<Self> {
        let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        let process = proc::read(own)?.ok_or_else(|| io::Error::other("this process is not in /proc"))?;
        let (mut above, mut next) = (vec![1], process.parent);
        while next > 1 && !above.contains(&next) {
            above.push(next);
            // One that may not be seen is a parent all the same, and what is above it is not known.
            let Ok(Some(parent)) = proc::read(next) else { break };
            next = parent.parent;
        }
        Ok(Self { scheduler: process.id, above, groups: proc::control_groups(own)? })
    }

    /// No worker is older.
    pub(super) fn began(&self) -> u64 {
        self.scheduler.start
    }

    /// Why a process may be a worker's child, if it may. `top` is the oldest of its parents that is younger than the worker; `orphans` says whether
    /// one with a whole environment of another kind may be as well.
    pub(super) fn suspects(
        &self,
        process: &Process,
        mark: &Variable,
        top: &Process,
        orphans: bool,
    ) -> Option<&'static str> {
        if top.parent != self.scheduler.pid && !self.above.contains(&top.parent) {
            return None;
        }
        // Where that can't be read, it may be.
        let is_ours = |pid| proc::control_groups(pid).map_or(true, |theirs| is_below(&theirs, &self.groups));
        if !is_ours(process.id.pid) {
            return None;
        }
        match mark {
            Variable::Unknown => Some("its environment can't be read, or is overwritten"),
            // What is started by a process outside of our groups is outside of them: this one was left to it. Once the scheduler is
            // gone, whatever else it had started has been left like that too.
            _ if orphans && !is_ours(top.parent) && !is_watchdog(process.id.pid) => {
                Some("it is an orphan in the scheduler's control group, with another environment")
            }
            _ => None,
        }
    }
}

fn is_watchdog(pid: i32) -> bool {
    matches!(proc::variable(pid, PLAN), Variable::Value(_))
}

/// Whether groups, as in `/proc/<pid>/cgroup`, are those or below them.
fn is_below(groups: &str, above: &str) -> bool {
    let by_hierarchy: HashMap<&str, &str> = groups.lines().filter_map(|line| line.rsplit_once(':')).collect();
    above.lines().filter_map(|line| line.rsplit_once(':')).all(|(hierarchy, path)| {
        by_hierarchy.get(hierarchy).is_none_or(|ours| {
            ours.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || path.ends_with('/'))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_service_is_not_below_this_one() {
        let ours = "1:name=systemd:/a\n0::/system.slice/a.service\n";
        for below in [ours, "1:name=systemd:/a/b\n0::/system.slice/a.service/worker\n"] {
            assert!(is_below(below, ours), "{below}");
        }
        for other in
            ["1:name=systemd:/a\n0::/system.slice/a.service2\n", "1:name=systemd:/b\n0::/system.slice/a.service\n"]
        {
            assert!(!is_below(other, ours), "{other}");
        }
        assert!(is_below("0::/user.slice\n", "0::/\n"));
    }
}
