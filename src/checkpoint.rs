//! Checkpoint manifests on any object store: a local folder, S3, Google Cloud Storage, Azure,
//! memory.
//!
//! # The log
//! Each job has one log of numbered objects, `<job>/log/<number, 20 digits>`. An entry is either a
//! *claim*, with which a run enters the log, or a *manifest*, which a run has published. Every
//! entry names its run and the earlier manifests that are still needed. There are three rules:
//!
//! 1. **The last entry counts.** A call *looks*: it lists the log and reads the entry with the
//!    highest number. A manifest is published while the last entry is it or names it; any other
//!    object in the folder has no meaning.
//! 2. **Append with put-if-absent.** A call that writes puts its entry at the number after the last
//!    entry of its look. If the number is taken, it looks again. A run claims before it publishes;
//!    a claim's run is higher than the last entry's, and nothing is ever appended after an entry of
//!    a higher run.
//! 3. **Put, then look.** `Ok` is the result of a look that shows the call's own entry as published
//!    (or as the last, for a claim), never the result of a put.
//!
//! Entries that the last one does not name are deleted. The last entry is never deleted, so the
//! highest number in a log only grows.
//!
//! # Why a stale controller can't publish (invariant I11)
//! Suppose that run *R* puts an entry at number *n*, one after the last entry *R* had seen, and the
//! put succeeds.
//!
//! - *If no entry has ever had a number of* n *or more,* then no newer run was in the log at the
//!   time of the put: a newer claim would have had number *n* or more. *R* was not stale.
//! - *Otherwise* number *n* had been used and its entry deleted, while *R* slept. Then there is
//!   always an entry with a higher number, because the last entry is never deleted. The look after
//!   the put finds that one. If a newer run wrote it, the answer is [`StoreError::Fenced`]; if a
//!   twin with the same run number did, the manifest is judged against what the twin published. The
//!   stray entry never counts as published: it is not the last, and no entry names it, because an
//!   entry names only the last one that its writer saw, and those named there.
//!
//! And the next run starts from a manifest whose `publish` was `Ok`: the confirming look came
//! before the claim, and there is no entry between the last one that the claimer saw and the claim
//! itself, because put-if-absent gave the claim the next number. (The converse does not hold: a
//! publish that loses its race only after the put also returns `Fenced`, and the newer run starts
//! from its manifest.)
//!
//! The same argument gives two openers different runs: each one's look shows its own claim as the
//! last entry.
//!
//! This requires of a store: put-if-absent ([`PutMode::Create`](object_store::PutMode::Create)),
//! and a listing that shows the store at one moment. S3, Google Cloud Storage and Azure provide
//! both; because old entries are deleted, a log fits on one page of a listing. For the same reason
//! one system call reads all names of a local folder.
//!
//! # Damage
//! An object starts with a header line that contains the length and the CRC-32 of the rest, and
//! each entry repeats its job and number. An object that is too short, too long, altered, misplaced
//! or of a newer format is [`StoreError::Damaged`]; the error says what was expected and what was
//! found. A damaged last entry is never skipped in favour of the previous one: its manifest may
//! once have been durable and complete, and its commits may have been carried out; starting from an
//! older one would then write the same output twice. If you know that this is safe, delete the
//! damaged object by hand when every controller of the job is down: then the previous entry counts.
//! Older manifests are kept for this purpose.
//!
//! # Durability
//! In a local folder every entry is synced before it gets its name, and its parent folders before a
//! call returns `Ok`, even if an earlier, dropped call had put the entry. The file system must
//! support hard links. Object stores answer a put only once it is durable.

mod entry;
mod inspect;
mod local;
mod log;
#[cfg(test)]
mod tests;

use std::{fmt, num::NonZeroUsize, path::Path, sync::Arc};

pub use inspect::{FoundEntry, FoundLog, inspect};
pub use object_store;
use object_store::{ObjectStore, local::LocalFileSystem};

use self::{
    entry::{Entry, Kept},
    local::LocalFolder,
    log::{Log, Put},
};
use crate::{
    contracts::{CheckpointStore, JobId, Manifest, OpenRun, RunId, StoreError},
    envelope::Mismatch,
};

