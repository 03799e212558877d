//! The context of one job: what every phase needs, and the phases so far.

mod builder;

pub use builder::JobBuilder;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::watch, time::Instant};

use super::{
    Call, Phases, Progress, Reason, Visit, journaling::Journaling, live::Live, progress::LiveProgress, trail::LiveTrail,
};
use crate::{
    clock::MOMENT,
    contracts::{Attach, Detached, JobController, JobId, OpenRun, RunId, RunStatus, Scheduler, StopRequest, WorkerId},
    limits::Limits,
    machine::{
        AnyPhase, BuildError, Force, HealthWatch, Phase, PhaseKind, Running, StepError, Stopping, SuccessorOf,
        WrongJob,
        phases::sealed::{Entry, Mint},
    },
    mailbox::{JobSender, Mailbox},
};

/// One job under shutdown control: its names, controller, scheduler, mailbox and limits.
///
/// [`JobContext::new`] returns the only [`Running`] of the job; every other phase is reached from
/// there by edges. The context knows which phase the job is in, so using a phase with the wrong job
/// is an error and not a wrong step.
pub struct JobContext<C, S> {
    pub(crate) id: JobId,
    pub(crate) run: RunId,
    pub(crate) controller: C,
    pub(crate) scheduler: S,
    pub(crate) mailbox: Mailbox,
    pub(crate) limits: Arc<Limits>,
    /// Boxed, because it is rarely present.
    pub(crate) parked: Option<Box<AnyPhase>>,
    pub(crate) health: HealthWatch,
    pub(super) journaling: Journaling,
    superseded: bool,
    identity: u64,
    trail: LiveTrail,
    pub(crate) progress: LiveProgress,
    live: Live,
}

/// Identities are never reused in a process, so a phase can't be mistaken for another job's.
fn new_identity() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl JobContext<Detached, ()> {
    /// Starts to build the job of a run, with your own limits, mailbox or journal.
    pub fn builder(open: &OpenRun) -> JobBuilder {
        JobBuilder::new(open)
    }
}

impl<C, S> JobContext<C, S> {
    /// A running job with default [`Limits`], and the only `Running` that it will ever have.
    ///
    /// # Errors
    /// [`BuildError`]: the controller is another run's, or the run has a context in this process
    /// already.
    #[track_caller]
    pub fn new(open: &OpenRun, controller: C, scheduler: S) -> Result<(Self, Running), BuildError>
    where
        C: Attach,
    {
        JobContext::builder(open).build(controller, scheduler)
    }

    /// The job's name.
    pub fn id(&self) -> &JobId {
        &self.id
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The limits.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// The controller.
    pub fn controller(&self) -> &C {
        &self.controller
    }

    /// The scheduler.
    pub fn scheduler(&self) -> &S {
        &self.scheduler
    }

    /// The phase that the job is in.
    pub fn phase(&self) -> PhaseKind {
        self.trail.phase()
    }

    /// The phases so far, the current one last.
    pub fn walked(&self) -> &[Visit] {
        self.trail.visits()
    }

    /// The strongest stop request so far.
    pub fn requested(&self) -> Option<StopRequest> {
        self.mailbox.requested()
    }

    /// Whether another run of the job may be started once this one has stopped: only if no stop was
    /// requested (invariant I8), and no newer run or other controller has taken the job over
    /// (invariant I11).
    pub fn may_restart(&self) -> bool {
        self.requested().is_none() && !self.superseded
    }

    /// Marks that another controller drives the job from now on.
    pub(crate) fn note_superseded(&mut self) {
        self.superseded = true;
    }

    /// A sender of stop requests and worker messages to the job.
    pub fn sender(&self) -> JobSender {
        self.mailbox.sender()
    }

    /// Live progress: the newest phase and the newest figures. A slow receiver misses intermediate
    /// values; [`phases`](Self::phases) skips no phase.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Every phase that the job enters, including those before this call, each with its reason.
    /// None is skipped, however slow the reader is.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use winddown::{prelude::*, testing::scripted::ScriptedScheduler};
    ///
    /// let open = OpenRun::without_store("words", RunId::new(1));
    /// let (mut job, running) = JobContext::new(&open, Detached, ScriptedScheduler::new([1]))?;
    /// let mut phases = job.phases();
    /// drop(drive(running, &mut job, &Policy::escalate()).await?);
    /// while let Some(visit) = phases.next().await {
    ///     println!("{}: {}", visit.phase, visit.reason());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn phases(&self) -> Phases {
        self.trail.follow()
    }

    /// Makes the scheduler notify this job at once when a worker of its run is gone, whatever ended
    /// it. Without this call, a dead worker is noticed only when no heartbeat has arrived for
    /// [`Limits::heartbeat`].
    ///
    /// The notification is [`Event::WorkerFinished`](crate::contracts::Event::WorkerFinished): it
    /// changes nothing after the worker's own last report, and is a failure of the run before that.
    /// Workers that were gone before this call are also reported.
    pub fn hear_of_ends(&self)
    where
        S: Scheduler,
    {
        self.scheduler.report_ends(&self.id, self.run, Arc::new(self.sender()));
    }

