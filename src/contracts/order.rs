//! Orders: what a controller sends to its workers.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::contracts::{Epoch, RunId, TaskId};

/// How workers are ordered to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WorkerStopMode {
    /// Sources stop reading, what has been read is processed to the end, then every task finishes.
    Graceful,
    /// Every task stops where it is.
    Immediate,
}

/// An order to one worker.
///
/// Orders are idempotent: repeating one has no further effect. A repeated order for an epoch that
/// is already done is answered again, including its events, because the first answer may have been
/// lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The run that it is for. A worker of another run refuses the order (invariant I11).
    pub run: RunId,
    /// The command.
    pub command: Command,
}

/// The commands to a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// Start a checkpoint: sources emit a barrier; each task snapshots when its barrier has
    /// arrived.
    Checkpoint {
        /// The checkpoint.
        epoch: Epoch,
        /// The final one: after it (and after its commit, if there is one) every task finishes.
        then_stop: bool,
    },
    /// The checkpoint is durable: carry out the second phase of the two-phase commit.
    Commit {
        /// The checkpoint.
        epoch: Epoch,
        /// The tasks of this worker that have something to commit, with their commit data. If an
        /// operator commits as a whole
        /// ([`Event::OperatorPreCommitted`](crate::contracts::Event::OperatorPreCommitted)), these
        /// are all of its subtasks, including those on other workers: in some sinks the first
        /// subtask commits for all others.
        tasks: Arc<[TaskCommit]>,
    },
    /// Stop the tasks. A worker whose tasks have all ended answers as if it had just stopped them.
    Stop(WorkerStopMode),
    /// The run is over; the worker may leave.
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
    /// The commit data that it reported with its snapshot.
    pub data: Bytes,
}

impl fmt::Debug for TaskCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskCommit").field("task", &self.task).field("data", &crate::text::Bulk(&self.data)).finish()
    }
}
