//! A `ClusterController`, and what can be wrong with one.

use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use winddown::{
    ClusterController, Epoch, JobController, JobId, OpenRun, RunId, Topology, WorkerId,
    contracts::{
        Applied, CheckpointStage, CheckpointStart, CheckpointStore, Command, ControllerError, DynCheckpointStore,
        Event, FinalCheckpoint, Manifest, Order, OrderError, Rejection, RunFailure, RunStatus, StoreError, Transport,
        WorkerEvent, WorkerStopMode,
    },
    testing::conformance::{self, Contract, ControllerSubject, Report, Rule, RunSetup, Workers},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
    None,
    /// Events are taken for those of the own run.
    TakesForeign,
    /// Who speaks is not looked at.
    TakesAnyWorker,
    /// A task's end counts each time it is told.
    CountsEndsTwice,
    /// An unknown epoch is taken for the current one.
    TakesAnyEpoch,
    /// The manifest lacks what tasks have to commit.
    ManifestWithoutCommits,
    /// One state may be missing.
    AlmostAllIsAll,
    /// A manifest that is being published counts as durable.
    PublishingIsComplete,
    /// A manifest that takes long is published in the background.
    PublishesBehind,
    /// A durable manifest counts as a complete checkpoint.
    DurableIsComplete,
    /// A command sends at once.
    SendsInCommand,
    /// Commits are ordered twice, to be sure.
    CommitsTwice,
    /// A command that was given is not looked at again.
    NeverSendsAgain,
    /// An error is told as long as there is one.
    RepeatsError,
    /// An order's error is logged.
    SwallowsError,
    /// An error of the store is logged.
    SwallowsStoreError,
    /// An order waits for the answer of the one before it.
    OneByOne,
    /// Work lives in the future that `progress` returns.
    StartsOver,
    /// It always has something to say.
    Spins,
    /// There is one way to stop.
    GracefulIsImmediate,
    /// The first stop is the last.
    FirstStopStays,
    /// A checkpoint may be started after a stop.
    CheckpointAfterStop,
    /// A periodic checkpoint may be started after the final one.
    PeriodicAfterFinal,
    /// One worker is not told that it may leave.
    ReleasesAllButOne,
    /// The last failure is the one that is told.
    LastFailureStays,
    /// Heartbeats are not looked at.
    IgnoresHealth,
    /// A heartbeat is no sign of life.
    IgnoresHeartbeats,
}

const ROWS: &[(Mistake, Rule)] = &[
    (Mistake::TakesForeign, Rule::ControllerForeignRun),
    (Mistake::TakesAnyWorker, Rule::ControllerUnknown),
    (Mistake::CountsEndsTwice, Rule::ControllerDuplicates),
    (Mistake::TakesAnyEpoch, Rule::ControllerFutureEpoch),
    (Mistake::ManifestWithoutCommits, Rule::ControllerFinalCompletes),
    (Mistake::AlmostAllIsAll, Rule::ControllerNeedsEveryTask),
    (Mistake::PublishingIsComplete, Rule::ControllerNeedsDurable),
    (Mistake::PublishesBehind, Rule::ControllerNeedsDurable),
    (Mistake::DurableIsComplete, Rule::ControllerNeedsCommits),
    (Mistake::SendsInCommand, Rule::ControllerBeginsQuietly),
    (Mistake::CommitsTwice, Rule::ControllerIdempotent),
    (Mistake::NeverSendsAgain, Rule::ControllerSendsAgain),
    (Mistake::RepeatsError, Rule::ControllerErrorOnce),
    (Mistake::SwallowsError, Rule::ControllerErrorOnce),
    (Mistake::SwallowsStoreError, Rule::ControllerTellsStore),
    (Mistake::OneByOne, Rule::ControllerIndependence),
    (Mistake::StartsOver, Rule::ControllerCancelSafe),
    (Mistake::Spins, Rule::ControllerIdle),
    (Mistake::GracefulIsImmediate, Rule::ControllerStop),
    (Mistake::FirstStopStays, Rule::ControllerStrongerStop),
    (Mistake::CheckpointAfterStop, Rule::ControllerNoneAfterStop),
    (Mistake::PeriodicAfterFinal, Rule::ControllerNoneAfterFinal),
    (Mistake::ReleasesAllButOne, Rule::ControllerRelease),
    (Mistake::LastFailureStays, Rule::ControllerFirstFailure),
    (Mistake::IgnoresHealth, Rule::ControllerLostWorker),
    (Mistake::IgnoresHeartbeats, Rule::ControllerLostWorker),
];

