//! The task's view of its worker.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{SinkClosed, cell::TaskCell, outbox::Outbox};
use crate::{
    contracts::{Epoch, Event, RunId, TaskId, TaskSnapshot, WorkerId, WorkerStopMode},
    text::Bulk,
};

/// The record that separates the data of a checkpoint from the data after it.
///
/// A source emits it at its position when the checkpoint is ordered. Every other task receives it
/// in its input (on all inputs: alignment), gives its state, and forwards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Barrier {
    /// The checkpoint.
    pub epoch: Epoch,
    /// This is the final checkpoint: a task that has given its state (and has carried out its
    /// commit, if it has one) finishes.
    pub then_stop: bool,
}

/// An order to a task.
///
/// Exhaustive on purpose: a task that ignored a new kind of order would hang its run, so a new kind
/// is a breaking change.
///
/// Its `Debug` output shows how much there is to commit, not the data.
#[derive(Clone, PartialEq, Eq)]
pub enum TaskOrder {
    /// To sources only: emit this barrier now, and give your own state with
    /// [`TaskEvents::checkpointed`]. Other tasks receive the barrier in their input.
    Checkpoint(Barrier),
    /// The checkpoint is durable: carry out the second phase of the two-phase commit, then report
    /// [`TaskEvents::committed`].
    Commit {
        /// The checkpoint.
        epoch: Epoch,
        /// The data that this task gave as `commit` with its state.
        data: Bytes,
    },
    /// Graceful (to sources only): read no more, and end, so that the tasks downstream see the end
    /// of their input. Immediate (to every task): end where you are.
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

/// Everything that a task receives: its identity, its starting state, its orders, and where to
/// report.
///
/// A task is an `async fn(TaskContext) -> Result<(), TaskError>`. `Ok` finishes it, `Err` and a
/// panic fail it.
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

    /// The worker that runs it.
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// The run that it belongs to.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// What this task gave to the checkpoint that the run starts from; `None` if it starts without
    /// state.
    ///
    /// If it has `commit` data, it is not known whether the commit was carried out before the last
    /// run ended. The task carries it out (again) before anything else, so a commit must be
    /// idempotent. Do not report it with [`TaskEvents::committed`]: it belongs to a checkpoint of
    /// an earlier run.
    ///
    /// If it is `finished`, the task had ended well before that checkpoint: only the commit is left
    /// to do.
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

    /// The handle with which the task reports.
    pub fn events(&self) -> &TaskEvents {
        &self.events
    }

    /// Separates orders and reports, for a task that handles them in two places.
    pub fn split(self) -> (TaskControl, TaskEvents) {
        (self.control, self.events)
    }
}

/// The orders of one task.
pub struct TaskControl {
    pub(super) cell: Arc<TaskCell>,
}

impl TaskControl {
    /// The next order; pending forever if none will come.
    ///
    /// An immediate stop overtakes everything that is waiting. A newer checkpoint replaces one that
    /// was not read.
    ///
    /// # Cancel safety
    /// Cancel safe: only the poll that returns an order takes it, so it can be used in
    /// `tokio::select!`.
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

/// The handle with which one task reports. Cheap to clone; a clone that outlives its task can
/// report nothing any more.
///
/// Each report waits while too many events of the worker are undelivered, and returns when the
/// event has its place in the queue. The worker delivers them in this order, and repeats them when
/// an order is repeated.
#[derive(Clone)]
pub struct TaskEvents {
    pub(super) cell: Arc<TaskCell>,
    pub(super) index: usize,
    pub(super) outbox: Arc<Outbox>,
}

impl TaskEvents {
    /// This source has read its whole input and has sent its last record. It stays for the final
    /// checkpoint and still takes orders.
    ///
    /// # Errors
    /// [`SinkClosed`] if events are no longer accepted.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call that had not returned has reported nothing.
    pub async fn source_exhausted(&self) -> Result<(), SinkClosed> {
        self.report(None, Event::SourceExhausted { task: self.cell.task }).await
    }

    /// This task's state for `epoch` is `snapshot` (or is stored durably where `snapshot` says).
    /// `commit` is the data for the second phase of a two-phase commit. It comes back with
    /// [`TaskOrder::Commit`] once the checkpoint is durable, or with [`TaskContext::restored`].
    ///
    /// # Errors
    /// [`SinkClosed`] if events are no longer accepted.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call that had not returned has reported nothing.
    pub async fn checkpointed(&self, epoch: Epoch, snapshot: Bytes, commit: Option<Bytes>) -> Result<(), SinkClosed> {
        self.report(None, Event::CheckpointCompleted { task: self.cell.task, epoch, snapshot, commit }).await
    }

    /// This task has carried out the commit order of `epoch`.
    ///
    /// # Errors
    /// [`SinkClosed`] if events are no longer accepted.
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
