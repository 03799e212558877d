//! Counters of incoming events.

use crate::contracts::{Applied, Rejection};

/// The counts of a [`RunModel`](super::RunModel) since its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Counters {
    /// Events with new content.
    pub applied: u64,
    /// Events that were already known, or came too late to matter.
    pub duplicates: u64,
    /// Events that changed nothing because they were wrong.
    pub rejected: Rejected,
    /// Checkpoints that became complete.
    pub checkpoints_completed: u64,
    /// Periodic checkpoints that were given up.
    pub checkpoints_abandoned: u64,
}

/// Rejected events by reason; each field counts the [`Rejection`] of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Rejected {
    /// Events of another run.
    pub other_run: u64,
    /// Events of workers that the run does not have.
    pub unknown_worker: u64,
    /// Events about tasks that the run does not have.
    pub unknown_task: u64,
    /// Events about a task that is placed on another worker.
    pub not_its_worker: u64,
    /// Events about a checkpoint that was never started.
    pub future_epoch: u64,
    /// Commits that were not ordered.
    pub nothing_to_commit: u64,
    /// New reports of a task that had ended.
    pub task_ended: u64,
    /// Reports that a task that is no source has read its input.
    pub not_a_source: u64,
}

impl Rejected {
    /// Their sum.
    pub const fn total(&self) -> u64 {
        let Self {
            other_run,
            unknown_worker,
            unknown_task,
            not_its_worker,
            future_epoch,
            nothing_to_commit,
            task_ended,
            not_a_source,
        } = *self;
        other_run
            + unknown_worker
            + unknown_task
            + not_its_worker
            + future_epoch
            + nothing_to_commit
            + task_ended
            + not_a_source
    }
}

impl Rejected {
    /// Counts one.
    pub fn count(&mut self, rejection: Rejection) {
        let counter = match rejection {
            Rejection::OtherRun { .. } => &mut self.other_run,
            Rejection::UnknownWorker(_) => &mut self.unknown_worker,
            Rejection::UnknownTask(_) => &mut self.unknown_task,
            Rejection::NotItsWorker { .. } => &mut self.not_its_worker,
            Rejection::FutureEpoch { .. } => &mut self.future_epoch,
            Rejection::NothingToCommit { .. } => &mut self.nothing_to_commit,
            Rejection::TaskEnded(_) => &mut self.task_ended,
            Rejection::NotASource(_) => &mut self.not_a_source,
        };
        *counter += 1;
    }
}

impl Counters {
    pub(super) fn count(&mut self, outcome: Result<Applied, Rejection>) {
        match outcome {
            Ok(Applied::Changed) => self.applied += 1,
            Ok(Applied::Duplicate) => self.duplicates += 1,
            Err(rejection) => self.rejected.count(rejection),
        }
    }
}