/// How many manifests are kept unless [`ObjectStoreCheckpoints::keeping`] says otherwise.
const KEPT: NonZeroUsize = NonZeroUsize::new(3).unwrap();

/// How often one call tries to append before it gives up. Each lost race is a step of another
/// writer of the same job, so this is reached only if very many controllers of one job start at
/// once.
const ATTEMPTS: usize = 256;

/// Checkpoint manifests on an object store, with fencing of stale controllers.
///
/// A run that did not come from [`open_run`](CheckpointStore::open_run) enters the log with its
/// first manifest, and from then on fences all lower ones.
///
/// Cheap to clone. It keeps no state between calls: any number of instances in any number of
/// processes can share one store. The [module](self) explains how this works, and why it is safe.
///
/// ```
/// use winddown::{ObjectStoreCheckpoints, contracts::{Manifest, StoreError}, prelude::*};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// let store = ObjectStoreCheckpoints::local(folder.path())?;
/// let job = JobId::new("word-count");
///
/// let old = store.open_run(&job).await?.run();
/// let manifest = Manifest { job: job.clone(), run: old, epoch: Epoch::new(1), then_stop: true, tasks: vec![] };
/// store.publish(&manifest).await?;
///
/// let restored = store.open_run(&job).await?; // another controller takes over
/// assert_eq!(restored.manifest(), Some(&manifest));
///
/// let late = Manifest { epoch: Epoch::new(2), ..manifest };
/// assert!(matches!(store.publish(&late).await, Err(StoreError::Fenced { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ObjectStoreCheckpoints {
    place: Place,
    keep: NonZeroUsize,
}

#[derive(Clone)]
enum Place {
    Local { files: Arc<LocalFileSystem>, folder: LocalFolder },
    Remote { store: Arc<dyn ObjectStore>, prefix: object_store::path::Path },
}

impl ObjectStoreCheckpoints {
    /// A store in the local folder `dir`, which is created if it does not exist.
    ///
    /// This makes a few blocking file system calls.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the folder can't be created or used.
    pub fn local(dir: impl AsRef<Path>) -> Result<Self, StoreError> {
        let folder = LocalFolder::create(dir.as_ref()).map_err(|error| StoreError::Unavailable(error.into()))?;
        let files = LocalFileSystem::new_with_prefix(folder.root()).map_err(|e| StoreError::Unavailable(e.into()))?;
        Ok(Self { place: Place::Local { files: Arc::new(files.with_fsync(true)), folder }, keep: KEPT })
    }

    /// A store on `store`, under `prefix` (may be empty).
    ///
    /// For a local folder use [`local`](Self::local): a bare [`LocalFileSystem`] syncs nothing to
    /// disk by default. The store must support put-if-absent, see the [module](self). The required
    /// version of the crate [`object_store`] is re-exported here.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: impl Into<object_store::path::Path>) -> Self {
        Self { place: Place::Remote { store, prefix: prefix.into() }, keep: KEPT }
    }

    /// The same store, which keeps the last `manifests` manifests of each job; 3 unless this is
    /// called.
    ///
    /// A job needs only the last. Older ones are for manual recovery if the last is damaged.
    #[must_use]
    pub const fn keeping(mut self, manifests: NonZeroUsize) -> Self {
        self.keep = manifests;
        self
    }

    fn log(&self, job: &JobId) -> Result<Log, StoreError> {
        match &self.place {
            Place::Local { files, folder } => Log::local(files, folder, job),
            Place::Remote { store, prefix } => Log::new(Arc::clone(store), prefix, job),
        }
    }

    /// The manifests that an entry after `tail` keeps, with room for `more` of its own.
    fn kept_after(&self, tail: Option<&Entry>, more: usize) -> Vec<Kept> {
        let mut manifests = tail.map(Entry::manifests).unwrap_or_default();
        let room = self.keep.get().saturating_sub(more);
        manifests.drain(..manifests.len().saturating_sub(room));
        manifests
    }

    /// Appends the claim of `run` after `tail`.
    async fn claim(&self, log: &Log, job: &JobId, run: RunId, tail: Option<&Entry>) -> Result<Appended, StoreError> {
        let kept = self.kept_after(tail, 0);
        append(log, Entry { job: job.clone(), number: number_after(log, tail)?, run, kept, manifest: None }).await
    }
}

