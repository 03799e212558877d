//! Points in time that are safe to compute: limits may reach beyond what the clock can hold.

use std::time::Duration;

use tokio::time::Instant;

/// The shortest wait. A limit of zero must not become a loop that lets nobody else run.
pub(crate) const MOMENT: Duration = Duration::from_millis(1);

/// For limits that reach beyond the clock: as good as never.
const NEVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

/// `wait` from now on.
pub(crate) fn after(wait: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait).unwrap_or_else(|| now + NEVER)
}
