//! Workers are ordered to stop their tasks, or are killed.

use std::{fmt, marker::PhantomData, time::Duration};

use super::{
    Drained, Halted, Killed, Stopped,
    release::{NothingAlive, Releasing, release},
    running::step_to,
    sealed::{Entry, Mint, Mode, Token},
    wait::{News, news},
    work::{self, Work, to_force},
};
use crate::{
    contracts::{JobController, Scheduler, StopRequest, WorkerStopMode},
    limits::Limits,
    machine::{
        AfterForce, AfterGraceful, AfterImmediate, AnyPhase, Force, Graceful, Immediate, JobContext, Phase, PhaseKind,
        Reason, ReasonKind, StepError, StepFailed, StopBehavior, StopMode, SuccessorOf, WeakerThan,
    },
};

/// Workers are ordered to stop their tasks (`Graceful`, `Immediate`), or killed by the scheduler
/// (`Force`).
///
/// The mode only ever gets stronger: [`escalate`](Self::escalate) to a weaker one does not compile.
#[must_use = "a phase that is dropped is a shutdown that nobody finishes"]
pub struct Stopping<M: StopMode> {
    entry: Entry,
    failures_before: Option<u32>,
    releasing: Releasing,
    decided: Option<M::Exit>,
    mode: PhantomData<M>,
}

#[derive(Clone, Debug)]
pub enum Exit {
    Stopped(NothingAlive),
    Request(StopRequest),
    Failed(Reason),
}

#[diagnostic::do_not_recommend]
impl<M: StopMode> Mint for Stopping<M> {
    type Proof = ();

    fn mint(entry: Entry, (): ()) -> Self {
        Self { entry, failures_before: None, releasing: Releasing::default(), decided: None, mode: PhantomData }
    }

    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn forced<C, S>(self, reason: Reason, job: &mut JobContext<C, S>) -> Result<AnyPhase, StepFailed<Self>> {
        M::forced(self, reason, job)
    }

    fn budget(limits: &Limits) -> Option<Duration> {
        match M::BEHAVIOR {
            StopBehavior::StopJob(_) => Some(limits.finish),
            // Each attempt has its own budget.
            StopBehavior::StopWorkers => None,
        }
    }
}

impl<M: StopMode> Stopping<M> {
    /// The action of the phase, as a value.
    pub fn behavior(&self) -> StopBehavior {
        M::BEHAVIOR
    }

    /// Steps to a stronger mode.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn escalate<Stronger, C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Stronger>, StepFailed<Self>>
    where
        Stronger: StopMode,
        M: WeakerThan<Stronger>,
        Self: Phase,
    {
        match job.check(&self) {
            Ok(()) => Ok(M::escalate(self, job, Token)),
            Err(failure) => Err(StepFailed::new(self, failure)),
        }
    }

    /// Makes the scheduler kill the workers. It needs no controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn force<C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Force>, StepFailed<Self>>
    where
        Stopping<Force>: SuccessorOf<Self>,
        Self: Phase,
    {
        step_to(self, job)
    }
}

