//! Which processes belong to a worker, and how they are told apart from everybody else's.
//!
//! A process belongs to a worker if it is in the group that the worker leads, or if it carries the token of the worker's start in
//! its environment, which every child inherits. The first is sure as long as the leader is there (a zombie is enough), since then
//! the number of the group can't be used again. The second finds what has left the group, and what is left of a group whose leader
//! is gone.

use std::{collections::HashMap, io};

use super::{
    SPAWN,
    proc::{self, Identity, Process},
    record::{Record, Token},
};

/// What a worker's processes are recognised by.
#[derive(Clone, Debug)]
pub(super) struct Marks {
    pub(super) leader: Option<Identity>,
    pub(super) token: Token,
}

impl From<&Record> for Marks {
    fn from(record: &Record) -> Self {
        Self { leader: record.process, token: record.token.clone() }
    }
}

/// The live processes of each worker.
pub(super) fn survey<'a>(workers: impl Iterator<Item = &'a Marks> + Clone) -> io::Result<Vec<Vec<Process>>> {
    let mut found: Vec<_> = workers.clone().map(|_| Vec::new()).collect();
    if found.is_empty() {
        return Ok(found);
    }
    let processes = proc::all()?;
    let by_pid: HashMap<i32, &Process> = processes.iter().map(|process| (process.id.pid, process)).collect();
    let (mut groups, mut tokens) = (HashMap::new(), HashMap::new());
    let mut first_start = u64::MAX;
    for (position, Marks { leader, token }) in workers.enumerate() {
        tokens.insert(token.as_str(), position);
        if let Some(leader) = leader
            && by_pid.get(&leader.pid).is_some_and(|process| process.id == *leader)
        {
            groups.insert(leader.pid, position);
        }
        first_start = first_start.min(leader.map_or(0, |leader| leader.start));
    }
    for process in processes.iter().filter(|process| process.live) {
        let owner = groups.get(&process.group).copied().or_else(|| {
            // A child is not older than the worker: this spares a look at everything else on the machine.
            let token = (process.id.start >= first_start).then(|| proc::variable(process.id.pid, SPAWN)).flatten()?;
            tokens.get(token.as_str()).copied()
        });
        if let Some(owner) = owner {
            found[owner].push(*process);
        }
    }
    Ok(found)
}

/// As [`survey`], but a worker has no process only if it had none twice in a row: `/proc` is not read in one moment, so a process
/// that moves while it is read (a fork, then the end of the parent) can be missed once.
pub(super) fn survey_twice(workers: &[&Marks]) -> io::Result<Vec<Vec<Process>>> {
    let mut found = survey(workers.iter().copied())?;
    let empty: Vec<usize> = (0..found.len()).filter(|position| found[*position].is_empty()).collect();
    let again = survey(empty.iter().map(|position| workers[*position]))?;
    for (position, processes) in empty.into_iter().zip(again) {
        found[position] = processes;
    }
    Ok(found)
}
