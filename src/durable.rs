//! File operations that survive a crash of the process or the machine.
//!
//! The checkpoint store and the journal of this crate write with them, and so can your own sinks
//! and schedulers. They need a local file system that keeps its promises: on a network one, a sync
//! may promise nothing.
//!
//! | after a crash during | there is |
//! |---|---|
//! | [`create_folder`] | none of the folders, some or all; the next call completes them |
//! | [`write`] | no file, a part of it, or all: use it only for names that nobody trusts yet |
//! | [`replace`], [`rename`] | the old contents under the name, or the new ones; never a mixture |
//! | [`remove`] | the file, or no file |
//! | [`remove_folder`] | any part of the folder |
//!
//! When a function returns `Ok`, its change is on disk: the contents, and the name in its folder.
//! Outside of Unix a folder can't be synced; there names are as durable as the file system makes
//! them by itself.
//!
//! All functions block the thread, for as long as the disk needs to sync. Their errors are those of
//! the operating system, and name no path.
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
//! With the feature `testing`, `durable::crash` stops these functions before the n-th system call,
//! so that tests can try a crash between any two.

// Every change calls `step`, where tests can stop the world.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Creates a folder and those above it, unless they exist, and returns its canonical path.
///
/// It makes the entries that lead to the folder durable in either case, because whoever created
/// them may have crashed before that. Folders above it that this process may not read, or whose
/// file system can't sync, are taken as they are.
///
/// # Errors
/// What the operating system says, for example that a file has this name.
pub fn create_folder(folder: &Path) -> io::Result<PathBuf> {
    fs::create_dir_all(folder)?;
    let folder = fs::canonicalize(folder)?;
    // The entry of a folder is in its parent.
    for above in folder.ancestors().skip(1) {
        match sync_folder(above) {
            // A process that may not read a folder has not made an entry in it, with any usual set
            // of rights; the folders above are as old.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            // Where another file system begins that can't be synced (`/proc`, a read-only image),
            // nothing was made either.
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => break,
            synced => synced?,
        }
    }
    Ok(folder)
}

/// Writes a file. After a crash the file may hold a part of `contents`: use this for a name that
/// nobody trusts until something else says so, and [`replace`] for any other.
///
/// # Errors
/// What the operating system says. The file may then hold a part of `contents`.
pub fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    fill(path, contents)?;
    sync_folder(parent(path))
}

/// Makes a file hold `contents` in one step: a reader sees the old file or the new one, complete.
///
/// The contents are first written to [`unfinished(path)`](unfinished). A crash leaves that file
/// behind; the next call overwrites it. Only one caller may replace a file at a time.
///
/// # Errors
/// What the operating system says. The file is then the old one or the new one.
pub fn replace(path: &Path, contents: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    // Synced before it gets its name: a file under the name is complete, even after a crash.
    fill(&unfinished, contents)?;
    rename(&unfinished, path)
}

/// The file that [`replace`] writes first: the same path with `.tmp` added. It has no meaning, and
/// may be deleted whenever nobody replaces the file.
#[must_use]
pub fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Renames a file inside its folder, over any file that has the new name. Its contents must have
/// been synced before, as [`write`] does.
///
/// # Errors
/// What the operating system says: [`NotFound`](io::ErrorKind::NotFound) when there is no file
/// `from`.
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

/// Makes the names in `folder` durable: those of files and folders that something else created,
/// renamed or removed.
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
mod tests;
