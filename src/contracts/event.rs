//! What a worker tells its controller.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::{
    contracts::{Epoch, RunId, TaskId, WorkerId},
    text::{Bulk, Printable},
};

/// A message from a worker of some run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerEvent {
    /// The run that the worker belongs to. A controller of another run rejects the event (invariant I11).
    pub run: RunId,
    /// The worker that speaks.
    pub worker: WorkerId,
    /// What it says.
    pub event: Event,
}

impl WorkerEvent {
    /// `worker` of `run` says `event`.
    pub const fn new(run: RunId, worker: WorkerId, event: Event) -> Self {
        Self { run, worker, event }
    }
}

/// What a worker can say.
///
/// Every event may arrive twice, late or out of order; the model absorbs or rejects it, and counts it.
///
/// Its `Debug` says how large a task's state and commit data are, and not what is in them.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// "I am alive." Every accepted event counts as a sign of life; this one says nothing else.
    Heartbeat,
    /// A source has read its whole input and has sent its last record; it stays alive for the final checkpoint.
    SourceExhausted {
        /// The source.
        task: TaskId,
    },
    /// A task's state for `epoch` is durable. This is the first phase of a two-phase commit if `commit` is set.
    CheckpointCompleted {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        epoch: Epoch,
        /// Where or what the state is, opaque to winddown: it goes into the manifest and comes back on restore.
        snapshot: Bytes,
        /// What the second phase needs, if the task has something to commit once the checkpoint is durable. It covers
        /// everything that the task has not committed, what it gave for earlier checkpoints included: those may have been
        /// abandoned, and are never committed then.
        commit: Option<Bytes>,
    },
    /// The same from a task whose operator commits as a whole: from the first of these on, every subtask of the operator has to
    /// carry out the commit of `epoch`, also one that gave nothing for it. The checkpoint is complete once each of them has.
    OperatorPreCommitted {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        epoch: Epoch,
        /// As in [`CheckpointCompleted`](Self::CheckpointCompleted).
        snapshot: Bytes,
        /// What the second phase needs of this task; empty if that is nothing. What it gave for earlier checkpoints need not be in
        /// it: one that is given up before it is committed is a failure of the run
        /// ([`RunFailure::PreCommitLost`](crate::RunFailure::PreCommitLost)).
        commit: Bytes,
    },
    /// A task has carried out the commit order of `epoch`: the second phase of the two-phase commit.
    CommitCompleted {
        /// The task.
        task: TaskId,
        /// The checkpoint.
        epoch: Epoch,
    },
    /// A task has ended well: it holds no input, and says nothing after this.
    TaskFinished {
        /// The task.
        task: TaskId,
    },
    /// A task has ended badly.
    TaskFailed {
        /// The task.
        task: TaskId,
        /// Why.
        error: TaskError,
    },
    /// A task has ended well, and with it that subtask of every operator that it is
    /// [chained](crate::TopologyBuilder::chain) with.
    ChainFinished {
        /// The subtask of any operator of the chain.
        task: TaskId,
    },
    /// The same, badly: one failure, whatever the chain's length.
    ChainFailed {
        /// The subtask of the operator that failed, or of any other of the chain.
        task: TaskId,
        /// Why.
        error: TaskError,
    },
    /// Something went wrong that ends nothing: a record that could not be read, say. It is told, and counted
    /// ([`RunStatus::nonfatal_errors`](crate::RunStatus::nonfatal_errors)).
    NonfatalError {
        /// The task, if that is known.
        task: Option<TaskId>,
        /// What.
        error: TaskError,
    },
    /// The worker could not begin its work: its tasks will never run.
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
/// The words may come from another process. `Display` shows them in one line, with control characters escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", Printable(message))]
pub struct TaskError {
    /// For people, as it was said.
    pub message: Arc<str>,
    /// Whether the task's author expects another run to get past it.
    pub retryable: bool,
}

impl TaskError {
    /// A failure that another run may get past.
    pub fn retryable(message: impl Into<Arc<str>>) -> Self {
        Self { message: message.into(), retryable: true }
    }

    /// A failure that every run will meet again.
    pub fn fatal(message: impl Into<Arc<str>>) -> Self {
        Self { message: message.into(), retryable: false }
    }
}
