//! The same rules once more, as naively as possible: sets, scans, no running counts, no flags.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::contracts::{CheckpointStage, CheckpointStart};

#[derive(Clone, Debug, Default)]
pub(super) struct Naive {
    /// Whether each ended task ended well.
    ended: BTreeMap<TaskId, bool>,
    exhausted: BTreeSet<TaskId>,
    last_seen: BTreeMap<WorkerId, Instant>,
    left: BTreeSet<WorkerId>,
    lost: BTreeSet<WorkerId>,
    uncommitted: BTreeSet<TaskId>,
    failures: u32,
    newest: Option<Epoch>,
    last_complete: Option<Epoch>,
    final_complete: Option<Epoch>,
    checkpoint: Option<Checkpoint>,
    final_asked: bool,
    stop: Option<WorkerStopMode>,
    released: bool,
}

#[derive(Clone, Debug)]
struct Checkpoint {
    epoch: Epoch,
    then_stop: bool,
    can_complete: bool,
    reached: Reached,
    take_part: BTreeSet<TaskId>,
    acks: BTreeSet<TaskId>,
    to_commit: BTreeSet<TaskId>,
    commits: BTreeSet<TaskId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reached {
    Started,
    Collected,
    Durable,
}

impl Naive {
    pub(super) fn new(now: Instant) -> Self {
        Self { last_seen: [(ONE, now), (TWO, now)].into(), ..Self::default() }
    }

    pub(super) fn status(&self) -> RunStatus {
        let count = |number: usize| u32::try_from(number).unwrap();
        let sources = SOURCES.iter().filter(|it| self.exhausted.contains(it) || self.ended.contains_key(it)).count();
        let final_in_flight = self.checkpoint.as_ref().filter(|it| it.then_stop).map(|it| it.epoch);
        RunStatus {
            tasks: Count::new(count(self.ended.values().filter(|well| **well).count()), 4),
            tasks_failed: count(self.ended.values().filter(|well| !**well).count()),
            sources: Count::new(count(sources), 2),
            workers_left: count([ONE, TWO].iter().filter(|it| self.is_busy(**it) && !self.left.contains(it)).count()),
            workers_lost: count([ONE, TWO].iter().filter(|it| self.is_busy(**it) && self.is_gone(**it)).count()),
            workers: 2,
            checkpoint: self.checkpoint.as_ref().map_or(CheckpointStage::Idle, Checkpoint::stage),
            final_checkpoint: match (self.final_complete, final_in_flight) {
                (Some(epoch), _) => FinalCheckpoint::Complete(epoch),
                (None, Some(epoch)) => FinalCheckpoint::InFlight(epoch),
                (None, None) => FinalCheckpoint::NotStarted,
            },
            last_complete: self.last_complete,
            orders_outstanding: 0,
            failures: self.failures,
        }
    }

    fn is_gone(&self, worker: WorkerId) -> bool {
        self.left.contains(&worker) || self.lost.contains(&worker)
    }

    pub(super) fn newest(&self) -> Option<Epoch> {
        self.newest
    }

    pub(super) fn publishing(&self) -> Option<Epoch> {
        self.checkpoint.as_ref().filter(|it| it.reached == Reached::Collected && it.can_complete).map(|it| it.epoch)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let watched = |it: &&WorkerId| self.is_busy(**it) && !self.is_gone(**it);
        [ONE, TWO].iter().filter(watched).map(|it| self.last_seen[it] + HEARTBEAT).min()
    }

    fn is_busy(&self, worker: WorkerId) -> bool {
        all().any(|task| worker_of(task) == worker && !self.ended.contains_key(&task))
    }

    fn is_over(&self) -> bool {
        self.stop.is_some() || self.released
    }

    pub(super) fn handle(&mut self, said: &WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        if said.run != RUN {
            return Err(Rejection::OtherRun { expected: RUN, got: said.run });
        }
        if said.worker != ONE && said.worker != TWO {
            return Err(Rejection::UnknownWorker(said.worker));
        }
        let applied = self.apply(said.worker, &said.event)?;
        if said.event != Event::WorkerFinished {
            self.last_seen.insert(said.worker, now);
            self.lost.remove(&said.worker);
        }
        Ok(applied)
    }

