//! Where workers run: the one place in which an embedded run and a run of worker processes differ.

#[cfg(target_os = "linux")]
mod assignment;
mod embedded;
#[cfg(all(target_os = "linux", feature = "kubernetes"))]
mod kubernetes;
mod leftovers;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
mod remote;
#[cfg(target_os = "linux")]
pub(crate) mod worker;

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use winddown::{
    JobId, JobSender, Limits, OpenRun, RunId, Scheduler, Topology,
    contracts::{SchedulerError, Transport},
};

#[cfg(all(target_os = "linux", feature = "kubernetes"))]
pub(crate) use self::kubernetes::Kubernetes;
#[cfg(target_os = "linux")]
pub(crate) use self::process::Process;
pub(crate) use self::{
    embedded::Embedded,
    leftovers::{Leftovers, end_leftovers},
};
use crate::{meter::Meter, run_loop::JobError, tasks::Workload};

/// Starts the workers of a job's runs.
pub(crate) trait Runtime: Sized {
    /// How orders reach the workers.
    type Transport: Transport;
    /// The scheduler, which ends the workers.
    type Scheduler: Scheduler + Clone;
    /// What lives as long as a run.
    type Hold;

    /// Starts the workers of a run. After an error none of them is alive.
    async fn start(&self, run: NewRun<'_>) -> Result<(Arc<Self::Transport>, Self::Hold), JobError>;

    /// The scheduler, which ends the workers.
    fn scheduler(&self) -> &Self::Scheduler;

    /// How far the sources are.
    fn meter(&self) -> &Meter;

    /// Ends all that is not a worker.
    async fn close(self);
}

/// A run to be started.
pub(crate) struct NewRun<'a> {
    /// Its names, and the checkpoint that it starts from.
    pub(crate) open: &'a OpenRun,
    pub(crate) topology: Arc<Topology>,
    pub(crate) workload: &'a Workload,
    pub(crate) limits: &'a Limits,
    /// Where workers report.
    pub(crate) mailbox: JobSender,
}

/// How long it may take until workers that were killed are gone. The kernel has no bound of its
/// own.
const KILL: Duration = Duration::from_secs(30);

/// Kills workers, and verifies that none of them is alive.
pub(crate) async fn kill<S: Scheduler>(scheduler: &S, job: &JobId, run: Option<RunId>) -> Result<(), String> {
    let killed = async {
        scheduler.stop_workers(job, run, true).await?;
        scheduler.workers_for_job(job, run).await
    };
    let text = |error: SchedulerError| error.to_string();
    match timeout(KILL, killed).await {
        Ok(alive) => match alive.map_err(text)?.as_slice() {
            [] => Ok(()),
            alive => Err(format!("{} workers are alive although they were killed", alive.len())),
        },
        Err(_) => Err(format!("workers are alive {} after they were killed", humantime::format_duration(KILL))),
    }
}
