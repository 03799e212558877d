//! The two lanes into a job. The lane of worker messages is bounded; senders wait while it is full.
//! Stop requests have their own lane, which holds the strongest one, is never full, and is read
//! first, so no backlog of messages delays it.

mod ends;
mod lane;

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use tokio::sync::{Notify, Semaphore};

pub use self::ends::WorkerEnds;
use self::lane::Lane;
use crate::contracts::{StopRequest, WorkerEvent};

/// All messages to a job in one type, for a control plane with a single stream of messages.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum JobMessage {
    /// An event of a worker.
    Worker(WorkerEvent),
    /// The job's configuration has changed. `None` requests nothing, and withdraws nothing.
    ConfigUpdate {
        /// How the job should be stopped.
        stop_mode: Option<StopRequest>,
    },
}

/// The sending side: clone it to the API server, the signal handler, the transport.
#[derive(Clone, Debug)]
pub struct JobSender {
    lanes: Arc<Lanes>,
}

#[derive(Debug)]
struct Lanes {
    requests: RequestLane,
    events: Lane,
}

/// The job's context is gone: the job has stopped, or the context was dropped. The message has no
/// effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the job is gone: its context was dropped, so nobody reads its messages any more")]
pub struct JobGone;

/// Why [`JobSender::try_event`] did not accept an event; it holds the event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryEventError {
    /// The lane is full: wait, or use [`JobSender::event`].
    #[error("the job's mailbox is full: hold the worker back and send again")]
    Full(WorkerEvent),
    /// The job is gone.
    #[error(transparent)]
    Gone(#[from] JobGone),
}

/// The result of a stop request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requested {
    /// It is the strongest so far, and now in effect.
    InForce,
    /// An equal or stronger one is in effect, so it changes nothing.
    AlreadyStronger(StopRequest),
}

#[derive(Debug, Default)]
struct RequestLane {
    strongest: AtomicU8,
    changed: Notify,
}

impl RequestLane {
    #[inline]
    fn strongest(&self) -> Option<StopRequest> {
        StopRequest::from_level(self.strongest.load(Ordering::Acquire))
    }

    async fn above(&self, level: Option<StopRequest>) -> StopRequest {
        let mut changed = pin!(self.changed.notified());
        loop {
            // Subscribe before the check, so that a request between check and wait is not missed.
            changed.as_mut().enable();
            if let Some(request) = self.strongest().filter(|request| Some(*request) > level) {
                return request;
            }
            changed.as_mut().await;
            changed.set(self.changed.notified());
        }
    }
}

impl JobSender {
    /// Requests a stop. It never waits, is never dropped, and is never overwritten by a weaker
    /// request.
    ///
    /// # Errors
    /// [`JobGone`] when the job's context was dropped.
    pub fn request(&self, request: StopRequest) -> Result<Requested, JobGone> {
        let Lanes { requests, events } = &*self.lanes;
        if events.is_closed() {
            return Err(JobGone);
        }
        let before = requests.strongest.fetch_max(request.level(), Ordering::AcqRel);
        match StopRequest::from_level(before) {
            Some(in_force) if in_force >= request => Ok(Requested::AlreadyStronger(in_force)),
            _ => {
                requests.changed.notify_waiters();
                Ok(Requested::InForce)
            }
        }
    }

    /// The strongest request so far.
    #[inline]
    pub fn requested(&self) -> Option<StopRequest> {
        self.lanes.requests.strongest()
    }

    /// Whether the job's context is gone, so that messages are no longer read.
    pub fn is_closed(&self) -> bool {
        self.lanes.events.is_closed()
    }

    /// Waits until the job's context is gone.
    ///
    /// # Cancel safety
    /// Safe: it only waits.
    pub async fn closed(&self) {
        let requests = &self.lanes.requests;
        let mut changed = pin!(requests.changed.notified());
        loop {
            // Subscribe before the check, so that an end between check and wait is not missed.
            changed.as_mut().enable();
            if self.is_closed() {
                return;
            }
            changed.as_mut().await;
            changed.set(requests.changed.notified());
        }
    }

