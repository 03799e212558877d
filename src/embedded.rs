//! The embedded cluster: workers of many jobs in this process, as a [`Scheduler`] and a
//! [`Transport`](crate::contracts::Transport).
//!
//! It is meant for examples, tests and small deployments, and gives the same guarantees as a
//! cluster of pods: a worker is listed until none of its tasks is running any more, and force is a
//! verified abort (invariant I2).
//!
//! ```
//! use tokio::sync::mpsc;
//! use winddown::prelude::*;
//! use winddown::EmbeddedCluster;
//! use winddown::contracts::{Command, Event, Order, TaskError, WorkerEvent, WorkerStopMode};
//! use winddown::worker::{EventSink, SinkClosed, WorkerOptions};
//!
//! struct Events(mpsc::Sender<WorkerEvent>);
//!
//! impl EventSink for Events {
//!     async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
//!         self.0.send(event).await.map_err(|_| SinkClosed)
//!     }
//! }
//!
//! async fn until_stopped(mut ctx: TaskContext) -> Result<(), TaskError> {
//!     while !matches!(ctx.order().await, TaskOrder::Stop(_)) {}
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (open, worker) = (OpenRun::without_store("words", RunId::new(1)), WorkerId::new(1));
//! let topology = Topology::builder().operator("source", Role::Source, [worker]).build()?;
//! let cluster = EmbeddedCluster::new(WorkerOptions::default());
//! let (sink, mut events) = mpsc::channel(8);
//! let hosted = cluster.start(&open, &topology, Events(sink), until_stopped)?;
//! let (job, run) = (open.job(), open.run());
//!
//! hosted.send(worker, Order { run, command: Command::Stop(WorkerStopMode::Graceful) }).await?;
//! while !matches!(events.recv().await.unwrap().event, Event::TaskFinished { .. }) {}
//! assert_eq!(cluster.workers_for_job(job, Some(run)).await?, [worker], "it has not left yet");
//!
//! cluster.stop_workers(job, Some(run), false).await?;
//! assert_eq!(cluster.workers_for_job(job, Some(run)).await?, []);
//! # Ok(())
//! # }
//! ```

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use tokio::{runtime::Handle, sync::watch};

use self::{
    gate::{Gate, GatedSink},
    run::{Hosted, JobRuns},
};
use crate::{
    contracts::{EndListener, JobId, OpenRun, RunId, Scheduler, SchedulerError, TaskError, Topology, WorkerId},
    worker::{EventSink, Prepared, TaskContext, WorkerOptions, lock},
};

mod gate;
mod plan;
mod run;
#[cfg(test)]
mod tests;

pub use plan::StartError;
pub use run::EmbeddedRun;

/// Hosts the workers of any number of jobs in this process. A handle that is cheap to clone.
///
/// A run lives as long as any handle to it or to its cluster; dropping the last one aborts its
/// tasks. The cluster does not know what a task spawns, and does not end it: a task has to end its
/// own spawned tasks (dropping a `tokio::task::JoinSet` does that).
#[derive(Clone, Default)]
pub struct EmbeddedCluster {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    options: WorkerOptions,
    jobs: Mutex<HashMap<JobId, JobRuns>>,
}

impl EmbeddedCluster {
    /// A cluster without any run. `options` applies to all workers; its `grace` is also the time
    /// that a stop waits for an abort to take effect before it returns and leaves the worker
    /// listed.
    pub fn new(options: WorkerOptions) -> Self {
        Self { inner: Arc::new(Inner { options, jobs: Mutex::default() }) }
    }

    /// Starts a run on the current runtime (whose timer must be enabled): calls `factory` once for
    /// each task, worker by worker, and runs the returned future. Each task gets its own part of
    /// the checkpoint that the run starts from. If the factory panics, nothing is started.
    ///
    /// # Errors
    /// [`StartError`]: the run is not newer than every run of the job known here, the checkpoint
    /// does not fit the topology, or there is no runtime.
    pub fn start<S, F, Fut>(
        &self,
        open: &OpenRun,
        topology: &Topology,
        sink: S,
        mut factory: F,
    ) -> Result<EmbeddedRun, StartError>
    where
        S: EventSink,
        F: FnMut(TaskContext) -> Fut,
        Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let runtime = Handle::try_current().map_err(|_| StartError::NoRuntime)?;
        let (job, run) = (open.job(), open.run());
        // Checked first so that the factory is not called in vain, and again below, where nothing
        // can happen in between.
        lock(&self.inner.jobs).get(job).map_or(Ok(()), |runs| runs.admit(job, run))?;
        let specs = plan::plan(open, topology)?;
        let options = self.inner.options;
        let prepare =
            |spec: crate::worker::WorkerSpec| (spec.worker, Prepared::new(spec, options, &runtime, &mut factory));
        let prepared: Vec<_> = specs.into_iter().map(prepare).collect();

        // Started and listed in one step: otherwise a query in between would report that nothing is
        // alive.
        let mut jobs = lock(&self.inner.jobs);
        jobs.get(job).map_or(Ok(()), |runs| runs.admit(job, run))?;
        let sink = Arc::new(sink);
        let start = |(worker, prepared): (WorkerId, Prepared)| {
            let gate = watch::Sender::new(Gate::Open);
            let sink = GatedSink { sink: Arc::clone(&sink), gate: gate.subscribe() };
            (worker, Hosted { worker: prepared.start(sink), gate })
        };
        let workers = prepared.into_iter().map(start).collect();
        let hosted = EmbeddedRun::new(job.clone(), run, options.grace, workers);
        jobs.entry(job.clone()).or_default().insert(hosted.clone());
        Ok(hosted)
    }

    fn runs(&self, job: &JobId, run: Option<RunId>) -> Vec<EmbeddedRun> {
        lock(&self.inner.jobs).get(job).map(|runs| runs.of(run).cloned().collect()).unwrap_or_default()
    }
}

impl Scheduler for EmbeddedCluster {
    /// With `force` the tasks are aborted at once. Without, they are ordered to stop immediately,
    /// and aborted after the grace period. Returns when no worker of the run is alive, or when the
    /// remaining ones could not be aborted within another grace period (a task that never yields
    /// can't be aborted): they stay listed. It never fails.
    ///
    /// # Cancel safety
    /// Cancel safe. What has started continues: with `force`, everything; without, workers that
    /// were asked to leave do so.
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        let runs = self.runs(job, run);
        futures_util::future::join_all(runs.iter().map(|run| run.stop(force))).await;
        Ok(())
    }

    /// See [`EmbeddedRun::alive_workers`]. It never fails.
    ///
    /// # Cancel safety
    /// It only reads.
    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let mut alive: Vec<_> = self.runs(job, run).iter().flat_map(EmbeddedRun::alive_workers).collect();
        alive.sort_unstable();
        alive.dedup();
        Ok(alive)
    }

    fn report_ends(&self, job: &JobId, run: RunId, to: Arc<dyn EndListener>) {
        for hosted in self.runs(job, Some(run)) {
            hosted.report_ends(&to);
        }
    }
}

impl fmt::Debug for EmbeddedCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs: Vec<_> = lock(&self.inner.jobs).keys().cloned().collect();
        f.debug_struct("EmbeddedCluster").field("jobs", &jobs).finish_non_exhaustive()
    }
}
