//! The sources have completed. The last commit of exactly-once sinks depends on one more
//! checkpoint, so a final one is taken (as Flink does since FLIP-147); then the tasks finish, and
//! the workers are released.

use super::{
    Completed, Stopping,
    checkpoint_stopping::{Final, take_final_checkpoint},
    release::{NothingAlive, Releasing, release},
    running::step_to,
    sealed::{Entry, Mint},
    work::{self, Work, to_force},
};
use crate::{
    contracts::{ControllerError, Epoch, JobController, Scheduler, StopRequest},
    limits::Limits,
    machine::{
        AfterFinishing, AnyPhase, Force, Immediate, JobContext, PhaseKind, Reason, ReasonKind, StepError, StepFailed,
    },
};

/// All sources have completed; a final checkpoint is taken so that the job ends by itself with
/// everything committed.
#[derive(Debug)]
#[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
pub struct Finishing {
    entry: Entry,
    proven: Option<Completed>,
    releasing: Releasing,
    decided: Option<Exit>,
}

#[derive(Clone, Debug)]
pub(crate) enum Exit {
    Stopped(Completed, NothingAlive),
    /// To the graceful stop: there is no final checkpoint, and what has been read is processed to
    /// the end.
    Drain(Reason),
    Immediate(Reason),
    Force(Reason),
}

#[diagnostic::do_not_recommend]
impl Mint for Finishing {
    type Proof = ();

    fn mint(entry: Entry, (): ()) -> Self {
        Self { entry, proven: None, releasing: Releasing::default(), decided: None }
    }

    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn forced<C, S>(self, reason: Reason, job: &mut JobContext<C, S>) -> Result<AnyPhase, StepFailed<Self>> {
        to_force(self, reason, job)
    }

    fn budget(limits: &Limits) -> Option<std::time::Duration> {
        Some(limits.final_checkpoint)
    }
}

impl Finishing {
    /// Takes the final checkpoint, waits for every task to finish, releases the workers and
    /// verifies that none is left. If no checkpoint can be taken (for example without a store), the
    /// tasks drain. A failure of the run and the deadline are not errors but decisions: the job is
    /// stopped at once, or by force if a worker is lost.
    ///
    /// # Errors
    /// - A retryable [`StepError::Controller`]: an order or the manifest failed. Run it again, or
    ///   [`give_up`](Self::give_up).
    /// - [`StepError::Scheduler`], [`StepError::StillAlive`], [`StepError::Appeared`]: the
    ///   checkpoint is complete, but workers are not gone. Run it again.
    /// - [`StepError::WrongJob`]: the job is not in this phase.
    ///
    /// # Cancel safety
    /// Safe: call it again to continue.
    pub async fn run<C: JobController, S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        work::run(self, job).await
    }

    /// Runs, then steps.
    ///
    /// # Errors
    /// As [`run`](Self::run); the phase comes back in [`StepFailed`].
    ///
    /// # Cancel safety
    /// Safe: if it is dropped, the phase is kept in the job; [`JobContext::take_parked`] gives it
    /// back.
    pub fn next<C: JobController, S: Scheduler>(
        self,
        job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<AfterFinishing, StepFailed<Self>>> {
        work::next(self, job)
    }

    async fn release<C: JobController, S: Scheduler>(
        &mut self,
        completed: Completed,
        job: &mut JobContext<C, S>,
    ) -> Result<Exit, StepError> {
        let gone = release(job, &mut self.releasing).await?;
        Ok(Exit::Stopped(completed, self.releasing.end(gone, PhaseKind::StoppedCompleted, job).await?))
    }

    /// The final checkpoint, once it is complete and every task has finished; what is left then is
    /// to release the workers.
    pub fn complete(&self) -> Option<Epoch> {
        self.proven.as_ref().map(Completed::epoch)
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

impl<C: JobController> Work<C> for Finishing {
    type Exit = Exit;
    type After = AfterFinishing;

    fn decided(&mut self) -> &mut Option<Exit> {
        &mut self.decided
    }

    async fn work<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
        if self.releasing.is_before_the_end() {
            job.write_down_status(PhaseKind::Finishing).await?;
        }
        if let Some(completed) = self.proven {
            return self.release(completed, job).await;
        }
        Ok(match take_final_checkpoint(job, PhaseKind::Finishing, self.entry).await {
            Ok(Final::Complete(checkpointed)) => {
                let completed = Completed::proven(checkpointed.epoch());
                self.proven = Some(completed);
                return self.release(completed, job).await;
            }
            Ok(Final::Request(force @ StopRequest::Force)) => Exit::Force(force.into()),
            Ok(Final::Request(request)) => Exit::Immediate(request.into()),
            // Nothing can be committed, so there is nothing to wait for: what has been read is
            // processed to the end.
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
        })
    }

    fn step<S>(self, exit: Exit, job: &mut JobContext<C, S>) -> AfterFinishing {
        match exit {
            Exit::Stopped(completed, gone) => {
                let witness = gone.witness(job);
                AfterFinishing::Stopped(job.enter(self, (completed, witness), ReasonKind::Done))
            }
            Exit::Drain(reason) => AfterFinishing::Graceful(job.enter(self, (), reason)),
            Exit::Force(reason) => AfterFinishing::Force(job.enter(self, (), reason)),
            Exit::Immediate(reason) => AfterFinishing::Immediate(job.enter(self, (), reason)),
        }
    }

    fn is_stopped(exit: &Exit) -> bool {
        matches!(exit, Exit::Stopped(..))
    }

    async fn look_again<S: Scheduler>(&mut self, exit: Exit, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
        Ok(match exit {
            Exit::Stopped(proven, gone) => Exit::Stopped(proven, self.releasing.look_again(gone, job).await?),
            other => other,
        })
    }
}
