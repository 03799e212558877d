//! A worker's claim to its output folder: one worker at a time, and none of an older run after one
//! of a newer.
//!
//! A run starts only when the scheduler lists no worker of an earlier one, so at most one worker
//! writes to a folder. This is the second line of defence, against an unknown worker: its record
//! was removed by hand, or it was frozen in another container. It may wake up at any moment of a
//! newer run. What it can do then:
//!
//! - **Accept an order.** None reaches it: orders contain their run, and go to the addresses that
//!   workers of that run have registered.
//! - **Carry out an order that it had accepted before.** While its sink exists, it holds the lock,
//!   so no newer run has a worker in this folder: the newer worker fails with an error. A commit
//!   was ordered only when its checkpoint was durable, so a newer run starts from that checkpoint
//!   or a later one, and would commit the same.
//! - **Open the folder.** It would delete pending files that are not its own. But a newer worker
//!   holds the lock, or the file shows that a newer run has used the folder: in both cases it is
//!   refused, and ends.
//!
//! The operating system releases the lock when the process ends, however it ends.

use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::Path,
};

use winddown::{RunId, durable};

use crate::output::OutputError;

/// The right to write to a worker's output folder, until it is dropped.
#[derive(Debug)]
pub(crate) struct Claim {
    _lock: File,
}

impl Claim {
    /// Claims the folder for a worker of `run`. The claim is a locked file next to the folder,
    /// which contains the run.
    pub(crate) fn take(folder: &Path, run: RunId) -> Result<Self, OutputError> {
        let failed = |source| OutputError::Io { folder: folder.to_owned(), source };
        durable::create_folder(folder).map_err(failed)?;
        let mut options = File::options();
        options.create(true).truncate(false).read(true).write(true);
        let mut file = options.open(folder.with_extension("lock")).map_err(failed)?;
        match fs4::FileExt::try_lock(&file) {
            Ok(()) => {}
            Err(fs4::TryLockError::WouldBlock) => return Err(OutputError::Held { folder: folder.to_owned() }),
            Err(fs4::TryLockError::Error(error)) => return Err(failed(error)),
        }
        let newest = newest(&mut file).map_err(failed)?;
        if let Some(newer) = newest.filter(|&newest| newest > run) {
            return Err(OutputError::Superseded { folder: folder.to_owned(), newer, run });
        }
        // Always the same length, so that it need not be truncated. It is not synced, because no
        // worker outlives the machine.
        file.rewind().and_then(|()| write!(file, "{:020}", run.get())).map_err(failed)?;
        Ok(Self { _lock: file })
    }
}

/// The newest run that has claimed the folder. Unreadable content was never completely written.
fn newest(file: &mut File) -> io::Result<Option<RunId>> {
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text.parse().ok().map(RunId::new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i11_a_folder_has_one_writer_and_none_of_an_older_run() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("output/worker-0");
        let claim = |run| Claim::take(&folder, RunId::new(run));
        let first = claim(9).unwrap();
        for run in [8, 9, 10] {
            assert!(matches!(claim(run), Err(OutputError::Held { .. })), "{run}");
        }
        drop(first);
        drop(claim(10).unwrap());
        let error = claim(9).unwrap_err();
        assert!(
            error.to_string().ends_with("belongs to run 10 by now, so the worker of run 9 writes nothing more to it")
        );
        // A run that starts again, as tests do, and a newer one.
        drop(claim(10).unwrap());
        drop(claim(11).unwrap());
    }
}
