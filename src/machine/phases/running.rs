//! The job runs until it is asked to stop, or ends for another reason.

use tokio::time::Instant;

use super::{
    CheckpointStopping, Finishing, Recovering, Stopping,
    sealed::{Entry, Mint},
    wait::{News, news},
    work::{self, Work, to_force},
};
use crate::{
    contracts::{JobController, Scheduler, StopRequest},
    limits::Limits,
    machine::{
        AfterRunning, AnyPhase, Force, Graceful, Immediate, JobContext, Phase, PhaseKind, Reason, ReasonKind,
        StepError, StepFailed, SuccessorOf,
    },
};

/// The job runs. The first phase: [`JobContext::new`] returns the only one of each job.
///
/// A program with its own running loop need not wait here: [`stop`](Self::stop) and its siblings
/// return the next phase at once.
#[derive(Debug)]
#[must_use = "a running job whose phase is dropped can't be stopped safely any more"]
pub struct Running {
    entry: Entry,
    decided: Option<Exit>,
}

#[derive(Clone, Debug)]
pub(crate) enum Exit {
    Request(StopRequest),
    TtlExpired,
    SourcesExhausted,
    RunFailed(Reason),
}

#[diagnostic::do_not_recommend]
impl Mint for Running {
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

    fn budget(limits: &Limits) -> Option<std::time::Duration> {
        limits.ttl
    }
}

impl Running {
    /// Waits for a stop request, the TTL, the end of the sources, or a failure. Meanwhile it
    /// handles messages and takes periodic checkpoints. An error of a periodic checkpoint is stored
    /// in the progress, and the job continues, unless no retry can succeed, for example because a
    /// newer run has fenced this one. Then the run has failed.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    ///
    /// # Cancel safety
    /// Safe: call it again to go on.
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
    ) -> impl Future<Output = Result<AfterRunning, StepFailed<Self>>> {
        work::next(self, job)
    }

    fn on_request<C: JobController, S>(
        self,
        request: StopRequest,
        reason: Reason,
        job: &mut JobContext<C, S>,
    ) -> AfterRunning {
        match request {
            StopRequest::Checkpoint => AfterRunning::CheckpointStopping(job.enter(self, (), reason)),
            StopRequest::Graceful => AfterRunning::Graceful(job.enter(self, (), reason)),
            StopRequest::Immediate => AfterRunning::Immediate(job.enter(self, (), reason)),
            StopRequest::Force => AfterRunning::Force(job.enter(self, (), reason)),
        }
    }

    /// Stops as `request` says, or as a stronger request that is already in effect. The request is
    /// in effect from then on.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn stop<C: JobController, S>(
        self,
        request: StopRequest,
        job: &mut JobContext<C, S>,
    ) -> Result<AfterRunning, StepFailed<Self>> {
        if let Err(failure) = job.check(&self) {
            return Err(StepFailed::new(self, failure));
        }
        let request = job.requested().map_or(request, |in_force| in_force.max(request));
        record(job, request);
        Ok(self.on_request(request, request.into(), job))
    }

    /// Stops with a final checkpoint. It needs a job with a controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn stop_with_checkpoint<C: JobController, S>(
        self,
        job: &mut JobContext<C, S>,
    ) -> Result<CheckpointStopping, StepFailed<Self>> {
        self.stop_as(StopRequest::Checkpoint, job)
    }

    /// Stops the sources and processes what has been read to the end. It needs a job with a
    /// controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn stop_gracefully<C: JobController, S>(
        self,
        job: &mut JobContext<C, S>,
    ) -> Result<Stopping<Graceful>, StepFailed<Self>> {
        self.stop_as(StopRequest::Graceful, job)
    }

    /// Stops every task where it is. It needs a job with a controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn stop_immediately<C: JobController, S>(
        self,
        job: &mut JobContext<C, S>,
    ) -> Result<Stopping<Immediate>, StepFailed<Self>> {
        self.stop_as(StopRequest::Immediate, job)
    }

    /// Makes the scheduler kill the workers. It needs no controller.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn force<C, S>(self, job: &mut JobContext<C, S>) -> Result<Stopping<Force>, StepFailed<Self>> {
        self.stop_as(StopRequest::Force, job)
    }

    /// All sources have completed, as your own running loop has found out.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn finish<C: JobController, S>(self, job: &mut JobContext<C, S>) -> Result<Finishing, StepFailed<Self>> {
        step_to(self, job)
    }

    /// A task failed or a worker was lost, as your own running loop has found out.
    ///
    /// # Errors
    /// [`StepError::WrongJob`] when the job is not in this phase.
    pub fn recover<C, S>(self, job: &mut JobContext<C, S>) -> Result<Recovering, StepFailed<Self>> {
        step_to(self, job)
    }

    fn stop_as<To, C, S>(self, request: StopRequest, job: &mut JobContext<C, S>) -> Result<To, StepFailed<Self>>
    where
        To: SuccessorOf<Self> + Mint<Proof = ()>,
    {
        let next = step_for(self, request.into(), job)?;
        record(job, request);
        Ok(next)
    }

    /// How long the job has been running.
    pub fn elapsed(&self) -> std::time::Duration {
        Instant::now() - self.entry.since
    }
}