/// The two modes that order tasks to stop, and wait for them.
macro_rules! cooperative {
    ($mode:ty, $worker_mode:expr => $after:ident, $evidence:ident $(, $request:pat => $milder:ident)?) => {
        impl Stopping<$mode> {
            /// Sends the stop order to every worker at once, waits for every task to end, releases
            /// the workers and verifies that none is left. The deadline, a refused order, a failed
            /// task and a lost worker lead to force at once; they are not errors but decisions.
            ///
            /// # Errors
            /// - [`StepError::Scheduler`], [`StepError::StillAlive`], [`StepError::Appeared`]: the
            ///   tasks have ended, but workers are not gone. Run it again.
            /// - [`StepError::WrongJob`]: the job is not in this phase.
            ///
            /// # Cancel safety
            /// Safe: call it again to continue. This does not send any worker its order twice.
            pub async fn run<C: JobController, S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
                work::run(self, job).await
            }

            /// Runs, then steps.
            ///
            /// # Errors
            /// As for [`run`](Self::run); [`StepFailed`] holds the phase.
            ///
            /// # Cancel safety
            /// Safe: if it is dropped, the phase stays in the job; [`JobContext::take_parked`]
            /// returns it.
            pub fn next<C: JobController, S: Scheduler>(
                self,
                job: &mut JobContext<C, S>,
            ) -> impl Future<Output = Result<$after, StepFailed<Self>>> {
                work::next(self, job)
            }
        }

        impl<C: JobController> Work<C> for Stopping<$mode> {
            type Exit = Exit;
            type After = $after;

            fn decided(&mut self) -> &mut Option<Exit> {
                &mut self.decided
            }

            async fn work<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
                self.stop($worker_mode, <Stopped<$evidence> as Phase>::KIND, job).await
            }

            fn step<S>(self, exit: Exit, job: &mut JobContext<C, S>) -> $after {
                match exit {
                    Exit::Stopped(gone) => {
                        let evidence = $evidence::proven(job.controller.status().last_complete);
                        let witness = gone.witness(job);
                        $after::Stopped(job.enter(self, (evidence, witness), ReasonKind::Done))
                    }
                    $( Exit::Request(request @ $request) => $after::$milder(job.enter(self, (), request)), )?
                    Exit::Request(request) => $after::Force(job.enter(self, (), request)),
                    Exit::Failed(reason) => $after::Force(job.enter(self, (), reason)),
                }
            }

            fn is_stopped(exit: &Exit) -> bool {
                matches!(exit, Exit::Stopped(_))
            }

            async fn look_again<S: Scheduler>(&mut self, exit: Exit, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
                Ok(match exit {
                    Exit::Stopped(gone) => Exit::Stopped(self.releasing.look_again(gone, job).await?),
                    other => other,
                })
            }
        }

        #[diagnostic::do_not_recommend]
        impl Mode for $mode {
            type Exit = Exit;

            fn forced<C, S>(
                stopping: Stopping<Self>,
                reason: Reason,
                job: &mut JobContext<C, S>,
            ) -> Result<AnyPhase, StepFailed<Stopping<Self>>> {
                to_force(stopping, reason, job)
            }
        }
    };
}

cooperative!(Graceful, WorkerStopMode::Graceful => AfterGraceful, Drained, StopRequest::Immediate => Immediate);
cooperative!(Immediate, WorkerStopMode::Immediate => AfterImmediate, Halted);

impl<M: StopMode> Stopping<M>
where
    Self: Phase,
{
    async fn stop<C: JobController, S: Scheduler>(
        &mut self,
        mode: WorkerStopMode,
        terminal: PhaseKind,
        job: &mut JobContext<C, S>,
    ) -> Result<Exit, StepError> {
        if self.releasing.is_before_the_end() {
            job.write_down_status(Self::KIND).await?;
        }
        let ended = if self.releasing.is_before_the_end() { self.stop_tasks(mode, job).await } else { Ended::All };
        match ended {
            Ended::All => {
                let gone = release(job, &mut self.releasing).await?;
                Ok(Exit::Stopped(self.releasing.end(gone, terminal, job).await?))
            }
            Ended::Request(request) => Ok(Exit::Request(request)),
            Ended::Badly(failure) => {
                job.note_error(&failure);
                Ok(Exit::Failed(job.why(&failure)))
            }
            Ended::Lost => {
                let reason = job.why_lost();
                job.note_error(&reason);
                Ok(Exit::Failed(reason))
            }
        }
    }

    async fn stop_tasks<C: JobController, S>(&mut self, mode: WorkerStopMode, job: &mut JobContext<C, S>) -> Ended {
        // Once per call: repeating the command resends what has failed, which is only for retries.
        let (mut ask, mut late) = (true, false);
        loop {
            let status = job.controller.status();
            // In an immediate stop, a task that failed before has ended; a graceful stop can't
            // drain through it.
            let tolerated = match mode {
                WorkerStopMode::Graceful => 0,
                WorkerStopMode::Immediate => *self.failures_before.get_or_insert(status.failures),
            };
            // The newest one: the first may be the reason for this stop.
            if let Some(failure) = job.controller.latest_failure().filter(|_| status.failures > tolerated) {
                return Ended::Badly(failure.clone().into());
            }
            if job.controller.has_lost_worker() {
                return Ended::Lost;
            }
            if status.all_ended() {
                return Ended::All;
            }
            if late {
                return Ended::Badly(StepError::BudgetSpent { phase: Self::KIND, budget: self.entry.budget(), status });
            }
            if std::mem::take(&mut ask) {
                job.controller.begin_stop(mode);
            }
            match news(job, Self::KIND.fulfils(), self.entry.deadline).await {
                Ok(News::Status) => {}
                Ok(News::Request(request)) => return Ended::Request(request),
                // Messages were handled meanwhile: one of them may have been the last.
                Ok(News::Deadline) => late = true,
                Err(error) => return Ended::Badly(error.into()),
            }
        }
    }
}

