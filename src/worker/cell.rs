//! The orders that one task received, and those that it has not read yet.

use std::{collections::VecDeque, sync::Mutex};

use bytes::Bytes;
use tokio::sync::Notify;

use super::{Barrier, TaskOrder, lock};
use crate::contracts::{Epoch, Role, TaskId, WorkerStopMode};

/// The orders that wait for one task: at most one checkpoint (a newer one replaces it), one stop (a
/// stronger one replaces it) and [`MAX_COMMITS`](Self::MAX_COMMITS) commits. A task that never
/// reads its orders therefore uses a bounded amount of memory.
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
    /// The strongest stop so far, read or not.
    stop_told: Option<WorkerStopMode>,
    /// The worker is leaving by itself: the task is told to stop in the middle of its work, without
    /// an order from a controller.
    leaving: bool,
    /// The task has read that stop.
    cut_short: bool,
    /// The newest commit so far, read or not.
    commit_told: Option<Epoch>,
    /// The newest commit that the task has reported.
    committed: Option<Epoch>,
    ended: bool,
}

/// The effect of a commit order for one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CommitTold {
    /// The task will find it.
    New,
    /// It was received before.
    Repeated,
    /// A newer one was received before.
    Outdated,
    /// Too many are waiting.
    Full,
    /// The task has ended without carrying it out.
    Ended,
}

impl TaskCell {
    /// A controller commits one checkpoint at a time; the other places are for a controller that
    /// gave a commit up and went on. A commit cannot replace an older one as a checkpoint can: each
    /// has its own data.
    const MAX_COMMITS: usize = 4;

    pub(super) fn new(task: TaskId, role: Role) -> Self {
        Self { task, role, state: Mutex::default(), wake: Notify::new() }
    }

    /// Adds a checkpoint, if barriers start at the task.
    pub(super) fn tell_checkpoint(&self, barrier: Barrier) {
        if self.role == Role::Source {
            self.put(|state| state.checkpoint = Some(barrier));
        }
    }

    /// Adds a stop. A graceful one concerns sources only, and one that is not stronger than the
    /// last changes nothing.
    pub(super) fn tell_stop(&self, mode: WorkerStopMode) {
        if mode == WorkerStopMode::Graceful && self.role != Role::Source {
            return;
        }
        self.put(|state| {
            if state.stop_told < Some(mode) {
                (state.stop_told, state.stop) = (Some(mode), Some(mode));
            }
            if mode == WorkerStopMode::Immediate {
                // A task that stops at once cannot complete a checkpoint.
                state.checkpoint = None;
                // From now on it stops because of an order.
                (state.leaving, state.cut_short) = (false, false);
            }
        });
    }

    /// Adds an immediate stop without an order: the worker is leaving by itself. A task that ends
    /// because of it has not done its work, whatever it returns.
    pub(super) fn tell_leave(&self) {
        self.put(|state| {
            if state.stop_told < Some(WorkerStopMode::Immediate) {
                state.leaving = true;
                (state.stop_told, state.stop) = (Some(WorkerStopMode::Immediate), Some(WorkerStopMode::Immediate));
                state.checkpoint = None;
            }
        });
    }

    /// Adds a commit.
    pub(super) fn tell_commit(&self, epoch: Epoch, data: &Bytes) -> CommitTold {
        let mut state = lock(&self.state);
        // A task may report a commit that it did not receive here (it was in the state that the run
        // was restored from).
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
    /// An immediate stop overtakes everything. Commits come next, because they belong to a
    /// checkpoint that is already durable; then the next checkpoint; last the graceful stop, so
    /// that a checkpoint ordered before it still gets its barrier.
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

    /// Waits for an order. There is one reader, so the single permit of `Notify` is enough to miss
    /// no order.
    pub(super) async fn next(&self) -> TaskOrder {
        loop {
            if let Some(order) = self.take() {
                return order;
            }
            self.wake.notified().await;
        }
    }

    /// Runs `report` if the task has not ended. It holds the lock, so that nothing is reported
    /// after the end.
    pub(super) fn while_running(&self, committed: Option<Epoch>, report: impl FnOnce()) -> bool {
        let mut state = lock(&self.state);
        if state.ended {
            return false;
        }
        state.committed = state.committed.max(committed);
        report();
        true
    }

    /// Marks the task as ended and runs `report`, once; its argument says whether a worker that
    /// leaves by itself cut the task short.
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