    /// Sends an event of a worker; waits while the lane is full (back-pressure).
    ///
    /// # Errors
    /// [`JobGone`] when the job's context was dropped.
    ///
    /// # Cancel safety
    /// If it is dropped, the event has not been sent, and its place in the queue is lost.
    pub async fn event(&self, event: WorkerEvent) -> Result<(), JobGone> {
        self.lanes.events.send(event).await
    }

    /// Sends an event of a worker if there is room.
    ///
    /// # Errors
    /// [`TryEventError`] gives the event back when the lane is full.
    pub fn try_event(&self, event: WorkerEvent) -> Result<(), TryEventError> {
        self.lanes.events.try_send(event)
    }

    /// Sends either kind of message through its lane.
    ///
    /// # Errors
    /// [`JobGone`] when the job's context was dropped.
    ///
    /// # Cancel safety
    /// As [`event`](Self::event); a stop request is sent without waiting.
    pub async fn send(&self, message: JobMessage) -> Result<(), JobGone> {
        match message {
            JobMessage::Worker(event) => self.event(event).await,
            JobMessage::ConfigUpdate { stop_mode: Some(request) } => self.request(request).map(drop),
            JobMessage::ConfigUpdate { stop_mode: None } => Ok(()),
        }
    }
}

/// What [`Mailbox::next`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A stop request.
    Request(StopRequest),
    /// A worker message.
    Worker(WorkerEvent),
}

/// The receiving side. It is part of the job's context; create one yourself only if senders must
/// exist before the context.
#[derive(Debug)]
pub struct Mailbox {
    sender: JobSender,
    taken: u64,
}

impl Mailbox {
    /// A mailbox that holds up to `capacity` worker messages (at least one).
    pub fn new(capacity: u32) -> Self {
        let capacity = usize::try_from(capacity).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS);
        let lanes = Lanes { requests: RequestLane::default(), events: Lane::new(capacity) };
        Self { sender: JobSender { lanes: Arc::new(lanes) }, taken: 0 }
    }

    /// A new sender to this mailbox.
    pub fn sender(&self) -> JobSender {
        self.sender.clone()
    }

    /// The strongest stop request so far.
    #[inline]
    pub fn requested(&self) -> Option<StopRequest> {
        self.sender.requested()
    }

    /// The request in effect, if it is stronger than `level`.
    pub fn stronger_than(&self, level: Option<StopRequest>) -> Option<StopRequest> {
        self.requested().filter(|request| Some(*request) > level)
    }

    /// Waits for a stop request stronger than `level`.
    ///
    /// # Cancel safety
    /// Safe: a request stays in effect, and the next call sees it.
    pub async fn request_above(&self, level: Option<StopRequest>) -> StopRequest {
        self.sender.lanes.requests.above(level).await
    }

    /// The next worker message, if one is waiting.
    pub fn try_recv(&mut self) -> Option<WorkerEvent> {
        let event = self.sender.lanes.events.try_recv()?;
        self.taken += 1;
        Some(event)
    }

    /// Waits for a stop request stronger than `level`, or for a worker message; the request comes
    /// first.
    ///
    /// # Cancel safety
    /// Safe: a message is taken out only when it is returned.
    pub async fn next(&mut self, level: Option<StopRequest>) -> Incoming {
        tokio::select! {
            biased;
            request = self.sender.lanes.requests.above(level) => Incoming::Request(request),
            event = self.sender.lanes.events.recv() => {
                self.taken += 1;
                Incoming::Worker(event)
            }
        }
    }

    /// Whether no worker message is waiting.
    pub fn is_empty(&self) -> bool {
        self.sender.lanes.events.len() == 0
    }

    /// Worker messages that have been taken out so far.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Worker messages that wait in the lane.
    pub(crate) fn waiting(&self) -> u64 {
        self.sender.lanes.events.len() as u64
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.sender.lanes.events.close();
        self.sender.lanes.requests.changed.notify_waiters();
    }
}
