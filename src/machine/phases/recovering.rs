//! Clean-up of a failed run, before another component may start a new one. This crate never
//! restarts a job.

use super::{
    Stopping,
    running::step_to,
    sealed::{Entry, Mint},
};
use crate::{
    contracts::{JobController, Scheduler, StopRequest},
    machine::{AfterRecovering, Force, Held, JobContext, PhaseKind, ReasonKind, StepError, StepFailed},
};

/// A task failed or a worker was lost; the run is cleaned up.
#[derive(Debug)]
#[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
pub struct Recovering {
    entry: Entry,
}

#[diagnostic::do_not_recommend]
impl Mint for Recovering {
    type Proof = ();

    fn mint(entry: Entry, (): ()) -> Self {
        Self { entry }
    }

    fn entry(&self) -> &Entry {
        &self.entry
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
    pub async fn run<C: JobController, S>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        job.check(self)?;
        job.write_down_status(PhaseKind::Recovering).await?;
        Ok(())
    }

    /// Steps to a short immediate stop, or to force if a worker is lost and can't get the order.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase; the phase comes back in [`StepFailed`].
    ///
    /// # Cancel safety
    /// Safe: if it is dropped, the phase stays in the job; [`JobContext::take_parked`] returns it.
    pub fn next<C: JobController, S: Scheduler>(
        self,
        job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<AfterRecovering, StepFailed<Self>>> {
        let mut held = Held::new(self, job);
        async move {
            let (phase, job) = held.lend();
            let written = phase.run(job).await;
            let phase = held.take();
            match written {
                Ok(()) => Ok(phase.step(held.job)),
                Err(failure) => Err(StepFailed::new(phase, failure)),
            }
        }
    }

    /// The step right after [`run`](Self::run).
    pub(crate) fn step<C: JobController, S>(self, job: &mut JobContext<C, S>) -> AfterRecovering {
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

    /// Makes the scheduler kill the workers. It needs no controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn force<C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Force>, StepFailed<Self>> {
        step_to(self, job)
    }
}
