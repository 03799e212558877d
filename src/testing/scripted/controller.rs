//! A controller whose run does what the test says.

use std::{
    future::pending,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::lock;
use crate::contracts::{
    Applied, CheckpointStart, ControllerError, Count, Epoch, FinalCheckpoint, JobController, OrderError, OrderReport,
    Rejection, RunFailure, RunStatus, StoreError, WorkerEvent, WorkerId, WorkerStopMode,
};

/// What a phase told the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Told {
    /// To take the final checkpoint.
    FinalCheckpoint,
    /// To stop every task.
    Stop(WorkerStopMode),
    /// To let the workers go.
    Release,
}

/// What the run then does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Does {
    /// The final checkpoint becomes complete.
    CompleteFinal,
    /// All tasks finish.
    Finish,
    /// All sources have read their input.
    ExhaustSources,
    /// The run fails.
    Fail(RunFailure),
    /// Worker 1 does not take the order: [`JobController::progress`] says so, once.
    RefuseOrder,
    /// The manifest can't be published: [`JobController::progress`] says so, once.
    FailToPublish,
}

#[derive(Debug)]
struct Script {
    status: RunStatus,
    told: Vec<(Told, Instant)>,
    events: Vec<WorkerEvent>,
    reactions: Vec<(Told, Duration, Does)>,
    due: Vec<(Instant, Does)>,
    /// The status was changed from outside, and `progress` has not said so yet.
    is_changed: bool,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    // Apart from the script, because the contract lends it out. The first failure stays, as the contract says.
    failure: OnceLock<RunFailure>,
    changed: Notify,
}

/// A [`JobController`] that does nothing unless it is told to by the test.
///
/// ```
/// use std::time::Duration;
/// use winddown::{JobContext, OpenRun, Policy, RunId, drive, testing::scripted::*};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (controller, scheduler) = (ScriptedController::new(4), ScriptedScheduler::new([1, 2]));
/// controller.on(Told::FinalCheckpoint, Duration::from_secs(5), Does::CompleteFinal);
/// controller.on(Told::FinalCheckpoint, Duration::from_secs(6), Does::Finish);
///
/// let open = OpenRun::without_store("wordcount", RunId::new(1));
/// let (mut job, running) = JobContext::new(&open, controller.clone(), scheduler)?;
/// let stopping = running.stop_with_checkpoint(&mut job)?;
/// let receipt = drive(stopping, &mut job, &Policy::give_back()).await?;
/// assert_eq!(receipt.stopped().epoch(), Some(ScriptedController::FINAL));
/// assert_eq!(controller.told(), [Told::FinalCheckpoint, Told::Release]);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct ScriptedController(Arc<Shared>);

impl ScriptedController {
    /// The epoch of the final checkpoint.
    pub const FINAL: Epoch = Epoch::new(42);

    /// The controller of a run of so many tasks on two workers, half of them sources (rounded up), whose last complete checkpoint is
    /// the one before [`FINAL`](Self::FINAL).
    pub fn new(tasks: u32) -> Self {
        let status = RunStatus {
            tasks: Count::new(0, tasks),
            sources: Count::new(0, tasks.div_ceil(2)),
            workers: 2,
            workers_left: 2,
            last_complete: Some(Epoch::new(Self::FINAL.get() - 1)),
            ..RunStatus::default()
        };
        let script = Script { status, told: vec![], events: vec![], reactions: vec![], due: vec![], is_changed: false };
        Self(Arc::new(Shared { script: Mutex::new(script), failure: OnceLock::new(), changed: Notify::new() }))
    }

    /// Each time that it is told `told` (the first time: commands are idempotent), the run does `does` so much later.
    pub fn on(&self, told: Told, after: Duration, does: Does) -> &Self {
        lock(&self.0.script).reactions.push((told, after, does));
        self
    }

    /// The run does `does` so much from now.
    pub fn later(&self, after: Duration, does: Does) -> &Self {
        lock(&self.0.script).due.push((Instant::now() + after, does));
        self.0.changed.notify_one();
        self
    }

    /// Changes the status at once, in any way.
    pub fn change(&self, change: impl FnOnce(&mut RunStatus)) -> &Self {
        let mut script = lock(&self.0.script);
        change(&mut script.status);
        script.is_changed = true;
        self.0.changed.notify_one();
        self
    }

