//! The collaborators, each with one mistake that people make.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::records::altered;
use winddown::{
    ClusterController, Epoch, JobController, JobId, JobSender, OpenRun, RunId, Scheduler, StopRequest, WorkerId,
    contracts::{
        Applied, CheckpointStage, CheckpointStart, CheckpointStore, Command, ControllerError, Event, FinalCheckpoint,
        Manifest, Order, OrderError, Rejection, RunFailure, RunStatus, SchedulerError, StoreError, Transport,
        WorkerEvent, WorkerStopMode,
    },
    journal::{Journal, JournalError, PhaseRecord},
    testing::explore::{Setup, Simulated, Subject},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// After a kill that said `Ok`, nobody is listed.
    StoppedBeforeTheReap,
    /// After workers were asked to leave and the answer was `Ok`, nobody is listed.
    ReleaseBelievesOk,
    /// The final checkpoint's order is repeated as that of a periodic one.
    FlagForgottenOnRetry,
    /// A durable manifest is taken for a complete checkpoint, and its tasks for finished.
    EvidenceBeforeCommit,
    /// Who has something to commit is not heard, so nobody is asked to.
    CommitNeverAskedFor,
    /// Of an operator that commits as a whole, only those subtasks are asked to that gave
    /// something.
    OnlyThoseWithDataCommit,
    /// The store says `Ok` before the manifest is durable.
    CommitBeforePublish,
    /// The final checkpoint that was started before the crash is taken for complete, and another
    /// one started.
    SecondFinalEpoch,
    /// A task that failed counts as one that finished.
    FailureTakenForFinish,
    /// Every record after the second has no request.
    RecordForgetsRequest,
    /// A task's failure is not heard.
    LostFailure,
    /// A stop order is kept back, and sent when its deadline is over.
    StopAfterDeadline,
    /// Of two requests, the weaker is in force.
    WeakerRequestWins,
    /// A record is written when the next one is.
    JournalAfterEffect,
    /// An order waits for the answer of the one before it.
    OrdersOneByOne,
    /// Events are taken for those of the own run.
    ForeignAccepted,
    /// The journal answers with another job's record.
    RecordOfAnotherJob,
    /// Once nobody was listed, nobody is ever listed again.
    AnswersFromMemory,
    /// The scheduler is told to kill every run of the job.
    KillsEveryRun,
    /// A start enters its worker when it is done: a stop before that does not see it, and does not
    /// refuse it.
    StartEntersAtItsEnd,
    /// Of those that can't be looked at it is said that they are gone.
    UnknownIsGone,
}

#[derive(Debug)]
pub(crate) struct Mistaken {
    mistake: Mistake,
    /// The lane of requests that is wrong: what it let through.
    lane: Mutex<Option<StopRequest>>,
}

impl Mistaken {
    pub(crate) fn new(mistake: Mistake) -> Self {
        Self { mistake, lane: Mutex::default() }
    }
}

impl Subject for Mistaken {
    type Controller = Controller;
    type Scheduler = Workers;
    type Journal = Notebook;

    fn controller(&self, setup: Setup) -> Controller {
        let mistake = self.mistake;
        let wire = Wire { world: setup.world.clone(), mistake, one_by_one: Arc::default(), sent: Arc::default() };
        let store = Store { world: setup.world.clone(), mistake };
        let open = match setup.open.final_epoch() {
            Some(epoch) if mistake == Mistake::SecondFinalEpoch => after(&setup.open, epoch),
            _ => setup.open,
        };
        let builder = ClusterController::builder(&open, setup.topology, Arc::new(wire));
        let builder = builder.limits(setup.limits).store(Arc::new(store));
        let inner = builder.build();
        *self.lane.lock().unwrap() = None;
        Controller { inner, mistake, run: open.run() }
    }

    fn scheduler(&self, world: Simulated) -> Workers {
        Workers { world, mistake: self.mistake, believes: AtomicBool::new(false) }
    }

    fn journal(&self, world: Simulated) -> Notebook {
        Notebook { world, mistake: self.mistake, behind: Mutex::default() }
    }

    fn request(&self, job: &JobSender, request: StopRequest) {
        let mut lane = self.lane.lock().unwrap();
        if self.mistake != Mistake::WeakerRequestWins || lane.is_none_or(|before| request < before) {
            *lane = Some(request);
            let _ = job.request(request);
        }
    }
}

/// The run as if it had begun after the checkpoint `epoch`.
fn after(open: &OpenRun, epoch: Epoch) -> OpenRun {
    let (job, run) = (open.job().clone(), RunId::new(open.run().get() - 1));
    let manifest = Manifest { job: job.clone(), run, epoch, then_stop: true, tasks: vec![] };
    OpenRun::new(job, open.run(), Some(manifest)).unwrap()
}

/// A transport.
pub(crate) struct Wire {
    world: Simulated,
    mistake: Mistake,
    one_by_one: Arc<tokio::sync::Mutex<()>>,
    sent: Arc<Mutex<Vec<WorkerId>>>,
}

impl Wire {
    fn is_first_to(&self, worker: WorkerId) -> bool {
        let mut sent = self.sent.lock().unwrap();
        let is_first = !sent.contains(&worker);
        sent.push(worker);
        is_first
    }
}

