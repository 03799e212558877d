//! The state folder: everything in it belongs to the scheduler, and nobody else may write there.
//!
//! Anybody who can write to it decides which processes are killed. Folders are therefore 0700 and
//! files 0600, no symbolic link below it is followed, and a folder that others can write to is
//! refused.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    process::geteuid,
};

use super::error::{ProcessError, state};

const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// Opens the state folder, creating it if it is missing, and returns its canonical path.
pub(super) fn open(folder: &Path) -> Result<PathBuf, ProcessError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(state(folder))?;
    let folder = fs::canonicalize(folder).map_err(state(folder))?;
    check_ours(&folder)?;
    if let Some(above) = folder.parent() {
        let mode = fs::metadata(above).map_err(state(above))?.mode();
        if mode & 0o002 != 0 && mode & STICKY == 0 {
            return Err(untrusted(
                above,
                format!("mode {:04o}", mode & 0o7777),
                "put another one in the folder's place",
            ));
        }
    }
    sync_entries(&folder, |above| File::open(above)?.sync_all()).map_err(state(&folder))?;
    Ok(folder)
}

/// A folder below the state folder, created if it is missing.
pub(super) fn make(folder: &Path) -> Result<(), ProcessError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let opened = check_ours(folder)?;
            // An earlier version created it with a wider mode.
            opened.set_permissions(fs::Permissions::from_mode(0o700)).map_err(state(folder))
        }
        Err(error) => Err(state(folder)(error)),
    }
}

/// Opens a file below the state folder: a plain file, created with mode 0600 if it is missing and
/// `options` say so.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Opening a named pipe would wait for its other end.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.mode(0o600).custom_flags(flags.bits().cast_signed()).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected a plain file, got something else; remove it",
        ));
    }
    Ok(file)
}

/// Checks that a folder belongs to us, that nobody else may write to it, and that it is no symbolic
/// link.
fn check_ours(folder: &Path) -> Result<File, ProcessError> {
    let flags = OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(folder, flags, Mode::empty()).map_err(|error| state(folder)(error.into()))?;
    let opened = File::from(opened);
    let metadata = opened.metadata().map_err(state(folder))?;
    let us = geteuid().as_raw();
    if metadata.uid() != us {
        return Err(untrusted(folder, format!("user {} (this is user {us})", metadata.uid()), "forge records in it"));
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        return Err(untrusted(folder, format!("mode {:04o}", metadata.mode() & 0o7777), "forge records in it"));
    }
    Ok(opened)
}

fn untrusted(path: &Path, got: String, could: &'static str) -> ProcessError {
    ProcessError::Untrusted { path: path.to_owned(), got, could }
}

/// Makes the entries that lead to the folder durable, even if it existed: its creator may have
/// crashed before its own sync.
fn sync_entries(folder: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for above in folder.ancestors().skip(1) {
        match sync(above) {
            // A process that may not read a folder cannot have made an entry in it, with any usual
            // rights; the folders above are as old.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            // Nothing was made either on another file system that cannot be synced (a read-only
            // image).
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => break,
            synced => synced?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b14_every_entry_that_leads_to_the_folder_is_synced() {
        let mut synced = Vec::new();
        let sync = |above: &Path| {
            synced.push(above.to_owned());
            Ok(())
        };
        sync_entries(Path::new("/a/b/c"), sync).unwrap();
        assert_eq!(synced, ["/a/b", "/a", "/"].map(PathBuf::from));
        let failed = sync_entries(Path::new("/a/b"), |_| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull, "it is not ignored");
    }
}
