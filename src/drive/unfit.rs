//! Why a shutdown could not be continued.

use std::fmt;

use crate::{
    contracts::{Epoch, JobId, RunId, SchedulerError, StoreError, TaskId, WorkerId},
    machine::{BuildError, JournalError, PhaseKind, PhaseRecord},
    text::shortened,
};

/// The journal's record cannot become a phase.
#[derive(Debug)]
pub struct RehydrateError {
    pub(super) job: JobId,
    pub(super) record: Option<Box<PhaseRecord>>,
    pub(super) unfit: Box<Unfit>,
}

impl RehydrateError {
    /// The record, if it could be read.
    pub fn record(&self) -> Option<&PhaseRecord> {
        self.record.as_deref()
    }

    /// What is wrong.
    pub fn unfit(&self) -> &Unfit {
        &self.unfit
    }

    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        self.unfit.is_retryable()
    }
}

impl fmt::Display for RehydrateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, record, unfit } = self;
        match record.as_deref() {
            Some(PhaseRecord { run, phase, revision, .. }) => {
                write!(
                    f,
                    "the record of job `{job}`, run {run} ({phase}, revision {revision}) can't be taken up: {unfit}"
                )
            }
            None => write!(f, "the record of job `{job}` can't be read: {unfit}"),
        }
    }
}

impl std::error::Error for RehydrateError {}

/// What is wrong with a record, or with the results of its checks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It belongs to another job.
    #[error("expected a record of job `{expected}`, got one of job `{got}`: look at how records are stored")]
    ForeignJob {
        /// The job that was to be taken up.
        expected: JobId,
        /// The record's job.
        got: JobId,
    },
    /// It says that the job has stopped, but workers are alive.
    #[error(
        "expected no worker to be alive after {phase}, got these: {}: have the scheduler stop them, then rehydrate again",
        shortened(alive.iter())
    )]
    StillAlive {
        /// What the record says.
        phase: PhaseKind,
        /// Who is alive.
        alive: Vec<WorkerId>,
    },
    /// It says that the final checkpoint is complete, but the store does not have it.
    #[error(
        "expected the manifest of the final checkpoint (epoch {epoch}) to be the last in the store, got {}: the store is not the one that the job used, or \
         has lost it; don't resume from it before you know", Latest(*latest)
    )]
    NoManifest {
        /// The final checkpoint.
        epoch: Epoch,
        /// The last one in the store.
        latest: Option<Epoch>,
    },
    /// The manifest of the final checkpoint does not cover the whole job.
    #[error(
        "expected exactly the tasks of the topology in the manifest of the final checkpoint (epoch {epoch}), but only one of the two has task {task}: pass the \
         topology that the run had; if you did, the manifest proves nothing"
    )]
    NotEveryTask {
        /// The final checkpoint.
        epoch: Epoch,
        /// The first task that only one of them has.
        task: TaskId,
    },
    /// The store returned another job's manifest.
    #[error("expected a manifest of job `{expected}`, got one of job `{got}`: look at how checkpoints are stored")]
    ForeignManifest {
        /// The job that was to be taken up.
        expected: JobId,
        /// The manifest's job.
        got: JobId,
    },
    /// It says that the final checkpoint is complete, but not which one it was.
    #[error("expected the final checkpoint's epoch in the record, got none: no winddown writes such a record")]
    NoFinalEpoch,
    /// It names a checkpoint, but no store was given.
    #[error("expected a checkpoint store to check the final checkpoint against, got none: pass the job's")]
    NoStore,
    /// A newer run has continued from there.
    #[error(
        "the record is of an older run: run {got} has published a checkpoint since; let the newer run's controller act"
    )]
    NewerRun {
        /// The newer run.
        got: RunId,
    },
    /// The journal could not be read, or its record can't be trusted.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The job's context could not be built.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The scheduler could not be asked.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// The store could not be read, or is damaged.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Unfit {
    /// Whether the same may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Journal(error) => error.is_retryable(),
            Self::Scheduler(error) => error.is_retryable(),
            Self::Store(error) => error.is_retryable(),
            _ => false,
        }
    }
}

struct Latest(Option<Epoch>);

impl fmt::Display for Latest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(epoch) => write!(f, "epoch {epoch}"),
            None => f.write_str("no manifest at all"),
        }
    }
}
