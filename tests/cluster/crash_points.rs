//! The points at which a controller can die, as its collaborators see them: before and after the
//! effect of every call, and while it waits.

use std::{
    collections::BTreeSet,
    future::{pending, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
};

use tokio::sync::{Notify, watch};
use winddown::{
    JobContext, JobId, OpenRun, PhaseKind, Progress, RunId, Scheduler, WorkerId,
    contracts::{CheckpointStore, Command, Manifest, Order, OrderError, SchedulerError, StoreError, Transport},
    journal::{Journal, JournalError, PhaseRecord},
};

/// Where in its work a controller is when it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CrashPoint {
    /// A record is written.
    Write(Side),
    /// A periodic checkpoint is ordered.
    Periodic(Side),
    /// The final checkpoint is ordered.
    FinalCheckpoint(Side),
    /// A manifest is published.
    Publish(Side),
    /// A commit is ordered.
    Commit(Side),
    /// Tasks are told to stop.
    Stop(Side),
    /// Workers are told that they may leave.
    Release(Side),
    /// The scheduler asks workers to leave.
    AskToLeave(Side),
    /// The scheduler kills workers.
    Kill(Side),
    /// The scheduler says who is alive.
    List(Side),
    /// Nothing is under way: it waits for workers, or for the next look at them.
    Wait,
    /// It waits before it tries again what has failed.
    Backoff,
}

/// Whether the call has had its effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Before,
    After,
}

use Side::{After, Before};

/// A crash point in a phase.
pub(crate) type Place = (PhaseKind, CrashPoint);

#[derive(Default)]
struct State {
    reached: BTreeSet<Place>,
    fatal: Option<Place>,
    dead: bool,
    died: Arc<Notify>,
    /// Calls under way.
    calls: usize,
    progress: Option<watch::Receiver<Progress>>,
    /// So many calls fail before one succeeds.
    failing: Option<(CrashPoint, u32)>,
}

/// Notes which places a controller passes, and lets it die at one of them.
#[derive(Clone, Default)]
pub(crate) struct Watch {
    state: Arc<Mutex<State>>,
}

impl Watch {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// A controller starts that dies at `fatal`.
    pub(crate) fn begin<C, S>(&self, job: &JobContext<C, S>, fatal: Option<Place>) {
        let mut state = self.lock();
        (state.fatal, state.dead, state.calls, state.progress) = (fatal, false, 0, Some(job.progress()));
        state.died = Arc::default();
    }

    /// No controller runs: nothing is noted.
    pub(crate) fn rest(&self) {
        let mut state = self.lock();
        (state.fatal, state.dead, state.progress) = (None, false, None);
    }

    /// The first calls at `point` fail.
    pub(crate) fn fail(&self, point: CrashPoint, times: u32) {
        self.lock().failing = Some((point, times));
    }

    pub(crate) fn reached(&self) -> BTreeSet<Place> {
        self.lock().reached.clone()
    }

    /// Notes the point; whether the controller dies here.
    fn note(&self, point: CrashPoint) -> bool {
        let mut state = self.lock();
        let Some(progress) = &state.progress else { return false };
        let place = (progress.borrow().phase, point);
        state.reached.insert(place);
        if state.fatal == Some(place) {
            state.dead = true;
            state.died.notify_one();
        }
        state.dead
    }

    async fn pass(&self, point: CrashPoint) {
        if self.note(point) {
            pending::<()>().await;
        }
    }

    /// Whether the call at `point` is to fail.
    fn fails(&self, point: CrashPoint) -> bool {
        match &mut self.lock().failing {
            Some((failing, times)) if *failing == point && *times > 0 => {
                *times -= 1;
                true
            }
            _ => false,
        }
    }

    async fn call<T>(&self, point: impl Fn(Side) -> CrashPoint, effect: impl Future<Output = T>) -> T {
        self.pass(point(Before)).await;
        let under_way = UnderWay::begin(self);
        let done = effect.await;
        drop(under_way);
        self.pass(point(After)).await;
        done
    }

    /// Drives until the end, or until the controller dies.
    pub(crate) async fn until_death<T>(&self, driven: impl Future<Output = T>) -> Option<T> {
        let mut driven = pin!(driven);
        let died = Arc::clone(&self.lock().died);
        let mut died = pin!(died.notified());
        poll_fn(|cx| {
            if let Poll::Ready(done) = driven.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            let (dead, calls, retries) = {
                let state = self.lock();
                (state.dead, state.calls, state.progress.as_ref().map_or(0, |progress| progress.borrow().retries))
            };
            let idle = if retries > 0 { CrashPoint::Backoff } else { CrashPoint::Wait };
            if dead || (calls == 0 && self.note(idle)) {
                return Poll::Ready(None);
            }
            // A call that is made by a task of its own may be the last one, too.
            died.as_mut().poll(cx).map(|()| None)
        })
        .await
    }
}

struct UnderWay<'a>(&'a Watch);

impl<'a> UnderWay<'a> {
    fn begin(watch: &'a Watch) -> Self {
        watch.lock().calls += 1;
        Self(watch)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        // Calls of a controller that is dead are dropped after the next one has begun.
        state.calls = state.calls.saturating_sub(1);
    }
}

/// A collaborator under watch.
#[derive(Clone)]
pub(crate) struct Watched<T>(pub(crate) T, pub(crate) Watch);

impl<T: Transport> Transport for Watched<T> {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        let point = match &order.command {
            Command::Checkpoint { then_stop: false, .. } => CrashPoint::Periodic,
            Command::Checkpoint { then_stop: true, .. } => CrashPoint::FinalCheckpoint,
            Command::Commit { .. } => CrashPoint::Commit,
            Command::Stop(_) => CrashPoint::Stop,
            Command::Release => CrashPoint::Release,
            other => panic!("{} is an order without a crash point: give it one", other.name()),
        };
        self.1.call(point, self.0.send(worker, order)).await
    }
}

impl<T: CheckpointStore> CheckpointStore for Watched<Arc<T>> {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        self.0.open_run(job).await
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        if self.1.fails(CrashPoint::Publish(Before)) {
            return Err(StoreError::Unavailable("away".into()));
        }
        self.1.call(CrashPoint::Publish, self.0.publish(manifest)).await
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        self.0.latest(job).await
    }
}

impl<T: Scheduler> Scheduler for Watched<T> {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        let point = if force { CrashPoint::Kill } else { CrashPoint::AskToLeave };
        if self.1.fails(point(Before)) {
            return Err(SchedulerError::Unavailable("away".into()));
        }
        self.1.call(point, self.0.stop_workers(job, run, force)).await
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let alive = self.1.call(CrashPoint::List, self.0.workers_for_job(job, run)).await;
        // A kill takes its time.
        if self.1.fails(CrashPoint::List(After)) { Ok(vec![WorkerId::new(1)]) } else { alive }
    }
}

impl<T: Journal> Journal for Watched<T> {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        self.0.load(job).await
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        self.1.call(CrashPoint::Write, self.0.write(record)).await
    }
}