impl Transport for Wire {
    async fn send(&self, worker: WorkerId, mut order: Order) -> Result<(), OrderError> {
        match (self.mistake, &mut order.command) {
            (Mistake::OrdersOneByOne, _) => {
                let _turn = self.one_by_one.lock().await;
                self.world.send(worker, order).await
            }
            (Mistake::FlagForgottenOnRetry, Command::Checkpoint { then_stop, .. }) if *then_stop => {
                *then_stop = self.is_first_to(worker);
                self.world.send(worker, order).await
            }
            (Mistake::StopAfterDeadline, Command::Stop(_)) => {
                let world = self.world.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(41)).await;
                    let _ = world.send(worker, order).await;
                });
                std::future::pending().await
            }
            _ => self.world.send(worker, order).await,
        }
    }
}

struct Store {
    world: Simulated,
    mistake: Mistake,
}

impl CheckpointStore for Store {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        self.world.open_run(job).await
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        if self.mistake == Mistake::CommitBeforePublish {
            return Ok(());
        }
        self.world.publish(manifest).await
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        self.world.latest(job).await
    }
}

pub(crate) struct Controller {
    inner: ClusterController<Wire>,
    mistake: Mistake,
    run: RunId,
}

impl JobController for Controller {
    fn status(&self) -> RunStatus {
        let mut status = self.inner.status();
        if let (Mistake::EvidenceBeforeCommit, CheckpointStage::Committing { epoch, .. }) =
            (self.mistake, status.checkpoint)
        {
            status.final_checkpoint = FinalCheckpoint::Complete(epoch);
            status.tasks.done = status.tasks.total;
        }
        status
    }

    fn failure(&self) -> Option<&RunFailure> {
        self.inner.failure()
    }

    fn handle(&mut self, mut event: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        match (self.mistake, &event.event) {
            (Mistake::ForeignAccepted, _) => event.run = self.run,
            (Mistake::CommitNeverAskedFor, Event::CheckpointCompleted { task, epoch, snapshot, commit: Some(_) }) => {
                let (task, epoch, snapshot) = (*task, *epoch, snapshot.clone());
                event.event = Event::CheckpointCompleted { task, epoch, snapshot, commit: None };
            }
            (Mistake::OnlyThoseWithDataCommit, Event::OperatorPreCommitted { task, epoch, snapshot, commit }) => {
                let (task, epoch, snapshot, commit) = (*task, *epoch, snapshot.clone(), Some(commit.clone()));
                event.event = Event::CheckpointCompleted { task, epoch, snapshot, commit };
            }
            (Mistake::LostFailure, Event::TaskFailed { .. }) => return Ok(Applied::Changed),
            (Mistake::FailureTakenForFinish, Event::TaskFailed { task, .. }) => {
                event.event = Event::TaskFinished { task: *task };
            }
            _ => {}
        }
        self.inner.handle(event, now)
    }

    fn check_health(&mut self, now: Instant) {
        self.inner.check_health(now);
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        self.inner.begin_checkpoint(then_stop)
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        self.inner.begin_stop(mode);
    }

    fn begin_release(&mut self) {
        self.inner.begin_release();
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        self.inner.progress().await
    }
}

/// A scheduler.
pub(crate) struct Workers {
    world: Simulated,
    mistake: Mistake,
    believes: AtomicBool,
}

impl Scheduler for Workers {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        let run = run.filter(|_| self.mistake != Mistake::KillsEveryRun);
        match self.mistake {
            Mistake::StartEntersAtItsEnd => self.world.stop_those_that_are_there(job, run, force).await?,
            _ => self.world.stop_workers(job, run, force).await?,
        }
        let believes = match self.mistake {
            Mistake::StoppedBeforeTheReap => force,
            Mistake::ReleaseBelievesOk => !force,
            _ => false,
        };
        self.believes.fetch_or(believes, Ordering::Relaxed);
        Ok(())
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let mut listed = self.world.workers_for_job(job, run).await?;
        match self.mistake {
            Mistake::StartEntersAtItsEnd => listed.retain(|worker| !self.world.starts_in_flight().contains(worker)),
            Mistake::UnknownIsGone if self.world.could_not_look() => listed.clear(),
            _ => {}
        }
        if self.mistake == Mistake::AnswersFromMemory && listed.is_empty() {
            self.believes.store(true, Ordering::Relaxed);
        }
        Ok(if self.believes.load(Ordering::Relaxed) { vec![] } else { listed })
    }
}

/// A journal.
pub(crate) struct Notebook {
    world: Simulated,
    mistake: Mistake,
    behind: Mutex<Option<PhaseRecord>>,
}

impl Journal for Notebook {
    async fn load(&self, job: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        let record = self.world.load(job).await?;
        let another = |record| altered(&record, serde_json::json!({ "job": "another" }));
        Ok(if self.mistake == Mistake::RecordOfAnotherJob { record.map(another) } else { record })
    }

    async fn write(&self, record: &PhaseRecord) -> Result<(), JournalError> {
        let record = match self.mistake {
            Mistake::RecordForgetsRequest if record.revision() > 2 => {
                Some(altered(record, serde_json::json!({ "requested": null })))
            }
            Mistake::JournalAfterEffect => self.behind.lock().unwrap().replace(record.clone()),
            _ => Some(record.clone()),
        };
        match record {
            Some(record) => self.world.write(&record).await,
            None => Ok(()),
        }
    }
}
