//! Events: what a worker reports to its controller.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    contracts::{Epoch, RunId, TaskId, WorkerId},
    text::{Bulk, Printable},
};

/// A message from a worker of some run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEvent {
    /// The run that the worker belongs to. A controller of another run rejects the event (invariant
    /// I11).
    pub run: RunId,
    /// The worker that reports.
    pub worker: WorkerId,
    /// The event.
    pub event: Event,
}

impl WorkerEvent {
    /// An event of `worker` in `run`.
    pub const fn new(run: RunId, worker: WorkerId, event: Event) -> Self {
        Self { run, worker, event }
    }
}

/// The events that a worker can report.
///
/// Every event may arrive twice, late or out of order; the model absorbs or rejects it, and counts
/// it.
///
/// Its `Debug` says how large a task's state and commit data are, and not what is in them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The worker is alive. Every accepted event counts as a sign of life; this one has no other
    /// content.
    Heartbeat,
    /// A source has read its whole input and has sent its last record; it stays alive for the final
    /// checkpoint.
    SourceExhausted {
        /// The source.
        task: TaskId,
    },
    /// A task's state for `epoch` is durable. This is the first phase of a two-phase commit if
    /// `commit` is set.
    CheckpointCompleted {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        epoch: Epoch,
        /// Where or what the state is, opaque to winddown: it goes into the manifest and comes back
        /// on restore.
        snapshot: Bytes,
        /// The data for the second phase, if the task has something to commit once the checkpoint
        /// is durable. It covers everything that the task has not committed, including its data for
        /// earlier checkpoints: those may have been given up, and are then never committed.
        commit: Option<Bytes>,
    },
    /// The same from a task whose operator commits as a whole: from the first such event on, every
    /// subtask of the operator must carry out the commit of `epoch`, even one without data for it.
    /// The checkpoint is complete once each of them has.
    OperatorPreCommitted {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        epoch: Epoch,
        /// As in [`CheckpointCompleted`](Self::CheckpointCompleted).
        snapshot: Bytes,
        /// This task's data for the second phase; may be empty. It need not cover earlier
        /// checkpoints: one that is given up before it is committed is a failure of the run
        /// ([`RunFailure::PreCommitLost`](crate::contracts::RunFailure::PreCommitLost)).
        commit: Bytes,
    },
    /// A task has carried out the commit order of `epoch`: the second phase of the two-phase
    /// commit.
    CommitCompleted {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        epoch: Epoch,
    },
    /// A task has finished successfully: it holds no input, and reports nothing after this.
    TaskFinished {
        /// The task.
        task: TaskId,
    },
    /// A task has failed.
    TaskFailed {
        /// The task.
        task: TaskId,
        /// Why.
        error: TaskError,
    },
    /// A task has finished successfully, and with it that subtask of every operator that it is
    /// [chained](crate::contracts::TopologyBuilder::chain) with.
    ChainFinished {
        /// The subtask of any operator of the chain.
        task: TaskId,
    },
    /// The same for a failure: one failure, whatever the length of the chain.
    ChainFailed {
        /// The subtask of the operator that failed, or of any other of the chain.
        task: TaskId,
        /// Why.
        error: TaskError,
    },
    /// An error that ends nothing, such as an unreadable record. It is logged and counted
    /// ([`RunStatus::nonfatal_errors`](crate::contracts::RunStatus::nonfatal_errors)).
    NonfatalError {
        /// The task, if that is known.
        task: Option<TaskId>,
        /// What.
        error: TaskError,
    },
    /// The worker could not start its work: its tasks will never run.
    WorkerFailed {
        /// Why.
        error: TaskError,
    },
    /// The worker leaves: all of its tasks have ended. Silence after this is not a loss.
    WorkerFinished,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Heartbeat => "Heartbeat",
            Self::SourceExhausted { .. } => "SourceExhausted",
            Self::CheckpointCompleted { .. } => "CheckpointCompleted",
            Self::OperatorPreCommitted { .. } => "OperatorPreCommitted",
            Self::CommitCompleted { .. } => "CommitCompleted",
            Self::TaskFinished { .. } => "TaskFinished",
            Self::TaskFailed { .. } => "TaskFailed",
            Self::ChainFinished { .. } => "ChainFinished",
            Self::ChainFailed { .. } => "ChainFailed",
            Self::NonfatalError { .. } => "NonfatalError",
            Self::WorkerFailed { .. } => "WorkerFailed",
            Self::WorkerFinished => "WorkerFinished",
        };
        let mut f = f.debug_struct(name);
        match self {
            Self::Heartbeat | Self::WorkerFinished => &mut f,
            Self::SourceExhausted { task } | Self::TaskFinished { task } | Self::ChainFinished { task } => {
                f.field("task", task)
            }
            Self::CheckpointCompleted { task, epoch, snapshot, commit } => {
                f.field("task", task).field("epoch", epoch).field("snapshot", &Bulk(snapshot));
                f.field("commit", &commit.as_deref().map(Bulk))
            }
            Self::OperatorPreCommitted { task, epoch, snapshot, commit } => {
                f.field("task", task).field("epoch", epoch).field("snapshot", &Bulk(snapshot));
                f.field("commit", &Bulk(commit))
            }
            Self::CommitCompleted { task, epoch } => f.field("task", task).field("epoch", epoch),
            Self::TaskFailed { task, error } | Self::ChainFailed { task, error } => {
                f.field("task", task).field("error", error)
            }
            Self::NonfatalError { task, error } => f.field("task", task).field("error", error),
            Self::WorkerFailed { error } => f.field("error", error),
        };
        f.finish()
    }
}

/// Why a task failed.
///
/// The words may come from another process. `Display` shows them in one line, with control
/// characters escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Printable(message))]
pub struct TaskError {
    /// For people, as it was said.
    pub message: Arc<str>,
    /// Whether the task's author expects another run to succeed.
    pub retryable: bool,
}

impl TaskError {
    /// A failure that another run may not have.
    pub fn retryable(message: impl Into<Arc<str>>) -> Self {
        Self { message: message.into(), retryable: true }
    }

    /// A failure that every run will have.
    pub fn fatal(message: impl Into<Arc<str>>) -> Self {
        Self { message: message.into(), retryable: false }
    }
}