    /// What it was told, each once, in order.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.0.script).told.iter().map(|(told, _)| *told).collect()
    }

    /// When it was told that; `None` if it was not.
    pub fn told_at(&self, told: Told) -> Option<Instant> {
        lock(&self.0.script).told.iter().find(|(it, _)| *it == told).map(|(_, at)| *at)
    }

    /// The workers' messages that reached it.
    pub fn events(&self) -> Vec<WorkerEvent> {
        lock(&self.0.script).events.clone()
    }

    fn tell(&self, told: Told) {
        let mut script = lock(&self.0.script);
        if script.told.iter().any(|(before, _)| *before == told) {
            return;
        }
        let now = Instant::now();
        script.told.push((told, now));
        let due: Vec<_> = script.reactions.iter().filter(|(on, ..)| *on == told).cloned().collect();
        script.due.extend(due.into_iter().map(|(_, after, does)| (now + after, does)));
        self.0.changed.notify_one();
    }

    fn take_due(&self) -> Option<Does> {
        let mut script = lock(&self.0.script);
        let position = script.due.iter().position(|(at, _)| *at <= Instant::now())?;
        Some(script.due.remove(position).1)
    }

    fn apply(&self, does: Does) -> Result<(), ControllerError> {
        let mut script = lock(&self.0.script);
        match does {
            Does::CompleteFinal => {
                script.status.final_checkpoint = FinalCheckpoint::Complete(Self::FINAL);
                script.status.last_complete = Some(Self::FINAL);
            }
            Does::Finish => {
                script.status.tasks.done = script.status.tasks.total - script.status.tasks_failed;
                script.status.workers_left = 0;
            }
            Does::ExhaustSources => script.status.sources.done = script.status.sources.total,
            Does::Fail(failure) => {
                script.status.failures += 1;
                script.status.workers_lost += u32::from(failure.is_lost_worker());
                script.status.tasks_failed += u32::from(matches!(failure, RunFailure::TaskFailed { .. }));
                // The first one stays.
                let _ = self.0.failure.set(failure);
            }
            Does::RefuseOrder => {
                let failures = vec![(WorkerId::new(1), OrderError::timed_out(Duration::from_secs(5)))];
                return Err(ControllerError::Orders(OrderReport { order: "scripted", workers: 2, failures }.into()));
            }
            Does::FailToPublish => return Err(StoreError::Unavailable("scripted".into()).into()),
        }
        Ok(())
    }
}

#[diagnostic::do_not_recommend]
impl JobController for ScriptedController {
    fn status(&self) -> RunStatus {
        lock(&self.0.script).status
    }

    fn failure(&self) -> Option<&RunFailure> {
        self.0.failure.get()
    }

    fn handle(&mut self, event: WorkerEvent, _: std::time::Instant) -> Result<Applied, Rejection> {
        lock(&self.0.script).events.push(event);
        Ok(Applied::Changed)
    }

    fn check_health(&mut self, _: std::time::Instant) {}

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        if !then_stop {
            return Err(ControllerError::NoCheckpoint("this script has no periodic ones".into()));
        }
        let is_first = {
            let status = &mut lock(&self.0.script).status;
            let is_first = status.final_checkpoint == FinalCheckpoint::NotStarted;
            if is_first {
                status.final_checkpoint = FinalCheckpoint::InFlight(Self::FINAL);
            }
            is_first
        };
        self.tell(Told::FinalCheckpoint);
        Ok(if is_first { CheckpointStart::Started(Self::FINAL) } else { CheckpointStart::AlreadyStarted(Self::FINAL) })
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        self.tell(Told::Stop(mode));
    }

    fn begin_release(&mut self) {
        self.tell(Told::Release);
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        loop {
            if let Some(does) = self.take_due() {
                return self.apply(does);
            }
            if std::mem::take(&mut lock(&self.0.script).is_changed) {
                return Ok(());
            }
            let next = lock(&self.0.script).due.iter().map(|(at, _)| *at).min();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.0.changed.notified() => {}
                () = due => {}
            }
        }
    }
}
