//! Simulated workers: they accept orders, report, end and leave like the worker kit, without any of
//! its code.

use bytes::Bytes;

use super::world::{COMMITTING_SINK, Effect, End, Item, Pending, RUN, Refusal, SOURCE, Task, World};
use crate::contracts::{Command, Epoch, Event, OrderErrorKind, TaskError, TaskId, WorkerEvent, WorkerStopMode};

impl World {
    /// Carries an effect out.
    pub(super) fn apply(&mut self, effect: &Effect) -> Result<(), Refusal> {
        self.touch();
        match effect {
            Effect::Order(worker, command) => self.take_order(*worker, command).map_err(Refusal::Order),
            Effect::Publish(manifest) => self.publish(manifest).map_err(Refusal::Store),
            Effect::Write(record) => self.write(record).map_err(Refusal::Journal),
            Effect::StopWorkers { force } => {
                self.stop_workers(*force);
                Ok(())
            }
        }
    }

    fn take_order(&mut self, at: usize, command: &Command) -> Result<(), OrderErrorKind> {
        if self.workers[at].is_dead || self.workers[at].is_frozen {
            return Err(OrderErrorKind::Unreachable);
        }
        match command {
            Command::Checkpoint { epoch, then_stop } => self.checkpoint(at, *epoch, *then_stop),
            Command::Commit { epoch, tasks } => {
                let tasks: Vec<TaskId> = tasks.iter().map(|commit| commit.task).collect();
                self.commit(at, *epoch, &tasks)
            }
            Command::Stop(mode) => {
                if self.is_idle(at) {
                    self.repeat(at);
                    return Err(OrderErrorKind::NotRunning);
                }
                if self.workers[at].stop >= Some(*mode as u8) {
                    self.repeat(at);
                } else {
                    self.stop(at, *mode);
                }
                Ok(())
            }
            Command::Release => {
                if self.workers[at].is_leaving {
                    self.repeat(at);
                } else {
                    self.stop(at, WorkerStopMode::Immediate);
                    self.leave(at);
                }
                Ok(())
            }
        }
    }

    fn is_idle(&self, at: usize) -> bool {
        self.tasks.iter().all(|task| task.worker != at || task.end.is_some())
    }

    fn checkpoint(&mut self, at: usize, epoch: Epoch, then_stop: bool) -> Result<(), OrderErrorKind> {
        match self.workers[at].newest {
            Some((newest, _)) if epoch < newest => return Ok(()),
            Some(newest) if newest == (epoch, then_stop) => {
                self.repeat(at);
                return Ok(());
            }
            Some((newest, _)) if newest == epoch => return Err(OrderErrorKind::Rejected),
            _ => {}
        }
        if self.workers[at].stop == Some(WorkerStopMode::Immediate as u8) {
            return Err(OrderErrorKind::Rejected);
        }
        self.workers[at].newest = Some((epoch, then_stop));
        for task in 0..self.tasks.len() {
            if self.tasks[task].worker == at && self.tasks[task].end.is_none() {
                self.snapshot(task, epoch, then_stop);
            }
        }
        if self.is_idle(at) {
            self.repeat(at);
        }
        Ok(())
    }

    fn snapshot(&mut self, at: usize, epoch: Epoch, then_stop: bool) {
        let task = &mut self.tasks[at];
        (task.acked, task.is_last) = (Some(epoch), then_stop);
        let ends = then_stop && !task.has_commits;
        let task = *task;
        let event = self.acknowledgement(&task, epoch);
        self.say(task.worker, event);
        if ends {
            self.end(at, End::Finished);
        }
    }

    fn acknowledgement(&self, task: &Task, epoch: Epoch) -> Event {
        let (id, snapshot, commit) = (task.id, Bytes::from_static(b"state"), Bytes::from_static(b"commit"));
        match (self.scenario.as_whole, id == COMMITTING_SINK) {
            (true, true) => Event::OperatorPreCommitted { task: id, epoch, snapshot, commit },
            // The other sink has to commit too, but does not know it.
            (true, false) => Event::CheckpointCompleted { task: id, epoch, snapshot, commit: None },
            (false, _) => {
                Event::CheckpointCompleted { task: id, epoch, snapshot, commit: task.has_commits.then_some(commit) }
            }
        }
    }