impl CheckpointStore for ObjectStoreCheckpoints {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        let log = self.log(job)?;
        for _ in 0..ATTEMPTS {
            let tail = log.look().await?;
            // Read first: a run that can't restore should not fence one that may be healthy.
            let manifest = match &tail {
                None => None,
                Some(tail) => match newest(&log, tail).await? {
                    Newest::Known(manifest) => manifest,
                    Newest::Gone => continue,
                },
            };
            let run = run_after(&log, tail.as_ref())?;
            if self.claim(&log, job, run, tail.as_ref()).await? == Appended::Last {
                tracing::debug!(%job, %run, epoch = manifest.as_ref().map(|m| m.epoch.get()), "claimed a run");
                return Ok(OpenRun::new(job.clone(), run, manifest)?);
            }
        }
        Err(too_many_writers(job))
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let log = self.log(&manifest.job)?;
        for _ in 0..ATTEMPTS {
            let tail = log.look().await?;
            match judge(&log, tail.as_ref(), manifest).await? {
                Verdict::Published => return log.settle().await,
                Verdict::Gone => {}
                Verdict::ClaimFirst => {
                    self.claim(&log, &manifest.job, manifest.run, tail.as_ref()).await?;
                }
                Verdict::Append => {
                    let entry = Entry {
                        job: manifest.job.clone(),
                        number: number_after(&log, tail.as_ref())?,
                        run: manifest.run,
                        kept: self.kept_after(tail.as_ref(), 1),
                        manifest: Some(manifest.clone()),
                    };
                    if append(&log, entry).await? == Appended::Last {
                        return Ok(());
                    }
                }
            }
        }
        Err(too_many_writers(&manifest.job))
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        let log = self.log(job)?;
        for _ in 0..ATTEMPTS {
            let Some(tail) = log.look().await? else { return Ok(None) };
            if let Newest::Known(manifest) = newest(&log, &tail).await? {
                // The caller may act on the result.
                log.settle().await?;
                return Ok(manifest);
            }
        }
        Err(too_many_writers(job))
    }
}

/// The result of appending an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Appended {
    /// It is the last entry, so its writer has seen everything before it.
    Last,
    /// Another entry has its number or a higher one: look again.
    NotLast,
}

/// Puts `entry`, then checks whether it is the last: see the [module](self) for why the put alone
/// proves nothing.
async fn append(log: &Log, entry: Entry) -> Result<Appended, StoreError> {
    let entry = Arc::new(entry);
    if log.put(&entry).await? == Put::Taken {
        return Ok(Appended::NotLast);
    }
    let numbers = log.numbers().await?;
    if numbers.last() != Some(&entry.number) {
        return Ok(Appended::NotLast);
    }
    // Nothing is deleted before its replacement is durable.
    log.settle().await?;
    log.prune(&entry, &numbers).await;
    Ok(Appended::Last)
}

/// The manifest that a run would start from.
enum Newest {
    /// It was read, or there is none.
    Known(Option<Manifest>),
    /// It was deleted after the look, so there is a newer one.
    Gone,
}

async fn newest(log: &Log, tail: &Entry) -> Result<Newest, StoreError> {
    let Some(newest) = tail.manifests().pop() else { return Ok(Newest::Known(None)) };
    if let Some(manifest) = &tail.manifest {
        return Ok(Newest::Known(Some(manifest.clone())));
    }
    kept_manifest(log, tail, newest).await
}

