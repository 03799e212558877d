//! The log of one job: numbered objects, written with put-if-absent, of which the last one counts.

use std::{path::PathBuf, sync::Arc};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    Error, GetResult, ObjectStore, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    local::LocalFileSystem,
    path::{Path, PathPart},
};

use super::{
    entry::Entry,
    local::{self, LocalFolder},
};
use crate::{
    contracts::{JobId, StoreError},
    envelope::Mismatch,
};

/// The digits of an entry's name, so that names sort as numbers do.
const DIGITS: usize = 20;

/// How often a listed entry may be gone when it is read, before the store counts as inconsistent.
/// Except for the last time, another writer has made progress.
const LOOKS: usize = 64;

/// Entries up to this size are encoded and decoded on the calling thread: this takes well below a
/// millisecond.
const SMALL: usize = 64 * 1024;

/// The log of one job.
pub(super) struct Log {
    store: Arc<dyn ObjectStore>,
    job: JobId,
    folder: Path,
    local: Option<(LocalFolder, PathBuf)>,
}

/// The result of a put.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Put {
    /// The object exists now.
    Done,
    /// The number is taken.
    Taken,
}

impl Log {
    /// The log of `job` under `prefix`.
    pub(super) fn new(store: Arc<dyn ObjectStore>, prefix: &Path, job: &JobId) -> Result<Self, StoreError> {
        Ok(Self { store, job: job.clone(), folder: folder(prefix, job)?, local: None })
    }

    /// The log of `job` in a local folder.
    pub(super) fn local(files: &Arc<LocalFileSystem>, root: &LocalFolder, job: &JobId) -> Result<Self, StoreError> {
        let folder = folder(&Path::default(), job)?;
        let path = files.path_to_filesystem(&folder).map_err(unavailable)?;
        Ok(Self { store: Arc::clone(files) as _, job: job.clone(), folder, local: Some((root.clone(), path)) })
    }

    /// The complete last entry, or `None` if there is no entry at all.
    pub(super) async fn look(&self) -> Result<Option<Entry>, StoreError> {
        for _ in 0..LOOKS {
            let numbers = self.numbers().await?;
            let Some(&last) = numbers.last() else { return Ok(None) };
            // A last entry that is gone has been replaced by a later one: look again.
            if let Some(entry) = self.read(last).await? {
                return Ok(Some(entry));
            }
        }
        Err(StoreError::Unavailable(format!("entries of `{}` are listed, but can't be found", self.folder).into()))
    }

    /// The numbers of all entries, ascending. Objects with other names, such as unfinished ones,
    /// are no entries.
    pub(super) async fn numbers(&self) -> Result<Vec<u64>, StoreError> {
        let mut numbers = if let Some((_, folder)) = &self.local {
            local::numbers(folder.clone()).await?
        } else {
            let listed = self.store.list_with_delimiter(Some(&self.folder)).await.map_err(unavailable)?;
            listed.objects.iter().filter_map(|object| number_of(object.location.filename()?)).collect()
        };
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// The entry with this number, or `None` if it does not exist.
    pub(super) async fn read(&self, number: u64) -> Result<Option<Entry>, StoreError> {
        let path = self.path(number);
        let object = match self.store.get(&path).await {
            Ok(object) => GetResult::bytes(object).await.map_err(unavailable)?,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(unavailable(error)),
        };
        let job = self.job.clone();
        match aside(object.len(), move || Entry::decode(&object, &job, number)).await? {
            Ok(entry) => Ok(Some(entry)),
            Err(mismatch) => Err(self.damaged(number, mismatch)),
        }
    }

    /// Writes `entry` at its number, unless the number is taken. When it returns, the object is
    /// durable.
    pub(super) async fn put(&self, entry: &Arc<Entry>) -> Result<Put, StoreError> {
        let owned = Arc::clone(entry);
        let object = aside(entry.size(), move || owned.encode()).await?;
        let object = object.map_err(|error| StoreError::Unavailable(error.into()))?;
        let create = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(entry.number), PutPayload::from(object), create).await {
            Ok(_) => Ok(Put::Done),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(Put::Taken),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Makes everything durable that a look has shown.
    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        match &self.local {
            Some((root, folder)) => root.settle(folder.clone()).await,
            // An object store shows an object only once it is durable.
            None => Ok(()),
        }
    }

    /// Deletes those of `numbers` that `last`, the last entry, does not need.
    ///
    /// It may fail half-way or be dropped: leftovers have no meaning, and the next call deletes
    /// them.
    pub(super) async fn prune(&self, last: &Entry, numbers: &[u64]) {
        let useless = numbers.iter().filter(|&&n| n < last.number && !last.kept.iter().any(|kept| kept.number == n));
        let paths: Vec<_> = useless.map(|&number| Ok(self.path(number))).collect();
        let deleted = self.store.delete_stream(stream::iter(paths).boxed());
        let result = deleted
            .map(|result| match result {
                Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
                Err(error) => Err(unavailable(error)),
            })
            .try_collect::<()>();
        let swept = async {
            match &self.local {
                Some((_, folder)) => local::sweep(folder.clone()).await,
                None => Ok(()),
            }
        };
        for error in [result.await, swept.await].into_iter().filter_map(Result::err) {
            tracing::warn!(job = %self.job, %error, "old checkpoint entries could not be deleted");
        }
    }

    pub(super) fn damaged(&self, number: u64, Mismatch { expected, got }: Mismatch) -> StoreError {
        StoreError::Damaged { path: self.path(number).to_string(), expected, got }
    }

    fn path(&self, number: u64) -> Path {
        self.folder.clone().join(format!("{number:0DIGITS$}"))
    }
}

fn folder(prefix: &Path, job: &JobId) -> Result<Path, StoreError> {
    // An empty name would not have its own folder. No other name becomes `%`: a `%` in a name is
    // written `%25`.
    let job = match job.as_str() {
        "" => PathPart::parse("%").map_err(|error| StoreError::Unavailable(error.into()))?,
        name => PathPart::from(name),
    };
    Ok(prefix.parts().chain([job, PathPart::from("log")]).collect())
}

/// The number that an entry's name stands for, or `None` if it is not the name of one.
pub(super) fn number_of(name: &str) -> Option<u64> {
    (name.len() == DIGITS && name.bytes().all(|byte| byte.is_ascii_digit())).then(|| name.parse().ok()).flatten()
}

/// Processes `size` bytes, on a separate thread if there are many: the manifest of a hundred
/// thousand tasks takes a tenth of a second, and meanwhile a stop request may arrive on this
/// thread.
async fn aside<T: Send + 'static>(size: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, StoreError> {
    if size <= SMALL {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| StoreError::Unavailable(error.into()))
}

fn unavailable(error: Error) -> StoreError {
    StoreError::Unavailable(error.into())
}
