//! The live progress of a shutdown.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::Instant};

use crate::{
    contracts::{Holdups, Rejection, RunStatus, StopRequest, WorkerId},
    limits::{duration_text, optional_duration_text},
    machine::{PhaseKind, Reason, ReasonKind},
    model::Rejected,
};

/// The progress of a job, for people and dashboards. Get it from
/// [`JobContext::progress`](super::JobContext::progress).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The phase that the job is in.
    pub phase: PhaseKind,
    /// Why it is.
    pub reason: Reason,
    /// Since when.
    pub since: Instant,
    /// When the phase gives up; `None` if it waits without a limit (`Running` without a TTL) or has
    /// ended.
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
    /// The call that the machine waits for, and since when.
    call: Option<(Call, Instant)>,
    /// Boxed, because most jobs have none.
    behind: Option<Arc<Behind>>,
}

/// A call of a collaborator that the machine itself waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Journal,
    StopWorkers,
    WorkersForJob,
}

impl Call {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Journal => "write",
            Self::StopWorkers => "stop_workers",
            Self::WorkersForJob => "workers_for_job",
        }
    }
}

/// What a stop is behind with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Behind {
    rejected: Rejected,
    /// When the controller was last asked for its holdups.
    asked: Option<Instant>,
    holdups: Option<Holdups>,
    trouble: Option<Trouble>,
    alive: Vec<WorkerId>,
}

/// Failures of the phase, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: Reason,
    pub(crate) times: u32,
    /// The time of the first one.
    pub(crate) since: Instant,
}

/// [`Progress`] at one moment, to send or to store, with durations instead of instants, serialised
/// as text (`"1m 30s"`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ProgressReport {
    /// The phase that the job is in.
    pub phase: PhaseKind,
    /// Why it is.
    pub reason: Reason,
    /// For how long.
    #[serde(with = "duration_text")]
    pub elapsed: Duration,
    /// How long until the phase gives up; zero if it is late, `None` if it waits without a limit.
    #[serde(with = "optional_duration_text")]
    pub left: Option<Duration>,
    /// The strongest stop request so far.
    pub requested: Option<StopRequest>,
    /// Tasks, checkpoint acks, workers left.
    pub status: RunStatus,
    /// Workers that the scheduler listed when it was last asked.
    pub alive: Option<u32>,
    /// Retries used so far, over all phases.
    pub retries: u32,
    /// The last error, even if a retry got past it, or a worker said that it ends nothing.
    pub last_error: Option<Arc<str>>,
    /// Messages of workers that were rejected, by reason.
    pub rejected: Rejected,
}

impl Progress {
    /// Worker messages that the controller has rejected so far, by reason.
    pub fn rejected(&self) -> Rejected {
        self.behind.as_ref().map(|behind| behind.rejected).unwrap_or_default()
    }

    /// The same, to send or to store.
    pub fn report(&self) -> ProgressReport {
        let now = Instant::now();
        ProgressReport {
            phase: self.phase,
            reason: self.reason.clone(),
            elapsed: now.saturating_duration_since(self.since),
            left: self.deadline.map(|deadline| deadline.saturating_duration_since(now)),
            requested: self.requested,
            status: self.status,
            alive: self.alive,
            retries: self.retries,
            last_error: self.last_error.clone(),
            rejected: self.rejected(),
        }
    }

    pub(crate) fn new(phase: PhaseKind, since: Instant, deadline: Option<Instant>) -> Self {
        Self {
            phase,
            reason: ReasonKind::Started.into(),
            since,
            deadline,
            requested: None,
            status: RunStatus::default(),
            alive: None,
            retries: 0,
            last_error: None,
            call: None,
            behind: None,
        }
    }

    pub(crate) fn call(&self) -> Option<(Call, Instant)> {
        self.call
    }

    pub(crate) fn trouble(&self) -> Option<&Trouble> {
        self.behind.as_ref()?.trouble.as_ref()
    }

    pub(crate) fn holdups(&self) -> Option<&Holdups> {
        self.behind.as_ref()?.holdups.as_ref()
    }

    /// The first few workers that the scheduler listed when it was last asked.
    pub(crate) fn alive_workers(&self) -> &[WorkerId] {
        self.behind.as_ref().map_or(&[], |behind| &behind.alive)
    }

    /// When the controller was last asked for its holdups.
    pub(super) fn asked(&self) -> Option<Instant> {
        self.behind.as_ref()?.asked
    }

    pub(super) fn set_asked(&mut self, asked: Instant) {
        Arc::make_mut(self.behind.get_or_insert_default()).asked = Some(asked);
    }

    pub(crate) fn set_holdups(&mut self, holdups: Option<Holdups>) {
        if holdups.is_some() || self.holdups().is_some() {
            Arc::make_mut(self.behind.get_or_insert_default()).holdups = holdups;
        }
    }

    pub(super) fn set_alive(&mut self, alive: &[WorkerId]) {
        if !alive.is_empty() || !self.alive_workers().is_empty() {
            let listed = alive.iter().copied().take(Holdups::LISTED).collect();
            Arc::make_mut(self.behind.get_or_insert_default()).alive = listed;
        }
    }

    pub(super) fn clear_call(&mut self) {
        self.call = None;
    }

    pub(super) fn add_trouble(&mut self, reason: Reason) {
        let behind = Arc::make_mut(self.behind.get_or_insert_default());
        let (times, since) = behind.trouble.as_ref().map_or((0, Instant::now()), |before| (before.times, before.since));
        behind.trouble = Some(Trouble { reason, times: times.saturating_add(1), since });
    }

    /// A new phase is behind with nothing yet.
    pub(super) fn start_over(&mut self) {
        self.call = None;
        if let Some(behind) = &mut self.behind {
            *behind = Arc::new(Behind { rejected: behind.rejected, ..Behind::default() });
        }
    }
}

/// Progress and the channel to its watchers. The channel is created for the first watcher, and
/// holds the progress from then on: it takes more memory than the progress itself, and most jobs of
/// a large control plane have no watcher.
#[derive(Debug)]
pub(crate) struct LiveProgress {
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

    pub(super) fn asked(&self) -> Option<Instant> {
        match self.watched.get() {
            Some(watched) => watched.borrow().asked(),
            None => self.unwatched.asked(),
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.get().is_some_and(|watched| watched.receiver_count() > 0)
    }

    /// Counts a message that the controller has rejected.
    pub(super) fn note_rejection(&mut self, rejection: Rejection) {
        self.change(|progress| {
            Arc::make_mut(progress.behind.get_or_insert_default()).rejected.count(rejection);
            true
        });
    }

    /// The call that is waited for from now on. Watchers are not notified: it changes often.
    pub(super) fn note_call(&mut self, call: Option<Call>) {
        self.change(|progress| {
            progress.call = call.map(|call| (call, Instant::now()));
            false
        });
    }

    /// Keeps the newest error.
    pub(super) fn note_error(&mut self, error: &dyn std::fmt::Display) {
        let text: Arc<str> = error.to_string().into();
        self.change(|progress| {
            let is_new = progress.last_error.as_ref() != Some(&text);
            progress.last_error = Some(text);
            is_new
        });
    }

    /// Changes it, and notifies the watchers if `change` returns true.
    pub(super) fn change(&mut self, change: impl FnOnce(&mut Progress) -> bool) {
        let _told = match self.watched.get() {
            Some(watched) => watched.send_if_modified(change),
            None => change(&mut self.unwatched),
        };
    }
}
