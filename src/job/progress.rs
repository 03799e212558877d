//! What a watcher sees of a shutdown while it goes on.

use std::sync::{Arc, OnceLock};

use tokio::{sync::watch, time::Instant};

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
    /// The last error, even if a retry got past it, or a worker said that it ends nothing.
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

/// Progress, and the way to those who watch it. The channel is made for the first of them, and holds the progress from then on: it takes
/// more memory than the progress itself, and most jobs of a large control plane are watched by nobody.
#[derive(Debug)]
pub(super) struct LiveProgress {
    unwatched: Progress,
    watched: OnceLock<watch::Sender<Progress>>,
}

impl LiveProgress {
    pub(super) fn new(first: Progress) -> Self {
        Self { unwatched: first, watched: OnceLock::new() }
    }

    pub(super) fn now(&self) -> Progress {
        self.watched.get().map_or_else(|| self.unwatched.clone(), |watched| watched.borrow().clone())
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.watched.get_or_init(|| watch::Sender::new(self.unwatched.clone())).subscribe()
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.get().is_some_and(|watched| watched.receiver_count() > 0)
    }

    /// Changes it, and tells the watchers if `change` says that something has changed.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Progress) -> bool) {
        let _told = match self.watched.get() {
            Some(watched) => watched.send_if_modified(change),
            None => change(&mut self.unwatched),
        };
    }
}
