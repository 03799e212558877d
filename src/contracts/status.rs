//! What a controller knows about its run, as the phases read it.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::TaskError;
use crate::contracts::{Epoch, TaskId, WorkerId};

/// A count out of a total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Count {
    /// How many are done.
    pub done: u32,
    /// How many there are.
    pub total: u32,
}

impl Count {
    /// `done` of `total`.
    pub const fn new(done: u32, total: u32) -> Self {
        Self { done, total }
    }

    /// Whether all are done.
    pub const fn is_all(self) -> bool {
        self.done >= self.total
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.done, self.total)
    }
}

/// The stage of the checkpoint in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckpointStage {
    /// No checkpoint is in flight.
    #[default]
    Idle,
    /// Tasks are snapshotting: the first phase of the two-phase commit.
    Collecting {
        /// The checkpoint.
        epoch: Epoch,
        /// Tasks whose state is durable, of all tasks that take part.
        acks: Count,
    },
    /// Every task's state is durable; the manifest is being made durable.
    Publishing {
        /// The checkpoint.
        epoch: Epoch,
    },
    /// The manifest is durable, and commit orders are sent: the second phase of the two-phase
    /// commit.
    Committing {
        /// The checkpoint.
        epoch: Epoch,
        /// Tasks that have committed, of all with something to commit.
        acks: Count,
    },
}

impl CheckpointStage {
    /// The checkpoint in flight.
    pub const fn epoch(self) -> Option<Epoch> {
        match self {
            Self::Idle => None,
            Self::Collecting { epoch, .. } | Self::Publishing { epoch } | Self::Committing { epoch, .. } => Some(epoch),
        }
    }
}

/// The stage of the final checkpoint (the one after which every task finishes).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FinalCheckpoint {
    /// It has not been started.
    #[default]
    NotStarted,
    /// It is the checkpoint in flight.
    InFlight(Epoch),
    /// Its manifest is durable, every task is in it, and every commit is acknowledged.
    Complete(Epoch),
}

/// A controller's knowledge of its run, in numbers. Reading it costs the same for any number of
/// tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RunStatus {
    /// Tasks that have finished successfully, of all.
    pub tasks: Count,
    /// Tasks that have failed.
    pub tasks_failed: u32,
    /// Source tasks that have read their whole input or have ended, of all.
    pub sources: Count,
    /// Workers that are still expected to report: not finished, with at least one task that has not
    /// ended.
    pub workers_left: u32,
    /// Workers that no order can reach although a task of theirs has not ended: silent for too
    /// long, or gone too early.
    pub workers_lost: u32,
    /// Workers of the run.
    pub workers: u32,
    /// The checkpoint in flight.
    pub checkpoint: CheckpointStage,
    /// The final checkpoint.
    pub final_checkpoint: FinalCheckpoint,
    /// The last complete checkpoint of the job, including those of earlier runs.
    pub last_complete: Option<Epoch>,
    /// Orders that are sent or about to be sent, and not yet answered.
    pub orders_outstanding: u32,
    /// How many failures ([`RunFailure`]) there have been.
    pub failures: u32,
    /// How many nonfatal errors were reported
    /// ([`Event::NonfatalError`](crate::contracts::Event::NonfatalError)).
    pub nonfatal_errors: u32,
}

impl RunStatus {
    /// Every task has finished successfully.
    pub const fn all_finished(&self) -> bool {
        self.tasks.is_all()
    }

    /// No task is running any more: each has finished or failed.
    pub const fn all_ended(&self) -> bool {
        self.tasks.done.saturating_add(self.tasks_failed) >= self.tasks.total
    }

    /// Every source has read its whole input.
    pub const fn sources_exhausted(&self) -> bool {
        self.sources.total > 0 && self.sources.is_all()
    }
}

/// Why a run can't continue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RunFailure {
    /// A task failed.
    #[error("task {task} on worker {worker} failed: {error}")]
    TaskFailed {
        /// The task.
        task: TaskId,
        /// Where it ran.
        worker: WorkerId,
        /// Why.
        error: TaskError,
    },
    /// A worker has been silent for longer than the heartbeat limit, with tasks that have not
    /// ended.
    #[error("worker {worker} is lost: silent for {}", crate::text::rounded(*silent_for))]
    WorkerLost {
        /// The worker.
        worker: WorkerId,
        /// How long it has been silent.
        silent_for: Duration,
    },
    /// A worker has left although some of its tasks had not ended.
    #[error("worker {worker} left with {unfinished} unfinished tasks")]
    WorkerLeft {
        /// The worker.
        worker: WorkerId,
        /// How many of its tasks had not ended.
        unfinished: u32,
    },
    /// A worker could not start its work.
    #[error("worker {worker} could not start: {error}")]
    WorkerFailed {
        /// The worker.
        worker: WorkerId,
        /// Why.
        error: TaskError,
    },
    /// A checkpoint was given up after an operator that commits as a whole had pre-committed for
    /// it. Such an operator may not report its uncommitted data again, so a later checkpoint would
    /// skip it. A new run from the last complete checkpoint produces it again.
    #[error(
        "epoch {epoch} was given up with something pre-committed that no later checkpoint of this run covers: \
         start a new run from the last complete checkpoint"
    )]
    PreCommitLost {
        /// The checkpoint.
        epoch: Epoch,
    },
    /// A task ended during the final checkpoint without reporting its state, so the checkpoint
    /// can't contain it.
    #[error(
        "task {task} finished during the final checkpoint (epoch {epoch}) without a snapshot, so the checkpoint can't be complete"
    )]
    FinishedWithoutSnapshot {
        /// The task.
        task: TaskId,
        /// The final checkpoint.
        epoch: Epoch,
    },
    /// A task ended without a stop order, before it had committed the data of its snapshot.
    #[error(
        "task {task} finished with something left to commit (the newest checkpoint is epoch {epoch}), so its output is incomplete"
    )]
    FinishedWithoutCommit {
        /// The task.
        task: TaskId,
        /// The newest checkpoint that was started.
        epoch: Epoch,
    },
}

impl RunFailure {
    /// Whether a worker is gone, so that an order to it is useless.
    pub const fn is_lost_worker(&self) -> bool {
        matches!(self, Self::WorkerLost { .. } | Self::WorkerLeft { .. })
    }
}
