//! The sources have completed. The last commit of exactly-once sinks depends on one more checkpoint, so a final one is taken (as Flink
//! does since FLIP-147); then the tasks finish, and the workers are released.

use tracing::Instrument;

use super::{
    Stopping,
    checkpoint_stopping::{Final, take_final_checkpoint},
    running::step_to,
    sealed::{Entry, Mint},
};
use crate::{
    contracts::{ControllerError, JobController, Scheduler, StopRequest},
    limits::Limits,
    machine::{AfterFinishing, Force, Immediate, JobContext, PhaseKind, Reason, ReasonKind, StepError, StepFailed},
};

/// All sources have completed; a final checkpoint is taken so that the job ends by itself with everything committed.
#[derive(Debug)]
#[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
pub struct Finishing {
    entry: Entry,
    decided: Option<Exit>,
}

#[derive(Clone, Debug)]
enum Exit {
    /// To the graceful stop: it releases the workers if every task has finished, and lets the tasks drain if not.
    Drain(Reason),
    Immediate(Reason),
    Force(Reason),
}

#[diagnostic::do_not_recommend]
impl Mint for Finishing {
    type Proof = ();

    fn mint(entry: Entry, (): ()) -> Self {
        Self { entry, decided: None }
    }

    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn budget(limits: &Limits) -> Option<std::time::Duration> {
        Some(limits.final_checkpoint)
    }
}

impl Finishing {
    /// Takes the final checkpoint and waits for every task to finish. Where none can be taken (no store, say) the tasks drain. A failure of the run and the deadline are decisions (the job is
    /// stopped at once, or by force where a worker is lost), not errors.
    ///
    /// # Errors
    /// A retryable [`StepError::Controller`]: an order or the manifest failed. Run it again, or [`give_up`](Self::give_up).
    /// [`StepError::WrongJob`] when the job is not in this phase.
    ///
    /// # Cancel safety
    /// Safe: call it again to go on.
    pub async fn run<C: JobController, S>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        self.decide(job).await.map(drop)
    }

    async fn decide<C: JobController, S>(&mut self, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
        job.check(self)?;
        if let Some(exit) = &self.decided {
            return Ok(exit.clone());
        }
        job.write_down_status(PhaseKind::Finishing).await?;
        let span = job.span(PhaseKind::Finishing);
        let exit = match take_final_checkpoint(job, PhaseKind::Finishing, self.entry).instrument(span).await {
            Ok(Final::Complete(_)) => Exit::Drain(ReasonKind::Done.into()),
            Ok(Final::Request(force @ StopRequest::Force)) => Exit::Force(force.into()),
            Ok(Final::Request(request)) => Exit::Immediate(request.into()),
            // There is nothing to commit with, and nothing to wait for: what has been read flows to the end.
            Err(StepError::Controller(error @ ControllerError::NoCheckpoint(_))) => Exit::Drain(Reason::from(&error)),
            Err(failure) if failure.is_retryable() => return Err(failure),
            Err(failure) => {
                job.note_error(&failure);
                if job.controller.has_lost_worker() {
                    Exit::Force(job.why_lost())
                } else {
                    Exit::Immediate(job.why(&failure))
                }
            }
        };
        self.decided = Some(exit.clone());
        Ok(exit)
    }

    /// Runs, then steps.
    ///
    /// # Errors
    /// As [`run`](Self::run); the phase comes back in [`StepFailed`].
    ///
    /// # Cancel safety
    /// Dropping it drops the phase: where that can happen, use [`run`](Self::run) first.
    pub async fn next<C: JobController, S: Scheduler>(
        mut self,
        job: &mut JobContext<C, S>,
    ) -> Result<AfterFinishing, StepFailed<Self>> {
        match self.decide(job).await {
            Ok(exit) => Ok(self.step(exit, job)),
            Err(failure) => Err(StepFailed::new(self, failure)),
        }
    }

    fn step<C: JobController, S>(self, exit: Exit, job: &mut JobContext<C, S>) -> AfterFinishing {
        match exit {
            Exit::Drain(reason) => AfterFinishing::Graceful(job.enter(self, (), reason)),
            Exit::Force(reason) => AfterFinishing::Force(job.enter(self, (), reason)),
            Exit::Immediate(reason) => AfterFinishing::Immediate(job.enter(self, (), reason)),
        }
    }

    /// Gives the final checkpoint up, and stops the tasks where they are.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn give_up<C: JobController, S>(
        self,
        job: &mut JobContext<C, S>,
    ) -> Result<Stopping<Immediate>, StepFailed<Self>> {
        step_to(self, job)
    }

    /// Has the scheduler kill the workers. It needs no controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn force<C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Force>, StepFailed<Self>> {
        step_to(self, job)
    }
}
