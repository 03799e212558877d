//! Computes points in time safely: limits may exceed the range of the clock.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest wait. A limit of zero must not become a loop that starves other tasks.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);

/// For limits beyond the range of the clock: practically never.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `wait` from now on.
pub(crate) fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or_else(|| now + NEVER)
}