    fn apply(&mut self, worker: WorkerId, event: &Event) -> Result<Applied, Rejection> {
        let task = match event {
            Event::Heartbeat => return Ok(Applied::Changed),
            Event::WorkerFinished => return Ok(self.leave(worker)),
            Event::SourceExhausted { task }
            | Event::CheckpointCompleted { task, .. }
            | Event::CommitCompleted { task, .. }
            | Event::TaskFinished { task }
            | Event::TaskFailed { task, .. } => *task,
        };
        if !all().any(|it| it == task) {
            return Err(Rejection::UnknownTask(task));
        }
        if worker_of(task) != worker {
            return Err(Rejection::NotItsWorker { task, expected: worker_of(task), got: worker });
        }
        let well = self.ended.get(&task).copied();
        let changed = match event {
            Event::SourceExhausted { .. } if SINKS.contains(&task) => return Err(Rejection::NotASource(task)),
            Event::SourceExhausted { .. } => well.is_none() && self.exhausted.insert(task),
            Event::CheckpointCompleted { epoch, commit, .. } => self.ack(task, *epoch, commit.is_some())?,
            Event::CommitCompleted { epoch, .. } => self.commit(task, *epoch)?,
            Event::TaskFinished { .. } if well == Some(true) => false,
            Event::TaskFailed { .. } if well == Some(false) => false,
            _ if well.is_some() => return Err(Rejection::TaskEnded(task)),
            Event::TaskFailed { .. } => {
                self.ended.insert(task, false);
                self.fail();
                true
            }
            _ => {
                self.ended.insert(task, true);
                self.finished(task);
                true
            }
        };
        Ok(if changed { Applied::Changed } else { Applied::Duplicate })
    }

    fn leave(&mut self, worker: WorkerId) -> Applied {
        if !self.left.insert(worker) {
            return Applied::Duplicate;
        }
        if self.is_busy(worker) {
            self.fail();
        }
        Applied::Changed
    }

    fn ack(&mut self, task: TaskId, epoch: Epoch, commit: bool) -> Result<bool, Rejection> {
        if self.newest < Some(epoch) {
            return Err(Rejection::FutureEpoch { newest: self.newest, got: epoch });
        }
        let Some(checkpoint) = self.checkpoint.as_mut().filter(|it| it.epoch == epoch) else { return Ok(false) };
        if checkpoint.acks.contains(&task) {
            return Ok(false);
        }
        if self.ended.contains_key(&task) {
            return Err(Rejection::TaskEnded(task));
        }
        checkpoint.acks.insert(task);
        self.uncommitted.remove(&task);
        if commit {
            checkpoint.to_commit.insert(task);
            self.uncommitted.insert(task);
        }
        checkpoint.collect();
        Ok(true)
    }

    fn commit(&mut self, task: TaskId, epoch: Epoch) -> Result<bool, Rejection> {
        if self.newest < Some(epoch) {
            return Err(Rejection::FutureEpoch { newest: self.newest, got: epoch });
        }
        let Some(checkpoint) = self.checkpoint.as_mut().filter(|it| it.epoch == epoch) else { return Ok(false) };
        if checkpoint.reached != Reached::Durable || !checkpoint.to_commit.contains(&task) {
            return Err(Rejection::NothingToCommit { task, epoch });
        }
        if checkpoint.commits.contains(&task) {
            return Ok(false);
        }
        if self.ended.contains_key(&task) {
            return Err(Rejection::TaskEnded(task));
        }
        checkpoint.commits.insert(task);
        self.uncommitted.remove(&task);
        self.complete_if_committed();
        Ok(true)
    }

    fn complete_if_committed(&mut self) {
        if let Some(done) = self
            .checkpoint
            .take_if(|it| it.reached == Reached::Durable && it.can_complete && it.to_commit == it.commits)
        {
            self.last_complete = Some(done.epoch);
            if done.then_stop {
                self.final_complete = Some(done.epoch);
            }
        }
    }

