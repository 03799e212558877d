//! The end of every shutdown: workers leave or are killed, and then the scheduler is asked whether any is alive (invariant I2).
//! By the time workers are released the evidence is proven, so killing one that does not leave loses nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::wait::{News, news, pause, take_in};
use crate::{
    contracts::{JobController, PhaseRecord, Scheduler, SchedulerError},
    error::Failure,
    ids::WorkerId,
    job::{Incoming, JobContext, StopRequest},
};

/// Proof that the scheduler, asked after the last order, listed no worker of the run. Made in this module alone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NothingAlive {
    forced: bool,
}

impl NothingAlive {
    /// Whether workers had to be killed.
    pub(crate) fn forced(self) -> bool {
        self.forced
    }
}

/// How far a release has come; it lives in the phase, so that a dropped `run` goes on where it was.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Releasing {
    deadline: Option<Instant>,
    forced: bool,
}

/// Lets the workers leave, kills those that don't, and verifies that none is left.
pub(crate) async fn release<C: JobController, S: Scheduler>(
    job: &mut JobContext<C, S>,
    state: &mut Releasing,
) -> Result<NothingAlive, Failure> {
    let deadline = *state.deadline.get_or_insert_with(|| Instant::now() + job.limits.release);
    if !state.forced {
        job.publish_deadline(Some(deadline));
        match leave(job, deadline).await {
            Ok(gone) => return Ok(gone),
            Err(reason) => {
                tracing::warn!(%reason, "workers did not leave by themselves; killing what is left of the run");
                job.note_error(&reason);
                state.forced = true;
            }
        }
    }
    kill(job).await
}

/// Why workers are killed after all.
#[derive(Debug, thiserror::Error)]
enum NotLeft {
    #[error("a force request")]
    Forced,
    #[error("{0} workers are still there at the end of the release time")]
    Late(usize),
    #[error(transparent)]
    Scheduler(#[from] SchedulerError),
}

async fn leave<C: JobController, S: Scheduler>(
    job: &mut JobContext<C, S>,
    deadline: Instant,
) -> Result<NothingAlive, NotLeft> {
    tell_workers(job, deadline).await?;
    stop_workers(job, deadline).await?;
    loop {
        let alive = alive_by(job, deadline).await?;
        if alive.is_empty() {
            return Ok(NothingAlive { forced: false });
        }
        if job.mailbox.stronger_than(Some(StopRequest::Immediate)).is_some() {
            return Err(NotLeft::Forced);
        }
        if Instant::now() >= deadline {
            return Err(NotLeft::Late(alive.len()));
        }
        let until = deadline.min(Instant::now() + job.limits.verify_every);
        pause(job, Some(StopRequest::Immediate), until).await;
    }
}

/// Tells every worker that it may leave; one that does not answer is the scheduler's business.
async fn tell_workers<C: JobController, S>(job: &mut JobContext<C, S>, deadline: Instant) -> Result<(), NotLeft> {
    job.controller.begin_release();
    let until = deadline.min(Instant::now() + job.limits.order);
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

/// Has the scheduler stop the workers without force, while messages are still taken in: a worker may have something to deliver
/// before it leaves.
async fn stop_workers<C: JobController, S: Scheduler>(
    job: &mut JobContext<C, S>,
    deadline: Instant,
) -> Result<(), NotLeft> {
    let JobContext { id, run, controller, scheduler, mailbox, limits, .. } = job;
    let mut call = std::pin::pin!(scheduler.stop_workers(id, Some(*run), false));
    loop {
        tokio::select! {
            biased;
            result = &mut call => return Ok(result?),
            incoming = mailbox.next(Some(StopRequest::Immediate)) => match incoming {
                Incoming::Request(_) => return Err(NotLeft::Forced),
                Incoming::Worker(event) => take_in(controller, event),
            },
            () = sleep_until(deadline) => {
                return Err(SchedulerError::TimedOut { call: "stop_workers", after: limits.release }.into());
            }
        }
    }
}

/// One attempt to kill the run's workers: the order, then the question until the answer is "none", within the kill budget.
pub(crate) async fn kill<C, S: Scheduler>(job: &mut JobContext<C, S>) -> Result<NothingAlive, Failure> {
    let budget = job.limits.kill;
    let deadline = Instant::now() + budget;
    job.publish_deadline(Some(deadline));
    timeout_at(deadline, job.scheduler.stop_workers(&job.id, Some(job.run), true))
        .await
        .map_err(|_| SchedulerError::TimedOut { call: "stop_workers", after: budget })??;
    loop {
        let alive = alive_by(job, deadline).await?;
        if alive.is_empty() {
            return Ok(NothingAlive { forced: true });
        }
        if Instant::now() >= deadline {
            return Err(Failure::StillAlive { workers: alive, after: budget });
        }
        sleep(job.limits.verify_every.min(deadline - Instant::now())).await;
    }
}

/// Asks the scheduler who is alive. The question gets a moment of its own even at the deadline: "not asked" is no answer.
async fn alive_by<C, S: Scheduler>(
    job: &mut JobContext<C, S>,
    deadline: Instant,
) -> Result<Vec<WorkerId>, SchedulerError> {
    let asked = Instant::now();
    let until = deadline.max(asked + Duration::from_millis(1));
    let alive = timeout_at(until, job.scheduler.workers_for_job(&job.id, Some(job.run)))
        .await
        .map_err(|_| SchedulerError::TimedOut { call: "workers_for_job", after: until - asked })??;
    job.publish_alive(alive.len());
    Ok(alive)
}

/// Asks a scheduler who of a run is alive; where nobody is, that is the proof.
pub(crate) async fn listed<S: Scheduler>(
    scheduler: &S,
    record: &PhaseRecord,
    within: Duration,
) -> Result<Result<NothingAlive, Vec<WorkerId>>, SchedulerError> {
    let alive = timeout(within, scheduler.workers_for_job(&record.job, Some(record.run)))
        .await
        .map_err(|_| SchedulerError::TimedOut { call: "workers_for_job", after: within })??;
    Ok(if alive.is_empty() { Ok(NothingAlive { forced: record.killed_workers }) } else { Err(alive) })
}
