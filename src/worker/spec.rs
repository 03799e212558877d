//! The parts of a worker.

use std::time::Duration;

use crate::contracts::{Role, RunId, TaskId, TaskSnapshot, WorkerId};

/// A worker and its tasks, before it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSpec {
    /// The run of the worker. Orders of another run are rejected (invariant I11).
    pub run: RunId,
    /// The worker.
    pub worker: WorkerId,
    /// Its tasks, each once.
    pub tasks: Vec<TaskSpec>,
}

/// One task of a [`WorkerSpec`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// The task.
    pub task: TaskId,
    /// Its role in the dataflow, which decides the orders that reach it.
    pub role: Role,
    /// The state that it starts from: see [`TaskContext::restored`](super::TaskContext::restored).
    pub restored: Option<TaskSnapshot>,
}

impl TaskSpec {
    /// A task that starts without state.
    pub const fn new(task: TaskId, role: Role) -> Self {
        Self { task, role, restored: None }
    }
}

/// The time limits of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerOptions {
    /// The interval between heartbeats; `None` for no heartbeats. Default: 5 s, a sixth of the
    /// silence after which [`Limits::heartbeat`](crate::limits::Limits::heartbeat) treats the
    /// worker as lost.
    pub heartbeat: Option<Duration>,
    /// How long tasks may take to end by themselves when their worker has to leave, before they are
    /// aborted. Default: 5 s, half of [`Limits::release`](crate::limits::Limits::release), so that
    /// a worker leaves before it is killed.
    pub grace: Duration,
}

impl Default for WorkerOptions {
    fn default() -> Self {
        Self { heartbeat: Some(Duration::from_secs(5)), grace: Duration::from_secs(5) }
    }
}
