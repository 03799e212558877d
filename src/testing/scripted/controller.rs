//! A controller whose run follows the test's script.

use std::{
    future::pending,
    sync::{Arc, Mutex, OnceLock},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{lock, next_of};
use crate::contracts::{
    Applied, CheckpointStart, ControllerError, Count, Epoch, FinalCheckpoint, JobController, OrderError, OrderReport,
    Rejection, RunFailure, RunId, RunStatus, StoreError, WorkerEvent, WorkerId, WorkerStopMode,
};

/// A command of a phase to the controller.
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

/// What the run does then.
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
    /// Worker 1 does not accept the order: [`JobController::progress`] returns that error once.
    RefuseOrder,
    /// The manifest can't be published: [`JobController::progress`] returns that error once.
    FailToPublish,
    /// Run 2 of the job `scripted` has fenced run 1: [`JobController::progress`] returns that error
    /// once.
    BeFenced,
}

impl Does {
    /// The error that `progress` returns, for effects that do not change the status.
    fn error(&self) -> Option<ControllerError> {
        match self {
            Self::RefuseOrder => Some(refused()),
            Self::FailToPublish => Some(StoreError::Unavailable("scripted".into()).into()),
            Self::BeFenced => {
                let (run, newer) = (RunId::new(1), RunId::new(2));
                Some(StoreError::Fenced { job: "scripted".into(), run, newer }.into())
            }
            Self::CompleteFinal | Self::Finish | Self::ExhaustSources | Self::Fail(_) => None,
        }
    }
}

fn refused() -> ControllerError {
    let failures = vec![(WorkerId::new(1), OrderError::timed_out(Duration::from_secs(5)))];
    ControllerError::Orders(OrderReport { order: "scripted", workers: 2, failures }.into())
}

/// How a controller answers the command to take the final checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckpointAnswer {
    /// It starts the checkpoint, or reports that it already has.
    #[default]
    Starts,
    /// A periodic checkpoint is still in flight.
    Busy,
    /// Worker 1 does not take the order.
    Refuses,
    /// The job has no checkpoint store.
    NoStore,
}

/// A call of a method of [`JobController`] that gives it a command or an event, or lets it work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ControllerCall {
    /// [`JobController::handle`]
    Handle,
    /// [`JobController::check_health`]
    CheckHealth,
    /// [`JobController::begin_checkpoint`]
    BeginCheckpoint,
    /// [`JobController::begin_stop`]
    BeginStop,
    /// [`JobController::begin_release`]
    BeginRelease,
    /// [`JobController::progress`]
    Progress,
}

#[derive(Debug, Default)]
struct Script {
    status: RunStatus,
    told: Vec<(Told, Instant)>,
    calls: Vec<(ControllerCall, Instant)>,
    events: Vec<WorkerEvent>,
    checkpoints: Vec<CheckpointAnswer>,
    on_event: Vec<Does>,
    reactions: Vec<(Told, Duration, Does)>,
    due: Vec<(Instant, Does)>,
    /// The status was changed from outside, and `progress` has not reported it yet.
    is_changed: bool,
}

#[derive(Debug)]
struct Shared {
    script: Mutex<Script>,
    // Separate from the script, because the contract returns a reference to it. The first failure
    // stays, as the contract says.
    failure: OnceLock<RunFailure>,
    changed: Notify,
}

