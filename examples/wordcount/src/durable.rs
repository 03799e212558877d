//! File operations that survive a crash: the result of a returned call is on disk, and the result
//! of an interrupted call is either complete or absent.
//!
//! Every operation that changes the disk calls [`step`], where the tests of the modules above can
//! stop the world: so they can try a crash between any two system calls.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The extension of files that are being written; such a file has no meaning and may be deleted.
pub(crate) const UNFINISHED: &str = "tmp";

/// The crashes in the tests are crashes of the process, not of the system, so syncing would only
/// make them slower.
const SYNCED: bool = !cfg!(test);

/// Writes a file; its name and contents are on disk when this returns. An interrupted call leaves a
/// partial file: use it only for names that are not trusted yet.
pub(crate) fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    step()?;
    let mut file = File::create(path)?;
    let (first, second) = contents.split_at(contents.len() / 2);
    file.write_all(first)?;
    step()?;
    file.write_all(second)?;
    if SYNCED {
        file.sync_all()?;
    }
    sync_parent(path)
}

/// Replaces a file atomically: a reader sees the complete old or new contents.
pub(crate) fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let mut unfinished = path.as_os_str().to_owned();
    unfinished.push(".");
    unfinished.push(UNFINISHED);
    let unfinished = PathBuf::from(unfinished);
    write(&unfinished, contents)?;
    rename(&unfinished, path)
}

/// Renames a file inside its folder.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step()?;
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Removes a file; it need not exist.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    step()?;
    absent_is_fine(fs::remove_file(path))
}

/// Removes a folder with its contents; it need not exist.
pub(crate) fn remove_folder(path: &Path) -> io::Result<()> {
    step()?;
    absent_is_fine(fs::remove_dir_all(path))?;
    sync_parent(path)
}

/// Creates a folder and its parents.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let missing: Vec<_> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    for folder in missing.into_iter().rev().filter(|folder| !folder.as_os_str().is_empty()) {
        step()?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        sync_parent(folder)?;
    }
    Ok(())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A name is durable only when its folder is.
fn sync_parent(path: &Path) -> io::Result<()> {
    step()?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    // Other systems can't open a folder for this.
    if SYNCED && cfg!(unix) {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it can fail")]
fn step() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use crash::step;

#[cfg(test)]
pub(crate) mod crash {
    //! Stops the world before the n-th change of the disk.

    use std::{cell::Cell, io};

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    pub(super) fn step() -> io::Result<()> {
        LEFT.with(|left| match left.get() {
            Some(0) => Err(io::Error::other("crash")),
            Some(more) => {
                left.set(Some(more - 1));
                Ok(())
            }
            None => Ok(()),
        })
    }

    /// Runs `work` in a world that ends after `steps` changes of the disk. `Err` means that it ended.
    pub(crate) fn after<T, E>(steps: u32, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        LEFT.set(Some(steps));
        let result = work();
        LEFT.set(None);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_old_or_new_whatever_the_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"old").unwrap();
        let mut steps = 0;
        while crash::after(steps, || replace(&path, b"new and longer")).is_err() {
            let now = fs::read(&path).unwrap();
            assert!(now == b"old" || now == b"new and longer", "{now:?}");
            steps += 1;
        }
        assert!(steps > 3, "a crash was tried between the steps");
        assert_eq!(fs::read(&path).unwrap(), b"new and longer");
    }

    #[test]
    fn what_is_gone_is_removed_already() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("none")).unwrap();
        remove_folder(&dir.path().join("none")).unwrap();
    }
}