    fn commit(&mut self, at: usize, epoch: Epoch, tasks: &[TaskId]) -> Result<(), OrderErrorKind> {
        let mut answer = Ok(());
        let mut repeated = false;
        for position in 0..self.tasks.len() {
            let task = &mut self.tasks[position];
            if !tasks.contains(&task.id) || task.committed > Some(epoch) {
                continue;
            }
            if task.committed == Some(epoch) {
                repeated = true;
            } else if task.end.is_some() {
                (repeated, answer) = (true, Err(OrderErrorKind::NotRunning));
            } else {
                task.committed = Some(epoch);
                let (id, ends) = (task.id, task.is_last);
                self.say(at, Event::CommitCompleted { task: id, epoch });
                if ends {
                    self.end(position, End::Finished);
                }
            }
        }
        if repeated {
            self.repeat(at);
        }
        answer
    }

    fn stop(&mut self, at: usize, mode: WorkerStopMode) {
        self.workers[at].stop = self.workers[at].stop.max(Some(mode as u8));
        let how = if mode == WorkerStopMode::Graceful { End::Finished } else { End::Halted };
        for task in 0..self.tasks.len() {
            if self.tasks[task].worker == at && self.tasks[task].end.is_none() {
                self.end(task, how);
            }
        }
    }

    /// The worker leaves as soon as all of its tasks have ended.
    fn leave(&mut self, at: usize) {
        self.workers[at].is_leaving = true;
        if self.is_idle(at) && !self.workers[at].has_left {
            self.workers[at].has_left = true;
            self.say(at, Event::WorkerFinished);
            self.push(Item::Exit(at));
        }
    }

    pub(super) fn end(&mut self, at: usize, how: End) {
        self.tasks[at].end = Some(how);
        let (id, worker) = (self.tasks[at].id, self.tasks[at].worker);
        if how != End::Killed {
            self.say(worker, Self::ending(id, how));
            if self.workers[worker].is_leaving {
                self.leave(worker);
            }
        }
    }

    fn ending(task: TaskId, how: End) -> Event {
        match how {
            End::Failed => Event::TaskFailed { task, error: TaskError::retryable("out of disk") },
            _ => Event::TaskFinished { task },
        }
    }

    /// The source has read its whole input.
    pub(super) fn exhaust(&mut self) {
        if !self.tasks[0].exhausted && self.tasks[0].end.is_none() {
            self.tasks[0].exhausted = true;
            self.say(0, Event::SourceExhausted { task: SOURCE });
        }
    }

    pub(super) fn can_exhaust(&self) -> bool {
        !self.tasks[0].exhausted && self.tasks[0].end.is_none() && !self.workers[0].is_frozen
    }

    /// A worker repeats its reports, as the worker kit does.
    fn repeat(&mut self, at: usize) {
        for task in self.tasks.into_iter().filter(|task| task.worker == at) {
            if task.exhausted {
                self.say(at, Event::SourceExhausted { task: task.id });
            }
            if let Some(epoch) = task.acked {
                if let Some(committed) = task.committed.filter(|committed| *committed < epoch) {
                    self.say(at, Event::CommitCompleted { task: task.id, epoch: committed });
                }
                let event = self.acknowledgement(&task, epoch);
                self.say(at, event);
                if task.committed == Some(epoch) {
                    self.say(at, Event::CommitCompleted { task: task.id, epoch });
                }
            }
            if let Some(how) = task.end {
                self.say(at, Self::ending(task.id, how));
            }
        }
        if self.workers[at].has_left {
            self.say(at, Event::WorkerFinished);
        }
    }

    fn say(&mut self, at: usize, event: Event) {
        self.push(Item::Event(WorkerEvent::new(RUN, Self::worker_id(at), event)));
    }

    fn push(&mut self, item: Item) {
        // A message that is already waiting is not queued twice.
        if !self.queue.iter().any(|pending| pending.item == item) {
            self.queue.push_back(Pending { item, not_before: 0 });
        }
    }

    fn stop_workers(&mut self, force: bool) {
        if force {
            self.kill_late();
        }
        for at in 0..2 {
            let worker = self.workers[at];
            if worker.is_dead {
                continue;
            }
            if force {
                self.push(Item::Kill(at));
            } else if !worker.is_frozen && !worker.is_leaving {
                self.stop(at, WorkerStopMode::Immediate);
                self.leave(at);
            }
        }
    }

    /// The remaining workers are ended from outside.
    pub(super) fn bury(&mut self) {
        for at in 0..2 {
            self.die(at);
        }
    }

    /// The worker is running no code any more.
    pub(super) fn die(&mut self, at: usize) {
        self.touch();
        self.workers[at].is_dead = true;
        for task in 0..self.tasks.len() {
            if self.tasks[task].worker == at && self.tasks[task].end.is_none() {
                self.tasks[task].end = Some(End::Killed);
            }
        }
        // Data that the kernel has already accepted still arrives; the worker ends only once.
        self.queue.retain(|pending| !matches!(pending.item, Item::Exit(it) | Item::Kill(it) if it == at));
    }
}
