//! What a run waits for, as its controller sees it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::contracts::{Epoch, TaskId, WorkerId};

/// What a run waits for at one moment: the facts from which [`why`](crate::why) finds out who holds
/// a stop up.
///
/// A controller fills in what it knows, and leaves the rest at its default. Lists hold the first
/// [`LISTED`](Self::LISTED) entries only, the latest ones first; the counts are complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holdups {
    /// What the run waits for from its tasks.
    pub awaited: Awaited,
    /// Since when it waits for that.
    pub since: Option<Instant>,
    /// When a task last gave what the run waits for.
    pub progressed: Option<Instant>,
    /// Tasks that have not given it, in the order of their operators: one that waits for another
    /// comes after it.
    pub tasks: Vec<LateTask>,
    /// How many tasks have not given it.
    pub late: u32,
    /// Workers with such tasks, the one that has been silent longest first.
    pub workers: Vec<LateWorker>,
    /// How long a worker of this run is silent at most while it is well: the median over all
    /// workers with unfinished tasks, or a quarter of the heartbeat limit if that is longer.
    pub usual_silence: Duration,
    /// Orders that were not accepted so far, the one with the most failed tries first.
    pub orders: Vec<LateOrder>,
    /// How many there are.
    pub late_orders: u32,
    /// The publication of a manifest, while it is not durable.
    pub store: Option<LateStore>,
}

impl Holdups {
    /// The maximum length of each list.
    pub const LISTED: usize = 16;
}

/// What a run waits for from its tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Awaited {
    /// Nothing: it is running.
    #[default]
    Nothing,
    /// Their snapshots for a checkpoint.
    Snapshots(Epoch),
    /// Nothing any more, but the checkpoint's manifest is not durable yet.
    Publication(Epoch),
    /// Their commits of a checkpoint.
    Commits(Epoch),
    /// Their ends.
    Ends,
}

/// A task that has not given what the run waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateTask {
    /// The task.
    pub task: TaskId,
    /// The name of its operator.
    pub operator: Arc<str>,
    /// Where it runs.
    pub worker: WorkerId,
}

/// A worker with late tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateWorker {
    /// The worker.
    pub worker: WorkerId,
    /// Its last sign of life.
    pub last_seen: Instant,
    /// How many of its tasks are late.
    pub late: u32,
    /// No order can reach it any more.
    pub is_lost: bool,
}

/// An order that a worker has not accepted so far.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateOrder {
    /// The worker.
    pub worker: WorkerId,
    /// The order's name.
    pub order: &'static str,
    /// When it was first sent.
    pub since: Instant,
    /// Tries that have failed.
    pub failed: u32,
    /// The last error; it may contain text of the worker.
    pub error: Option<Arc<str>>,
}

/// A manifest that is not durable yet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LateStore {
    /// Its checkpoint.
    pub epoch: Epoch,
    /// When it was first given to the store.
    pub since: Instant,
    /// Tries that have failed.
    pub failed: u32,
    /// The last error.
    pub error: Option<Arc<str>>,
}

impl LateTask {
    /// A task that is late.
    pub fn new(task: TaskId, operator: impl Into<Arc<str>>, worker: WorkerId) -> Self {
        Self { task, operator: operator.into(), worker }
    }
}

impl LateWorker {
    /// A worker with `late` tasks that are late, and its last sign of life.
    pub const fn new(worker: WorkerId, last_seen: Instant, late: u32, is_lost: bool) -> Self {
        Self { worker, last_seen, late, is_lost }
    }
}

impl LateOrder {
    /// An order that was first sent at `since`.
    pub const fn new(worker: WorkerId, order: &'static str, since: Instant) -> Self {
        Self { worker, order, since, failed: 0, error: None }
    }
}

impl LateStore {
    /// A manifest that was first given to the store at `since`.
    pub const fn new(epoch: Epoch, since: Instant) -> Self {
        Self { epoch, since, failed: 0, error: None }
    }
}