async fn check(mistake: Mistake) -> Report {
    conformance::controller(async move || Maker(mistake)).await
}

#[tokio::test]
async fn every_mistake_in_a_job_controller_is_found_by_its_rule() {
    super::assert_found(Contract::Controller, ROWS, Mistake::None, check).await;
}

struct Maker(Mistake);

impl ControllerSubject for Maker {
    type Controller = Controller;
    const LIMIT: Duration = super::LIMIT;

    async fn start(&self, setup: RunSetup) -> Controller {
        let mistake = self.0;
        let wire = Wire { workers: setup.workers, mistake, turn: tokio::sync::Mutex::default() };
        let store = Store { inner: setup.store, mistake };
        let topology = Arc::clone(&setup.topology);
        let inner = ClusterController::builder(&setup.open, setup.topology, Arc::new(wire))
            .limits(setup.limits)
            .store(Arc::new(store))
            .build();
        Controller {
            inner,
            mistake,
            topology,
            run: setup.open.run(),
            epoch: None,
            extra: 0,
            stop: vec![],
            kept: None,
            failure: None,
            started: Instant::now(),
        }
    }
}

struct Wire {
    workers: Workers,
    mistake: Mistake,
    turn: tokio::sync::Mutex<()>,
}

impl Transport for Wire {
    async fn send(&self, worker: WorkerId, mut order: Order) -> Result<(), OrderError> {
        match (self.mistake, &mut order.command) {
            (Mistake::OneByOne, _) => {
                let _turn = self.turn.lock().await;
                self.workers.send(worker, order).await
            }
            (Mistake::CommitsTwice, Command::Commit { .. }) => {
                self.workers.send(worker, order.clone()).await?;
                self.workers.send(worker, order).await
            }
            (Mistake::GracefulIsImmediate, Command::Stop(mode)) => {
                *mode = WorkerStopMode::Immediate;
                self.workers.send(worker, order).await
            }
            (Mistake::ReleasesAllButOne, Command::Release) if worker == WorkerId::new(3) => Ok(()),
            _ => self.workers.send(worker, order).await,
        }
    }
}

struct Store {
    inner: Arc<dyn DynCheckpointStore>,
    mistake: Mistake,
}

impl CheckpointStore for Store {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        self.inner.open_run_boxed(job).await
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut manifest = manifest.clone();
        match self.mistake {
            Mistake::ManifestWithoutCommits => manifest.tasks.iter_mut().for_each(|task| task.commit = None),
            Mistake::PublishesBehind => {
                let store = Arc::clone(&self.inner);
                let mut publish = tokio::spawn(async move { store.publish_boxed(&manifest).await });
                // Whoever is quick is waited for.
                return tokio::select! {
                    published = &mut publish => published.unwrap(),
                    () = sleep(Duration::from_millis(20)) => Ok(()),
                };
            }
            _ => {}
        }
        self.inner.publish_boxed(&manifest).await
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        self.inner.latest_boxed(job).await
    }
}

struct Controller {
    inner: ClusterController<Wire>,
    mistake: Mistake,
    topology: Arc<Topology>,
    run: RunId,
    /// The final checkpoint.
    epoch: Option<Epoch>,
    /// Ends that were counted twice.
    extra: u32,
    stop: Vec<WorkerStopMode>,
    /// What a command came to that sent at once, or the error that is told again.
    kept: Option<Result<(), ControllerError>>,
    failure: Option<RunFailure>,
    started: Instant,
}

impl Controller {
    fn send_at_once(&mut self) {
        if self.mistake == Mistake::SendsInCommand
            && let Poll::Ready(result) = pin!(self.inner.progress()).poll(&mut Context::from_waker(Waker::noop()))
        {
            self.kept = Some(result);
        }
    }
}

impl JobController for Controller {
    fn status(&self) -> RunStatus {
        let mut status = self.inner.status();
        status.tasks.done += self.extra;
        let complete = match (self.mistake, status.checkpoint) {
            (Mistake::AlmostAllIsAll, CheckpointStage::Collecting { epoch, acks }) if acks.done + 1 >= acks.total => {
                epoch
            }
            (Mistake::PublishingIsComplete, CheckpointStage::Publishing { epoch })
            | (Mistake::DurableIsComplete, CheckpointStage::Committing { epoch, .. }) => epoch,
            _ => return status,
        };
        RunStatus { final_checkpoint: FinalCheckpoint::Complete(complete), ..status }
    }

