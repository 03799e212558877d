//! The contract of a checkpoint store, which makes manifests durable.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{BoxError, BoxFuture, OpenRun, OpenRunError};
use crate::{
    contracts::{Epoch, JobId, RunId, TaskId},
    text::Bulk,
};

/// The record of a checkpoint, from which a new run can start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The job.
    pub job: JobId,
    /// The run that took the checkpoint.
    pub run: RunId,
    /// The checkpoint's number.
    pub epoch: Epoch,
    /// Whether it was a final one (`then_stop`).
    pub then_stop: bool,
    /// Every task of the run, in the order of their ids.
    pub tasks: Vec<TaskSnapshot>,
}

/// One task in a [`Manifest`]. Its `Debug` says how large its state and commit data are, and not
/// what is in them.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskSnapshot {
    /// The task.
    pub task: TaskId,
    /// Where or what its state is, opaque to winddown.
    pub snapshot: Bytes,
    /// The data that it commits once the manifest is durable. After a crash the next run commits it
    /// again, so commits are idempotent.
    pub commit: Option<Bytes>,
    /// The task had ended before the checkpoint began; `snapshot` is the last state that it
    /// reported (empty if none).
    pub finished: bool,
}

impl fmt::Debug for TaskSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { task, snapshot, commit, finished } = self;
        let mut f = f.debug_struct("TaskSnapshot");
        f.field("task", task).field("snapshot", &Bulk(snapshot));
        f.field("commit", &commit.as_deref().map(Bulk)).field("finished", finished).finish()
    }
}

/// Makes manifests durable, and fences controllers of older runs.
///
/// # What an implementer must keep
/// - [`publish`](Self::publish) returns `Ok` only when the complete manifest survives a crash of
///   everything.
/// - It is atomic: a reader sees the complete manifest or none. It is put-if-absent: an epoch is
///   never overwritten.
/// - It is idempotent: publishing the same manifest again is `Ok`.
/// - After [`open_run`](Self::open_run) has given a new run to a controller, `publish` by any older
///   run fails with [`StoreError::Fenced`] forever (invariant I11).
/// - A half-written or damaged manifest is [`StoreError::Damaged`]; it is never treated as
///   complete, and never skipped.
/// - Each job has its own runs and checkpoints, whatever its name.
///
/// `testing::conformance::store` (feature `testing`) checks this.
pub trait CheckpointStore: Send + Sync {
    /// Claims the next run of `job`: its number is one more than the highest that the store has
    /// seen, and it starts from the last complete checkpoint of any earlier run ([`OpenRun::new`]).
    /// Everything of the run is built from the result.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when the last manifest can't be trusted; others when the store can't
    /// be used.
    ///
    /// # Cancel safety
    /// A dropped call may have claimed a run that is never used; the next call claims the one after
    /// it.
    fn open_run(&self, job: &JobId) -> impl Future<Output = Result<OpenRun, StoreError>> + Send;

    /// Makes `manifest` durable.
    ///
    /// # Errors
    /// [`StoreError::Fenced`] when a newer run exists, [`StoreError::Conflict`] when another
    /// manifest has its epoch, [`StoreError::StaleEpoch`] when a later epoch is published already.
    ///
    /// # Cancel safety
    /// A dropped call may or may not have published; publishing again is safe.
    fn publish(&self, manifest: &Manifest) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// The last complete checkpoint of `job`.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] when it can't be trusted; others when the store can't be used.
    ///
    /// # Cancel safety
    /// It only reads.
    fn latest(&self, job: &JobId) -> impl Future<Output = Result<Option<Manifest>, StoreError>> + Send;
}

/// Why a call of a checkpoint store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store is temporarily unavailable.
    #[error("the checkpoint store is unavailable: {0}")]
    Unavailable(BoxError),
    /// A newer run has opened the store: this controller is stale, and must stop acting for the
    /// job.
    #[error(
        "run {run} of job `{job}` is fenced: run {newer} has opened the checkpoint store since; stop this controller"
    )]
    Fenced {
        /// The job.
        job: JobId,
        /// The run that wanted to publish.
        run: RunId,
        /// The newer run.
        newer: RunId,
    },
    /// The epoch has a manifest with other contents.
    #[error(
        "epoch {epoch} of job `{job}` has another manifest already, published by run {by}: two controllers share one run number"
    )]
    Conflict {
        /// The job.
        job: JobId,
        /// The epoch.
        epoch: Epoch,
        /// The run that published it.
        by: RunId,
    },
    /// The epoch is not above the last published one: the controller did not start from the last
    /// checkpoint, or this manifest was replaced by newer ones long ago.
    #[error(
        "expected an epoch of job `{job}` above epoch {latest}, which run {by} published, got epoch {epoch}; \
         start from the last checkpoint"
    )]
    StaleEpoch {
        /// The job.
        job: JobId,
        /// The epoch that was to be published.
        epoch: Epoch,
        /// The last published epoch.
        latest: Epoch,
        /// The run that published it.
        by: RunId,
    },
    /// This run cannot start from the last checkpoint.
    #[error(transparent)]
    Misplaced(#[from] OpenRunError),
    /// The content of an object is not what was written.
    #[error("`{path}` is damaged: expected {expected}, got {got}; restore it from a copy, or start over without it")]
    Damaged {
        /// Where it is.
        path: String,
        /// What an intact object contains.
        expected: String,
        /// What this one contains.
        got: String,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// The dyn-safe form of [`CheckpointStore`], implemented for every store. Use it through
/// [`BoxStore`].
pub trait DynCheckpointStore: Send + Sync {
    /// [`CheckpointStore::open_run`], boxed.
    fn open_run_boxed<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<OpenRun, StoreError>>;
    /// [`CheckpointStore::publish`], boxed.
    fn publish_boxed<'a>(&'a self, manifest: &'a Manifest) -> BoxFuture<'a, Result<(), StoreError>>;
    /// [`CheckpointStore::latest`], boxed.
    fn latest_boxed<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Manifest>, StoreError>>;
}

impl<K: CheckpointStore> DynCheckpointStore for K {
    fn open_run_boxed<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<OpenRun, StoreError>> {
        Box::pin(self.open_run(job))
    }

    fn publish_boxed<'a>(&'a self, manifest: &'a Manifest) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.publish(manifest))
    }

    fn latest_boxed<'a>(&'a self, job: &'a JobId) -> BoxFuture<'a, Result<Option<Manifest>, StoreError>> {
        Box::pin(self.latest(job))
    }
}

/// Any checkpoint store, chosen at run time: `let store: BoxStore = Arc::new(my_store);`
pub type BoxStore = Arc<dyn DynCheckpointStore>;

impl CheckpointStore for dyn DynCheckpointStore {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        self.open_run_boxed(job).await
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        self.publish_boxed(manifest).await
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        self.latest_boxed(job).await
    }
}

impl<K: CheckpointStore + ?Sized> CheckpointStore for Arc<K> {
    fn open_run(&self, job: &JobId) -> impl Future<Output = Result<OpenRun, StoreError>> + Send {
        K::open_run(self, job)
    }

    fn publish(&self, manifest: &Manifest) -> impl Future<Output = Result<(), StoreError>> + Send {
        K::publish(self, manifest)
    }

    fn latest(&self, job: &JobId) -> impl Future<Output = Result<Option<Manifest>, StoreError>> + Send {
        K::latest(self, job)
    }
}
