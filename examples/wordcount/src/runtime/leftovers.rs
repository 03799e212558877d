//! Worker processes or pods that an earlier call may have left. Embedded workers have died with
//! their call.

use std::path::Path;

use tokio::time::timeout;
use winddown::{JobId, RunId, Scheduler, WorkerId, contracts::SchedulerError};
#[cfg(target_os = "linux")]
use winddown::{ProcessScheduler, process::Watchdog};

use super::{KILL, kill};
use crate::run_loop::{JOB, JobError};

/// Lists and ends the workers of earlier calls, and starts none.
#[derive(Clone)]
pub(crate) struct Leftovers {
    /// None if the job was never run with processes.
    #[cfg(target_os = "linux")]
    processes: Option<ProcessScheduler>,
    /// None if the job was never run with pods.
    #[cfg(all(target_os = "linux", feature = "kubernetes"))]
    pods: Option<winddown::KubernetesScheduler>,
}

impl Leftovers {
    /// Those whose processes are recorded in `folder`.
    #[cfg(target_os = "linux")]
    pub(crate) async fn find(folder: &Path) -> Result<Self, JobError> {
        #[cfg(feature = "kubernetes")]
        let pods = super::kubernetes::earlier(folder).await?;
        let folder = folder.join(super::process::SCHEDULER);
        let mut processes = None;
        if folder.exists() {
            // Nothing is started, so nobody has to watch.
            processes = Some(ProcessScheduler::builder(folder).watchdog(Watchdog::Off).open().await?);
        }
        Ok(Self {
            processes,
            #[cfg(feature = "kubernetes")]
            pods,
        })
    }

    /// Elsewhere than on Linux there are no worker processes that could be left.
    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unused_async, reason = "as on Linux")]
    pub(crate) async fn find(_: &Path) -> Result<Self, JobError> {
        Ok(Self {})
    }

    /// Ends them all, and verifies that none is alive. The watchdog of a killed controller ends the
    /// workers, but that takes some seconds, and the watchdog may have been killed too. Call this
    /// before the output is used or wiped.
    pub(crate) async fn end(self) -> Result<(), JobError> {
        kill(&self, &JobId::from(JOB), None).await.map_err(JobError::Leftovers)?;
        #[cfg(target_os = "linux")]
        if let Some(scheduler) = self.processes {
            let closed = timeout(KILL, scheduler.close()).await;
            closed.map_err(|_| JobError::Leftovers("the process scheduler does not end".to_owned()))?;
        }
        Ok(())
    }
}

#[cfg(target_os = "linux")]
impl Scheduler for Leftovers {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        #[cfg(feature = "kubernetes")]
        if let Some(scheduler) = &self.pods {
            scheduler.stop_workers(job, run, force).await?;
        }
        match &self.processes {
            Some(scheduler) => scheduler.stop_workers(job, run, force).await,
            None => Ok(()),
        }
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let mut workers = Vec::new();
        #[cfg(feature = "kubernetes")]
        if let Some(scheduler) = &self.pods {
            workers.extend(scheduler.workers_for_job(job, run).await?);
        }
        if let Some(scheduler) = &self.processes {
            workers.extend(scheduler.workers_for_job(job, run).await?);
        }
        Ok(workers)
    }
}

#[cfg(not(target_os = "linux"))]
impl Scheduler for Leftovers {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, _: bool) -> Result<(), SchedulerError> {
        Ok(())
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        Ok(Vec::new())
    }
}

/// [`Leftovers::end`] for workers whose processes are recorded in `folder`, for callers outside of
/// a runtime.
pub(crate) fn end_leftovers(folder: &Path) -> Result<(), JobError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Leftovers::find(folder).await?.end().await })
}
