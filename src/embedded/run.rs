//! One hosted run.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::timeout};

use super::{
    StartError,
    gate::{Gate, passable},
};
use crate::{
    contracts::{EndListener, JobId, OpenRun, Order, OrderError, OrderErrorKind, OtherRun, RunId, Transport, WorkerId},
    worker::Worker,
};

/// A run on an [`EmbeddedCluster`](super::EmbeddedCluster): the [`Transport`] to its workers, and
/// ways to make them fail. Cheap to clone.
///
/// The run lives as long as any handle to it or to its cluster; dropping the last one aborts its
/// tasks.
#[derive(Clone)]
pub struct EmbeddedRun {
    inner: Arc<Inner>,
}

struct Inner {
    job: JobId,
    run: RunId,
    grace: Duration,
    workers: HashMap<WorkerId, Hosted>,
}

/// A worker and its gate.
pub(super) struct Hosted {
    pub(super) worker: Worker,
    pub(super) gate: watch::Sender<Gate>,
}

impl EmbeddedRun {
    pub(super) fn new(job: JobId, run: RunId, grace: Duration, workers: HashMap<WorkerId, Hosted>) -> Self {
        Self { inner: Arc::new(Inner { job, run, grace, workers }) }
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.inner.job
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.inner.run
    }

    /// The workers that are alive, ordered by id. A worker is alive from the start of the run until
    /// it has left (after a release order, or because the scheduler stopped it) *and* none of its
    /// tasks is running any more. A worker whose tasks have all ended but that was not released is
    /// alive.
    pub fn alive_workers(&self) -> Vec<WorkerId> {
        let alive = self.inner.workers.iter().filter(|(_, hosted)| hosted.worker.is_alive());
        let mut alive: Vec<_> = alive.map(|(worker, _)| *worker).collect();
        alive.sort_unstable();
        alive
    }

    fn is_alive(&self) -> bool {
        self.inner.workers.values().any(|hosted| hosted.worker.is_alive())
    }

    /// Fault injection: the worker dies. Its tasks are aborted, and from now on it reports nothing
    /// and accepts no order ([`OrderErrorKind::Unreachable`]).
    ///
    /// A task is aborted when it next yields, and the worker is listed as alive until then.
    /// Returns whether the run has such a worker.
    pub fn kill_worker(&self, worker: WorkerId) -> bool {
        self.hosted(worker).map(Hosted::kill).is_some()
    }

    /// Fault injection: the worker hangs. It answers no order and delivers no event or heartbeat
    /// until it [thaws](Self::thaw_worker), and is alive and listed until it is killed.
    ///
    /// Only its connection to the controller freezes. Its tasks continue until they wait for an
    /// order or for room for an event, because code in this process can't be suspended from
    /// outside. Returns whether the run has such a worker; one that was killed stays killed.
    pub fn freeze_worker(&self, worker: WorkerId) -> bool {
        self.hosted(worker).map(|hosted| hosted.turn(Gate::Frozen, Gate::Open)).is_some()
    }

    /// Ends [`freeze_worker`](Self::freeze_worker): delayed orders are answered, and delayed events
    /// are delivered in order. Returns whether the run has such a worker.
    pub fn thaw_worker(&self, worker: WorkerId) -> bool {
        self.hosted(worker).map(|hosted| hosted.turn(Gate::Open, Gate::Frozen)).is_some()
    }

    /// Stops all workers at the same time; returns when none is alive, or when the remaining ones
    /// can't be ended.
    pub(super) async fn stop(&self, force: bool) {
        let grace = self.inner.grace;
        futures_util::future::join_all(self.inner.workers.values().map(|hosted| hosted.stop(force, grace))).await;
    }

    /// Tells `to` of each worker that is killed, until that job is gone itself. One that leaves
    /// says so for itself, after its last event.
    pub(super) fn report_ends(&self, to: &Arc<dyn EndListener>) {
        for (worker, hosted) in &self.inner.workers {
            let (run, worker, killed, to) = (self.inner.run, *worker, hosted.worker.killed(), to.clone());
            hosted.worker.runtime().spawn(async move {
                let is_killed = tokio::select! {
                    () = to.closed() => return,
                    is_killed = killed => is_killed,
                };
                if is_killed {
                    to.ended(run, worker);
                }
            });
        }
    }

    fn hosted(&self, worker: WorkerId) -> Option<&Hosted> {
        self.inner.workers.get(&worker)
    }
}

impl Hosted {
    fn turn(&self, to: Gate, only_from: Gate) {
        self.gate.send_if_modified(|gate| {
            let turn = *gate == only_from;
            if turn {
                *gate = to;
            }
            turn
        });
    }

    fn kill(&self) {
        self.gate.send_replace(Gate::Killed);
        self.worker.kill();
    }

    async fn stop(&self, force: bool, grace: Duration) {
        if force {
            self.kill();
        } else if timeout(grace, passable(&mut self.gate.subscribe())).await.is_ok() {
            // The worker itself orders its tasks to stop, and aborts them after the grace period.
            self.worker.release();
            let _ = timeout(grace, self.worker.ended()).await;
        } else {
            // Frozen for the whole grace period.
            self.kill();
        }
        // An abort takes effect when a task next yields. A worker whose task never does stays
        // listed.
        let _ = timeout(grace, self.worker.ended()).await;
    }
}

impl Transport for EmbeddedRun {
    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        open.check(&self.inner.job, self.inner.run)
    }

    /// Passes `order` to the worker, at once unless it is [frozen](EmbeddedRun::freeze_worker).
    ///
    /// # Errors
    /// Those of [`Worker::handle`]; [`OrderErrorKind::Rejected`] for a worker that the run does not
    /// have.
    ///
    /// # Cancel safety
    /// Cancel safe: a dropped call that had not returned has ordered nothing.
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        let Some(hosted) = self.hosted(worker) else {
            let message = format!("run {} of job `{}` has no worker {worker}", self.inner.run, self.inner.job);
            return Err(OrderError::new(OrderErrorKind::Rejected, message));
        };
        // A killed worker answers by itself.
        let _ = passable(&mut hosted.gate.subscribe()).await;
        hosted.worker.handle(order)
    }
}

impl fmt::Debug for EmbeddedRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedRun")
            .field("job", &self.inner.job)
            .field("run", &self.inner.run)
            .field("alive", &self.alive_workers())
            .finish_non_exhaustive()
    }
}

/// The runs of one job.
#[derive(Debug, Default)]
pub(super) struct JobRuns {
    /// The highest run that was ever hosted: run numbers only grow.
    newest: Option<RunId>,
    /// The runs that may be alive.
    runs: Vec<EmbeddedRun>,
}

impl JobRuns {
    pub(super) fn admit(&self, job: &JobId, run: RunId) -> Result<(), StartError> {
        match self.newest {
            Some(newest) if run <= newest => Err(StartError::RunNotNewer { job: job.clone(), newest, got: run }),
            _ => Ok(()),
        }
    }

    /// Adds a run, and removes those that have ended; a remaining handle to one still delivers its
    /// delayed events.
    pub(super) fn insert(&mut self, run: EmbeddedRun) {
        self.newest = Some(run.run());
        self.runs.retain(EmbeddedRun::is_alive);
        self.runs.push(run);
    }

    /// That run, or all of them.
    pub(super) fn of(&self, run: Option<RunId>) -> impl Iterator<Item = &EmbeddedRun> {
        self.runs.iter().filter(move |hosted| run.is_none_or(|run| hosted.run() == run))
    }
}
