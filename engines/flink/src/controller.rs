//! A job controller over Flink's REST API.

use std::{collections::BTreeMap, fmt, pin::Pin, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::{sync::watch, time::Instant};
use winddown::{
    OpenRun, WorkerId,
    contracts::{
        Applied, CheckpointStage, CheckpointStart, ControllerError, Count, FinalCheckpoint, JobController, OtherRun,
        Rejection, RunFailure, RunStatus, WorkerEvent, WorkerStopMode,
    },
};

use crate::{
    answers::JobState,
    books::Books,
    job::FlinkJob,
    look::{Look, Plan, Want, look},
    savepoint::Mount,
};

/// Stops one Flink job: with a savepoint, with a drain, or by cancelling it.
///
/// - `begin_checkpoint(true)` is a stop with a savepoint. Its trigger has an id that follows from
///   the job, so an order whose answer was lost is not given twice, and two programs that stop one
///   job at once share one savepoint. A trigger that fails is followed by another one when the
///   command is repeated.
/// - `begin_stop(Graceful)` is the same with `drain`: sources end, windows fire, then the job
///   finishes.
/// - `begin_stop(Immediate)` cancels the job.
///
/// The final checkpoint is complete when the job is `FINISHED`, every subtask has ended, its last
/// checkpoint is the one that it stopped with, and the savepoint's `_metadata` can be read from
/// here. Its epoch is Flink's number of the checkpoint; [`View::savepoint`] is its path. A trigger
/// that says `COMPLETED` proves none of that.
pub struct FlinkController {
    job: FlinkJob,
    settings: Settings,
    books: Books,
    /// The round that is under way; it outlives a `progress` that is dropped.
    looking: Option<Pin<Box<dyn Future<Output = Look> + Send>>>,
    told: watch::Sender<View>,
}

#[derive(Clone, Debug)]
struct Settings {
    every: Duration,
    savepoints: Option<Arc<str>>,
    mounts: Arc<[Mount]>,
}

/// Collects how a [`FlinkController`] is to work.
#[derive(Clone, Debug)]
#[must_use = "call `build` to get the controller"]
pub struct FlinkControllerBuilder {
    job: FlinkJob,
    every: Duration,
    savepoints: Option<Arc<str>>,
    mounts: Vec<Mount>,
    order_retries: u32,
    hold_failed_drain: bool,
}

impl FlinkControllerBuilder {
    /// The time between two rounds of questions to the cluster. 200 ms.
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    /// Where Flink writes the savepoint, as it calls it. The cluster's own
    /// `execution.checkpointing.savepoint-dir`, if it is not called.
    pub fn savepoints(mut self, folder: impl Into<Arc<str>>) -> Self {
        self.savepoints = Some(folder.into());
        self
    }

    /// Where a folder of savepoints is on this machine.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// How often an order that has no answer is given again before that is an error. 10.
    pub fn order_retries(mut self, most: u32) -> Self {
        self.order_retries = most;
        self
    }

    /// Tells of a drain that fails in [`View::failed_order`] alone, and goes on waiting. Without
    /// it, the phase kills the job: a graceful stop has no way back to a running one.
    pub fn hold_failed_drain(mut self) -> Self {
        self.hold_failed_drain = true;
        self
    }

    /// The controller. Nothing is asked of the cluster yet.
    pub fn build(self) -> FlinkController {
        let Self { job, every, savepoints, mounts, order_retries, hold_failed_drain } = self;
        FlinkController {
            job,
            settings: Settings { every, savepoints, mounts: mounts.into() },
            books: Books::new(order_retries, hold_failed_drain),
            looking: None,
            told: watch::Sender::default(),
        }
    }
}

/// What a controller knows, for people and receipts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct View {
    /// The job's state when it was last asked for; `None` before the first answer.
    pub state: Option<JobState>,
    /// The job's vertices.
    pub vertices: Vec<VertexView>,
    /// The savepoint that the stop has made, from which the job can be started again.
    pub savepoint: Option<String>,
    /// Whether its `_metadata` was read from here, after the job had finished.
    pub is_savepoint_read: bool,
    /// Why the last stop with a savepoint, or with a drain, failed.
    pub failed_order: Option<String>,
    /// What was wrong with the last round of questions.
    pub trouble: Option<Trouble>,
    /// Rounds in a row in which nobody could say how the job is.
    pub silent_rounds: u32,
}

