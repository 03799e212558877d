//! Why a phase was entered, as a value, for the log, the progress and the receipt.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    contracts::{ControllerError, RunFailure, StopRequest, StoreError, TaskId, WorkerId},
    machine::{PhaseKind, StepError},
    text::shortened,
};

/// The reason why a phase was entered, and the workers and tasks that it concerns.
///
/// ```
/// use winddown::machine::{Reason, ReasonKind};
///
/// let reason = Reason::from(ReasonKind::TtlExpired);
/// assert_eq!(reason.kind().tag(), "ttl-expired");
/// assert_eq!(reason.to_string(), "the job's time to live is over");
/// ```
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    kind: ReasonKind,
    /// Boxed, because most reasons concern no worker or task. Shared, so that cloning is cheap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<Arc<About>>,
}

/// The workers and tasks that a reason concerns, and its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct About {
    workers: Vec<WorkerId>,
    tasks: Vec<TaskId>,
    message: String,
}

macro_rules! kinds {
    ($( $(#[$doc:meta])* $kind:ident $tag:literal, $says:literal; )+) => {
        /// The kinds of a [`Reason`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ReasonKind { $(
            $(#[$doc])*
            #[serde(rename = $tag)]
            $kind,
        )+ }

        impl ReasonKind {
            /// A name that never changes, for logs and metrics.
            pub const fn tag(self) -> &'static str {
                match self { $( Self::$kind => $tag, )+ }
            }

            const fn says(self) -> &'static str {
                match self { $( Self::$kind => $says, )+ }
            }
        }
    };
}

kinds! {
    /// The job's context was created.
    Started "started", "the job was started";
    /// A crashed controller had got this far.
    Resumed "resumed", "a controller before this one had come this far";
    /// The program took the step itself, with a method of the phase.
    Program "program", "the program took the step";
    /// A stop request with a checkpoint.
    CheckpointRequest "checkpoint-request", "a request to stop with a checkpoint";
    /// A graceful stop request.
    GracefulRequest "graceful-request", "a request to stop gracefully";
    /// An immediate stop request.
    ImmediateRequest "immediate-request", "a request to stop immediately";
    /// A force request.
    ForceRequest "force-request", "a request to stop by force";
    /// The job's time to live has expired.
    TtlExpired "ttl-expired", "the job's time to live is over";
    /// Every source has read its whole input.
    SourcesExhausted "sources-exhausted", "every source has read its whole input";
    /// The previous phase has done its work.
    Done "done", "what the phase before was for is done";
    /// No checkpoint can be taken, for example because there is no store.
    NoCheckpoint "no-checkpoint", "no checkpoint can be taken";
    /// The job has no controller.
    NoController "no-controller", "the job has no controller";
    /// A failed run is cleaned up.
    CleanUp "clean-up", "what is left of the run is cleaned up";
    /// A task failed.
    TaskFailed "task-failed", "a task failed";
    /// A task ended without its snapshot for the final checkpoint, or without committing its
    /// output.
    TaskIncomplete "task-incomplete", "a task ended too early";
    /// A worker has been silent for too long.
    WorkerLost "worker-lost", "a worker is lost";
    /// A worker has left before its tasks had ended.
    WorkerLeft "worker-left", "a worker left before its tasks had ended";
    /// A worker could not start.
    WorkerFailed "worker-failed", "a worker could not start";
    /// A checkpoint was given up with pre-committed data that no later one covers.
    PreCommitLost "pre-commit-lost", "a checkpoint was given up with something pre-committed";
    /// The phase's budget is spent.
    Deadline "deadline", "the phase's time is over";
    /// Workers did not accept an order after all retries.
    OrderRefused "order-refused", "workers did not take an order";
    /// The checkpoint's manifest could not be made durable.
    StoreFailed "store-failed", "the checkpoint store failed";
    /// A newer run has taken the job over.
    Fenced "fenced", "a newer run has taken the job over";
    /// A reason of the controller's own.
    ControllerFailed "controller-failed", "the controller failed";
    /// Released workers did not leave.
    NotLeft "not-left", "workers did not leave by themselves";
    /// An error of the scheduler.
    SchedulerFailed "scheduler-failed", "the scheduler failed";
    /// An error of the journal.
    JournalFailed "journal-failed", "the journal failed";
}

impl ReasonKind {
    /// Whether something went wrong, as opposed to being requested or completed.
    pub const fn is_failure(self) -> bool {
        matches!(
            self,
            Self::TaskFailed
                | Self::TaskIncomplete
                | Self::WorkerLost
                | Self::WorkerLeft
                | Self::WorkerFailed
                | Self::PreCommitLost
                | Self::Deadline
                | Self::OrderRefused
                | Self::StoreFailed
                | Self::Fenced
                | Self::ControllerFailed
                | Self::NotLeft
                | Self::SchedulerFailed
                | Self::JournalFailed
        )
    }
}

impl fmt::Display for ReasonKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.says())
    }
}

impl Reason {
    /// The kind of the reason.
    pub const fn kind(&self) -> ReasonKind {
        self.kind
    }

    /// The workers that it concerns.
    pub fn workers(&self) -> &[WorkerId] {
        self.about.as_ref().map_or(&[], |about| &about.workers)
    }

    /// The tasks that it concerns.
    pub fn tasks(&self) -> &[TaskId] {
        self.about.as_ref().map_or(&[], |about| &about.tasks)
    }

    pub(super) fn from_parts(kind: ReasonKind, about: Option<Arc<About>>) -> Self {
        Self { kind, about }
    }

