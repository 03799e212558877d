//! One value from which everything of a run is built: its names and its starting point.

use std::{fmt, sync::Arc};

use super::{Epoch, JobId, Manifest, RunId};

/// A run of a job: the job, the run's number, and the checkpoint that it starts from. Cheap to
/// clone.
///
/// [`CheckpointStore::open_run`](super::CheckpointStore::open_run) returns it, and everything of
/// the run is built from it: the workers, the controller, and the job's context. So no name is
/// given twice, and the starting checkpoint can't be forgotten. After a crash,
/// [`Rehydrated::open`](crate::drive::Rehydrated::open) returns it for the continued run.
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

/// What is known about the previous controllers of this run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TakenUp {
    pub(crate) final_epoch: Option<Epoch>,
    pub(crate) last_complete: Option<Epoch>,
    pub(crate) epochs_after: Epoch,
}

impl OpenRun {
    /// For implementations of [`CheckpointStore`](super::CheckpointStore): run `run` of `job`,
    /// which starts from `manifest`.
    ///
    /// # Errors
    /// [`OpenRunError`] if the manifest belongs to another job, or to a run that is not older.
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

    /// A run of a job without a checkpoint store, which starts from nothing. You must ensure that
    /// the number grows.
    pub fn without_store(job: impl Into<JobId>, run: RunId) -> Self {
        Self { inner: Arc::new(Inner { job: job.into(), run, manifest: None, taken_up: None }) }
    }

    /// A run that a previous controller has driven; it may have taken `manifest` itself.
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

    /// The checkpoint that the run starts from: the last complete one. After a crash it may be one
    /// of the run's own.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.inner.manifest.as_ref()
    }

    /// The last complete checkpoint; the run's own checkpoints come after it.
    pub fn last_complete(&self) -> Option<Epoch> {
        let known = self.inner.taken_up.and_then(|taken_up| taken_up.last_complete);
        known.max(self.manifest().map(|manifest| manifest.epoch))
    }

    /// The final checkpoint that a previous controller has started in this run. A run has at most
    /// one final epoch, so the new controller continues with this number.
    pub fn final_epoch(&self) -> Option<Epoch> {
        self.inner.taken_up.and_then(|taken_up| taken_up.final_epoch)
    }

    /// The new controller's epochs come after this one: previous controllers may have ordered
    /// checkpoints up to it, and a worker that knows the number from another checkpoint refuses the
    /// order, or takes it for an old one.
    pub fn epochs_after(&self) -> Option<Epoch> {
        self.inner.taken_up.map(|taken_up| taken_up.epochs_after).max(self.last_complete())
    }

    /// Checks that something made for `run` of `job` belongs to this run.
    ///
    /// # Errors
    /// [`OtherRun`] names the run that it belongs to.
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
    /// It belongs to another job.
    #[error("expected a checkpoint of job `{expected}`, got one of job `{got}`: look at how checkpoints are stored")]
    OtherJob {
        /// The job.
        expected: JobId,
        /// The job of the checkpoint.
        got: JobId,
    },
    /// The run would not be newer than the one that took the checkpoint.
    #[error(
        "expected a checkpoint of job `{job}` by a run before run {run}, got one by run {got}: give each run a higher number than all earlier ones"
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

/// Something that was made for another job or run was given to this one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected something for run {} of job `{}`, got one for run {} of job `{}`: build everything of a run from one `OpenRun`",
    expected.1, expected.0, got.1, got.0
)]
pub struct OtherRun {
    /// The job and run that it was given to.
    pub expected: (JobId, RunId),
    /// The job and run that it is for.
    pub got: (JobId, RunId),
}
