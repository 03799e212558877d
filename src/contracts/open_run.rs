//! One value for everything that a run is made from: its names, and where it starts.

use std::{fmt, sync::Arc};

use super::{Epoch, JobId, Manifest, RunId};

/// A run of a job: whose it is, which one, and what it starts from. Cheap to clone.
///
/// [`CheckpointStore::open_run`](super::CheckpointStore::open_run) gives it, and everything of the run is made from it: the workers, the
/// controller, the job's context. So no name is said twice, and the checkpoint that the run starts from can't be forgotten on the way.
/// After a crash [`Rehydrated::open`](crate::drive::Rehydrated::open) gives it for the run that is taken up.
#[derive(Clone)]
pub struct OpenRun {
    inner: Arc<Inner>,
}

struct Inner {
    job: JobId,
    run: RunId,
    manifest: Option<Manifest>,
    taken_up: Option<TakenUp>,
}

/// What is known of the controllers that drove this run before.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenUp {
    pub(crate) final_epoch: Option<Epoch>,
    pub(crate) last_complete: Option<Epoch>,
    pub(crate) epochs_after: Epoch,
}

impl OpenRun {
    /// For who implements a [`CheckpointStore`](super::CheckpointStore): run `run` of `job`, which starts from `manifest`.
    ///
    /// # Errors
    /// [`OpenRunError`] when the manifest is another job's, or of a run that is not older.
    pub fn new(job: impl Into<JobId>, run: RunId, manifest: Option<Manifest>) -> Result<Self, OpenRunError> {
        let job = job.into();
        if let Some(manifest) = &manifest {
            if manifest.job != job {
                return Err(OpenRunError::OtherJob { expected: job, got: manifest.job.clone() });
            }
            if manifest.run >= run {
                return Err(OpenRunError::NotOlder { job, run, got: manifest.run });
            }
        }
        Ok(Self { inner: Arc::new(Inner { job, run, manifest, taken_up: None }) })
    }

    /// A run of a job that has no checkpoint store, and so starts from nothing. Nobody but you sees to it that the number grows.
    pub fn without_store(job: impl Into<JobId>, run: RunId) -> Self {
        Self { inner: Arc::new(Inner { job: job.into(), run, manifest: None, taken_up: None }) }
    }

    /// A run that a controller before this one has driven; it may have taken `manifest` itself.
    pub(crate) fn taken_up(job: JobId, run: RunId, manifest: Option<Manifest>, taken_up: TakenUp) -> Self {
        Self { inner: Arc::new(Inner { job, run, manifest, taken_up: Some(taken_up) }) }
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.inner.job
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.inner.run
    }

    /// The checkpoint that the run starts from: the last complete one. In a run that was taken up it may be one of the run's own.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.inner.manifest.as_ref()
    }

    /// The last complete checkpoint; the run's own come after it.
    pub fn last_complete(&self) -> Option<Epoch> {
        let known = self.inner.taken_up.and_then(|taken_up| taken_up.last_complete);
        known.max(self.manifest().map(|manifest| manifest.epoch))
    }

    /// The final checkpoint that a controller before this one has started in this run. There is at most one final epoch in a run, so the new
    /// controller goes on under this number.
    pub fn final_epoch(&self) -> Option<Epoch> {
        self.inner.taken_up.and_then(|taken_up| taken_up.final_epoch)
    }

    /// The new controller's epochs come after this one: controllers before it may have ordered checkpoints up to it, and a worker that has the
    /// number of another checkpoint refuses the order, or takes it for an old one.
    pub fn epochs_after(&self) -> Option<Epoch> {
        self.inner.taken_up.map(|taken_up| taken_up.epochs_after).max(self.last_complete())
    }

    /// Whether something that is for `run` of `job` is for this one.
    ///
    /// # Errors
    /// [`OtherRun`] says whose it is.
    pub fn check(&self, job: &JobId, run: RunId) -> Result<(), OtherRun> {
        if self.job() == job && self.run() == run {
            return Ok(());
        }
        Err(OtherRun { expected: (self.job().clone(), self.run()), got: (job.clone(), run) })
    }
}

/// The same run of the same job, from the same checkpoint.
impl PartialEq for OpenRun {
    fn eq(&self, other: &Self) -> bool {
        (self.job(), self.run(), self.manifest()) == (other.job(), other.run(), other.manifest())
    }
}

impl Eq for OpenRun {}

/// Without the manifest's contents.
impl fmt::Debug for OpenRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenRun")
            .field("job", self.job())
            .field("run", &self.run())
            .field("last_complete", &self.last_complete())
            .field("final_epoch", &self.final_epoch())
            .finish_non_exhaustive()
    }
}

/// A manifest that a run can't start from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenRunError {
    /// It is another job's.
    #[error("expected a checkpoint of job `{expected}`, got one of job `{got}`: look at how checkpoints are stored")]
    OtherJob {
        /// The job.
        expected: JobId,
        /// The job of the checkpoint.
        got: JobId,
    },
    /// The run would not be newer than the one that took it.
    #[error(
        "expected a checkpoint of job `{job}` by a run before run {run}, got one by run {got}: give each run a higher number than every one before"
    )]
    NotOlder {
        /// The job.
        job: JobId,
        /// The run that was to be opened.
        run: RunId,
        /// The run that took the checkpoint.
        got: RunId,
    },
}

/// Something that is for another job or run was given to this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected something for {} of job `{}`, got one for {} of job `{}`: make everything of a run from one `OpenRun`",
    expected.1, expected.0, got.1, got.0
)]
pub struct OtherRun {
    /// The job and run that it was given to.
    pub expected: (JobId, RunId),
    /// The job and run that it is for.
    pub got: (JobId, RunId),
}
