//! A controller and a scheduler that do as the test says, on the paused clock. What they were told is in their logs.
#![allow(dead_code, reason = "each test crate uses what it needs")]

pub(crate) mod crash_points;
pub(crate) mod journal;
pub(crate) mod numbers;
pub(crate) mod records;

use std::{
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until},
};
use winddown::*;

pub(crate) const JOB: &str = "wordcount";
pub(crate) const RUN: RunId = RunId::new(7);
pub(crate) const FINAL: Epoch = Epoch::new(42);

pub(crate) type Job = JobContext<Scripted, Workers>;

pub(crate) fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A running job of four tasks on two workers, whose collaborators do nothing unless they are told to.
pub(crate) fn job(limits: Limits) -> (Job, Running, Scripted, Workers) {
    let (controller, workers) = (Scripted::default(), Workers::default());
    let (job, running) = JobContext::builder(&OpenRun::without_store(JOB, RUN))
        .simulated()
        .limits(limits)
        .build(controller.clone(), workers.clone())
        .unwrap();
    (job, running, controller, workers)
}

/// What the phase told the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    FinalCheckpoint,
    Stop(WorkerStopMode),
    Release,
}

/// What the run then does.
#[derive(Clone, Debug)]
pub(crate) enum Does {
    /// The final checkpoint completes.
    CompleteFinal,
    /// All tasks finish.
    Finish,
    /// All sources have read their input.
    ExhaustSources,
    /// The run fails.
    Fail(RunFailure),
    /// `progress` returns an error of this kind.
    Err(Error),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Error {
    /// `1 of 2 workers refused`.
    Orders,
    /// Fenced by a newer run.
    Fenced,
}

impl Error {
    fn make(self) -> ControllerError {
        match self {
            Self::Orders => ControllerError::Orders(Box::new(OrderReport {
                order: "final checkpoint",
                workers: 2,
                failures: vec![(WorkerId::new(1), OrderError::timed_out(secs(5)))],
            })),
            Self::Fenced => StoreError::Fenced { job: JOB.into(), run: RUN, newer: RUN.next() }.into(),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(crate) status: RunStatus,
    pub(crate) failure: Option<RunFailure>,
    /// How often `begin_checkpoint` fails before it works.
    pub(crate) refuse_checkpoint: u32,
    /// No checkpoint is possible.
    pub(crate) no_store: bool,
    /// How often `begin_checkpoint` says that a periodic one is in flight.
    pub(crate) busy: u32,
    pub(crate) told: Vec<(Told, Instant)>,
    pub(crate) events: u64,
    /// An event says that the final checkpoint is complete and that all tasks have finished.
    pub(crate) events_end_it: bool,
    pub(crate) health_checks: u32,
    /// How often the controller did its work.
    pub(crate) progressed: u32,
    /// At each health check, how many events had come in.
    pub(crate) events_before_check: Vec<u64>,
    reactions: Vec<(Told, Duration, Does)>,
    due: Vec<(Instant, Does)>,
}

#[derive(Clone, Debug)]
pub(crate) struct Scripted {
    script: Arc<Mutex<Script>>,
    changed: Arc<Notify>,
}

impl Default for Scripted {
    fn default() -> Self {
        let status = RunStatus {
            tasks: Count::new(0, 4),
            sources: Count::new(0, 2),
            workers: 2,
            workers_left: 2,
            last_complete: Some(Epoch::new(41)),
            ..RunStatus::default()
        };
        let script = Script { status, ..Script::default() };
        Self { script: Arc::new(Mutex::new(script)), changed: Arc::default() }
    }
}

impl Scripted {
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// When the phase tells `told`, the run does `does` this much later. Each time it is told.
    pub(crate) fn on(&self, told: Told, after: Duration, does: Does) -> &Self {
        self.script().reactions.push((told, after, does));
        self
    }

    /// The run does this much from now.
    pub(crate) fn later(&self, after: Duration, does: Does) -> &Self {
        self.script().due.push((Instant::now() + after, does));
        self.changed.notify_one();
        self
    }

    pub(crate) fn told(&self) -> Vec<Told> {
        self.script().told.iter().map(|(told, _)| *told).collect()
    }

    fn tell(&self, told: Told) {
        let mut script = self.script();
        if script.told.iter().any(|(before, _)| *before == told) {
            return; // commands are idempotent
        }
        let now = Instant::now();
        script.told.push((told, now));
        let due: Vec<_> = script.reactions.iter().filter(|(on, ..)| *on == told).cloned().collect();
        script.due.extend(due.into_iter().map(|(_, after, does)| (now + after, does)));
        self.changed.notify_one();
    }

    fn take_due(&self) -> Option<Does> {
        let mut script = self.script();
        let position = script.due.iter().position(|(at, _)| *at <= Instant::now())?;
        Some(script.due.remove(position).1)
    }

    fn apply(&self, does: Does) -> Result<(), ControllerError> {
        let mut script = self.script();
        match does {
            Does::CompleteFinal => {
                script.status.final_checkpoint = FinalCheckpoint::Complete(FINAL);
                script.status.last_complete = Some(FINAL);
            }
            Does::Finish => {
                script.status.tasks.done = script.status.tasks.total;
                script.status.workers_left = 0;
            }
            Does::ExhaustSources => script.status.sources.done = script.status.sources.total,
            Does::Fail(failure) => {
                script.status.failures += 1;
                script.status.tasks_failed += u32::from(matches!(failure, RunFailure::TaskFailed { .. }));
                script.failure.get_or_insert(failure);
            }
            Does::Err(error) => return Err(error.make()),
        }
        Ok(())
    }
}

impl JobController for Scripted {
    fn status(&self) -> RunStatus {
        self.script().status
    }

    // The trait lends the failure out; the script is behind a lock, so a copy is leaked. A test makes one or two.
    fn failure(&self) -> Option<&RunFailure> {
        self.script().failure.clone().map(|failure| &*Box::leak(Box::new(failure)))
    }

    fn handle(&mut self, _: WorkerEvent, _: std::time::Instant) -> Result<Applied, Rejection> {
        let mut script = self.script();
        script.events += 1;
        if script.events_end_it {
            script.status.tasks.done = script.status.tasks.total;
            script.status.final_checkpoint = FinalCheckpoint::Complete(FINAL);
        }
        Ok(Applied::Changed)
    }

    fn check_health(&mut self, _: std::time::Instant) {
        let mut script = self.script();
        script.health_checks += 1;
        let events = script.events;
        script.events_before_check.push(events);
    }

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        assert!(then_stop, "a phase starts none but the final checkpoint");
        {
            let mut script = self.script();
            if script.no_store {
                return Err(ControllerError::NoCheckpoint("no store".into()));
            }
            if script.refuse_checkpoint > 0 {
                script.refuse_checkpoint -= 1;
                return Err(Error::Orders.make());
            }
            if script.busy > 0 {
                script.busy -= 1;
                return Ok(CheckpointStart::Busy(Epoch::new(41)));
            }
            if script.status.final_checkpoint != FinalCheckpoint::NotStarted {
                return Ok(CheckpointStart::AlreadyStarted(FINAL));
            }
            script.status.final_checkpoint = FinalCheckpoint::InFlight(FINAL);
        }
        self.tell(Told::FinalCheckpoint);
        Ok(CheckpointStart::Started(FINAL))
    }

    fn begin_stop(&mut self, mode: WorkerStopMode) {
        self.tell(Told::Stop(mode));
    }

    fn begin_release(&mut self) {
        self.tell(Told::Release);
    }

    async fn progress(&mut self) -> Result<(), ControllerError> {
        self.script().progressed += 1;
        loop {
            if let Some(does) = self.take_due() {
                return self.apply(does);
            }
            let next = self.script().due.iter().map(|(at, _)| *at).min();
            tokio::select! {
                () = self.changed.notified() => {}
                () = async { match next { Some(at) => sleep_until(at).await, None => pending().await } } => {}
            }
        }
    }
}

/// How the scheduler answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It does what it is asked.
    #[default]
    Obeys,
    /// It says `Ok`, and the workers are gone this much later.
    ObeysAfter(Duration),
    /// It says `Ok`, and nothing happens.
    Ignores,
    /// It says that it can't now.
    Fails,
    /// It says that it never will.
    Refuses,
    /// It says nothing.
    Hangs,
}

#[derive(Debug)]
pub(crate) struct Fleet {
    alive: Vec<WorkerId>,
    gone_at: Option<Instant>,
    /// For asking workers to leave, killing them, and listing them; the last answer of each is repeated.
    pub(crate) ask: Vec<Answer>,
    pub(crate) kill: Vec<Answer>,
    pub(crate) list: Vec<Answer>,
    pub(crate) calls: Vec<(Call, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Ask,
    Kill,
    List,
}

impl Fleet {
    pub(crate) fn alive(&self) -> Vec<WorkerId> {
        if self.gone_at.is_some_and(|at| at <= Instant::now()) { Vec::new() } else { self.alive.clone() }
    }