    pub(super) fn into_parts(self) -> (ReasonKind, Option<Arc<About>>) {
        (self.kind, self.about)
    }

    pub(super) fn about(kind: ReasonKind, workers: Vec<WorkerId>, tasks: Vec<TaskId>, said: &impl ToString) -> Self {
        Self { kind, about: Some(Arc::new(About { workers, tasks, message: said.to_string() })) }
    }

    /// Why a step was not taken. `waits_for` are the late workers, if that is the reason.
    pub(crate) fn of(failure: &StepError, waits_for: impl FnOnce() -> Vec<WorkerId>) -> Self {
        let about = |kind, workers| Self::about(kind, workers, vec![], &failure);
        match failure {
            StepError::Run(failure) | StepError::Controller(ControllerError::Run(failure)) => failure.into(),
            StepError::Controller(error) => error.into(),
            StepError::BudgetSpent { .. } => about(ReasonKind::Deadline, waits_for()),
            StepError::StillAlive { workers, .. } | StepError::Appeared { workers } => {
                about(ReasonKind::NotLeft, workers.clone())
            }
            StepError::Scheduler(_) => about(ReasonKind::SchedulerFailed, vec![]),
            StepError::Journal(_) => about(ReasonKind::JournalFailed, vec![]),
            StepError::WrongJob(_) => about(ReasonKind::Program, vec![]),
        }
    }

    /// These workers are lost, although the run's failures do not show it.
    pub(super) fn lost(workers: Vec<WorkerId>) -> Self {
        let said = match workers.len() {
            0 => return ReasonKind::WorkerLost.into(),
            1 => format!("worker {} is lost", workers[0]),
            _ => format!("workers {} are lost", shortened(workers.iter())),
        };
        Self::about(ReasonKind::WorkerLost, workers, vec![], &said)
    }

    /// Whether the step from one phase to another for this reason is an escalation: the stop
    /// becomes stronger than requested.
    pub(super) fn escalates(&self, from: PhaseKind, to: PhaseKind) -> bool {
        let is_stop = matches!(
            from,
            PhaseKind::Finishing
                | PhaseKind::CheckpointStopping
                | PhaseKind::StoppingGraceful
                | PhaseKind::StoppingImmediate
        );
        self.kind.is_failure() || is_stop && matches!(to, PhaseKind::StoppingImmediate | PhaseKind::StoppingForce)
    }

    /// For a field of a log.
    pub(crate) fn workers_text(&self) -> Option<String> {
        Some(self.workers()).filter(|workers| !workers.is_empty()).map(|workers| shortened(workers.iter()))
    }

    /// For a field of a log.
    pub(crate) fn tasks_text(&self) -> Option<String> {
        Some(self.tasks()).filter(|tasks| !tasks.is_empty()).map(|tasks| shortened(tasks.iter()))
    }
}

impl From<ReasonKind> for Reason {
    fn from(kind: ReasonKind) -> Self {
        Self { kind, about: None }
    }
}

impl From<StopRequest> for Reason {
    fn from(request: StopRequest) -> Self {
        match request {
            StopRequest::Checkpoint => ReasonKind::CheckpointRequest,
            StopRequest::Graceful => ReasonKind::GracefulRequest,
            StopRequest::Immediate => ReasonKind::ImmediateRequest,
            StopRequest::Force => ReasonKind::ForceRequest,
        }
        .into()
    }
}

impl From<&RunFailure> for Reason {
    fn from(failure: &RunFailure) -> Self {
        let (kind, workers, tasks) = match *failure {
            RunFailure::TaskFailed { task, worker, .. } => (ReasonKind::TaskFailed, vec![worker], vec![task]),
            RunFailure::WorkerLost { worker, .. } => (ReasonKind::WorkerLost, vec![worker], vec![]),
            RunFailure::WorkerLeft { worker, .. } => (ReasonKind::WorkerLeft, vec![worker], vec![]),
            RunFailure::WorkerFailed { worker, .. } => (ReasonKind::WorkerFailed, vec![worker], vec![]),
            RunFailure::PreCommitLost { .. } => (ReasonKind::PreCommitLost, vec![], vec![]),
            RunFailure::FinishedWithoutSnapshot { task, .. } | RunFailure::FinishedWithoutCommit { task, .. } => {
                (ReasonKind::TaskIncomplete, vec![], vec![task])
            }
        };
        Self::about(kind, workers, tasks, &failure)
    }
}

impl From<&ControllerError> for Reason {
    fn from(error: &ControllerError) -> Self {
        let (kind, workers) = match error {
            ControllerError::Run(failure) => return failure.into(),
            ControllerError::Orders(report) => {
                (ReasonKind::OrderRefused, report.failures.iter().map(|(worker, _)| *worker).collect())
            }
            ControllerError::Store(StoreError::Fenced { .. }) => (ReasonKind::Fenced, vec![]),
            ControllerError::Store(_) => (ReasonKind::StoreFailed, vec![]),
            ControllerError::NoCheckpoint(_) => (ReasonKind::NoCheckpoint, vec![]),
            ControllerError::Other(_) => (ReasonKind::ControllerFailed, vec![]),
        };
        Self::about(kind, workers, vec![], &error)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.about {
            Some(about) if !about.message.is_empty() => f.write_str(&about.message),
            _ => self.kind.fmt(f),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kind.tag())?;
        match &self.about {
            Some(about) => write!(f, " {about:?}"),
            None => Ok(()),
        }
    }
}
