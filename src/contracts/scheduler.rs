//! The contract of a scheduler, which runs and kills the workers.

use std::{fmt, sync::Arc, time::Duration};

use super::{BoxError, BoxFuture};
use crate::contracts::{JobId, RunId, WorkerId};

/// Runs the workers of jobs and kills them: a process manager, a cluster manager, or an in-process
/// host.
///
/// # What an implementer must keep
/// - **Idempotence.** Stopping a stopped run or an unknown run is `Ok(())`.
/// - **Fencing.** With `run = Some(r)` no worker of another run is touched; `None` means every run
///   of the job.
/// - **Alive.** [`workers_for_job`](Self::workers_for_job) lists a worker until it provably runs no
///   more code: an unreaped process, a terminating pod, and an aborted task that has not yet ended
///   are *alive*. If the state of a worker is unknown, it is listed, or the call is an error; it is
///   never omitted.
/// - **Force.** `force = true` ends workers that do not cooperate, and their children.
///   `force = false` asks them to leave, and may kill them after its own grace period.
/// - Dropping a future at any point is safe: the same call will be repeated.
///
/// `testing::conformance::scheduler` (feature `testing`) checks this.
pub trait Scheduler: Send + Sync {
    /// Stops the workers of a job's run (of all its runs for `None`). It may return before they are
    /// gone: [`workers_for_job`](Self::workers_for_job) is always called afterwards to find out
    /// (invariant I2).
    ///
    /// # Errors
    /// [`SchedulerError`] if the order could not be given; it says whether a retry is worthwhile.
    ///
    /// # Cancel safety
    /// Implementations must be cancel safe: see above.
    fn stop_workers(
        &self,
        job: &JobId,
        run: Option<RunId>,
        force: bool,
    ) -> impl Future<Output = Result<(), SchedulerError>> + Send;

    /// The workers of a job's run (of all its runs for `None`) that are alive.
    ///
    /// # Errors
    /// [`SchedulerError`] if this can't be found out. "Not known" is never an empty list.
    ///
    /// # Cancel safety
    /// It only reads.
    fn workers_for_job(
        &self,
        job: &JobId,
        run: Option<RunId>,
    ) -> impl Future<Output = Result<Vec<WorkerId>, SchedulerError>> + Send;

    /// Who confirmed that the workers of that run (of all runs for `None`) are gone. It is called
    /// when [`workers_for_job`](Self::workers_for_job) has just listed none, and goes into the
    /// evidence.
    ///
    /// A scheduler that always keeps the rule *alive* above need not implement it. One that may
    /// have to drop a worker from its list while the worker's machine is unreachable reports that
    /// here; if it does not know, it returns the weaker value.
    fn confirmed_by(&self, _job: &JobId, _run: Option<RunId>) -> ConfirmedBy {
        ConfirmedBy::Host
    }

    /// From now on, as long as the job exists, sends
    /// [`Event::WorkerFinished`](crate::contracts::Event::WorkerFinished) to `to` for every worker
    /// of that run that is gone, whatever ended it, including those that were gone before. See
    /// [`JobContext::hear_of_ends`](crate::machine::JobContext::hear_of_ends), which calls it.
    ///
    /// A scheduler that hears of ends only when it is asked has nothing to say: then silence is
    /// what tells. [`WorkerEnds`](crate::mailbox::WorkerEnds) does the remembering and the telling
    /// for one that does hear.
    fn report_ends(&self, _job: &JobId, _run: RunId, _to: Arc<dyn EndListener>) {}
}

/// Who is told of the ends of workers by a [`Scheduler`]: a job, by its
/// [`JobSender`](crate::mailbox::JobSender).
pub trait EndListener: Send + Sync {
    /// That worker is gone. It does not wait: where there is no room now, it is told later, on the
    /// runtime of the caller.
    fn ended(&self, run: RunId, worker: WorkerId);

    /// Whether nobody listens any more.
    fn is_closed(&self) -> bool;

    /// Waits until nobody listens any more.
    ///
    /// # Cancel safety
    /// It only waits.
    fn closed(&self) -> BoxFuture<'_, ()>;
}

