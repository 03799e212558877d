//! Repetitions of several contenders in turn, so that whatever slows the machine down slows all of
//! them.

use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use crate::report::Result;

/// A measurement that can be repeated; it gives one figure.
pub(super) type Contender<'a> = Box<dyn FnMut() -> Result<f64> + 'a>;

/// Runs each contender `repetitions` times, in turn; gives the figures of each.
pub(super) fn interleave(repetitions: usize, contenders: &mut [Contender<'_>]) -> Result<Vec<Vec<f64>>> {
    let mut figures = vec![Vec::with_capacity(repetitions); contenders.len()];
    for _ in 0..repetitions {
        for (contender, figures) in contenders.iter_mut().zip(&mut figures) {
            figures.push(contender()?);
        }
    }
    Ok(figures)
}

/// The processor time of this process so far, or of the children that it has waited for. A busy
/// machine changes it little.
pub(super) fn processor_time(whose: UsageWho) -> Result<Duration> {
    let usage = getrusage(whose)?;
    let micros = |time: nix::sys::time::TimeVal| u64::try_from(time.tv_sec() * 1_000_000 + time.tv_usec());
    Ok(Duration::from_micros(micros(usage.user_time())? + micros(usage.system_time())?))
}

/// A time in microseconds.
pub(super) fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

/// A time in nanoseconds for each of so many.
#[expect(clippy::cast_precision_loss, reason = "of a count far below 2^52")]
pub(super) fn nanos_each(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e9 / count as f64
}
