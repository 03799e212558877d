//! One scheduler to a state folder.

use std::{fs::File, path::Path, thread, time::Duration};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};

use super::{
    error::{ProcessError, state},
    folder::open_file,
};

const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the state folder for as long as the file is open.
///
/// A child that anybody in this process starts holds a copy of all open files from its fork to its exec, so the lock of a scheduler that
/// was dropped a moment ago may be held a little longer: that is waited for.
pub(super) fn lock(folder: &Path) -> Result<File, ProcessError> {
    let path = folder.join("lock");
    let file = open_file(&path, File::options().write(true).create(true).truncate(false)).map_err(state(&path))?;
    for _ in 0..ATTEMPTS {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => thread::sleep(PAUSE),
            result => return result.map(|()| file).map_err(|error| state(path)(error.into())),
        }
    }
    Err(ProcessError::InUse { path: folder.to_path_buf() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_is_held_for_a_moment_is_waited_for_and_one_that_is_held_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path()).unwrap();
        assert!(matches!(lock(dir.path()), Err(ProcessError::InUse { .. })));
        // As a child between fork and exec does.
        let copy = held.try_clone().unwrap();
        drop(held);
        let exec = thread::spawn(move || {
            thread::sleep(2 * PAUSE);
            drop(copy);
        });
        lock(dir.path()).unwrap();
        exec.join().unwrap();
    }
}
