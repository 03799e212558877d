//! What has come in, in figures.

use crate::contracts::{Applied, Rejection};

/// What a [`RunModel`](super::RunModel) has counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Counters {
    /// Events that said something new.
    pub applied: u64,
    /// Events that were known already, or came too late to matter.
    pub duplicates: u64,
    /// Events that changed nothing because they were wrong.
    pub rejected: Rejected,
    /// Checkpoints that became complete.
    pub checkpoints_completed: u64,
    /// Periodic checkpoints that were given up.
    pub checkpoints_abandoned: u64,
}

/// Rejected events by reason; each field counts the [`Rejection`] of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Rejected {
    /// They came from another run.
    pub other_run: u64,
    /// They came from workers that the run does not have.
    pub unknown_worker: u64,
    /// They spoke of tasks that the run does not have.
    pub unknown_task: u64,
    /// They spoke of a task that is placed on another worker.
    pub not_its_worker: u64,
    /// They spoke of a checkpoint that was never started.
    pub future_epoch: u64,
    /// They reported a commit that was not asked for.
    pub nothing_to_commit: u64,
    /// They brought news of a task that had ended.
    pub task_ended: u64,
    /// They said that a task which is no source has read its input.
    pub not_a_source: u64,
}

impl Rejected {
    /// All of them together.
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

impl Counters {
    pub(super) fn count(&mut self, outcome: Result<Applied, Rejection>) {
        let rejected = &mut self.rejected;
        let counter = match outcome {
            Ok(Applied::Changed) => &mut self.applied,
            Ok(Applied::Duplicate) => &mut self.duplicates,
            Err(Rejection::OtherRun { .. }) => &mut rejected.other_run,
            Err(Rejection::UnknownWorker(_)) => &mut rejected.unknown_worker,
            Err(Rejection::UnknownTask(_)) => &mut rejected.unknown_task,
            Err(Rejection::NotItsWorker { .. }) => &mut rejected.not_its_worker,
            Err(Rejection::FutureEpoch { .. }) => &mut rejected.future_epoch,
            Err(Rejection::NothingToCommit { .. }) => &mut rejected.nothing_to_commit,
            Err(Rejection::TaskEnded(_)) => &mut rejected.task_ended,
            Err(Rejection::NotASource(_)) => &mut rejected.not_a_source,
        };
        *counter += 1;
    }
}
