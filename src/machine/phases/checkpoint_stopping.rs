//! A final checkpoint, after which every task finishes: the stop that loses nothing and replays
//! nothing.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    Checkpointed, Stopping,
    release::{NothingAlive, Releasing, release},
    running::step_to,
    sealed::{Entry, Mint},
    wait::{News, news},
    work::{self, Work, to_force},
};
use crate::{
    contracts::{Epoch, FinalCheckpoint, JobController, RunStatus, Scheduler, StopRequest},
    limits::Limits,
    machine::{
        AfterCheckpointStopping, AnyPhase, Force, Immediate, JobContext, PhaseKind, Reason, ReasonKind, StepError,
        StepFailed,
    },
};

/// A final checkpoint is taken, after which every task finishes.
///
/// It ends in [`Stopped<Checkpointed>`](crate::machine::Stopped) only when the checkpoint's
/// manifest is durable and holds every task of the run, every commit is acknowledged, every task
/// has finished, and the scheduler lists no worker (invariants I2, I3). A graceful stop request
/// changes nothing here: this phase does more. A failed task or a lost worker ends the wait at
/// once, because the checkpoint can't complete any more; the caller decides what happens then.
#[derive(Debug)]
#[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
pub struct CheckpointStopping {
    entry: Entry,
    proven: Option<Checkpointed>,
    releasing: Releasing,
    decided: Option<Exit>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Exit {
    Stopped(Checkpointed, NothingAlive),
    Request(StopRequest),
}

#[diagnostic::do_not_recommend]
impl Mint for CheckpointStopping {
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

    fn budget(limits: &Limits) -> Option<Duration> {
        Some(limits.final_checkpoint)
    }
}

impl CheckpointStopping {
    /// Takes the final checkpoint, waits for every task to finish, releases the workers and
    /// verifies that none is left.
    ///
    /// # Errors
    /// - [`StepError::Controller`]: an order or the manifest failed. If you run it again, it
    ///   resends only what failed.
    /// - [`StepError::Run`]: a task failed or a worker was lost, so this checkpoint can't complete.
    /// - [`StepError::BudgetSpent`]: give it more time with [`extend`](Self::extend), or
    ///   [`give_up`](Self::give_up).
    /// - [`StepError::Scheduler`], [`StepError::StillAlive`], [`StepError::Appeared`]: the
    ///   checkpoint is complete, but workers are not gone. Run it again.
    /// - [`StepError::WrongJob`]: the job is not in this phase.
    ///
    /// # Cancel safety
    /// Safe: call it again to continue. The final checkpoint is not started twice.
    pub async fn run<C: JobController, S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        work::run(self, job).await
    }

    /// Runs, then steps.
    ///
    /// # Errors
    /// As for [`run`](Self::run); [`StepFailed`] holds the phase.
    ///
    /// # Cancel safety
    /// Safe: if it is dropped, the phase stays in the job; [`JobContext::take_parked`] returns it.
    pub fn next<C: JobController, S: Scheduler>(
        self,
        job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<AfterCheckpointStopping, StepFailed<Self>>> {
        work::next(self, job)
    }

    /// The final checkpoint, once it is complete and every task has finished; then only the workers
    /// remain to be released.
    pub fn complete(&self) -> Option<Epoch> {
        self.proven.as_ref().map(Checkpointed::epoch)
    }

    /// Gives the phase more time, counted from now.
    pub fn extend<C, S>(&mut self, by: Duration, job: &mut JobContext<C, S>) {
        self.entry.deadline = Instant::now().checked_add(by);
        if job.check(self).is_ok() {
            job.publish_deadline(self.entry.deadline);
        }
    }

    /// Gives up the final checkpoint, and stops the tasks where they are.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn give_up<C: JobController, S>(
        self,
        job: &mut JobContext<C, S>,
    ) -> Result<Stopping<Immediate>, StepFailed<Self>> {
        step_to(self, job)
    }

    /// Makes the scheduler kill the workers. It needs no controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn force<C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Force>, StepFailed<Self>> {
        step_to(self, job)
    }
}

