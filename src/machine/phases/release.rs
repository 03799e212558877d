//! The end of every shutdown: workers leave or are killed, and then the scheduler is asked whether
//! any is alive (invariant I2). When workers are released, the evidence is already proven, so
//! killing one that does not leave loses nothing.

use std::{
    pin::{Pin, pin},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::wait::{News, news, pause, take_in};
use crate::{
    clock::{MOMENT, after},
    contracts::{ConfirmedBy, JobController, JobId, OpenRun, RunId, Scheduler, SchedulerError, StopRequest, WorkerId},
    machine::{Call, JobContext, PhaseKind, Reason, ReasonKind, StepError, progress::LiveProgress},
    mailbox::{Incoming, Mailbox},
    text::shortened,
};

/// Proof that the scheduler, asked after the last order, listed no worker of the run. Only this
/// module makes it.
#[derive(Clone, Copy, Debug)]
pub struct NothingAlive {
    forced: bool,
    confirmed_by: ConfirmedBy,
    at: Instant,
}

impl NothingAlive {
    /// For the four places that have just received an empty list.
    fn listed_none<S: Scheduler>(forced: bool, job: &JobId, run: RunId, scheduler: &S) -> Self {
        Self { forced, confirmed_by: scheduler.confirmed_by(job, Some(run)), at: Instant::now() }
    }

    /// Who confirmed it.
    pub(crate) fn confirmed_by(self) -> ConfirmedBy {
        self.confirmed_by
    }

    /// Whether workers had to be killed.
    pub(crate) fn forced(self) -> bool {
        self.forced
    }
}

/// The progress of a release. It is stored in the phase, so that a dropped `run` continues where it
/// was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Releasing {
    deadline: Option<Instant>,
    forced: bool,
    /// The proof; only the end remains to be recorded.
    gone: Option<NothingAlive>,
    /// The end is recorded, or may be: the record does not go back from there.
    is_written: bool,
}

impl Releasing {
    pub(super) fn is_done(&self) -> bool {
        self.gone.is_some()
    }

    /// Whether to record that the phase is about to act.
    pub(super) fn is_before_the_end(&self) -> bool {
        !self.is_done() && !self.is_written
    }

    /// Records the end. A worker may have appeared meanwhile, so the scheduler is asked again if
    /// its answer is older than [`Limits::verify_every`](crate::limits::Limits::verify_every) by
    /// then.
    pub(super) async fn end<C, S: Scheduler>(
        &mut self,
        gone: NothingAlive,
        terminal: PhaseKind,
        job: &mut JobContext<C, S>,
    ) -> Result<NothingAlive, StepError> {
        self.is_written = true;
        job.write_down_end(terminal, gone).await?;
        if gone.at.elapsed() <= job.limits.verify_every {
            return Ok(gone);
        }
        self.look_again(gone, job).await
    }

    /// Asks the scheduler again, right before the step. Workers that have appeared are killed when
    /// the phase is run again.
    pub(super) async fn look_again<C, S: Scheduler>(
        &mut self,
        gone: NothingAlive,
        job: &mut JobContext<C, S>,
    ) -> Result<NothingAlive, StepError> {
        job.note_call(Some(Call::WorkersForJob));
        let alive = alive_by(after(job.limits.kill), &job.id, job.run, &job.scheduler).await?;
        job.publish_alive(&alive);
        if alive.is_empty() {
            let gone = NothingAlive::listed_none(gone.forced, &job.id, job.run, &job.scheduler);
            self.gone = Some(gone);
            return Ok(gone);
        }
        (self.gone, self.forced) = (None, true);
        Err(StepError::Appeared { workers: alive })
    }

    /// Kills the workers, unless it is proven that none is alive.
    pub(super) async fn kill<C, S: Scheduler>(
        &mut self,
        job: &mut JobContext<C, S>,
    ) -> Result<NothingAlive, StepError> {
        if let Some(gone) = self.gone {
            return Ok(gone);
        }
        let gone = kill(job).await?;
        self.gone = Some(gone);
        Ok(gone)
    }
}

