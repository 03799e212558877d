//! How tasks and workers end.

use super::*;

impl RunModel {
    pub(super) fn source_exhausted(&mut self, task: TaskId, at: usize) -> Result<Applied, Rejection> {
        if !self.tasks.has(at, SOURCE) {
            return Err(Rejection::NotASource(task));
        }
        Ok(if self.count_exhausted(at) { Applied::Changed } else { Applied::Duplicate })
    }

    /// Counts a source that has stopped reading, once.
    pub(super) fn count_exhausted(&mut self, at: usize) -> bool {
        let is_new = self.tasks.has(at, SOURCE) && !self.tasks.has(at, EXHAUSTED);
        if is_new {
            self.tasks.set(at, EXHAUSTED);
            self.sources.done += 1;
        }
        is_new
    }

    pub(super) fn task_finished(&mut self, task: TaskId, at: usize) -> Result<Applied, Rejection> {
        if self.tasks.has(at, FINISHED) {
            return Ok(Applied::Duplicate);
        }
        self.end(task, at, FINISHED)?;
        self.finished += 1;
        self.finished_in_checkpoint(task, at);
        Ok(Applied::Changed)
    }

    pub(super) fn task_failed(&mut self, task: TaskId, at: usize, error: TaskError) -> Result<Applied, Rejection> {
        if self.tasks.has(at, FAILED) {
            return Ok(Applied::Duplicate);
        }
        self.end(task, at, FAILED)?;
        self.failed += 1;
        let worker = self.worker_id(self.tasks.worker(at));
        self.fail(RunFailure::TaskFailed { task, worker, error });
        Ok(Applied::Changed)
    }

    /// One failure for a whole chain, so that the number of failures does not count it several
    /// times.
    pub(super) fn chain_failed(&mut self, task: TaskId, error: TaskError) -> Result<Applied, Rejection> {
        let applied = self.chain_ended(task, FAILED, |model, task, at| {
            model.end(task, at, FAILED)?;
            model.failed += 1;
            Ok(Applied::Changed)
        })?;
        if let (Applied::Changed, Some(at)) = (applied, self.tasks.locate(task)) {
            let worker = self.worker_id(self.tasks.worker(at));
            self.fail(RunFailure::TaskFailed { task, worker, error });
        }
        Ok(applied)
    }

    /// Ends that subtask of every operator of the chain. The cost depends on the length of the
    /// chain, not on the number of tasks.
    pub(super) fn chain_ended(
        &mut self,
        task: TaskId,
        how: u32,
        end: impl Fn(&mut Self, TaskId, usize) -> Result<Applied, Rejection>,
    ) -> Result<Applied, Rejection> {
        let (chain, subtask) = (self.topology.chain_of(task.operator), task.subtask);
        let members = || chain.clone().map(move |operator| TaskId::new(operator, subtask));
        let ended_otherwise = |it: &TaskId| self.tasks.locate(*it).is_some_and(|at| self.tasks.has(at, ENDED & !how));
        if let Some(member) = members().find(ended_otherwise) {
            return Err(Rejection::TaskEnded(member));
        }
        let mut applied = Applied::Duplicate;
        for member in members() {
            if let Some(at) = self.tasks.locate(member).filter(|at| !self.tasks.has(*at, how)) {
                end(self, member, at)?;
                applied = Applied::Changed;
            }
        }
        Ok(applied)
    }

    pub(super) fn worker_failed(&mut self, worker: WorkerId, error: &TaskError) -> Applied {
        if matches!(&self.failure, Some(RunFailure::WorkerFailed { worker: known, .. }) if *known == worker) {
            return Applied::Duplicate;
        }
        self.fail(RunFailure::WorkerFailed { worker, error: error.clone() });
        Applied::Changed
    }

    pub(super) fn end(&mut self, task: TaskId, at: usize, how: u32) -> Result<(), Rejection> {
        if self.tasks.has(at, ENDED) {
            return Err(Rejection::TaskEnded(task));
        }
        self.tasks.ended(task, at);
        self.tasks.set(at, how);
        self.count_exhausted(at);
        self.workers.task_ended(self.tasks.worker(at));
        Ok(())
    }

    pub(super) fn worker_finished(&mut self, at: u32, worker: WorkerId) -> Applied {
        if self.workers.has_left(at) {
            return Applied::Duplicate;
        }
        let unfinished = self.workers.leave(at);
        if unfinished > 0 {
            self.fail(RunFailure::WorkerLeft { worker, unfinished });
        }
        Applied::Changed
    }
}