/// Reads a manifest that the last entry names.
async fn kept_manifest(log: &Log, tail: &Entry, kept: Kept) -> Result<Newest, StoreError> {
    let last = tail.number;
    let expected = || format!("the manifest of epoch {}, as entry {last} says", kept.epoch);
    match log.read(kept.number).await? {
        Some(Entry { manifest: Some(manifest), .. }) if (manifest.run, manifest.epoch) == (kept.run, kept.epoch) => {
            Ok(Newest::Known(Some(manifest)))
        }
        Some(_) => Err(log.damaged(kept.number, Mismatch::new(expected(), "another entry"))),
        None if log.numbers().await?.last() == Some(&last) => {
            Err(log.damaged(kept.number, Mismatch::new(expected(), "no such object")))
        }
        None => Ok(Newest::Gone),
    }
}

/// What a look means for a manifest to be published.
enum Verdict {
    /// It is published.
    Published,
    /// Its run is not in the log yet.
    ClaimFirst,
    /// It is the next one.
    Append,
    /// The log has changed since the look.
    Gone,
}

async fn judge(log: &Log, tail: Option<&Entry>, manifest: &Manifest) -> Result<Verdict, StoreError> {
    let Manifest { job, run, epoch, .. } = manifest;
    let Some(tail) = tail else { return Ok(Verdict::ClaimFirst) };
    if tail.run > *run {
        return Err(StoreError::Fenced { job: job.clone(), run: *run, newer: tail.run });
    }
    let manifests = tail.manifests();
    let Some(newest) = manifests.last().filter(|newest| newest.epoch >= *epoch) else {
        return Ok(if tail.run == *run { Verdict::Append } else { Verdict::ClaimFirst });
    };
    let Some(&same) = manifests.iter().find(|kept| (kept.run, kept.epoch) == (*run, *epoch)) else {
        let (job, epoch, latest, by) = (job.clone(), *epoch, newest.epoch, newest.run);
        return Err(StoreError::StaleEpoch { job, epoch, latest, by });
    };
    let published = match &tail.manifest {
        Some(last) if same.number == tail.number => Newest::Known(Some(last.clone())),
        _ => kept_manifest(log, tail, same).await?,
    };
    match published {
        Newest::Gone => Ok(Verdict::Gone),
        Newest::Known(published) if published.as_ref() == Some(manifest) => Ok(Verdict::Published),
        Newest::Known(_) => Err(StoreError::Conflict { job: job.clone(), epoch: *epoch, by: *run }),
    }
}

fn number_after(log: &Log, tail: Option<&Entry>) -> Result<u64, StoreError> {
    let last = tail.map_or(0, |tail| tail.number);
    last.checked_add(1).ok_or_else(|| log.damaged(last, Mismatch::new("a number with one after it", "the highest")))
}

fn run_after(log: &Log, tail: Option<&Entry>) -> Result<RunId, StoreError> {
    let Some(tail) = tail else { return Ok(RunId::new(1)) };
    let next = tail.run.next();
    if next == tail.run {
        return Err(log.damaged(tail.number, Mismatch::new("a run with one after it", "the highest")));
    }
    Ok(next)
}

fn too_many_writers(job: &JobId) -> StoreError {
    StoreError::Unavailable(
        format!("the log of job `{job}` changed {ATTEMPTS} times before it could be written").into(),
    )
}

impl fmt::Debug for ObjectStoreCheckpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ObjectStoreCheckpoints");
        match &self.place {
            Place::Local { folder, .. } => debug.field("folder", &folder.root()),
            Place::Remote { store, prefix } => {
                debug.field("store", &store.to_string()).field("prefix", &prefix.as_ref())
            }
        };
        debug.field("keep", &self.keep).finish()
    }
}

/// Whether these bytes are an entry of a log, as they are or under a header that is right. What is
/// one is the same when it is written and read again.
#[cfg(test)]
pub(crate) fn takes(bytes: &[u8]) -> bool {
    let job = JobId::from("words");
    let body = bytes.splitn(2, |byte| *byte == b'\n').nth(1).unwrap_or(bytes);
    [bytes.to_vec(), entry::sealed(body)].iter().any(|text| {
        let Ok(entry) = entry::Entry::decode(text, &job, 7) else { return false };
        let again = entry.encode().unwrap();
        assert!(entry::Entry::decode(&again, &job, 7).is_ok_and(|it| it == entry), "{again:?}");
        true
    })
}