/// Asks the workers to leave, kills those that don't, and verifies that none is left.
pub(crate) async fn release<C: JobController, S: Scheduler>(
    job: &mut JobContext<C, S>,
    state: &mut Releasing,
) -> Result<NothingAlive, StepError> {
    let deadline = *state.deadline.get_or_insert_with(|| after(job.limits.release));
    if !state.forced && !state.is_done() {
        job.publish_deadline(Some(deadline));
        match leave(job, deadline).await {
            Ok(gone) => state.gone = Some(gone),
            Err(reason) => {
                job.note_error(&reason);
                let reason = Reason::from(reason);
                tracing::warn!(
                    job = %job.id, run = job.run.get(), reason = reason.kind().tag(), workers = reason.workers_text(),
                    "killing what is left of the run: {reason}"
                );
                state.forced = true;
            }
        }
    }
    state.kill(job).await
}

/// Why workers are killed after all.
#[derive(Debug, thiserror::Error)]
enum NotLeft {
    #[error("a force request")]
    Forced,
    #[error("workers {} are still there at the end of the release time", shortened(_0.iter()))]
    Late(Vec<WorkerId>),
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
}

impl From<NotLeft> for Reason {
    fn from(reason: NotLeft) -> Self {
        let said = reason.to_string();
        match reason {
            NotLeft::Forced => StopRequest::Force.into(),
            NotLeft::Late(workers) => Self::about(ReasonKind::NotLeft, workers, vec![], &said),
            NotLeft::Scheduler(_) => Self::about(ReasonKind::SchedulerFailed, vec![], vec![], &said),
        }
    }
}

async fn leave<C: JobController, S: Scheduler>(
    job: &mut JobContext<C, S>,
    deadline: Instant,
) -> Result<NothingAlive, NotLeft> {
    tell_workers(job, deadline).await?;
    let mut told = Told::default();
    loop {
        if told.is_due() {
            job.note_call(Some(Call::StopWorkers));
            let JobContext { id, run, controller, scheduler, mailbox, limits, progress, .. } = job;
            let asked =
                in_time("stop_workers", limits.release, deadline, scheduler.stop_workers(id, Some(*run), false));
            attended(controller, mailbox, progress, pin!(asked)).await?;
        }
        job.note_call(Some(Call::WorkersForJob));
        let JobContext { id, run, controller, scheduler, mailbox, progress, .. } = job;
        let alive = attended(controller, mailbox, progress, pin!(alive_by(deadline, id, *run, scheduler))).await?;
        job.publish_alive(&alive);
        if alive.is_empty() {
            return Ok(NothingAlive::listed_none(false, &job.id, job.run, &job.scheduler));
        }
        if Instant::now() >= deadline {
            return Err(NotLeft::Late(alive));
        }
        told.listed(&alive);
        let until = deadline.min(after(job.limits.verify_every.max(MOMENT)));
        pause(job, Some(StopRequest::Immediate), until).await;
    }
}

/// Who was there when the last order was given. One that is listed and was not may have been
/// entered after the order, by a start that was under way: it is told as well, and not only waited
/// for.
#[derive(Default)]
struct Told {
    listed: Vec<WorkerId>,
    orders: u32,
    is_due: bool,
}

impl Told {
    /// Whether there is an order to be given, the first or one for a newcomer. It is given by this.
    fn is_due(&mut self) -> bool {
        let is_due = self.orders == 0 || std::mem::take(&mut self.is_due);
        self.orders += u32::from(is_due);
        is_due
    }

    /// These are alive after the last order.
    fn listed(&mut self, alive: &[WorkerId]) {
        // Whom the first order has found is known from here on; a scheduler may answer before they
        // are gone.
        self.is_due = alive.iter().any(|worker| !self.listed.contains(worker));
        self.listed = alive.to_vec();
    }
}