/// What is wrong with the answers of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Trouble {
    /// Whether it may pass by itself: the `JobManager` is away, restarting, or has no leader.
    pub is_away: bool,
    /// For people.
    pub said: String,
}

/// One vertex of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VertexView {
    /// Its name.
    pub name: String,
    /// Subtasks that have finished, of all.
    pub subtasks: Count,
    /// How many subtasks are in each of Flink's states.
    pub states: BTreeMap<String, u32>,
}

impl fmt::Display for VertexView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.name)?;
        self.states.iter().try_for_each(|(state, count)| write!(f, " {count} {}", state.to_lowercase()))
    }
}

impl FlinkController {
    /// Starts to say how the controller of this job is to work.
    pub fn builder(job: &FlinkJob) -> FlinkControllerBuilder {
        FlinkControllerBuilder {
            job: job.clone(),
            every: Duration::from_millis(200),
            savepoints: None,
            mounts: Vec::new(),
            order_retries: 10,
            hold_failed_drain: false,
        }
    }

    /// What is known, as it changes.
    pub fn watch(&self) -> watch::Receiver<View> {
        self.told.subscribe()
    }

    fn want(&mut self, want: Want) {
        if self.books.want(want) {
            // A round under way gives the old order.
            self.looking = None;
        }
    }

    fn plan(&self) -> Plan {
        let Self { job, settings, books, .. } = self;
        let is_first = books.view.state.is_none() && books.view.silent_rounds == 0;
        let at_once = is_first || (!books.given && books.view.trouble.is_none());
        // A cache that is as old as it may be when the end was seen, and a little more.
        let settled = books.ended.map(|ended| ended + job.refresh() + Duration::from_millis(100));
        Plan {
            want: books.want,
            given: books.given,
            nth: books.nth,
            pause: if at_once { Duration::ZERO } else { books.pause(settings.every) },
            savepoints: settings.savepoints.clone(),
            mounts: Arc::clone(&settings.mounts),
            settled,
        }
    }
}

impl JobController for FlinkController {
    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        let ours = self.job.open();
        open.check(ours.job(), ours.run())
    }

    fn status(&self) -> RunStatus {
        self.books.status
    }

    fn failure(&self) -> Option<&RunFailure> {
        self.books.failure.as_ref()
    }

    /// Flink knows its workers' silence; no worker reports to this controller.
    fn handle(&mut self, event: WorkerEvent, _: std::time::Instant) -> Result<Applied, Rejection> {
        Err(Rejection::UnknownWorker(WorkerId::new(event.worker.get())))
    }

    fn check_health(&mut self, _: std::time::Instant) {}

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        if !then_stop {
            return Err(ControllerError::NoCheckpoint("Flink takes periodic checkpoints itself".into()));
        }
        if self.books.want == Want::Cancel {
            return Err(ControllerError::NoCheckpoint("the job is being cancelled".into()));
        }
        self.want(Want::Savepoint { drain: false });
        match self.books.status.final_checkpoint {
            FinalCheckpoint::InFlight(epoch) | FinalCheckpoint::Complete(epoch) => {
                Ok(CheckpointStart::AlreadyStarted(epoch))
            }
            FinalCheckpoint::NotStarted => {
                let epoch = self.books.expected();
                let acks = Count::new(0, self.books.status.tasks.total);
                self.books.status.final_checkpoint = FinalCheckpoint::InFlight(epoch);
                self.books.status.checkpoint = CheckpointStage::Collecting { epoch, acks };
                Ok(CheckpointStart::Started(epoch))
            }
        }
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        self.want(match mode {
            WorkerStopMode::Graceful => Want::Savepoint { drain: true },
            WorkerStopMode::Immediate => Want::Cancel,
        });
    }

    /// The workers are the cluster's: they stay.
    fn begin_release(&mut self) {}

    async fn progress(&mut self) -> Result<(), ControllerError> {
        loop {
            if self.looking.is_none() {
                self.looking = Some(Box::pin(look(self.job.clone(), self.plan())));
            }
            let Some(looking) = &mut self.looking else { continue };
            let look = looking.await;
            self.looking = None;
            let changed = self.books.apply(look, Instant::now());
            self.told.send_if_modified(|view| {
                let is_new = *view != self.books.view;
                view.clone_from(&self.books.view);
                is_new
            });
            if changed? {
                return Ok(());
            }
        }
    }
}

impl fmt::Debug for FlinkController {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlinkController")
            .field("job", &self.job.id())
            .field("books", &self.books)
            .finish_non_exhaustive()
    }
}
