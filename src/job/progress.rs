//! What a watcher sees of a shutdown while it goes on.

use std::sync::Arc;

use tokio::time::Instant;

use super::StopRequest;
use crate::{contracts::RunStatus, machine::PhaseKind};

/// How far a job is, for people and dashboards. Get it from [`JobContext::progress`](super::JobContext::progress).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The phase that the job is in.
    pub phase: PhaseKind,
    /// Since when.
    pub since: Instant,
    /// When the phase gives up; `None` where it waits without end (`Running` without a TTL) or has ended.
    pub deadline: Option<Instant>,
    /// The strongest stop request so far.
    pub requested: Option<StopRequest>,
    /// Tasks, checkpoint acks, workers left. All zero for a job without a controller.
    pub status: RunStatus,
    /// Workers that the scheduler listed when it was last asked; `None` before the first time.
    pub alive: Option<u32>,
    /// Retries used so far, over all phases.
    pub retries: u32,
    /// The last error, even if a retry got past it.
    pub last_error: Option<Arc<str>>,
}

impl Progress {
    pub(crate) fn new(phase: PhaseKind, since: Instant, deadline: Option<Instant>) -> Self {
        Self {
            phase,
            since,
            deadline,
            requested: None,
            status: RunStatus::default(),
            alive: None,
            retries: 0,
            last_error: None,
        }
    }
}
