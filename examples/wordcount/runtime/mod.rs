//! Where workers run: the one place in which an embedded run and a run of worker processes differ.

#[cfg(target_os = "linux")]
mod assignment;
mod embedded;
#[cfg(target_os = "linux")]
mod process;
#[cfg(target_os = "linux")]
pub(crate) mod worker;

use std::sync::Arc;

use winddown::{JobId, JobSender, Limits, Manifest, RunId, Scheduler, Topology, Transport};

pub(crate) use self::embedded::Embedded;
#[cfg(target_os = "linux")]
pub(crate) use self::process::{Process, end_leftovers};
use crate::{meter::Meter, run_loop::JobError, tasks::Plan};

/// Starts the workers of a job's runs.
pub(crate) trait Runtime: Sized {
    /// How orders reach the workers.
    type Transport: Transport;
    /// Who ends the workers.
    type Scheduler: Scheduler + Clone;
    /// What lives as long as a run.
    type Hold;

    /// Starts the workers of a run. After an error none of them is alive.
    async fn start(&self, run: NewRun<'_>) -> Result<(Arc<Self::Transport>, Self::Hold), JobError>;

    /// Who ends the workers.
    fn scheduler(&self) -> &Self::Scheduler;

    /// How far the sources are.
    fn meter(&self) -> &Meter;

    /// Ends all that is not a worker.
    async fn close(self);
}

/// A run to be started.
pub(crate) struct NewRun<'a> {
    pub(crate) job: &'a JobId,
    pub(crate) run: RunId,
    pub(crate) topology: Arc<Topology>,
    /// The checkpoint that it starts from.
    pub(crate) manifest: Option<&'a Manifest>,
    pub(crate) plan: &'a Plan,
    pub(crate) limits: &'a Limits,
    /// Where workers report.
    pub(crate) mailbox: JobSender,
}

/// Elsewhere than on Linux there are no worker processes that could be left.
#[cfg(not(target_os = "linux"))]
pub(crate) fn end_leftovers(_: &std::path::Path) -> Result<(), String> {
    Ok(())
}