    /// The phase of a [`drive`](crate::drive::drive) or a `next` that was dropped before its end;
    /// continue with it.
    pub fn take_parked(&mut self) -> Option<AnyPhase> {
        self.parked.take().map(|phase| *phase)
    }

    /// Separates the job from its controller, and returns both. What remains is to kill the
    /// workers. A parked phase stays with the job.
    pub fn detach(self) -> (JobContext<Detached, S>, C) {
        self.replace_controller(Detached)
    }

    /// Goes to `Stopping<Force>`, for a job whose phase was lost. An existing phase value of the
    /// job can't be used any more.
    ///
    /// # Errors
    /// The job itself, if it has stopped already.
    #[expect(clippy::type_complexity, reason = "the parts of the job, each under its own name")]
    pub fn force(mut self) -> Result<(JobContext<Detached, S>, Stopping<Force>, C), Box<Self>> {
        let from = self.phase();
        if from.is_terminal() {
            return Err(Box::new(self));
        }
        if from == PhaseKind::Running {
            // As `Running::force` does; the context holds the mailbox, so the lane is open.
            let _ = self.sender().request(StopRequest::Force);
        }
        self.parked = None;
        self.identity = new_identity();
        let entry = Entry::new(self.identity, Instant::now(), None);
        // Every nonterminal phase except force itself has an edge to force.
        if from != PhaseKind::StoppingForce {
            let reason = Reason::from(StopRequest::Force);
            self.log_step(from, PhaseKind::StoppingForce, &reason);
            self.note_entered(PhaseKind::StoppingForce, entry, reason);
        }
        let (job, controller) = self.detach();
        Ok((job, Stopping::mint(entry, ()), controller))
    }

    fn replace_controller<D>(self, controller: D) -> (JobContext<D, S>, C) {
        let Self {
            id,
            run,
            controller: before,
            scheduler,
            mailbox,
            limits,
            parked,
            health,
            journaling,
            superseded,
            identity,
            trail,
            progress,
            live,
        } = self;
        let job = JobContext {
            id,
            run,
            controller,
            scheduler,
            mailbox,
            limits,
            parked,
            health,
            journaling,
            superseded,
            identity,
            trail,
            progress,
            live,
        };
        (job, before)
    }

    /// The run-time half of the proof: the phase belongs to this job, and the job is in it.
    #[inline]
    pub(crate) fn check<P: Phase>(&self, phase: &P) -> Result<(), StepError> {
        let same_job = phase.entry().identity == self.identity;
        if same_job && self.phase() == P::KIND { Ok(()) } else { Err(self.wrong_job(P::KIND, same_job)) }
    }

    #[cold]
    fn wrong_job(&self, used: PhaseKind, same_job: bool) -> StepError {
        StepError::WrongJob(WrongJob { job: self.id.clone(), job_phase: self.phase(), used, same_job })
    }

    /// Takes an edge for this reason. This is the only way to a phase other than the first.
    pub(crate) fn enter<F: Phase, T: SuccessorOf<F>>(
        &mut self,
        from: F,
        proof: T::Proof,
        reason: impl Into<Reason>,
    ) -> T {
        let budget = T::budget(&self.limits);
        self.enter_within(from, proof, reason.into(), budget)
    }

    /// The same with a different budget than the phase's own.
    #[allow(clippy::needless_pass_by_value, reason = "the phase that is left must not be usable any more")]
    pub(crate) fn enter_within<F: Phase, T: SuccessorOf<F>>(
        &mut self,
        from: F,
        proof: T::Proof,
        reason: Reason,
        budget: Option<std::time::Duration>,
    ) -> T {
        let entry = Entry::new(from.entry().identity, Instant::now(), budget);
        self.log_step(F::KIND, T::KIND, &reason);
        self.note_entered(T::KIND, entry, reason);
        T::mint(entry, proof)
    }

    fn note_entered(&mut self, phase: PhaseKind, entry: Entry, reason: Reason) {
        self.trail.push(Visit::new(phase, entry.since, reason.clone()));
        let requested = self.requested();
        self.progress.change(|progress| {
            progress.phase = phase;
            progress.since = entry.since;
            progress.deadline = entry.deadline;
            progress.requested = requested;
            progress.reason = reason;
            progress.start_over();
            true
        });
    }

