//! A scripted job, as most tests here want it.

use std::time::Duration;

pub(crate) use winddown::testing::scripted::*;
use winddown::{
    Epoch, JobContext, Limits, OpenRun, RunId, Running, TaskId, WorkerId,
    contracts::{RunFailure, TaskError},
    drive::Leg,
};

pub(crate) const JOB: &str = "wordcount";
pub(crate) const RUN: RunId = RunId::new(7);
pub(crate) const FINAL: Epoch = ScriptedController::FINAL;

pub(crate) type Job = JobContext<ScriptedController, ScriptedScheduler>;

pub(crate) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The collaborators of a job of four tasks on two workers. They do nothing unless they are told
/// to, and allow no call about another run.
pub(crate) struct Parts {
    pub(crate) controller: ScriptedController,
    pub(crate) scheduler: ScriptedScheduler,
    pub(crate) journal: ScriptedJournal,
}

impl Parts {
    pub(crate) fn new() -> Self {
        Self { controller: controller(), scheduler: workers(), journal: ScriptedJournal::default() }
    }

    pub(crate) fn job(&self, limits: Limits) -> (Job, Running) {
        let builder = JobContext::builder(&OpenRun::without_store(JOB, RUN))
            .simulated()
            .limits(limits)
            .journal(self.journal.clone());
        builder.build(self.controller.clone(), self.scheduler.clone()).unwrap()
    }
}

/// A running job, its controller and its scheduler.
pub(crate) fn job(limits: Limits) -> (Job, Running, ScriptedController, ScriptedScheduler) {
    let (job, running, controller, workers, _) = journaled(limits);
    (job, running, controller, workers)
}

/// The same, with its journal.
pub(crate) fn journaled(limits: Limits) -> (Job, Running, ScriptedController, ScriptedScheduler, ScriptedJournal) {
    let parts = Parts::new();
    let (job, running) = parts.job(limits);
    (job, running, parts.controller, parts.scheduler, parts.journal)
}

pub(crate) fn controller() -> ScriptedController {
    ScriptedController::new(4)
}

pub(crate) fn workers() -> ScriptedScheduler {
    ScriptedScheduler::new([1, 2]).of_run(JOB, RUN)
}

/// The final checkpoint completes `checkpoint` after it was ordered, and all tasks finish `tasks`
/// after it.
pub(crate) fn completes(controller: &ScriptedController, checkpoint: Duration, tasks: Duration) {
    controller.on(Told::FinalCheckpoint, checkpoint, Does::CompleteFinal);
    controller.on(Told::FinalCheckpoint, tasks, Does::Finish);
}

/// What the scheduler was asked.
pub(crate) fn asked(workers: &ScriptedScheduler) -> Vec<Call> {
    workers.calls().into_iter().map(|(call, _)| call).collect()
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
