//! Jobs whose controller and scheduler are nothing, so that only the machine itself is measured.

use std::{future::pending, time::Instant};

use winddown::{
    Epoch, JobContext, JobController, JobId, OpenRun, RunId, Running, Scheduler, WorkerId,
    contracts::{
        Applied, CheckpointStart, ControllerError, Count, Rejection, RunFailure, RunStatus, SchedulerError,
        WorkerEvent, WorkerStopMode,
    },
};

/// A controller of a run that never ends. It needs no memory of its own, and reports nothing to the
/// mailbox's reader.
pub(super) struct NoController;

impl JobController for NoController {
    fn status(&self) -> RunStatus {
        let (tasks, sources) = (Count::new(0, 1), Count::new(0, 1));
        RunStatus { tasks, sources, workers: 1, workers_left: 1, ..RunStatus::default() }
    }

    fn failure(&self) -> Option<&RunFailure> {
        None
    }

    fn handle(&mut self, _: WorkerEvent, _: Instant) -> Result<Applied, Rejection> {
        Ok(Applied::Changed)
    }

    fn check_health(&mut self, _: Instant) {}

    fn begin_checkpoint(&mut self, _: bool) -> Result<CheckpointStart, ControllerError> {
        Ok(CheckpointStart::Started(Epoch::new(1)))
    }

    fn begin_stop(&mut self, _: WorkerStopMode) {}

    fn begin_release(&mut self) {}

    async fn progress(&mut self) -> Result<(), ControllerError> {
        pending().await
    }
}

/// A scheduler that answers nothing.
pub(super) struct NoScheduler;

impl Scheduler for NoScheduler {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, _: bool) -> Result<(), SchedulerError> {
        pending().await
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        pending().await
    }
}

pub(super) type Job = JobContext<NoController, NoScheduler>;

/// A running job of the machine alone. Its name is shared.
pub(super) fn job(name: &JobId, number: u64) -> (Job, Running) {
    JobContext::builder(&OpenRun::without_store(name.clone(), RunId::new(number)))
        .simulated()
        .build(NoController, NoScheduler)
        .unwrap()
}
