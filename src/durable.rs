//! File operations that survive a crash of the process or the machine.
//!
//! The checkpoint store and the journal of this crate write with them, and so can your own sinks and schedulers.
//! They need a local file system that keeps its promises: on a network one, a sync may promise nothing.
//!
//! | after a crash during | there is |
//! |---|---|
//! | [`create_folder`] | none of the folders, some or all; the next call completes them |
//! | [`write`] | no file, a part of it, or all: use it only for names that nobody trusts yet |
//! | [`replace`], [`rename`] | the old contents under the name, or the new ones; never a mixture |
//! | [`remove`] | the file, or no file |
//! | [`remove_folder`] | any part of the folder |
//!
//! When a function returns `Ok`, its change is on disk: the contents, and the name in its folder. Outside of Unix
//! a folder can't be synced; there names are as durable as the file system makes them by itself.
//!
//! All functions block the thread, for as long as the disk needs to sync. Their errors are those of the operating
//! system, and name no path.
//!
//! ```
//! use winddown::durable;
//!
//! # fn main() -> std::io::Result<()> {
//! # let temporary = tempfile::tempdir()?;
//! let folder = durable::create_folder(&temporary.path().join("state"))?;
//! durable::replace(&folder.join("position"), b"17")?;
//! # assert_eq!(std::fs::read(folder.join("position"))?, b"17");
//! # Ok(())
//! # }
//! ```
//!
//! With the feature `testing`, `durable::crash` stops these functions before the n-th system call, so that tests
//! can try a crash between any two.

// Every change calls `step`, where tests can stop the world.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

<<<<<<< HEAD
/// Creates a folder and those above it, unless they exist, and returns its canonical path.
///
/// # Errors
/// What the operating system says, for example that a file has this name.
pub fn create_folder(folder: &Path) -> io::Result<PathBuf> {
    let missing: Vec<_> = folder.ancestors().take_while(|above| is_named(above) && !above.exists()).collect();
    // From the top, and each gets its durable name before the next is created. So a crash leaves at most one folder
    // without: the lowest that exists.
    settle(missing.last().map_or(folder, |highest| parent(highest)))?;
    for folder in missing.iter().rev() {
        step("create the folder")?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => created?,
        }
        sync_folder(parent(folder))?;
    }
    let folder = fs::canonicalize(folder)?;
    if fs::metadata(&folder)?.is_dir() { Ok(folder) } else { Err(io::ErrorKind::NotADirectory.into()) }
=======
/// Creates a folder durably, unless it exists, and returns its canonical path.
///
/// Makes the entries that lead to it durable in either case: its creator may have crashed before that.
pub(crate) fn create_folder(folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let folder = fs::canonicalize(folder)?;
    // The entry of a folder is in its parent.
    for above in folder.ancestors().skip(1) {
        match sync_folder(above) {
            // Who may not read a folder can't have made an entry in it, in any usual set of rights; those above are as old.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            // Where another file system begins that can't be synced (`/proc`, a read-only image), nothing was made either.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => break,
            synced => synced?,
        }
    }
    Ok(folder)
>>>>>>> lead
}

/// Makes the name of a folder durable that an earlier call may have created without coming to this.
fn settle(folder: &Path) -> io::Result<()> {
    // Not `parent`: of `a/..` that is `a`, which contains it and does not name it.
    let Some(above) = fs::canonicalize(folder)?.parent().map(Path::to_path_buf) else { return Ok(()) };
    match sync_folder(&above) {
        // Somebody else's, such as the folder of all homes: no call of ours has created anything in it.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}

/// Writes a file. After a crash the file may hold a part of `contents`: use this for a name that nobody trusts until
/// something else says so, and [`replace`] for any other.
///
/// # Errors
/// What the operating system says. The file may then hold a part of `contents`.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    fill(path, contents)?;
    sync_folder(parent(path))
}

/// Makes a file hold `contents` in one step: a reader sees the old file or the new one, complete.
///
/// The contents are first written to [`unfinished(path)`](unfinished). A crash leaves that file behind; the next call
/// overwrites it. Only one caller may replace a file at a time.
///
/// # Errors
/// What the operating system says. The file is then the old one or the new one.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    // Synced before it gets its name: a file under the name is complete, even after a crash.
    fill(&unfinished, contents)?;
    rename(&unfinished, path)
}

/// The file that [`replace`] writes first: the same path with `.tmp` added. It has no meaning, and may be deleted
/// whenever nobody replaces the file.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Renames a file inside its folder, over any file that has the new name. Its contents must have been synced before,
/// as [`write`] does.
///
/// # Errors
/// What the operating system says: [`NotFound`](io::ErrorKind::NotFound) when there is no file `from`.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    step("rename")?;
    fs::rename(from, to)?;
    sync_folder(parent(to))
}

/// Removes a file. One that does not exist counts as removed.
///
/// # Errors
/// What the operating system says. The file may then be gone or not.
pub fn remove(path: &Path) -> io::Result<()> {
    step("remove")?;
    if_it_exists(fs::remove_file(path))?;
    sync_folder(parent(path))
}

/// Removes a folder with all that it contains. One that does not exist counts as removed.
///
/// # Errors
/// What the operating system says. A part of the folder may then be gone.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    step("remove the folder")?;
    if_it_exists(fs::remove_dir_all(path))?;
    sync_folder(parent(path))
}

/// Makes the names in `folder` durable: those of files and folders that something else created, renamed or removed.
///
/// # Errors
/// What the operating system says.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    step("sync the folder")?;
    // Elsewhere folders can't be opened; the system keeps their entries in a journal of its own.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

fn fill(path: &Path, contents: &[u8]) -> io::Result<()> {
    step("create")?;
    let mut file = File::create(path)?;
    let (first, second) = contents.split_at(contents.len() / 2);
    file.write_all(first)?;
    step("write on")?;
    file.write_all(second)?;
    step("sync the file")?;
    file.sync_all()
}

fn is_named(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// The folder that holds the name of `path`.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| is_named(parent)).unwrap_or(Path::new("."))
}

fn if_it_exists(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(not(any(test, feature = "testing")))]
#[expect(clippy::unnecessary_wraps, reason = "in tests it can fail")]
const fn step(_what: &'static str) -> io::Result<()> {
    Ok(())
}

#[cfg(any(test, feature = "testing"))]
use crash::step;

#[cfg(any(test, feature = "testing"))]
pub mod crash;

#[cfg(test)]
<<<<<<< HEAD
mod tests;
=======
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

#[cfg(all(test, unix, feature = "journal"))]
mod tests {
    use super::*;

    #[test]
    fn b14_the_entries_that_lead_to_a_folder_are_synced_whether_it_is_there_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let expected = fs::canonicalize(dir.path()).unwrap().join("a/b").ancestors().count() - 1;
        for made_before in [false, true] {
            let (created, steps) = crash::after(usize::MAX, || create_folder(&folder));
            assert_eq!(created.unwrap(), fs::canonicalize(&folder).unwrap());
            assert_eq!(steps, vec!["sync the folder"; expected], "made before: {made_before}");
        }
        // A crash before any of them is repaired by the next call, and not forgotten.
        for steps in 0..expected {
            assert!(crash::after(steps, || create_folder(&folder)).0.is_err());
        }
    }
}
>>>>>>> lead
