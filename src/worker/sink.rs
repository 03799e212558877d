//! Where a worker's events go.

use std::sync::Arc;

use crate::{
    contracts::{TaskError, WorkerEvent},
    mailbox::{JobGone, JobSender},
};

/// Takes the events of workers: a job's mailbox, a connection to a controller, a test's list.
///
/// # What an implementer must keep
/// - The events of one worker stay in the order in which they were delivered. A worker delivers one at a time.
/// - A full sink waits: that is the back-pressure which holds tasks back.
/// - `Ok(())` means that the event is taken in. It may still be lost on its way: a repeated order brings it again.
/// - The future may be dropped at any point; the event may or may not have been taken in, and may be delivered again.
pub trait EventSink: Send + Sync + 'static {
    /// Hands `event` over; waits while there is no room.
    ///
    /// # Errors
    /// [`SinkClosed`] when nobody will ever take an event again.
    ///
    /// # Cancel safety
    /// The implementer makes it so: see above.
    fn deliver(&self, event: WorkerEvent) -> impl Future<Output = Result<(), SinkClosed>> + Send;
}

impl<S: EventSink> EventSink for Arc<S> {
    fn deliver(&self, event: WorkerEvent) -> impl Future<Output = Result<(), SinkClosed>> + Send {
        S::deliver(self, event)
    }
}

/// Nobody takes events any more: the controller has gone away, or the task or worker has ended already.
///
/// A task can pass it on with `?`: it becomes a retryable [`TaskError`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, thiserror::Error)]
#[error(
    "expected a controller that takes this worker's events, got none: it has gone away, or this task has ended already"
)]
pub struct SinkClosed;

impl From<SinkClosed> for TaskError {
    fn from(closed: SinkClosed) -> Self {
        Self::retryable(closed.to_string())
    }
}

/// Workers hosted in this process report straight into the job's mailbox.
impl EventSink for JobSender {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        self.event(event).await.map_err(|JobGone| SinkClosed)
    }
}