impl<C: JobController> Work<C> for Running {
    type Exit = Exit;
    type After = AfterRunning;

    fn decided(&mut self) -> &mut Option<Exit> {
        &mut self.decided
    }

    async fn work<S: Scheduler>(&mut self, job: &mut JobContext<C, S>) -> Result<Exit, StepError> {
        job.write_down_status(PhaseKind::Running).await?;
        Ok(wait(job, self.entry).await)
    }

    fn step<S>(self, exit: Exit, job: &mut JobContext<C, S>) -> AfterRunning {
        match exit {
            Exit::Request(request) => self.on_request(request, request.into(), job),
            Exit::RunFailed(reason) => AfterRunning::Recovering(job.enter(self, (), reason)),
            Exit::SourcesExhausted => AfterRunning::Finishing(job.enter(self, (), ReasonKind::SourcesExhausted)),
            // The end of its time is a stop that was asked for in advance: no run follows
            // (invariant I8).
            Exit::TtlExpired => {
                record(job, StopRequest::Immediate);
                AfterRunning::Immediate(job.enter(self, (), ReasonKind::TtlExpired))
            }
        }
    }
}

async fn wait<C: JobController, S>(job: &mut JobContext<C, S>, entry: Entry) -> Exit {
    loop {
        let status = job.controller.status();
        if let Some(request) = job.requested() {
            return Exit::Request(request);
        }
        if status.failures > 0 {
            let Some(failure) = job.controller.failure().cloned() else {
                return Exit::RunFailed(ReasonKind::ControllerFailed.into());
            };
            job.note_error(&failure);
            return Exit::RunFailed(Reason::from(&failure));
        }
        if status.sources_exhausted() || status.all_finished() {
            return Exit::SourcesExhausted;
        }
        match news(job, PhaseKind::Running.fulfils(), entry.deadline).await {
            Ok(News::Status) => {}
            Ok(News::Request(request)) => return Exit::Request(request),
            Ok(News::Deadline) => return Exit::TtlExpired,
            Err(error) => {
                tracing::warn!(%error, "the controller reported an error while the job runs");
                job.note_error(&error);
                if !error.is_retryable() {
                    if error.is_fenced() {
                        job.note_superseded();
                    }
                    return Exit::RunFailed(Reason::from(&error));
                }
            }
        }
    }
}

/// The request counts as one of a user: watchers see it, and the job is not restarted (invariant
/// I8).
fn record<C, S>(job: &JobContext<C, S>, request: StopRequest) {
    // The context holds the mailbox, so the lane is open; an equal or stronger request in effect is
    // fine, too.
    let _ = job.sender().request(request);
}

/// Takes an edge that needs no evidence, after the run-time check, because the program called a
/// method of the phase.
#[inline]
pub(super) fn step_to<From, To, C, S>(from: From, job: &mut JobContext<C, S>) -> Result<To, StepFailed<From>>
where
    From: Phase,
    To: SuccessorOf<From> + Mint<Proof = ()>,
{
    step_for(from, ReasonKind::Program.into(), job)
}

/// The same for a reason.
#[inline]
pub(crate) fn step_for<From, To, C, S>(
    from: From,
    reason: Reason,
    job: &mut JobContext<C, S>,
) -> Result<To, StepFailed<From>>
where
    From: Phase,
    To: SuccessorOf<From> + Mint<Proof = ()>,
{
    match job.check(&from) {
        Ok(()) => Ok(job.enter(from, (), reason)),
        Err(failure) => Err(StepFailed::new(from, failure)),
    }
}
