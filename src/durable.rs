//! File operations that survive a crash: when one returns, its result is on disk.
//!
//! Every change calls [`step`], where tests can stop the world: so they can try a crash between any
//! two system calls.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Creates a folder durably, unless it exists, and returns its canonical path.
pub(crate) fn create_folder(folder: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut above = folder;
    while !above.exists() {
        missing.push(above.to_path_buf());
        match above.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => above = parent,
            _ => break,
        }
    }
    fs::create_dir_all(folder)?;
    let folder = fs::canonicalize(folder)?;
    for made in missing {
        // The entry of a folder is in its parent.
        if let Some(parent) = fs::canonicalize(made)?.parent() {
            sync_folder(parent)?;
        }
    }
    Ok(folder)
}

/// Atomically makes `contents` the content of `name` in `folder`: a reader sees the complete old or
/// new file.
///
/// `unfinished` is a name in the same folder that no other writer uses now. A crash leaves it behind; the next call overwrites it.
#[cfg(feature = "journal")]
pub(crate) fn replace(folder: &Path, name: &str, unfinished: &str, contents: &[u8]) -> io::Result<()> {
    use io::Write as _;

    let unfinished = folder.join(unfinished);
    step("create")?;
    let mut file = fs::File::create(&unfinished)?;
    let (first, second) = contents.split_at(contents.len() / 2);
    file.write_all(first)?;
    step("write on")?;
    file.write_all(second)?;
    // Before the rename: a file with its final name is complete, whatever crashes.
    step("sync the file")?;
    file.sync_all()?;
    drop(file);
    step("rename")?;
    fs::rename(&unfinished, folder.join(name))?;
    sync_folder(folder)
}

/// Makes the names in `folder` durable.
#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    step("sync the folder")?;
    fs::File::open(folder)?.sync_all()
}

/// On other systems folders can't be opened and synced; the system keeps their entries in its own
/// journal.
#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    step("sync the folder")
}

#[cfg(not(test))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it can fail")]
const fn step(_what: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
use crash::step;

#[cfg(test)]
pub(crate) mod crash {
    //! Stops the world before the n-th change of the disk that this thread makes.

    use std::{
        cell::{Cell, RefCell},
        io,
    };

    thread_local! {
        static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
        static DONE: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn step(what: &'static str) -> io::Result<()> {
        match LEFT.get() {
            None => return Ok(()),
            Some(0) => return Err(io::Error::other("crash")),
            Some(more) => LEFT.set(Some(more - 1)),
        }
        DONE.with_borrow_mut(|done| done.push(what));
        Ok(())
    }

    /// Runs `work` in a world that ends after `steps` changes of the disk, and tells which took place.
    #[cfg(feature = "journal")]
    pub(crate) fn after<T>(steps: usize, work: impl FnOnce() -> T) -> (T, Vec<&'static str>) {
        LEFT.set(Some(steps));
        DONE.take();
        let result = work();
        LEFT.set(None);
        (result, DONE.take())
    }
}
