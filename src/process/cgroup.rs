//! Control groups (cgroup v2): what a worker forks is in its group, whatever it does to its environment or process group, and `cgroup.kill` ends
//! all of it in one step, faster than it can fork. See `cgroups(7)`.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Access, access};
use serde::{Deserialize, Serialize};

use super::record::Token;

const PREFIX: &str = "winddown-";

/// The folder of one worker's group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Group(PathBuf);

/// The group that this process is in, if groups may be made below it and processes be moved there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Home(PathBuf);

impl Home {
    /// # Errors
    /// Why there is none.
    pub(super) fn find() -> Result<Self, String> {
        let mounts =
            fs::read_to_string("/proc/self/mountinfo").map_err(|error| format!("no list of mounts: {error}"))?;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| format!("no control groups: {error}"))?;
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).ok_or("this process is in no cgroup v2")?;
        let folder = mounts.lines().filter_map(cgroup2).find_map(|(root, at)| {
            let below = Path::new(own).strip_prefix(root).ok()?;
            Some(Path::new(at).join(below))
        });
        let home = Self(folder.ok_or("cgroup v2 is not mounted where this process's group could be seen")?);
        home.try_out().map(|()| home)
    }

    /// Makes a group, looks whether it can do what it must, and removes it.
    fn try_out(&self) -> Result<(), String> {
        let failed = |what: &Path, error: io::Error| format!("`{}`: {error}", what.display());
        let token = Token::random().map_err(|error| error.to_string())?;
        let group = self.make(&token).map_err(|error| failed(&self.0, error))?;
        let check = || {
            for (folder, file, mode) in [
                (&group.0, "cgroup.kill", Access::WRITE_OK),
                (&group.0, "cgroup.procs", Access::WRITE_OK),
                // A process is moved only by who may write in the group that is above both places.
                (&self.0, "cgroup.procs", Access::WRITE_OK),
                (&group.0, "cgroup.events", Access::READ_OK),
            ] {
                let file = folder.join(file);
                access(&file, mode).map_err(|error| failed(&file, error.into()))?;
            }
            let kind = fs::read_to_string(group.0.join("cgroup.type")).map_err(|error| failed(&group.0, error))?;
            // In a threaded one processes can't be killed as a group.
            if kind.trim() == "domain" {
                Ok(())
            } else {
                Err(format!("a group below `{}` is of type `{}`", self.0.display(), kind.trim()))
            }
        };
        let result = check();
        group.remove();
        result
    }

    /// Makes the group of one start.
    pub(super) fn make(&self, token: &Token) -> io::Result<Group> {
        let group = self.group_of(token);
        fs::create_dir(&group.0)?;
        Ok(group)
    }

    /// The group of a start, whether it is there or not.
    pub(super) fn group_of(&self, token: &Token) -> Group {
        Group(self.0.join(format!("{PREFIX}{}", token.as_str())))
    }
}

/// The root and the place of a mount of cgroup v2, of a line of `/proc/self/mountinfo`.
fn cgroup2(line: &str) -> Option<(&str, &str)> {
    let (before, after) = line.split_once(" - ")?;
    (after.split(' ').next() == Some("cgroup2")).then_some(())?;
    let mut fields = before.split(' ').skip(3);
    Some((fields.next()?, fields.next()?))
}

impl Group {
    /// Whether the path is that of the start's group: a record can't name any other.
    pub(super) fn is_of(&self, token: &Token) -> bool {
        let name = self.0.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_prefix(PREFIX));
        name == Some(token.as_str())
            && self.0.is_absolute()
            && !self.0.components().any(|part| part.as_os_str() == "..")
    }

    /// Moves a process here. What it forks from now on is here as well.
    pub(super) fn take(&self, pid: i32) -> io::Result<()> {
        match fs::write(self.0.join("cgroup.procs"), pid.to_string()) {
            // It has ended.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => Ok(()),
            result => result,
        }
    }

    /// Whether anything alive is in it, or in a group below it. Zombies don't count.
    pub(super) fn is_populated(&self) -> io::Result<bool> {
        match fs::read_to_string(self.0.join("cgroup.events")) {
            Ok(events) => Ok(!events.lines().any(|line| line == "populated 0")),
            Err(error) if is_gone(&error) => self.is_removed().map(|()| false),
            Err(error) => Err(error),
        }
    }

    /// Only an empty group can be removed. But if the groups can't be seen at all, this one is not known to be empty.
    fn is_removed(&self) -> io::Result<()> {
        let above = self.0.parent().unwrap_or(&self.0).join("cgroup.procs");
        access(&above, Access::EXISTS).map_err(|error| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("expected control groups at `{}`: {error}", above.display()))
        })
    }

    /// The processes in it and in the groups below it, those that are seen from this process-id namespace.
    pub(super) fn pids(&self) -> io::Result<Vec<i32>> {
        let mut pids = Vec::new();
        for folder in self.folders()? {
            match fs::read_to_string(folder.join("cgroup.procs")) {
                Ok(text) => {
                    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok().filter(|pid| *pid > 0)));
                }
                // `ENOTSUP`: a threaded group, whose processes are listed above it.
                Err(error)
                    if is_gone(&error) || error.raw_os_error() == Some(rustix::io::Errno::OPNOTSUPP.raw_os_error()) => {
                }
                Err(error) => return Err(error),
            }
        }
        Ok(pids)
    }

    /// SIGKILL to all of it at once.
    pub(super) fn kill(&self) -> io::Result<()> {
        match fs::write(self.0.join("cgroup.kill"), "1") {
            Err(error) if is_gone(&error) => Ok(()),
            result => result,
        }
    }

    /// Removes it and what is below it, if nothing is in it any more.
    pub(super) fn remove(&self) {
        for folder in self.folders().unwrap_or_default().iter().rev() {
            if let Err(error) = fs::remove_dir(folder)
                && !is_gone(&error)
            {
                tracing::debug!(%error, group = %folder.display(), "can't remove a control group");
            }
        }
    }

    /// It, and then those below it: each after the one that it is in.
    fn folders(&self) -> io::Result<Vec<PathBuf>> {
        let mut folders = vec![self.0.clone()];
        let mut next = 0;
        while let Some(folder) = folders.get(next) {
            next += 1;
            match fs::read_dir(folder) {
                Err(error) if is_gone(&error) => {}
                entries => {
                    for entry in entries? {
                        let entry = entry?;
                        if entry.file_type()?.is_dir() {
                            folders.push(entry.path());
                        }
                    }
                }
            }
        }
        Ok(folders)
    }
}

/// A group that is removed while its files are open gives ENODEV.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_read_off_its_line() {
        let line = "36 26 0:31 /user.slice /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(cgroup2(line), Some(("/user.slice", "/sys/fs/cgroup")));
        assert_eq!(cgroup2("36 26 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu"), None);
    }

    #[test]
    fn a_record_can_name_no_group_but_its_own() {
        let token = Token::random().unwrap();
        let group = |path: String| Group(path.into()).is_of(&token);
        assert!(group(format!("/sys/fs/cgroup/{PREFIX}{}", token.as_str())));
        for other in ["/sys/fs/cgroup", "/sys/fs/cgroup/system.slice", &format!("/a/../{PREFIX}{}", token.as_str())] {
            assert!(!group(other.to_owned()), "{other}");
        }
    }

    #[test]
    fn a_group_that_can_not_be_seen_is_not_known_to_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        let group = Group(folder.path().join("winddown-x"));
        assert!(group.is_populated().is_err(), "no control groups are here");
        fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        assert!(!group.is_populated().unwrap(), "it was removed, so it was empty");
    }
}
