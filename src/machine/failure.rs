//! What can go wrong in a phase. Every failure gives the phase back (invariant I6).

use std::{error::Error, fmt, time::Duration};

use crate::{
    contracts::{ControllerError, JobId, RunFailure, RunStatus, SchedulerError, WorkerId},
    machine::{JournalError, Phase, PhaseKind},
    text::shortened,
};

/// A step that was not taken, with the phase that it started from: continue with it, try again, or
/// escalate.
#[derive(Debug)]
#[must_use = "it holds the phase: take it with `into_phase`, or the shutdown is lost"]
pub struct StepFailed<P> {
    phase: P,
    failure: Box<StepError>,
}

impl<P> StepFailed<P> {
    pub(crate) fn new(phase: P, failure: impl Into<Box<StepError>>) -> Self {
        Self { phase, failure: failure.into() }
    }

    pub(crate) fn map<Q>(self, change: impl FnOnce(P) -> Q) -> StepFailed<Q> {
        StepFailed { phase: change(self.phase), failure: self.failure }
    }

    /// The phase, to continue with.
    pub fn into_phase(self) -> P {
        self.phase
    }

    /// The phase and what went wrong.
    pub fn into_parts(self) -> (P, Box<StepError>) {
        (self.phase, self.failure)
    }

    /// What went wrong.
    pub fn error(&self) -> &StepError {
        &self.failure
    }

    /// Whether the same step may succeed when it is tried again.
    pub fn is_retryable(&self) -> bool {
        self.failure.is_retryable()
    }
}

impl<P: Phase> fmt::Display for StepFailed<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", P::KIND, self.failure)
    }
}

impl<P: Phase + fmt::Debug> Error for StepFailed<P> {}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// An error of the controller.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The run itself failed: a task, or a worker.
    #[error(transparent)]
    Run(#[from] RunFailure),
    /// An error of the scheduler.
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
    /// What the phase was about to do could not be recorded, so it was not done (invariant I7).
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The phase's budget is spent.
    #[error(
        "{phase} is not done within {}: {} tasks finished, checkpoint {:?}, {} workers left; give it more time, or escalate",
        crate::text::rounded(*budget), status.tasks, status.checkpoint, status.workers_left
    )]
    BudgetSpent {
        /// The phase.
        phase: PhaseKind,
        /// How long it was given.
        budget: Duration,
        /// How far it got.
        status: RunStatus,
    },
    /// The scheduler had listed no worker, but listed some when it was asked again just before
    /// `Stopped`.
    #[error(
        "expected no worker to be alive any more, but {} appeared after the last had gone; run the phase again, which kills them",
        shortened(workers.iter())
    )]
    Appeared {
        /// The workers that have appeared.
        workers: Vec<WorkerId>,
    },
    /// The scheduler still lists workers after they were killed.
    #[error(
        "expected no worker to be alive {} after the kill order, got {} ({}); look at what keeps them alive, then try again",
        crate::text::rounded(*after), workers.len(), shortened(workers.iter())
    )]
    StillAlive {
        /// The workers that are alive.
        workers: Vec<WorkerId>,
        /// The time limit of the kill.
        after: Duration,
    },
    /// The phase was used with a job that is not in it.
    #[error(transparent)]
    WrongJob(#[from] WrongJob),
}

impl StepError {
    /// Whether the same step may succeed when it is tried again.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Controller(error) => error.is_retryable(),
            Self::Scheduler(error) => error.is_retryable(),
            Self::Journal(error) => error.is_retryable(),
            Self::StillAlive { .. } | Self::Appeared { .. } => true,
            Self::Run(_) | Self::BudgetSpent { .. } | Self::WrongJob(_) => false,
        }
    }

    /// Whether another controller has taken the job over.
    pub(crate) fn is_superseded(&self) -> bool {
        match self {
            Self::Controller(error) => error.is_fenced(),
            Self::Journal(error) => matches!(error, JournalError::Conflict { .. }),
            _ => false,
        }
    }

    /// Whether killing the workers failed, as opposed to stopping the tasks.
    pub(crate) fn is_schedulers(&self) -> bool {
        matches!(self, Self::Scheduler(_) | Self::StillAlive { .. } | Self::Appeared { .. })
    }
}

/// A phase was used with a job that is not in it: the one thing that the types can't see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongJob {
    /// The job that was passed.
    pub job: JobId,
    /// The phase that this job is in.
    pub job_phase: PhaseKind,
    /// The phase that was used.
    pub used: PhaseKind,
    /// Whether the phase once belonged to this job.
    pub same_job: bool,
}

impl fmt::Display for WrongJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { job, job_phase, used, same_job } = self;
        write!(f, "expected a phase of job `{job}`, which is in {job_phase}, got {used}")?;
        f.write_str(if *same_job {
            ", which the job has left already"
        } else {
            " of another job; pass the context that the phase came from"
        })
    }
}

impl Error for WrongJob {}