/// A [`JobController`] that does nothing unless the test's script says so.
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

    /// The epoch of the last complete checkpoint before it.
    pub const BEFORE_FINAL: Epoch = Epoch::new(41);

    /// The controller of a run of this many tasks on two workers, half of them sources (rounded
    /// up), whose last complete checkpoint is [`BEFORE_FINAL`](Self::BEFORE_FINAL).
    pub fn new(tasks: u32) -> Self {
        let status = RunStatus {
            tasks: Count::new(0, tasks),
            sources: Count::new(0, tasks.div_ceil(2)),
            workers: 2,
            workers_left: 2,
            last_complete: Some(Self::BEFORE_FINAL),
            ..RunStatus::default()
        };
        let script = Script { status, ..Script::default() };
        Self(Arc::new(Shared { script: Mutex::new(script), failure: OnceLock::new(), changed: Notify::new() }))
    }

    /// When it gets the command `told` (only the first time, because commands are idempotent), the
    /// run does `does` after this delay.
    pub fn on(&self, told: Told, after: Duration, does: Does) -> &Self {
        lock(&self.0.script).reactions.push((told, after, does));
        self
    }

    /// The run does `does` after this delay from now.
    pub fn later(&self, after: Duration, does: Does) -> &Self {
        lock(&self.0.script).due.push((Instant::now() + after, does));
        self.0.changed.notify_one();
        self
    }

    /// The run does this at once. An error is what `progress` returns next.
    pub fn now(&self, does: Does) -> &Self {
        if does.error().is_some() {
            return self.later(Duration::ZERO, does);
        }
        self.apply(does);
        lock(&self.0.script).is_changed = true;
        self.0.changed.notify_one();
        self
    }

    /// With every message of a worker, the run does this at once.
    pub fn on_event(&self, does: Does) -> &Self {
        lock(&self.0.script).on_event.push(does);
        self
    }

    /// It gives these answers to the command to take the final checkpoint, in order; the last one
    /// is repeated.
    pub fn checkpoints(&self, answers: impl IntoIterator<Item = CheckpointAnswer>) -> &Self {
        lock(&self.0.script).checkpoints = answers.into_iter().collect();
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

    /// The commands that it got, each once, in order.
    pub fn told(&self) -> Vec<Told> {
        lock(&self.0.script).told.iter().map(|(told, _)| *told).collect()
    }

    /// When it got that command; `None` if it did not.
    pub fn told_at(&self, told: Told) -> Option<Instant> {
        lock(&self.0.script).told.iter().find(|(it, _)| *it == told).map(|(_, at)| *at)
    }

    /// Every call so far, in order, with its time.
    pub fn calls(&self) -> Vec<(ControllerCall, Instant)> {
        lock(&self.0.script).calls.clone()
    }

    /// How often it got this call.
    pub fn count(&self, call: ControllerCall) -> usize {
        lock(&self.0.script).calls.iter().filter(|(it, _)| *it == call).count()
    }

    /// The workers' messages that reached it.
    pub fn events(&self) -> Vec<WorkerEvent> {
        lock(&self.0.script).events.clone()
    }

    fn note(&self, call: ControllerCall) {
        lock(&self.0.script).calls.push((call, Instant::now()));
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

    /// Changes the status. An error changes nothing in it.
    fn apply(&self, does: Does) {
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
            Does::RefuseOrder | Does::FailToPublish | Does::BeFenced => {}
        }
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
        self.note(ControllerCall::Handle);
        let does = {
            let mut script = lock(&self.0.script);
            script.events.push(event);
            script.on_event.clone()
        };
        for does in does {
            self.now(does);
        }
        Ok(Applied::Changed)
    }

    fn check_health(&mut self, _: std::time::Instant) {
        self.note(ControllerCall::CheckHealth);
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        self.note(ControllerCall::BeginCheckpoint);
        if !then_stop {
            return Err(ControllerError::NoCheckpoint("this script has no periodic ones".into()));
        }
        let answer = next_of(&mut lock(&self.0.script).checkpoints);
        match answer {
            CheckpointAnswer::Starts => {}
            CheckpointAnswer::Busy => return Ok(CheckpointStart::Busy(Self::BEFORE_FINAL)),
            CheckpointAnswer::Refuses => return Err(refused()),
            CheckpointAnswer::NoStore => return Err(ControllerError::NoCheckpoint("this script has no store".into())),
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
        self.note(ControllerCall::BeginStop);
        self.tell(Told::Stop(mode));
    }

    fn begin_release(&mut self) {
        self.note(ControllerCall::BeginRelease);
        self.tell(Told::Release);
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        self.note(ControllerCall::Progress);
        loop {
            if let Some(does) = self.take_due() {
                let error = does.error();
                self.apply(does);
                return error.map_or(Ok(()), Err);
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