    fn failure(&self) -> Option<&RunFailure> {
        self.failure.as_ref().or_else(|| self.inner.failure())
    }

    fn handle(&mut self, mut event: WorkerEvent, mut now: Instant) -> Result<Applied, Rejection> {
        let task = match &event.event {
            Event::SourceExhausted { task }
            | Event::CheckpointCompleted { task, .. }
            | Event::CommitCompleted { task, .. }
            | Event::TaskFinished { task }
            | Event::TaskFailed { task, .. } => Some(*task),
            _ => None,
        };
        match self.mistake {
            Mistake::TakesForeign => event.run = self.run,
            Mistake::TakesAnyWorker => {
                event.worker = task.and_then(|task| self.topology.worker_of(task)).unwrap_or(event.worker);
            }
            Mistake::TakesAnyEpoch => match &mut event.event {
                Event::CheckpointCompleted { epoch, .. } | Event::CommitCompleted { epoch, .. } => {
                    *epoch = self.epoch.unwrap_or(*epoch);
                }
                _ => {}
            },
            Mistake::IgnoresHeartbeats if event.event == Event::Heartbeat => now = self.started,
            _ => {}
        }
        let is_end = matches!(event.event, Event::TaskFinished { .. });
        let failure = match &event.event {
            Event::TaskFailed { task, error } => {
                Some(RunFailure::TaskFailed { task: *task, worker: event.worker, error: error.clone() })
            }
            _ => None,
        };
        let applied = self.inner.handle(event, now);
        if self.mistake == Mistake::CountsEndsTwice && is_end && applied == Ok(Applied::Duplicate) {
            self.extra += 1;
        }
        if self.mistake == Mistake::LastFailureStays && applied.is_ok() {
            self.failure = failure.or(self.failure.take());
        }
        applied
    }

    fn check_health(&mut self, now: Instant) {
        if self.mistake != Mistake::IgnoresHealth {
            self.inner.check_health(now);
        }
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        let started = self.inner.begin_checkpoint(then_stop);
        self.send_at_once();
        match (self.mistake, &started) {
            (Mistake::CheckpointAfterStop, Err(_)) if !self.stop.is_empty() => {
                return Ok(CheckpointStart::Started(Epoch::new(77)));
            }
            (Mistake::PeriodicAfterFinal, _) if !then_stop && self.epoch.is_some() => {
                return Ok(CheckpointStart::Started(Epoch::new(78)));
            }
            (_, Ok(CheckpointStart::Started(epoch))) if then_stop => self.epoch = Some(*epoch),
            _ => {}
        }
        started
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        let is_given = self.stop.contains(&mode);
        self.stop.push(mode);
        match self.mistake {
            Mistake::NeverSendsAgain if is_given => {}
            Mistake::FirstStopStays if self.stop[0] != mode => {}
            _ => self.inner.begin_stop(mode),
        }
        self.send_at_once();
    }

    fn begin_release(&mut self) {
        self.inner.begin_release();
        self.send_at_once();
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        match self.mistake {
            Mistake::SendsInCommand => match self.kept.take() {
                Some(kept) => kept,
                None => self.inner.progress().await,
            },
            Mistake::RepeatsError => {
                let is_told = self.kept.is_some();
                let result = tokio::select! {
                    result = self.inner.progress() => result,
                    () = sleep(Duration::from_millis(10)), if is_told => Err(ControllerError::Other("still".into())),
                };
                if matches!(result, Err(ControllerError::Orders(_))) {
                    self.kept = Some(Ok(()));
                }
                result
            }
            Mistake::SwallowsError => match self.inner.progress().await {
                Err(ControllerError::Orders(_)) => Ok(()),
                result => result,
            },
            Mistake::SwallowsStoreError => match self.inner.progress().await {
                Err(ControllerError::Store(_)) => Ok(()),
                result => result,
            },
            Mistake::StartsOver => {
                // In steps: on a busy machine a single sleep may be over when the caller next looks
                // at its own.
                for _ in 0..20 {
                    sleep(Duration::from_millis(2)).await;
                }
                self.inner.progress().await
            }
            Mistake::Spins => {
                let mut progress = pin!(self.inner.progress());
                poll_fn(|context| match progress.as_mut().poll(context) {
                    Poll::Pending => Poll::Ready(Ok(())),
                    ready @ Poll::Ready(_) => ready,
                })
                .await
            }
            _ => self.inner.progress().await,
        }
    }
}
