//! The retries of a failed phase, and the waits between them.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use super::Policy;
use crate::{
    limits::Limits,
    machine::{PhaseKind, StepError},
};

/// What to do about a failure.
pub(super) enum Verdict {
    /// Run the phase again after this wait.
    Retry(Duration),
    /// No more retries.
    Spent,
}

/// The retries of the phase that the job is in. Failures of workers, scheduler and journal are
/// counted separately.
pub(super) struct Retries {
    limits: Arc<Limits>,
    jitter_seed: Option<u64>,
    // Boxed: most drives need none, and their futures stay small.
    controller: Option<Box<ExponentialBackoff>>,
    scheduler: Option<Box<ExponentialBackoff>>,
    journal: Option<Box<ExponentialBackoff>>,
    used: u32,
}

impl Retries {
    pub(super) fn new(limits: &Arc<Limits>, policy: &Policy) -> Self {
        let limits = Arc::clone(limits);
        Self { limits, jitter_seed: policy.jitter_seed, controller: None, scheduler: None, journal: None, used: 0 }
    }

    /// Retries used in all phases so far.
    pub(super) fn used(&self) -> u32 {
        self.used
    }

    /// A new phase, or a new budget for this one.
    pub(super) fn start_over(&mut self) {
        (self.controller, self.scheduler, self.journal) = (None, None, None);
    }

    pub(super) fn after(&mut self, failure: &StepError, phase: PhaseKind) -> Verdict {
        if !failure.is_retryable() {
            return Verdict::Spent;
        }
        let limits = &self.limits;
        let (backoff, most) = match failure {
            StepError::Journal(_) => (&mut self.journal, limits.journal_retries),
            failure if failure.is_schedulers() => (&mut self.scheduler, limits.scheduler_retries),
            _ => (&mut self.controller, limits.checkpoint_retries),
        };
        // Every phase and every drive gets its own waits from one seed.
        let seed = self.jitter_seed.map(|seed| seed.wrapping_add(phase as u64));
        match backoff.get_or_insert_with(|| exponential(limits, most, seed).into()).next() {
            Some(delay) => {
                self.used += 1;
                Verdict::Retry(delay)
            }
            None => Verdict::Spent,
        }
    }
}

/// Exponential waits with jitter, as the limits say.
fn exponential(limits: &Limits, most: u32, seed: Option<u64>) -> ExponentialBackoff {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(limits.backoff_min)
        .with_max_delay(limits.backoff_max)
        .with_max_times(most as usize)
        .with_jitter();
    match seed {
        Some(seed) => backoff.with_jitter_seed(seed),
        None => backoff,
    }
    .build()
}