/// How the wait for the tasks ended.
enum Ended {
    /// Every task has ended.
    All,
    /// A stronger stop was requested.
    Request(StopRequest),
    /// Some task will not end by itself.
    Badly(StepError),
    /// A worker was lost earlier, so no order reaches its tasks.
    Lost,
}

impl Stopping<Force> {
    /// One attempt: makes the scheduler kill the run's workers, then verifies that it lists none.
    /// It needs no controller.
    ///
    /// # Errors
    /// - [`StepError::Scheduler`], [`StepError::StillAlive`], [`StepError::Appeared`]: workers may
    ///   be alive. Run it again.
    /// - [`StepError::WrongJob`]: the job is not in this phase.
    ///
    /// # Cancel safety
    /// Safe: call it again; killing is idempotent.
    pub async fn run<C: Send, S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<(), StepError> {
        work::run(self, job).await
    }

    /// Runs, then steps.
    ///
    /// # Errors
    /// As for [`run`](Self::run); [`StepFailed`] holds the phase.
    ///
    /// # Cancel safety
    /// Safe: if it is dropped, the phase is kept in the job; [`JobContext::take_parked`] gives it
    /// back.
    pub fn next<C: Send, S: Scheduler>(
        self,
        job: &mut JobContext<C, S>,
    ) -> impl Future<Output = Result<AfterForce, StepFailed<Self>>> {
        work::next(self, job)
    }
}

impl<C: Send> Work<C> for Stopping<Force> {
    type Exit = NothingAlive;
    type After = AfterForce;

    fn decided(&mut self) -> &mut Option<NothingAlive> {
        &mut self.decided
    }

    async fn work<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<NothingAlive, StepError> {
        if self.releasing.is_before_the_end() {
            job.write_down(PhaseKind::StoppingForce).await?;
        }
        let gone = self.releasing.kill(job).await?;
        self.releasing.end(gone, PhaseKind::StoppedKilled, job).await
    }

    fn step<S>(self, gone: NothingAlive, job: &mut JobContext<C, S>) -> AfterForce {
        let witness = gone.witness(job);
        AfterForce::Stopped(job.enter(self, (Killed::proven(gone.confirmed_by()), witness), ReasonKind::Done))
    }

    fn is_stopped(_: &NothingAlive) -> bool {
        true
    }

    async fn look_again<S: Scheduler>(
        &mut self,
        gone: NothingAlive,
        job: &mut JobContext<C, S>,
    ) -> Result<NothingAlive, StepError> {
        self.releasing.look_again(gone, job).await
    }
}

#[diagnostic::do_not_recommend]
impl Mode for Force {
    type Exit = NothingAlive;

    fn forced<C, S>(
        stopping: Stopping<Self>,
        _: Reason,
        _: &mut JobContext<C, S>,
    ) -> Result<AnyPhase, StepFailed<Stopping<Self>>> {
        Ok(stopping.into())
    }
}

impl<M: StopMode> fmt::Debug for Stopping<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopping")
            .field("behavior", &M::BEHAVIOR)
            .field("since", &self.entry.since)
            .field("deadline", &self.entry.deadline)
            .field("decided", &self.decided)
            .finish_non_exhaustive()
    }
}
