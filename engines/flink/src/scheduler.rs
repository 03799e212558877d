//! A scheduler of one job in a session cluster, whose `TaskManager`s stay when the job ends.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use winddown::{
    JobId, RunId, Scheduler, WorkerId,
    contracts::{ConfirmedBy, SchedulerError},
};

use crate::{
    answers::{GraphAnswer, Subtask},
    job::FlinkJob,
    rest::RestError,
};

/// The workers of a job are the `TaskManager`s that hold its subtasks, for as long as they do.
///
/// To force is to cancel the job. No worker is listed once the job is globally terminal, no subtask
/// of it is left, and each `TaskManager` of a subtask that did not finish by itself has been heard
/// after the end: the `JobManager` declares the subtasks of a `TaskManager` that it has lost ended,
/// and such a one may be frozen, and wake up. When it is dropped from the cluster's list without
/// having been heard, the evidence is [`ConfirmedBy::Records`]. So it is after an attempt before
/// the last one: where that ran, nobody says.
///
/// While the job runs without any subtask, its `JobMaster` is listed:
/// [`JOB_MASTER`](Self::JOB_MASTER).
#[derive(Clone, Debug)]
pub struct FlinkScheduler {
    job: FlinkJob,
    by_records: Arc<AtomicBool>,
}

impl FlinkScheduler {
    /// Stands for a job that has not ended although no `TaskManager` holds a subtask of it: it will
    /// run again.
    pub const JOB_MASTER: WorkerId = WorkerId::new(0);

    /// The scheduler of this job.
    pub fn new(job: &FlinkJob) -> Self {
        Self { job: job.clone(), by_records: Arc::default() }
    }

    fn check(&self, job: &JobId, run: Option<RunId>) -> Result<(), SchedulerError> {
        let open = self.job.open();
        if open.job() == job && run.is_none_or(|run| run == open.run()) {
            return Ok(());
        }
        let asked = run.map_or_else(|| "any run".to_owned(), |run| format!("run {run}"));
        Err(SchedulerError::Refused(
            format!("expected run {} of job `{}`, got {asked} of job `{job}`", open.run(), open.job()).into(),
        ))
    }

    async fn subtasks(&self, graph: &GraphAnswer) -> Result<Vec<Subtask>, RestError> {
        let mut all = Vec::new();
        for vertex in &graph.vertices {
            all.extend(self.job.vertex(&vertex.id).await?.subtasks);
        }
        Ok(all)
    }

    async fn alive(&self) -> Result<Vec<WorkerId>, RestError> {
        let state = self.job.state().await?;
        let graph = self.job.graph().await?;
        let subtasks = self.subtasks(&graph).await?;
        let mut alive: Vec<_> = subtasks
            .iter()
            .filter(|subtask| !subtask.has_ended())
            .filter_map(Subtask::task_manager)
            .map(|id| self.job.worker(id))
            .collect();
        let has_ended = state.is_globally_terminal() && subtasks.iter().all(Subtask::has_ended);
        match graph.ended_at().filter(|_| has_ended) {
            Some(ended) => alive = self.unheard(ended, &subtasks).await?,
            None if alive.is_empty() => alive.push(Self::JOB_MASTER),
            None => {}
        }
        alive.sort_unstable();
        alive.dedup();
        Ok(alive)
    }

    /// The `TaskManager`s that have not said since the end of the job that they are well.
    async fn unheard(&self, ended: u64, subtasks: &[Subtask]) -> Result<Vec<WorkerId>, RestError> {
        let had_attempts = subtasks.iter().any(|subtask| subtask.attempt > 0);
        let told: Vec<_> = subtasks.iter().filter(|subtask| !subtask.has_finished()).collect();
        let listed = if told.is_empty() { Vec::new() } else { self.job.task_managers().await?.task_managers };
        let (mut unheard, mut by_records) = (Vec::new(), had_attempts);
        for id in told.iter().filter_map(|subtask| subtask.task_manager()) {
            match listed.iter().find(|listed| listed.id == id) {
                Some(listed) if listed.last_heartbeat > ended => {}
                Some(_) => unheard.push(self.job.worker(id)),
                None => by_records = true,
            }
        }
        self.by_records.store(by_records, Ordering::Relaxed);
        Ok(unheard)
    }
}

impl Scheduler for FlinkScheduler {
    /// Without force nothing is done: the workers are the cluster's.
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        self.check(job, run)?;
        if !force {
            return Ok(());
        }
        match self.job.state().await.map_err(failed)? {
            state if state.is_globally_terminal() => Ok(()),
            _ => self.job.cancel().await.map_err(failed),
        }
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        self.check(job, run)?;
        self.alive().await.map_err(failed)
    }

    fn confirmed_by(&self, _: &JobId, _: Option<RunId>) -> ConfirmedBy {
        if self.by_records.load(Ordering::Relaxed) { ConfirmedBy::Records } else { ConfirmedBy::Host }
    }
}

/// A job that the `JobManager` does not know may be one that it will recover, and `TaskManager`s
/// may run it until then.
fn failed(error: RestError) -> SchedulerError {
    if error.is_retryable() || error.is_not_found() {
        SchedulerError::Unavailable(error.into())
    } else {
        SchedulerError::Refused(error.into())
    }
}