    /// An escalation is a warning, because a milder stop was requested. Texts are formatted only if
    /// a subscriber wants them.
    #[inline]
    fn log_step(&self, from: PhaseKind, to: PhaseKind, reason: &Reason) {
        macro_rules! say {
            ($level:ident, $before:literal) => {
                tracing::$level!(
                    job = %self.id, run = self.run.get(), from = from.tag(), to = to.tag(), reason = reason.kind().tag(),
                    workers = reason.workers_text(), tasks = reason.tasks_text(), concat!($before, "{}"), reason
                )
            };
        }
        if !reason.escalates(from, to) {
            say!(info, "");
        } else if loses_checkpoint(from, to) {
            say!(warn, "the final checkpoint is lost: ");
        } else {
            say!(warn, "");
        }
    }

    /// Why a worker counts as lost: the failure that shows it, or just the fact.
    pub(crate) fn why_lost(&self) -> Reason
    where
        C: JobController,
    {
        let failures = [self.controller.latest_failure(), self.controller.failure()];
        let lost = failures.into_iter().flatten().find(|failure| failure.is_lost_worker());
        lost.map_or_else(|| Reason::lost(self.controller.lost_workers()), Reason::from)
    }

    /// Why a phase gives up.
    pub(crate) fn why(&self, failure: &StepError) -> Reason
    where
        C: JobController,
    {
        Reason::of(failure, || self.controller.waits_for())
    }

    /// Publishes the newest figures. It costs a comparison if nothing changed, and less without
    /// watchers.
    pub(crate) fn publish_status(&mut self)
    where
        C: JobController,
    {
        if self.progress.is_watched() {
            let (status, requested) = (self.controller.status(), self.requested());
            self.publish(|progress| {
                replace(&mut progress.status, status) | replace(&mut progress.requested, requested)
            });
        }
    }

    /// Asks the controller what the run waits for, at most once per
    /// [`Limits::health_every`], and only for watchers.
    pub(crate) fn publish_holdups(&mut self, now: Instant)
    where
        C: JobController,
    {
        let is_wanted = self.progress.is_watched() && self.phase() != PhaseKind::Running;
        let every = self.limits.health_every.max(MOMENT);
        if !is_wanted || self.progress.asked().is_some_and(|asked| now.saturating_duration_since(asked) < every) {
            return;
        }
        let holdups = self.controller.holdups();
        self.publish(|progress| {
            let is_new = progress.holdups() != Some(&holdups);
            progress.set_holdups(Some(holdups));
            progress.set_asked(now);
            is_new
        });
    }

    /// The call of a collaborator that is waited for from now on.
    pub(crate) fn note_call(&mut self, call: Option<Call>) {
        self.progress.note_call(call);
    }

    /// Keeps why the phase has failed.
    pub(crate) fn note_failure(&mut self, failure: &StepError) {
        self.note_error(failure);
        let reason = Reason::of(failure, Vec::new);
        self.publish(|progress| {
            progress.add_trouble(reason);
            progress.clear_call();
            true
        });
    }

    pub(crate) fn publish_alive(&mut self, alive: &[WorkerId]) {
        let count = u32::try_from(alive.len()).unwrap_or(u32::MAX);
        self.publish(|progress| {
            progress.set_alive(alive);
            progress.clear_call();
            replace(&mut progress.alive, Some(count))
        });
    }

    pub(crate) fn publish_deadline(&mut self, deadline: Option<Instant>) {
        self.publish(|progress| replace(&mut progress.deadline, deadline));
    }

    pub(crate) fn note_error(&mut self, error: &dyn fmt::Display) {
        self.progress.note_error(error);
    }

    pub(crate) fn note_retry(&mut self) {
        self.publish(|progress| {
            progress.retries += 1;
            true
        });
    }

    /// The newest figures, without waiting for a change.
    pub fn progress_now(&self) -> Progress {
        self.progress.now()
    }

    fn publish(&mut self, change: impl FnOnce(&mut Progress) -> bool) {
        self.progress.change(change);
    }

    /// What is known about the run.
    pub fn status(&self) -> RunStatus
    where
        C: JobController,
    {
        self.controller.status()
    }

    pub(crate) fn span(&self, phase: PhaseKind) -> tracing::Span {
        tracing::info_span!("winddown", job = %self.id, run = self.run.get(), phase = phase.tag())
    }
}

/// Whether a step gives up a final checkpoint.
fn loses_checkpoint(from: PhaseKind, to: PhaseKind) -> bool {
    matches!(from, PhaseKind::Finishing | PhaseKind::CheckpointStopping)
        && matches!(to, PhaseKind::StoppingImmediate | PhaseKind::StoppingForce)
}

fn replace<T: PartialEq>(place: &mut T, value: T) -> bool {
    let changed = *place != value;
    if changed {
        *place = value;
    }
    changed
}

impl<C, S> fmt::Debug for JobContext<C, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JobContext")
            .field("id", &self.id)
            .field("run", &self.run)
            .field("phase", &self.phase())
            .field("requested", &self.requested())
            .finish_non_exhaustive()
    }
}
