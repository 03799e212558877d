//! What a log in a local folder needs in addition to `LocalFileSystem`: durable folder entries, a
//! listing of one moment, and a clean-up of the files that crashes leave behind.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::log::number_of;
use crate::{contracts::StoreError, durable};

/// `LocalFileSystem` writes `<name>#<n>` first and links it to `<name>`. If such a file has not
/// changed for this long, its process is gone. If that guess is wrong, the write fails and is
/// retried, so nothing is lost.
const ABANDONED_AFTER: Duration = Duration::from_secs(60 * 60);

/// The folder with a store's logs.
#[derive(Clone, Debug)]
pub(super) struct LocalFolder {
    root: PathBuf,
}

impl LocalFolder {
    /// Creates the folder durably, unless it exists.
    pub(super) fn create(root: &Path) -> io::Result<Self> {
        let root = durable::create_folder(root)?;
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Makes the entries of `log`, a folder under the root, and of all its parent folders durable.
    ///
    /// `LocalFileSystem` with fsync does this for what it creates itself, before its put returns.
    /// This is for what it has *not* created: an entry of a dropped call, or a folder of another
    /// process that has not synced it yet. The contents need no sync here, because a file is synced
    /// before it gets its name.
    pub(super) async fn settle(&self, log: PathBuf) -> Result<(), StoreError> {
        let folders = self.folders(&log);
        blocking(move || folders.iter().try_for_each(|folder| durable::sync_folder(folder))).await
    }

    /// `log` and the folders above it, up to the root.
    pub(super) fn folders(&self, log: &Path) -> Vec<PathBuf> {
        log.ancestors().take_while(|folder| folder.starts_with(&self.root)).map(Path::to_path_buf).collect()
    }
}

/// The numbers of the entries in `log`, in no order.
///
/// It reads only names. `LocalFileSystem` also reads the size of each file, and omits a file that
/// is gone by then. So if the last entry is replaced during the listing, it could show neither the
/// old last entry nor the new one.
pub(super) async fn numbers(log: PathBuf) -> Result<Vec<u64>, StoreError> {
    blocking(move || {
        let names = names(&log)?;
        Ok(names.iter().filter_map(|name| number_of(name)).collect())
    })
    .await
}

/// Deletes the unfinished files that crashes have left in `log` long ago. They are not entries, but
/// take space.
pub(super) async fn sweep(log: PathBuf) -> Result<(), StoreError> {
    blocking(move || {
        for name in names(&log)? {
            let unfinished = name.split_once('#').is_some_and(|(entry, _)| number_of(entry).is_some());
            let file = log.join(&name);
            if unfinished && is_abandoned(&file) {
                fs::remove_file(file)?;
            }
        }
        Ok(())
    })
    .await
}

fn is_abandoned(file: &Path) -> bool {
    let changed = fs::metadata(file).and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| SystemTime::now().duration_since(changed).is_ok_and(|age| age > ABANDONED_AFTER))
}

fn names(folder: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    // A name that is not UTF-8 is not ours.
    entries.filter_map(|entry| entry.map(|entry| entry.file_name().into_string().ok()).transpose()).collect()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| StoreError::Unavailable(error.into())),
        Err(error) => Err(StoreError::Unavailable(error.into())),
    }
}
