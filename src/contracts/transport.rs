//! The contract of a transport, which delivers one order to one worker, and its errors.

use std::{fmt, sync::Arc, time::Duration};

use super::{BoxFuture, OpenRun, Order, OtherRun};
use crate::contracts::WorkerId;

/// Delivers an order to one worker: in-process, over gRPC, or in a way of your own.
///
/// [`ClusterController`](crate::cluster::ClusterController) does fan-out, deadlines and retries
/// over any transport.
///
/// # What an implementer must keep
/// - `Ok(())` means that the worker has accepted the order, not that it has been carried out;
///   events report that.
/// - Calls for different workers are independent: a slow or dead one delays no other (invariant
///   I9).
/// - Dropping the future is safe at any point; the order may or may not have arrived, and is sent
///   again.
/// - A worker that is not running any more answers a stop order with
///   [`OrderErrorKind::NotRunning`].
/// - An order to a worker that the run does not have is an error, and reaches no worker.
///
/// `testing::conformance::transport` (feature `testing`) checks this, and the requirements of
/// [`Order`] on its workers.
pub trait Transport: Send + Sync + 'static {
    /// Sends `order` to `worker` and waits for its answer.
    ///
    /// # Errors
    /// [`OrderError`] if the worker could not be reached, refused the order, or is not running.
    ///
    /// # Cancel safety
    /// Implementations must be cancel safe: see above.
    fn send(&self, worker: WorkerId, order: Order) -> impl Future<Output = Result<(), OrderError>> + Send;

    /// Checks that it leads to the workers of that run. A transport that was made for one run uses
    /// [`OpenRun::check`]; the default accepts every run.
    ///
    /// # Errors
    /// [`OtherRun`] when it was made for another one.
    fn is_for(&self, _open: &OpenRun) -> Result<(), OtherRun> {
        Ok(())
    }
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        T::is_for(self, open)
    }

    fn send(&self, worker: WorkerId, order: Order) -> impl Future<Output = Result<(), OrderError>> + Send {
        T::send(self, worker, order)
    }
}

/// The dyn-safe form of [`Transport`], implemented for every transport. Use it through
/// [`BoxTransport`].
pub trait DynTransport: Send + Sync + 'static {
    /// [`Transport::send`], boxed.
    fn send_boxed(&self, worker: WorkerId, order: Order) -> BoxFuture<'_, Result<(), OrderError>>;
    /// [`Transport::is_for`].
    ///
    /// # Errors
    /// [`OtherRun`] when it was made for another run.
    fn is_for_dyn(&self, open: &OpenRun) -> Result<(), OtherRun>;
}

impl<T: Transport> DynTransport for T {
    fn send_boxed(&self, worker: WorkerId, order: Order) -> BoxFuture<'_, Result<(), OrderError>> {
        Box::pin(self.send(worker, order))
    }

    fn is_for_dyn(&self, open: &OpenRun) -> Result<(), OtherRun> {
        self.is_for(open)
    }
}

/// Any transport, chosen at run time: `let transport: BoxTransport = Arc::new(my_transport);`
///
/// [`ClusterController::builder`](crate::cluster::ClusterController::builder) accepts it, and
/// builds a `ClusterController<dyn DynTransport>`.
pub type BoxTransport = Arc<dyn DynTransport>;

impl Transport for dyn DynTransport {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        self.send_boxed(worker, order).await
    }

    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        self.is_for_dyn(open)
    }
}

/// Why an order did not take effect at a worker.
///
/// The words may come from another process. `Display` shows them in one line, with control
/// characters escaped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {}", crate::text::Printable(message))]
pub struct OrderError {
    /// What kind of failure it is.
    pub kind: OrderErrorKind,
    /// For people, as it was said.
    pub message: String,
}

impl OrderError {
    /// A failure of this kind.
    pub fn new(kind: OrderErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// No answer within the time limit of one order.
    pub fn timed_out(after: Duration) -> Self {
        Self::new(OrderErrorKind::TimedOut, format!("no answer within {}", crate::text::rounded(after)))
    }
}

/// The kinds of [`OrderError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OrderErrorKind {
    /// The worker could not be reached. Worth a retry.
    Unreachable,
    /// The worker did not answer in time. Worth a retry.
    TimedOut,
    /// The worker is running no task of this run any more. As an answer to a stop order, this means
    /// "already stopped, verify".
    NotRunning,
    /// The worker answered that it could not accept the order. Worth a retry.
    Refused,
    /// The worker will never accept this order: it belongs to another run, or the order is invalid.
    Rejected,
}

impl OrderErrorKind {
    /// Whether the same order may succeed when it is sent again.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Unreachable | Self::TimedOut | Self::Refused)
    }
}

impl fmt::Display for OrderErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed out",
            Self::NotRunning => "not running",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
        })
    }
}

/// The failures of an order to many workers: which workers did not accept it, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrderReport {
    /// The command, as [`Command::name`](super::Command::name) names it.
    pub order: &'static str,
    /// How many workers it went to.
    pub workers: usize,
    /// The workers that did not accept it, ordered by id, with the last error of each.
    pub failures: Vec<(WorkerId, OrderError)>,
}

impl OrderReport {
    /// How many failures [`Display`](fmt::Display) spells out.
    const SHOWN: usize = 3;
}

impl fmt::Display for OrderReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, workers, failures } = self;
        write!(f, "{} of {workers} workers refused: {order} order: ", failures.len())?;
        for (position, (worker, error)) in failures.iter().take(Self::SHOWN).enumerate() {
            let comma = if position == 0 { "" } else { "; " };
            write!(f, "{comma}worker {worker} {error}")?;
        }
        match failures.len().saturating_sub(Self::SHOWN) {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

impl std::error::Error for OrderReport {}