/// Tells every worker that it may leave; the scheduler handles those that do not answer.
async fn tell_workers<C: JobController, S>(job: &mut JobContext<C, S>, deadline: Instant) -> Result<(), NotLeft> {
    job.controller.begin_release();
    let until = deadline.min(after(job.limits.order));
    while job.controller.status().orders_outstanding > 0 {
        match news(job, Some(StopRequest::Immediate), Some(until)).await {
            Ok(News::Status) => {}
            Ok(News::Request(_)) => return Err(NotLeft::Forced),
            Ok(News::Deadline) => break,
            Err(error) => {
                tracing::debug!(%error, "some workers were not told that they may leave");
                break;
            }
        }
    }
    Ok(())
}

/// Waits for the scheduler and handles messages meanwhile, because a worker may have something to
/// report before it leaves; a force request cuts the wait short.
async fn attended<C: JobController, T>(
    controller: &mut C,
    mailbox: &mut Mailbox,
    progress: &mut LiveProgress,
    mut call: Pin<&mut impl Future<Output = Result<T, SchedulerError>>>,
) -> Result<T, NotLeft> {
    loop {
        if mailbox.stronger_than(Some(StopRequest::Immediate)).is_some() {
            return Err(NotLeft::Forced);
        }
        tokio::select! {
            biased;
            result = &mut call => return Ok(result?),
            incoming = mailbox.next(Some(StopRequest::Immediate)) => match incoming {
                Incoming::Request(_) => return Err(NotLeft::Forced),
                Incoming::Worker(event) => take_in(controller, progress, event),
            },
        }
    }
}

/// One attempt to kill the run's workers: gives the order, then queries until the answer is "none",
/// within the kill budget.
async fn kill<C, S: Scheduler>(job: &mut JobContext<C, S>) -> Result<NothingAlive, StepError> {
    let budget = job.limits.kill;
    let deadline = after(budget);
    job.publish_deadline(Some(deadline));
    let mut told = Told::default();
    loop {
        if told.is_due() {
            job.note_call(Some(Call::StopWorkers));
            let JobContext { id, run, scheduler, .. } = job;
            in_time("stop_workers", budget, deadline, scheduler.stop_workers(id, Some(*run), true)).await?;
        }
        job.note_call(Some(Call::WorkersForJob));
        let alive = alive_by(deadline, &job.id, job.run, &job.scheduler).await?;
        job.publish_alive(&alive);
        if alive.is_empty() {
            return Ok(NothingAlive::listed_none(true, &job.id, job.run, &job.scheduler));
        }
        if Instant::now() >= deadline {
            return Err(StepError::StillAlive { workers: alive, after: budget });
        }
        told.listed(&alive);
        sleep_until(deadline.min(after(job.limits.verify_every.max(MOMENT)))).await;
    }
}

/// Asks the scheduler for live workers. Even at the deadline the query gets a short time limit of
/// its own: "not asked" is not an answer.
fn alive_by<S: Scheduler>(
    deadline: Instant,
    job: &JobId,
    run: RunId,
    scheduler: &S,
) -> impl Future<Output = Result<Vec<WorkerId>, SchedulerError>> {
    let until = deadline.max(after(MOMENT));
    let given = until - Instant::now();
    in_time("workers_for_job", given, until, scheduler.workers_for_job(job, Some(run)))
}

/// A call of the scheduler that is given up at the deadline. Not an `async fn`, which would store
/// the call twice.
fn in_time<T>(
    call: &'static str,
    given: Duration,
    deadline: Instant,
    answer: impl Future<Output = Result<T, SchedulerError>>,
) -> impl Future<Output = Result<T, SchedulerError>> {
    timeout_at(deadline, answer)
        .map(move |answer| answer.unwrap_or(Err(SchedulerError::TimedOut { call, after: given })))
}

/// Asks a scheduler for live workers of a run; if there are none, that is the proof. `killed` says
/// whether they are known to have been killed.
pub(crate) async fn listed<S: Scheduler>(
    scheduler: &S,
    open: &OpenRun,
    killed: bool,
    within: Duration,
) -> Result<Result<NothingAlive, Vec<WorkerId>>, SchedulerError> {
    let alive = alive_by(after(within), open.job(), open.run(), scheduler).await?;
    if !alive.is_empty() {
        return Ok(Err(alive));
    }
    Ok(Ok(NothingAlive::listed_none(killed, open.job(), open.run(), scheduler)))
}