    fn finished(&mut self, task: TaskId) {
        if self.uncommitted.contains(&task) {
            return if self.is_over() { self.give_up() } else { self.fail() };
        }
        let misses = self
            .checkpoint
            .as_ref()
            .filter(|it| it.can_complete && it.reached == Reached::Started && !it.acks.contains(&task));
        match misses.map(|it| it.then_stop) {
            Some(true) => self.fail(),
            Some(false) => self.give_up(),
            None => {}
        }
    }

    fn fail(&mut self) {
        self.failures += 1;
        self.give_up();
    }

    fn give_up(&mut self) {
        self.checkpoint.take_if(|it| !it.then_stop);
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.can_complete = false;
        }
    }

    pub(super) fn check_health(&mut self, now: Instant) {
        for worker in [ONE, TWO] {
            let watched = self.is_busy(worker) && !self.is_gone(worker);
            if watched && now - self.last_seen[&worker] >= HEARTBEAT {
                self.lost.insert(worker);
                self.fail();
            }
        }
    }

    /// `None` where the model has to refuse.
    pub(super) fn begin_checkpoint(&mut self, then_stop: bool) -> Option<CheckpointStart> {
        self.final_asked |= then_stop;
        if let (true, Some(epoch)) = (then_stop, self.final_complete) {
            return Some(CheckpointStart::AlreadyStarted(epoch));
        }
        if self.failures > 0 || self.is_over() {
            return None;
        }
        if let Some(checkpoint) = &self.checkpoint {
            let same = checkpoint.then_stop && then_stop;
            let start = if same { CheckpointStart::AlreadyStarted } else { CheckpointStart::Busy };
            return Some(start(checkpoint.epoch));
        }
        if self.final_asked && !then_stop {
            return None;
        }
        let epoch = self.newest.map_or(Epoch::new(1), Epoch::next);
        self.newest = Some(epoch);
        let take_part = all().filter(|task| !self.ended.contains_key(task)).collect();
        let mut checkpoint = Checkpoint::new(epoch, then_stop, take_part);
        checkpoint.collect();
        self.checkpoint = Some(checkpoint);
        Some(CheckpointStart::Started(epoch))
    }

    pub(super) fn begin_stop(&mut self, mode: WorkerStopMode) {
        let nothing_to_stop = self.released && self.ended.len() == 4;
        if self.stop < Some(mode) && !nothing_to_stop {
            self.stop = Some(mode);
            self.released = false;
            if self.checkpoint.as_ref().is_none_or(|it| it.reached != Reached::Durable) {
                self.give_up();
            }
        }
    }

    pub(super) fn begin_release(&mut self) {
        self.released = true;
        self.give_up();
    }

    pub(super) fn published(&mut self, epoch: Epoch) {
        if self.publishing() == Some(epoch) {
            self.checkpoint.as_mut().unwrap().reached = Reached::Durable;
            self.complete_if_committed();
        }
    }

    pub(super) fn abandon(&mut self, epoch: Epoch) {
        self.checkpoint.take_if(|it| it.epoch == epoch && !it.then_stop);
    }
}

impl Checkpoint {
    fn new(epoch: Epoch, then_stop: bool, take_part: BTreeSet<TaskId>) -> Self {
        let none = BTreeSet::new();
        Self {
            epoch,
            then_stop,
            can_complete: true,
            reached: Reached::Started,
            take_part,
            acks: none.clone(),
            to_commit: none.clone(),
            commits: none,
        }
    }

    fn collect(&mut self) {
        if self.can_complete && self.acks == self.take_part {
            self.reached = self.reached.max(Reached::Collected);
        }
    }

    fn stage(&self) -> CheckpointStage {
        let epoch = self.epoch;
        let count = |done: &BTreeSet<_>, total: &BTreeSet<_>| {
            Count::new(u32::try_from(done.len()).unwrap(), u32::try_from(total.len()).unwrap())
        };
        match self.reached {
            Reached::Started => CheckpointStage::Collecting { epoch, acks: count(&self.acks, &self.take_part) },
            Reached::Collected => CheckpointStage::Publishing { epoch },
            Reached::Durable => CheckpointStage::Committing { epoch, acks: count(&self.commits, &self.to_commit) },
        }
    }
}
