//! Computes points in time safely: limits may exceed the range of the clock.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest wait. A limit of zero must not become a loop that starves other tasks.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);

/// For limits beyond the range of the clock: practically never.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `wait` from now on.
pub(crate) fn after(wait: Duration) -> Instant {
    later(Instant::now(), wait)
}

/// `wait` after `start`.
pub(crate) fn later(start: Instant, wait: Duration) -> Instant {
    start.checked_add(wait).unwrap_or_else(|| start + NEVER)
}

/// `wait`, cut to what libraries can compute with that add and multiply without a look.
#[cfg(any(feature = "worker", feature = "kubernetes"))]
pub(crate) fn bearable(wait: Duration) -> Duration {
    wait.min(NEVER)
}
