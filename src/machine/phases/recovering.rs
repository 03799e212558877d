//! Clean-up of a failed run, before another component may start a new one. This crate never
//! restarts a job.

use super::{
    Stopping,
    running::step_to,
    sealed::{Entry, Mint},
    work::{self, Work, to_force},
};
use crate::{
    contracts::{JobController, Scheduler, StopRequest},
    machine::{AfterRecovering, AnyPhase, Force, JobContext, PhaseKind, Reason, ReasonKind, StepError, StepFailed},
};

/// A task failed or a worker was lost; the run is cleaned up.
#[derive(Debug)]
#[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
pub struct Recovering {
    entry: Entry,
    /// Whether the phase is written down.
    decided: Option<()>,
}

#[diagnostic::do_not_recommend]
impl Mint for Recovering {
    type Proof = ();

    fn mint(entry: Entry, (): ()) -> Self {
        Self { entry, decided: None }
    }

    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn forced<C, S>(self, reason: Reason, job: &mut JobContext<C, S>) -> Result<AnyPhase, StepFailed<Self>> {
        to_force(self, reason, job)
    }
}

impl Recovering {
    /// Records the phase; there is nothing else to wait for.
    ///
    /// # Errors
    /// [`StepError::Journal`] if it can't be recorded.
    /// [`StepError::WrongJob`] when the job is not in this phase.
    ///
    /// # Cancel safety
    /// Safe: call it again.
    pub async fn run<C: JobController, S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        work::run(self, job).await
    }

    /// Steps to a short immediate stop, or to force if a worker is lost and can't get the order.
    ///
    /// # Errors
    /// As [`run`](Self::run); the phase comes back in [`StepFailed`].
    ///
    /// # Cancel safety
    /// Safe: if it is dropped, the phase stays in the job; [`JobContext::take_parked`] returns it.
    pub fn next<C: JobController, S: Scheduler>(
        self,
        job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<AfterRecovering, StepFailed<Self>>> {
        work::next(self, job)
    }

    /// Makes the scheduler kill the workers. It needs no controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn force<C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Force>, StepFailed<Self>> {
        step_to(self, job)
    }
}

impl<C: JobController> Work<C> for Recovering {
    type Exit = ();
    type After = AfterRecovering;

    fn decided(&mut self) -> &mut Option<()> {
        &mut self.decided
    }

    async fn work<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        Ok(job.write_down_status(PhaseKind::Recovering).await?)
    }

    fn step<S>(self, (): (), job: &mut JobContext<C, S>) -> AfterRecovering {
        if job.requested() == Some(StopRequest::Force) {
            AfterRecovering::Force(job.enter(self, (), StopRequest::Force))
        } else if job.controller.has_lost_worker() {
            let reason = job.why_lost();
            AfterRecovering::Force(job.enter(self, (), reason))
        } else {
            let budget = job.limits.recover;
            AfterRecovering::Immediate(job.enter_within(self, (), ReasonKind::CleanUp.into(), Some(budget)))
        }
    }
}