    fn answer(&mut self, call: Call) -> Answer {
        self.calls.push((call, Instant::now()));
        let answers = match call {
            Call::Ask => &mut self.ask,
            Call::Kill => &mut self.kill,
            Call::List => &mut self.list,
        };
        if answers.len() > 1 { answers.remove(0) } else { answers.first().copied().unwrap_or_default() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<Mutex<Fleet>>);

impl Default for Workers {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Fleet {
            alive: vec![WorkerId::new(1), WorkerId::new(2)],
            gone_at: None,
            ask: vec![],
            kill: vec![],
            list: vec![],
            calls: vec![],
        })))
    }
}

impl Workers {
    pub(crate) fn fleet(&self) -> MutexGuard<'_, Fleet> {
        self.0.lock().unwrap()
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.fleet().calls.iter().map(|(call, _)| *call).collect()
    }

    /// It answers every call like this.
    pub(crate) fn always(&self, answer: Answer) {
        let mut fleet = self.fleet();
        (fleet.ask, fleet.kill, fleet.list) = (vec![answer], vec![answer], vec![answer]);
    }

    fn check(job: &JobId, run: Option<RunId>) {
        assert_eq!((job.as_str(), run), (JOB, Some(RUN)), "only this run may be touched (I11)");
    }

    async fn act(&self, call: Call) -> Result<(), SchedulerError> {
        let answer = self.fleet().answer(call);
        match answer {
            Answer::Obeys if call != Call::List => self.fleet().gone_at = Some(Instant::now()),
            // Asked again, workers do not start to leave anew.
            Answer::ObeysAfter(after) => drop(self.fleet().gone_at.get_or_insert_with(|| Instant::now() + after)),
            Answer::Obeys | Answer::Ignores => {}
            Answer::Fails => return Err(SchedulerError::Unavailable("try later".into())),
            Answer::Refuses => return Err(SchedulerError::Refused("not allowed".into())),
            Answer::Hangs => pending().await,
        }
        Ok(())
    }
}

impl Scheduler for Workers {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        Self::check(job, run);
        self.act(if force { Call::Kill } else { Call::Ask }).await
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        Self::check(job, run);
        self.act(Call::List).await?;
        Ok(self.fleet().alive())
    }
}

/// A request that comes later.
pub(crate) fn request_later<C: Send + 'static, S: Send + 'static>(
    job: &JobContext<C, S>,
    after: Duration,
    request: StopRequest,
) {
    let sender = job.sender();
    tokio::spawn(async move {
        sleep(after).await;
        // The job may have ended by then; the test sees to what it is about.
        let _ = sender.request(request);
    });
}

pub(crate) fn task_failed() -> RunFailure {
    let (task, worker) = (TaskId::new(1, 0), WorkerId::new(1));
    RunFailure::TaskFailed { task, worker, error: TaskError::retryable("out of disk") }
}

pub(crate) fn worker_lost() -> RunFailure {
    RunFailure::WorkerLost { worker: WorkerId::new(2), silent_for: secs(31) }
}

pub(crate) fn names(legs: &[Leg]) -> Vec<&'static str> {
    legs.iter().map(|leg| leg.phase.name()).collect()
}
