//! What a worker process is told, in a separate file, because the state of its tasks may be too
//! large for a command line.

use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize};
use winddown::{
    Epoch,
    contracts::{Manifest, TaskSnapshot},
    worker::TaskSpec,
};

use crate::tasks::{Work, task_specs};

/// The work of one worker in one run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Assignment {
    /// How many workers the run has.
    pub(super) workers: u32,
    /// What this one does.
    pub(super) work: Work,
    /// The checkpoint that the run starts from.
    pub(super) from: Option<Epoch>,
    /// What each of its tasks was in that checkpoint, in the order of the operators.
    restored: Vec<Option<Snapshot>>,
}

/// A [`TaskSnapshot`] without its task.
#[derive(Debug, Serialize, Deserialize)]
struct Snapshot {
    state: Vec<u8>,
    commit: Option<Vec<u8>>,
    finished: bool,
}

impl Assignment {
    pub(super) fn new(workers: u32, work: &Work, manifest: Option<&Manifest>) -> Self {
        let snapshot = |spec: TaskSpec| {
            let TaskSnapshot { snapshot, commit, finished, .. } = spec.restored?;
            Some(Snapshot { state: snapshot.into(), commit: commit.map(Into::into), finished })
        };
        Self {
            workers,
            work: work.clone(),
            from: manifest.map(|manifest| manifest.epoch),
            restored: task_specs(work.worker, manifest).into_iter().map(snapshot).collect(),
        }
    }

    /// The tasks that are told.
    pub(super) fn tasks(&mut self) -> Vec<TaskSpec> {
        let mut tasks = task_specs(self.work.worker, None);
        for (spec, restored) in tasks.iter_mut().zip(self.restored.drain(..)) {
            let task = spec.task;
            spec.restored = restored.map(|Snapshot { state, commit, finished }| TaskSnapshot {
                task,
                snapshot: state.into(),
                commit: commit.map(Into::into),
                finished,
            });
        }
        tasks
    }

    /// The worker is started after this, so it never sees half of it.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        fs::write(path, serde_json::to_vec(self)?)
    }

    pub(super) fn read(path: &Path) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(path)?)?)
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::PathBuf};

    use winddown::{JobId, RunId, TaskId};

    use super::*;
    use crate::{input::Input, tasks::Fault};

    #[test]
    fn what_is_written_is_read_with_names_of_any_bytes_and_states_of_any_kind() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join(OsStr::from_bytes(b"caf\xe9"));
        fs::write(&input, "one\ntwo\nthree\n").unwrap();
        let mut shares = Input::collect(&[input], &|_| false).unwrap().shares(2).unwrap();
        let work = Work {
            worker: 1,
            share: shares.remove(1),
            output: PathBuf::from("out"),
            rate: Some(3),
            fault: Some(Fault { at_line: 2 }),
            stall: None,
        };
        let snapshot = |operator, commit: Option<&'static [u8]>| TaskSnapshot {
            task: TaskId::new(operator, 1),
            snapshot: vec![0, 255].into(),
            commit: commit.map(Into::into),
            finished: operator == 0,
        };
        let tasks = vec![snapshot(0, None), snapshot(2, Some(b""))];
        let epoch = Epoch::new(4);
        let manifest = Manifest { job: JobId::from("w"), run: RunId::new(1), epoch, then_stop: false, tasks };
        let path = dir.path().join("assignment");
        Assignment::new(2, &work, Some(&manifest)).write(&path).unwrap();

        let mut read = Assignment::read(&path).unwrap();
        assert_eq!(format!("{:?}", read.work), format!("{work:?}"));
        assert_eq!((read.workers, read.from), (2, Some(epoch)));
        assert_eq!(read.tasks(), task_specs(1, Some(&manifest)));
        assert_eq!(Assignment::new(2, &work, None).tasks(), task_specs(1, None));
    }
}
