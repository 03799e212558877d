//! How a worker answers orders, and how it leaves.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{runtime::Handle, task::AbortHandle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Barrier,
    cell::{CommitTold, TaskCell},
    lock,
    outbox::Outbox,
};
use crate::contracts::{
    Command, Epoch, Event, Order, OrderError, OrderErrorKind, RunId, TaskCommit, TaskError, TaskId, WorkerId,
    WorkerStopMode,
};

/// What a worker's handles and its leaving have in common. Tasks do not hold it, so that dropping the last handle ends them.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
    pub(super) grace: Duration,
    pub(super) cells: Vec<Arc<TaskCell>>,
    pub(super) index: HashMap<TaskId, usize>,
    pub(super) outbox: Arc<Outbox>,
    /// Counts a task until its future has been dropped: an aborted task that has not ended yet is alive (invariant I2).
    pub(super) tracker: TaskTracker,
    /// Nothing of this worker will be started any more: it has left, or was killed.
    pub(super) gone: CancellationToken,
    pub(super) runtime: Handle,
    pub(super) life: Mutex<Life>,
}

/// What has become of a worker so far.
#[derive(Debug, Default)]
pub(super) struct Life {
    checkpoint: Option<Barrier>,
    stop: Option<WorkerStopMode>,
    pub(super) tasks: Vec<AbortHandle>,
    /// The worker is leaving or has left.
    leaving: bool,
    pub(super) killed: bool,
}

impl Shared {
    pub(super) fn handle(self: &Arc<Self>, order: Order) -> Result<(), OrderError> {
        if order.run != self.run {
            return Err(OrderError::new(
                OrderErrorKind::Rejected,
                format!("expected an order of run {}, got one of run {}", self.run, order.run),
            ));
        }
        let mut life = lock(&self.life);
        if life.killed {
            return Err(OrderError::new(OrderErrorKind::Unreachable, format!("worker {} was killed", self.worker)));
        }
        match order.command {
            Command::Checkpoint { epoch, then_stop } => self.checkpoint(&mut life, Barrier { epoch, then_stop }),
            Command::Commit { epoch, tasks } => self.commit(epoch, &tasks),
            Command::Stop(mode) => self.stop(&mut life, mode),
            Command::Release => {
                self.release(&mut life);
                Ok(())
            }
        }
    }

    fn checkpoint(&self, life: &mut Life, barrier: Barrier) -> Result<(), OrderError> {
        let rejected = |why: &str| {
            Err(OrderError::new(OrderErrorKind::Rejected, format!("no checkpoint of epoch {}: {why}", barrier.epoch)))
        };
        match life.checkpoint {
            Some(newest) if barrier.epoch < newest.epoch => return Ok(()),
            Some(newest) if barrier == newest => {
                self.outbox.repeat();
                return Ok(());
            }
            Some(newest) if barrier.epoch == newest.epoch => {
                return rejected("it was started with the other value of then_stop, and its barriers are on their way");
            }
            _ => {}
        }
        if life.leaving || life.stop == Some(WorkerStopMode::Immediate) {
            return rejected("this worker was told to stop at once, so its tasks meet no barrier");
        }
        life.checkpoint = Some(barrier);
        for cell in &self.cells {
            cell.tell_checkpoint(barrier);
        }
        if self.tracker.is_empty() {
            // No task will ever report anything new: what the controller is missing has been said already.
            self.outbox.repeat();
        } else {
            // The controller may be another one than took it in.
            self.outbox.repeat_lasting();
        }
        Ok(())
    }

    /// Every task that can take its commit gets it, whatever becomes of the others; the last error is the answer.
    fn commit(&self, epoch: Epoch, commits: &[TaskCommit]) -> Result<(), OrderError> {
        let mut answer = Ok(());
        let mut fail = |kind, task, why| {
            answer = Err(OrderError::new(kind, format!("task {task} can't commit epoch {epoch}: {why}")));
        };
        let mut repeated = false;
        for TaskCommit { task, data } in commits {
            let Some(cell) = self.index.get(task).and_then(|index| self.cells.get(*index)) else {
                fail(OrderErrorKind::Rejected, task, "it is not on this worker");
                continue;
            };
            match cell.tell_commit(epoch, data) {
                CommitTold::New | CommitTold::Outdated => {}
                CommitTold::Repeated => repeated = true,
                CommitTold::Full => fail(OrderErrorKind::Refused, task, "it has not read the commits before this one"),
                CommitTold::Ended => {
                    repeated = true;
                    fail(OrderErrorKind::NotRunning, task, "it has ended without it");
                }
            }
        }
        if repeated {
            self.outbox.repeat();
        }
        answer
    }

    fn stop(&self, life: &mut Life, mode: WorkerStopMode) -> Result<(), OrderError> {
        if self.tracker.is_empty() {
            self.outbox.repeat();
            return Err(OrderError::new(OrderErrorKind::NotRunning, "every task of this worker has ended"));
        }
        if life.stop >= Some(mode) {
            self.outbox.repeat();
        } else {
            self.tell_stop(life, mode);
        }
        Ok(())
    }

    fn tell_stop(&self, life: &mut Life, mode: WorkerStopMode) {
        life.stop = life.stop.max(Some(mode));
        for cell in &self.cells {
            cell.tell_stop(mode);
        }
    }

    fn release(self: &Arc<Self>, life: &mut Life) {
        self.tell_stop(life, WorkerStopMode::Immediate);
        if life.leaving {
            self.outbox.repeat();
            return;
        }
        life.leaving = true;
        self.runtime.spawn(Arc::clone(self).leave());
    }

    /// Leaves without an order to.
    pub(super) fn leave_by_itself(self: &Arc<Self>) {
        let mut life = lock(&self.life);
        if life.leaving || life.killed {
            return;
        }
        for cell in &self.cells {
            cell.tell_leave();
        }
        life.leaving = true;
        self.runtime.spawn(Arc::clone(self).leave());
    }

    /// Ends a task that can't be of use any more, with this error, unless it has ended.
    #[cfg(feature = "grpc")]
    pub(super) fn fail(&self, task: TaskId, error: TaskError) {
        let Some(index) = self.index.get(&task).copied() else { return };
        self.cells[index].end(|_| self.outbox.put(Some(index), Event::TaskFailed { task, error }, None));
        if let Some(running) = lock(&self.life).tasks.get(index) {
            running.abort();
        }
    }

    /// Waits for the tasks; aborts after the grace period; says that the worker leaves.
    async fn leave(self: Arc<Self>) {
        if tokio::time::timeout(self.grace, self.tracker.wait()).await.is_err() {
            tracing::warn!(
                run = self.run.get(),
                worker = self.worker.get(),
                tasks = self.tracker.len(),
                "aborting tasks that have not ended within the grace period"
            );
            lock(&self.life).abort_tasks();
            self.tracker.wait().await;
        }
        for (index, cell) in self.cells.iter().enumerate() {
            // What was aborted could not speak for itself.
            cell.end(|_| {
                let after = crate::text::rounded(self.grace);
                let error = TaskError::retryable(format!("aborted: it did not end within {after} of being told to"));
                self.outbox.put(Some(index), Event::TaskFailed { task: cell.task, error }, None);
            });
        }
        self.outbox.put(None, Event::WorkerFinished, None);
        self.gone.cancel();
    }

    /// Aborts everything. Nothing is said any more.
    pub(super) fn kill(&self) {
        let mut life = lock(&self.life);
        life.killed = true;
        life.abort_tasks();
        drop(life);
        self.outbox.close();
        self.gone.cancel();
    }
}

impl Life {
    fn abort_tasks(&self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}
