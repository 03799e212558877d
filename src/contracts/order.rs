//! What a controller tells its workers.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::contracts::{Epoch, RunId, TaskId};

/// How workers are told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkerStopMode {
    /// Sources stop reading; what has been read flows through to the end; then every task finishes.
    Graceful,
    /// Every task stops where it is.
    Immediate,
}

/// An order to one worker.
///
/// An order is idempotent: the same order again has no second effect, and a repeated order for an epoch that is already
/// done is answered again, events included, since the first answer may have been lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The run that is meant. A worker of another run refuses the order (invariant I11).
    pub run: RunId,
    /// What is to be done.
    pub command: Command,
}

/// What a worker can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Start a checkpoint: sources emit a barrier; each task snapshots when its barrier has arrived.
    Checkpoint {
        /// The checkpoint.
        epoch: Epoch,
        /// The final one: after it (and after its commit, where there is one) every task finishes.
        then_stop: bool,
    },
    /// The checkpoint is durable: carry out the second phase of the two-phase commit.
    Commit {
        /// The checkpoint.
        epoch: Epoch,
        /// The tasks of this worker that have something to commit, and what they gave with their snapshot. Where an operator commits
        /// as a whole ([`Event::OperatorPreCommitted`](crate::Event::OperatorPreCommitted)), all of its subtasks, those on other
        /// workers too: in some sinks the first subtask commits for all the others.
        tasks: Arc<[TaskCommit]>,
    },
    /// Stop the tasks. A worker whose tasks have all ended answers as if it had just stopped them.
    Stop(WorkerStopMode),
    /// The run is over: the worker may leave.
    Release,
}

impl Command {
    /// The command's name, for reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Checkpoint { then_stop: false, .. } => "checkpoint",
            Self::Checkpoint { then_stop: true, .. } => "final checkpoint",
            Self::Commit { .. } => "commit",
            Self::Stop(WorkerStopMode::Graceful) => "graceful stop",
            Self::Stop(WorkerStopMode::Immediate) => "immediate stop",
            Self::Release => "release",
        }
    }
}

/// What one task commits. Its `Debug` says how much that is, and not what.
#[derive(Clone, PartialEq, Eq)]
pub struct TaskCommit {
    /// The task.
    pub task: TaskId,
    /// What it gave with its snapshot.
    pub data: Bytes,
}

impl fmt::Debug for TaskCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskCommit").field("task", &self.task).field("data", &crate::text::Bulk(&self.data)).finish()
    }
}
