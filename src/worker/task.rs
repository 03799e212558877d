//! What a task sees of its worker.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{SinkClosed, cell::TaskCell, outbox::Outbox};
use crate::{
    contracts::{Epoch, Event, RunId, TaskId, TaskSnapshot, WorkerId, WorkerStopMode},
    text::Bulk,
};

/// The record that separates what belongs to a checkpoint from what comes after it.
///
/// A source emits it where it stands when the checkpoint is ordered; every other task meets it in its own input (on all
/// inputs: alignment), gives its state, and forwards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// The checkpoint.
    pub epoch: Epoch,
    /// The final one: whoever has given its state (and has carried out its commit, if it has one) finishes.
    pub then_stop: bool,
}

/// What a task can be told.
///
/// Exhaustive on purpose: a task that passed over a new kind of order would hang its run, so a new kind is a breaking change.
///
/// Its `Debug` says how much there is to commit, and not what.
#[derive(Clone, PartialEq, Eq)]
pub enum TaskOrder {
    /// To sources only: emit this barrier now, and give your own state with [`TaskEvents::checkpointed`]. Other tasks
    /// meet the barrier in their input.
    Checkpoint(Barrier),
    /// The checkpoint is durable: carry out the second phase of the two-phase commit, then say
    /// [`TaskEvents::committed`].
    Commit {
        /// The checkpoint.
        epoch: Epoch,
        /// What this task gave as `commit` with its state.
        data: Bytes,
    },
    /// Graceful (to sources only): read no more, and end, so that the tasks behind see the end of their input.
    /// Immediate (to every task): end where you are.
    Stop(WorkerStopMode),
}

impl fmt::Debug for TaskOrder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Checkpoint(barrier) => f.debug_tuple("Checkpoint").field(barrier).finish(),
            Self::Commit { epoch, data } => {
                f.debug_struct("Commit").field("epoch", epoch).field("data", &Bulk(data)).finish()
            }
            Self::Stop(mode) => f.debug_tuple("Stop").field(mode).finish(),
        }
    }
}

/// Everything that a task is given: who it is, where it starts from, its orders and its events.
///
/// A task is an `async fn(TaskContext) -> Result<(), TaskError>`. `Ok` finishes it, `Err` and a panic fail it.
#[derive(Debug)]
pub struct TaskContext {
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
    pub(super) restored: Option<TaskSnapshot>,
    pub(super) control: TaskControl,
    pub(super) events: TaskEvents,
}

impl TaskContext {
    /// The task.
    pub fn task(&self) -> TaskId {
        self.control.cell.task
    }

    /// The worker that it runs on.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The run that it belongs to.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// What this task gave to the checkpoint that the run starts from; `None` if it starts afresh.
    ///
    /// If it has `commit` data, nobody knows whether the commit was carried out before the last run ended: the task
    /// carries it out (again) before anything else. So a commit is idempotent. It is not reported with
    /// [`TaskEvents::committed`]: it belongs to a checkpoint of an earlier run.
    ///
    /// If it is `finished`, the task had ended well before that checkpoint: it has nothing left to do but to commit.
    pub fn restored(&self) -> Option<&TaskSnapshot> {
        self.restored.as_ref()
    }

    /// The next order: [`TaskControl::order`].
    ///
    /// # Cancel safety
    /// As [`TaskControl::order`]: no order is lost.
    pub async fn order(&mut self) -> TaskOrder {
        self.control.order().await
    }

    /// The next order if there is one: [`TaskControl::try_order`].
    pub fn try_order(&mut self) -> Option<TaskOrder> {
        self.control.try_order()
    }

    /// Where the task reports.
    pub fn events(&self) -> &TaskEvents {
        &self.events
    }

    /// Takes orders and events apart, for a task that handles them in two places.
    pub fn split(self) -> (TaskControl, TaskEvents) {
        (self.control, self.events)
    }
}

/// The orders of one task.
pub struct TaskControl {
    pub(super) cell: Arc<TaskCell>,
}

impl TaskControl {
    /// The next order; pending for ever when none comes any more.
    ///
    /// An immediate stop overtakes whatever else is waiting. A checkpoint that was not read is replaced by a newer one.
    ///
    /// # Cancel safety
    /// Cancel safe: an order is taken only by the poll that returns it, so it fits in `tokio::select!`.
    pub async fn order(&mut self) -> TaskOrder {
        self.cell.next().await
    }

    /// The next order if there is one.
    pub fn try_order(&mut self) -> Option<TaskOrder> {
        self.cell.take()
    }
}

impl fmt::Debug for TaskControl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskControl").field("task", &self.cell.task).finish_non_exhaustive()
    }
}

/// Where one task reports. Cheap to clone; a clone that outlives its task can report nothing any more.
///
/// Each report waits while too many events of the worker are undelivered, and returns when the event has its place in the
/// queue. The worker delivers them in this order, and repeats them when an order is repeated.
#[derive(Clone)]
pub struct TaskEvents {
    pub(super) cell: Arc<TaskCell>,
    pub(super) index: usize,
    pub(super) outbox: Arc<Outbox>,
}

impl TaskEvents {
    /// This source has read its whole input and has sent its last record. It stays for the final checkpoint: it goes on
    /// to take orders.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody takes events any more.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call that had not returned has reported nothing.
    pub async fn source_exhausted(&self) -> Result<(), SinkClosed> {
        self.report(None, Event::SourceExhausted { task: self.cell.task }).await
    }

    /// This task's state for `epoch` is `snapshot` (or is stored durably where `snapshot` says). `commit` is what the
    /// second phase of a two-phase commit needs: it comes back with [`TaskOrder::Commit`] once the checkpoint is durable,
    /// or with [`TaskContext::restored`].
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody takes events any more.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call that had not returned has reported nothing.
    pub async fn checkpointed(&self, epoch: Epoch, snapshot: Bytes, commit: Option<Bytes>) -> Result<(), SinkClosed> {
        self.report(None, Event::CheckpointCompleted { task: self.cell.task, epoch, snapshot, commit }).await
    }

    /// This task has carried out the commit order of `epoch`.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody takes events any more.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call that had not returned has reported nothing.
    pub async fn committed(&self, epoch: Epoch) -> Result<(), SinkClosed> {
        self.report(Some(epoch), Event::CommitCompleted { task: self.cell.task, epoch }).await
    }

    async fn report(&self, committed: Option<Epoch>, event: Event) -> Result<(), SinkClosed> {
        let place = self.outbox.place().await?;
        if self.cell.while_running(committed, || self.outbox.put(Some(self.index), event, Some(place))) {
            Ok(())
        } else {
            Err(SinkClosed)
        }
    }
}

impl fmt::Debug for TaskEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskEvents").field("task", &self.cell.task).finish_non_exhaustive()
    }
}
