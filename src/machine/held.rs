//! Keeps a phase while its `next` is running: if that future is dropped, the phase stays in the job
//! (invariants I6, I10).

use crate::machine::{JobContext, Phase};

/// Holds the phase, and puts it into the job when dropped.
pub(crate) struct Held<'a, P: Phase, C, S> {
    phase: Option<P>,
    pub(crate) job: &'a mut JobContext<C, S>,
}

/// [`Held::take`] is the only way out, and consumes it.
const HELD: &str = "the phase is held until it is taken, which is the last that is done with the guard";

#[expect(clippy::expect_used, reason = "a phase that is not there would be one that was lost")]
impl<'a, P: Phase, C, S> Held<'a, P, C, S> {
    // Part of every transition, in code that is compiled in the user's crate.
    #[inline]
    pub(crate) fn new(phase: P, job: &'a mut JobContext<C, S>) -> Self {
        Self { phase: Some(phase), job }
    }

    /// The phase and its job, to work with.
    #[inline]
    pub(crate) fn lend(&mut self) -> (&mut P, &mut JobContext<C, S>) {
        (self.phase.as_mut().expect(HELD), self.job)
    }

    /// The phase, which is then no longer put into the job.
    #[inline]
    pub(crate) fn take(&mut self) -> P {
        self.phase.take().expect(HELD)
    }
}

impl<P: Phase, C, S> Drop for Held<'_, P, C, S> {
    fn drop(&mut self) {
        if let Some(phase) = self.phase.take() {
            // A phase of another job is an error when it is used.
            self.job.parked = Some(Box::new(phase.into()));
        }
    }
}