/// Who confirmed that workers are gone.
///
/// This does not affect data: a worker that is still running unseen is fenced, and can commit
/// nothing (invariant I11). It tells an operator whether a worker may still use a machine's time,
/// or hold a lock that winddown does not know of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ConfirmedBy {
    /// The host that ran them: the kernel that reaped the process, the runtime that dropped the
    /// task, or the node that saw its containers end.
    Host,
    /// Only the scheduler's records: they were removed, but the host has not confirmed the end of
    /// the workers. It may be unreachable, with the worker still alive on it.
    Records,
}

impl fmt::Display for ConfirmedBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "their host",
            Self::Records => "the scheduler's records only; a worker may still be running on an unreachable host",
        })
    }
}

/// Why a scheduler's call failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchedulerError {
    /// A temporary failure: the call may succeed later.
    #[error("the scheduler is unavailable: {0}")]
    Unavailable(BoxError),
    /// The call will never succeed, for example because a permission is missing.
    #[error("the scheduler refused: {0}")]
    Refused(BoxError),
    /// It did not answer in time.
    #[error("the scheduler did not answer `{call}` within {}", crate::text::rounded(*after))]
    TimedOut {
        /// The call.
        call: &'static str,
        /// How long it was given.
        after: Duration,
    },
}

impl SchedulerError {
    /// Whether the same call may succeed later.
    pub const fn is_retryable(&self) -> bool {
        !matches!(self, Self::Refused(_))
    }
}

/// The dyn-safe form of [`Scheduler`], implemented for every scheduler. Use it through
/// [`BoxScheduler`].
pub trait DynScheduler: Send + Sync {
    /// [`Scheduler::stop_workers`], boxed.
    fn stop_workers_boxed<'a>(
        &'a self,
        job: &'a JobId,
        run: Option<RunId>,
        force: bool,
    ) -> BoxFuture<'a, Result<(), SchedulerError>>;

    /// [`Scheduler::workers_for_job`], boxed.
    fn workers_for_job_boxed<'a>(
        &'a self,
        job: &'a JobId,
        run: Option<RunId>,
    ) -> BoxFuture<'a, Result<Vec<WorkerId>, SchedulerError>>;

    /// [`Scheduler::confirmed_by`].
    fn confirmed_by_dyn(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy;

    /// [`Scheduler::report_ends`].
    fn report_ends_dyn(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>);
}

impl<S: Scheduler> DynScheduler for S {
    fn stop_workers_boxed<'a>(
        &'a self,
        job: &'a JobId,
        run: Option<RunId>,
        force: bool,
    ) -> BoxFuture<'a, Result<(), SchedulerError>> {
        Box::pin(self.stop_workers(job, run, force))
    }

    fn workers_for_job_boxed<'a>(
        &'a self,
        job: &'a JobId,
        run: Option<RunId>,
    ) -> BoxFuture<'a, Result<Vec<WorkerId>, SchedulerError>> {
        Box::pin(self.workers_for_job(job, run))
    }

    fn confirmed_by_dyn(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy {
        self.confirmed_by(job, run)
    }

    fn report_ends_dyn(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        self.report_ends(job, run, to);
    }
}

/// Any scheduler, chosen at run time: `let scheduler: BoxScheduler = Arc::new(my_scheduler);`
pub type BoxScheduler = Arc<dyn DynScheduler>;

impl Scheduler for dyn DynScheduler {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        self.stop_workers_boxed(job, run, force).await
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        self.workers_for_job_boxed(job, run).await
    }

    fn confirmed_by(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy {
        self.confirmed_by_dyn(job, run)
    }

    fn report_ends(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        self.report_ends_dyn(job, run, to);
    }
}

impl<S: Scheduler + ?Sized> Scheduler for Arc<S> {
    fn stop_workers(
        &self,
        job: &JobId,
        run: Option<RunId>,
        force: bool,
    ) -> impl Future<Output = Result<(), SchedulerError>> + Send {
        S::stop_workers(self, job, run, force)
    }

    fn workers_for_job(
        &self,
        job: &JobId,
        run: Option<RunId>,
    ) -> impl Future<Output = Result<Vec<WorkerId>, SchedulerError>> + Send {
        S::workers_for_job(self, job, run)
    }

    fn confirmed_by(&self, job: &JobId, run: Option<RunId>) -> ConfirmedBy {
        S::confirmed_by(self, job, run)
    }

    fn report_ends(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        S::report_ends(self, job, run, to);
    }
}
