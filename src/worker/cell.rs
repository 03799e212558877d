//! What one task has been told, and what it has not read yet.

use std::{collections::VecDeque, sync::Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Barrier, TaskOrder, lock};
use crate::contracts::{Epoch, Role, TaskId, WorkerStopMode};

/// The orders that wait for one task: at most one checkpoint (a newer one replaces it), one stop (a stronger one replaces
/// it) and [`MAX_COMMITS`](Self::MAX_COMMITS) commits. So a task that never looks costs a bounded amount of memory.
#[derive(Debug)]
pub(super) struct TaskCell {
    pub(super) task: TaskId,
    role: Role,
    state: Mutex<CellState>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct CellState {
    checkpoint: Option<Barrier>,
    commits: VecDeque<(Epoch, Bytes)>,
    stop: Option<WorkerStopMode>,
    /// The strongest stop that was ever put in, read or not.
    stop_told: Option<WorkerStopMode>,
    /// The worker leaves by itself, so the task is told to stop in the middle of its work, and no controller has ordered that.
    leaving: bool,
    /// The task has read that stop.
    cut_short: bool,
    /// The newest commit that was ever put in, read or not.
    commit_told: Option<Epoch>,
    /// The newest commit that the task has reported.
    committed: Option<Epoch>,
    ended: bool,
}

/// What became of a commit order for one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitTold {
    /// The task will find it.
    New,
    /// It was told before.
    Repeated,
    /// A newer one was told before.
    Outdated,
    /// Too many are waiting.
    Full,
    /// The task has ended without carrying it out.
    Ended,
}

impl TaskCell {
    /// A controller commits one checkpoint at a time; the others are room for one that gave a commit up and went on.
    /// A commit can't replace an older one as a checkpoint can: each has data of its own.
    const MAX_COMMITS: usize = 4;

    pub(super) fn new(task: TaskId, role: Role) -> Self {
        Self { task, role, state: Mutex::default(), wake: Notify::new() }
    }

    /// Puts a checkpoint in, if the task is where barriers start.
    pub(super) fn tell_checkpoint(&self, barrier: Barrier) {
        if self.role == Role::Source {
            self.put(|state| state.checkpoint = Some(barrier));
        }
    }

    /// Puts a stop in; a graceful one concerns sources only, and one that is not stronger than the last changes nothing.
    pub(super) fn tell_stop(&self, mode: WorkerStopMode) {
        if mode == WorkerStopMode::Graceful && self.role != Role::Source {
            return;
        }
        self.put(|state| {
            if state.stop_told < Some(mode) {
                (state.stop_told, state.stop) = (Some(mode), Some(mode));
            }
            if mode == WorkerStopMode::Immediate {
                // Where a task stops at once no checkpoint can complete.
                state.checkpoint = None;
                // From now on it stops because it was ordered to.
                (state.leaving, state.cut_short) = (false, false);
            }
        });
    }

    /// Puts in an immediate stop that nobody has ordered: the worker leaves by itself. A task that ends because of it has not done its
    /// work, whatever it returns.
    pub(super) fn tell_leave(&self) {
        self.put(|state| {
            if state.stop_told < Some(WorkerStopMode::Immediate) {
                state.leaving = true;
                (state.stop_told, state.stop) = (Some(WorkerStopMode::Immediate), Some(WorkerStopMode::Immediate));
                state.checkpoint = None;
            }
        });
    }

    /// Puts a commit in.
    pub(super) fn tell_commit(&self, epoch: Epoch, data: &Bytes) -> CommitTold {
        let mut state = lock(&self.state);
        // A task may report a commit that it was never told here (it was in what the run was restored from).
        let known = state.committed.max(state.commit_told);
        if known > Some(epoch) {
            return CommitTold::Outdated;
        }
        if state.ended {
            return if state.committed == Some(epoch) { CommitTold::Repeated } else { CommitTold::Ended };
        }
        if known == Some(epoch) {
            return CommitTold::Repeated;
        }
        if state.commits.len() >= Self::MAX_COMMITS {
            return CommitTold::Full;
        }
        state.commit_told = Some(epoch);
        state.commits.push_back((epoch, data.clone()));
        drop(state);
        self.wake.notify_one();
        CommitTold::New
    }

    /// The next order that the task has not read.
    ///
    /// An immediate stop overtakes everything. Then come commits, which belong to a checkpoint that is durable already,
    /// then the next checkpoint, and last the graceful stop, so that a checkpoint ordered before it still has its barrier.
    pub(super) fn take(&self) -> Option<TaskOrder> {
        let mut state = lock(&self.state);
        if state.stop == Some(WorkerStopMode::Immediate) {
            state.cut_short = state.leaving;
            return state.stop.take().map(TaskOrder::Stop);
        }
        if let Some((epoch, data)) = state.commits.pop_front() {
            return Some(TaskOrder::Commit { epoch, data });
        }
        if let Some(barrier) = state.checkpoint.take() {
            return Some(TaskOrder::Checkpoint(barrier));
        }
        state.stop.take().map(TaskOrder::Stop)
    }

    /// Waits for an order. There is one reader, so the one permit that `Notify` keeps is enough not to miss any.
    pub(super) async fn next(&self) -> TaskOrder {
        loop {
            if let Some(order) = self.take() {
                return order;
            }
            self.wake.notified().await;
        }
    }

    /// Runs `report` if the task has not ended; under the lock, so that nothing is reported after the end.
    pub(super) fn while_running(&self, committed: Option<Epoch>, report: impl FnOnce()) -> bool {
        let mut state = lock(&self.state);
        if state.ended {
            return false;
        }
        state.committed = state.committed.max(committed);
        report();
        true
    }

    /// Marks the task as ended and runs `report`, once; it is told whether the task was cut short by a worker that leaves by itself.
    pub(super) fn end(&self, report: impl FnOnce(bool)) {
        let mut state = lock(&self.state);
        if !state.ended {
            state.ended = true;
            state.commits = VecDeque::new();
            report(state.cut_short);
        }
    }

    fn put(&self, change: impl FnOnce(&mut CellState)) {
        let mut state = lock(&self.state);
        if state.ended {
            return;
        }
        change(&mut state);
        drop(state);
        self.wake.notify_one();
    }
}
