//! The state folder: what is opened in it is the scheduler's own, and nobody else may write there.
//!
//! Whoever may write into it decides which processes are killed. So folders are 0700 and files 0600, no symbolic link is followed below it, and
//! a folder that others may write to is refused.

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

/// Takes the state folder, made if it is missing, and gives its canonical path.
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

/// A folder below the state folder, made if it is missing.
pub(super) fn make(folder: &Path) -> Result<(), ProcessError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let opened = check_ours(folder)?;
            // An earlier version made it with a wider mode.
            opened.set_permissions(fs::Permissions::from_mode(0o700)).map_err(state(folder))
        }
        Err(error) => Err(state(folder)(error)),
    }
}

/// Opens a file below the state folder: a plain one, made with mode 0600 if it is missing and `options` say so.
pub(super) fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // A named pipe would keep us waiting for its other end.
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

/// A folder that belongs to us, that no one else may write to, and that is no symbolic link.
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

/// Makes the entries that lead to the folder durable, also if it was there: whoever made it may have crashed before its own sync.
fn sync_entries(folder: &Path, mut sync: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for above in folder.ancestors().skip(1) {
        match sync(above) {
            // Who may not read a folder can't have made an entry in it, in any usual set of rights; those above are as old.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            // Where another file system begins that can't be synced (a read-only image), nothing was made either.
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