impl<C: JobController> Work<C> for CheckpointStopping {
    type Exit = Exit;
    type After = AfterCheckpointStopping;

    fn decided(&mut self) -> &mut Option<Exit> {
        &mut self.decided
    }

    async fn work<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
        if self.releasing.is_before_the_end() {
            job.write_down_status(PhaseKind::CheckpointStopping).await?;
        }
        let checkpointed = match self.proven {
            Some(checkpointed) => checkpointed,
            None => match take_final_checkpoint(job, PhaseKind::CheckpointStopping, self.entry).await? {
                Final::Complete(checkpointed) => checkpointed,
                Final::Request(request) => return Ok(Exit::Request(request)),
            },
        };
        self.proven = Some(checkpointed);
        let gone = release(job, &mut self.releasing).await?;
        let gone = self.releasing.end(gone, PhaseKind::StoppedCheckpointed, job).await?;
        Ok(Exit::Stopped(checkpointed, gone))
    }

    fn step<S>(self, exit: Exit, job: &mut JobContext<C, S>) -> AfterCheckpointStopping {
        match exit {
            Exit::Stopped(checkpointed, gone) => {
                let witness = gone.witness(job);
                AfterCheckpointStopping::Stopped(job.enter(self, (checkpointed, witness), ReasonKind::Done))
            }
            Exit::Request(force @ StopRequest::Force) => AfterCheckpointStopping::Force(job.enter(self, (), force)),
            Exit::Request(request) => AfterCheckpointStopping::Immediate(job.enter(self, (), request)),
        }
    }

    fn is_stopped(exit: &Exit) -> bool {
        matches!(exit, Exit::Stopped(..))
    }

    async fn look_again<S: Scheduler>(&mut self, exit: Exit, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
        Ok(match exit {
            Exit::Stopped(proven, gone) => Exit::Stopped(proven, self.releasing.look_again(gone, job).await?),
            other @ Exit::Request(_) => other,
        })
    }
}

/// How a final checkpoint ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Final {
    /// It is complete, and every task has finished.
    Complete(Checkpointed),
    /// A stronger stop was requested.
    Request(StopRequest),
}

/// Takes the final checkpoint and waits for every task to finish. If called again, it continues:
/// the controller knows what was started.
pub(super) async fn take_final_checkpoint<C: JobController, S>(
    job: &mut JobContext<C, S>,
    phase: PhaseKind,
    entry: Entry,
) -> Result<Final, StepError> {
    let (mut ask, mut late) = (true, false);
    loop {
        let status = job.controller.status();
        // Before the requests: a stronger stop could only cut the release short, which also checks
        // for it.
        if let Some(checkpointed) = evidence(&status) {
            return Ok(Final::Complete(checkpointed));
        }
        if let Some(request) = job.mailbox.stronger_than(phase.fulfils()) {
            return Ok(Final::Request(request));
        }
        if let Some(failure) = job.controller.failure() {
            return Err(StepError::Run(failure.clone()));
        }
        if late {
            return Err(StepError::BudgetSpent { phase, budget: entry.budget(), status });
        }
        // Once per call, so that a retry resends what failed; then again while a periodic
        // checkpoint is in flight.
        if std::mem::take(&mut ask) || status.final_checkpoint == FinalCheckpoint::NotStarted {
            job.controller.begin_checkpoint(true)?;
            // Its epoch is durable before its first order is sent: `begin_` sends nothing itself.
            job.write_down_status(phase).await?;
        }
        match news(job, phase.fulfils(), entry.deadline).await? {
            News::Status => {}
            News::Request(request) => return Ok(Final::Request(request)),
            // Messages were handled meanwhile: one of them may have been the last.
            News::Deadline => late = true,
        }
    }
}

/// Invariant I3, read from the status.
fn evidence(status: &RunStatus) -> Option<Checkpointed> {
    match status.final_checkpoint {
        FinalCheckpoint::Complete(epoch) if status.all_finished() => Some(Checkpointed::proven(epoch)),
        _ => None,
    }
}
