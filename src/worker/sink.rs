//! The destination of a worker's events.

use std::sync::Arc;

use crate::{
    contracts::{TaskError, WorkerEvent},
    mailbox::{JobGone, JobSender},
};

/// Receives the events of workers: a job's mailbox, a connection to a controller, a test's list.
///
/// # What an implementer must keep
/// - The events of one worker stay in the order in which they were delivered. A worker delivers one
///   at a time.
/// - A full sink waits: this is the back-pressure that holds tasks back.
/// - `Ok(())` means that the event is accepted. It may still be lost on its way: a repeated order
///   brings it again.
/// - The future may be dropped at any point; the event may or may not have been accepted, and may
///   be delivered again.
pub trait EventSink: Send + Sync + 'static {
    /// Delivers `event`; waits while there is no room.
    ///
    /// # Errors
    /// [`SinkClosed`] if no event will ever be accepted again.
    ///
    /// # Cancel safety
    /// Up to the implementer: see above.
    fn deliver(&self, event: WorkerEvent) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

impl<S: EventSink> EventSink for Arc<S> {
    fn deliver(&self, event: WorkerEvent) -> impl Future<Output = Result<(), SinkClosed>> + Send {
        S::deliver(self, event)
    }
}

/// Events are no longer accepted: the controller is gone, or the task or worker has already ended.
///
/// A task can pass it on with `?`: it becomes a retryable [`TaskError`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, thiserror::Error)]
#[error("expected a controller that takes this worker's events, got none: it is gone, or this task has already ended")]
pub struct SinkClosed;

impl From<SinkClosed> for TaskError {
    fn from(closed: SinkClosed) -> Self {
        Self::retryable(closed.to_string())
    }
}

/// Workers in this process report directly to the job's mailbox.
impl EventSink for JobSender {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        self.event(event).await.map_err(|JobGone| SinkClosed)
    }
}
