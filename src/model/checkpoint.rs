//! The life of a checkpoint (collecting, publishing, committing), and the commands that start, stop
//! and release.

use bytes::Bytes;

use super::{
    EPOCHS_PER_CONTROLLER, RunModel,
    action::Queued,
    tasks::{ACKED, COMMITTED, ENDED},
};
use crate::contracts::{
    Applied, CheckpointStage, CheckpointStart, Command, ControllerError, Count, Epoch, JobId, Manifest, Rejection,
    RunFailure, TaskId, WorkerStopMode,
};

/// The checkpoint in flight.
///
/// A final one stays here until it is complete, even if it can't become complete any more
/// (`doomed`): its status shows how far it got.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each may hold with each other")]
pub(super) struct InFlight {
    pub(super) epoch: Epoch,
    pub(super) then_stop: bool,
    stage: Stage,
    doomed: bool,
    /// A previous controller started it: some of its commits may already have been ordered.
    resumed: bool,
    /// An operator has pre-committed for it as a whole; if it is given up before the commit, that
    /// data is lost.
    as_whole: bool,
    snapshots: Count,
    commits: Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Collecting,
    Publishing,
    Committing,
}

impl InFlight {
    pub(super) fn stage(&self) -> CheckpointStage {
        let epoch = self.epoch;
        match self.stage {
            Stage::Collecting => CheckpointStage::Collecting { epoch, acks: self.snapshots },
            Stage::Publishing => CheckpointStage::Publishing { epoch },
            Stage::Committing => CheckpointStage::Committing { epoch, acks: self.commits },
        }
    }

    fn is_in(&self, stage: Stage, epoch: Epoch) -> bool {
        self.stage == stage && self.epoch == epoch && !self.doomed
    }
}

/// Commands.
impl RunModel {
    /// Starts a checkpoint; `then_stop` makes it the final one. From the first call with
    /// `then_stop` on, no periodic checkpoint starts any more. Starting one costs O(tasks).
    ///
    /// # Errors
    /// [`ControllerError::Run`] when the run has failed, [`ControllerError::NoCheckpoint`] when it
    /// is being stopped or released, or for a periodic checkpoint after the final one was
    /// requested.
    pub fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        if then_stop && !self.final_asked {
            self.final_asked = true;
            self.touch();
        }
        if let Some(epoch) = self.final_complete.filter(|_| then_stop) {
            return Ok(CheckpointStart::AlreadyStarted(epoch));
        }
        if let Some(failure) = &self.failure {
            return Err(failure.clone().into());
        }
        if self.is_over() {
            return Err(ControllerError::NoCheckpoint("the run has been told to stop".into()));
        }
        if let Some(checkpoint) = &self.in_flight {
            let epoch = checkpoint.epoch;
            let is_it = checkpoint.then_stop && then_stop;
            return Ok(if is_it { CheckpointStart::AlreadyStarted(epoch) } else { CheckpointStart::Busy(epoch) });
        }
        if self.final_asked && !then_stop {
            return Err(ControllerError::NoCheckpoint("the final checkpoint has been asked for".into()));
        }
        Ok(CheckpointStart::Started(self.start(then_stop)))
    }

    /// Orders every worker to stop its tasks. A stronger mode replaces a weaker one; a weaker or
    /// equal one changes nothing. A checkpoint that is not durable yet is given up; a durable one
    /// continues to collect commits.
    ///
    /// After [`begin_release`](Self::begin_release) it changes nothing if every task has ended;
    /// otherwise the release has to be repeated once they have.
    pub fn begin_stop(&mut self, mode: WorkerStopMode) {
        if self.stop >= Some(mode) || (self.released && self.status().all_ended()) {
            return;
        }
        self.released = false;
        self.stop = Some(mode);
        if !self.in_flight.as_ref().is_some_and(|checkpoint| checkpoint.stage == Stage::Committing) {
            self.give_up();
        }
        self.broadcast(Command::Stop(mode));
    }

    /// Tells every worker that the run is over. A checkpoint in flight is given up.
    pub fn begin_release(&mut self) {
        if self.released {
            return;
        }
        self.released = true;
        self.give_up();
        self.broadcast(Command::Release);
    }

    /// The manifest of this checkpoint is durable: its commits are ordered, or it is complete if
    /// there are none. Any epoch except that of the checkpoint being published is ignored.
    pub fn published(&mut self, epoch: Epoch) {
        let Some(checkpoint) = self.in_flight.as_mut().filter(|it| it.is_in(Stage::Publishing, epoch)) else {
            return;
        };
        checkpoint.stage = Stage::Committing;
        if checkpoint.commits.is_all() {
            self.complete();
        } else {
            self.queue.push_back(Queued::Commit(epoch));
            self.touch();
        }
    }

    /// Gives up the periodic checkpoint of this epoch, so that another can start. Its late
    /// snapshots and commits change nothing. A final checkpoint is never abandoned: the run keeps
    /// waiting for it.
    ///
    /// If an operator that commits as a whole has pre-committed for it, that data would be skipped,
    /// so the run fails ([`RunFailure::PreCommitLost`]).
    pub fn abandon(&mut self, epoch: Epoch) {
        if self.in_flight.as_ref().is_some_and(|it| it.epoch == epoch && !it.then_stop) {
            self.abandon_periodic();
        }
    }

    /// Orders the commits of the checkpoint that this run starts from again, for workers that do
    /// not carry them out by themselves when they start. This precedes any checkpoint of this run,
    /// and counts as a checkpoint that is being committed: a final one waits for it.
    ///
    /// Call it before anything else, after [`restore`](Self::restore), and only if an earlier run
    /// may have ended with unfinished commits: after a crash, a kill, or a stop in the middle of a
    /// checkpoint; never after `Stopped<Checkpointed>`.
    pub fn commit_again(&mut self, manifest: &Manifest) {
        self.set_last_complete(Some(manifest.epoch));
        let commits = self.tasks.commit_again(manifest);
        if commits == 0 {
            return;
        }
        self.in_flight = Some(InFlight {
            epoch: manifest.epoch,
            then_stop: false,
            stage: Stage::Committing,
            doomed: false,
            resumed: false,
            as_whole: true,
            snapshots: Count::new(commits, commits),
            commits: Count::new(0, commits),
        });
        self.queue.push_back(Queued::Commit(manifest.epoch));
        self.touch();
    }
}

/// Questions.
impl RunModel {
    /// The manifest of the checkpoint that is being published; `None` when none is. It costs
    /// O(tasks).
    pub fn manifest(&self, job: &JobId) -> Option<Manifest> {
        let checkpoint = self.in_flight.as_ref().filter(|it| it.is_in(Stage::Publishing, it.epoch))?;
        Some(Manifest {
            job: job.clone(),
            run: self.run,
            epoch: checkpoint.epoch,
            then_stop: checkpoint.then_stop,
            tasks: self.tasks.snapshots(&self.topology),
        })
    }

    /// Whether a periodic checkpoint may start: the run is neither failed, stopping nor at its
    /// final checkpoint, and none is in flight.
    pub(crate) fn may_start_periodic(&self) -> bool {
        // The last number is reserved for the final checkpoint.
        let given = self.newest.map_or(0, Epoch::get) - self.epochs_after.map_or(0, Epoch::get);
        let has_epochs = given + 1 < EPOCHS_PER_CONTROLLER;
        has_epochs && self.in_flight.is_none() && !self.final_asked && !self.is_over() && self.failure.is_none()
    }

    /// The periodic checkpoint in flight.
    pub(crate) fn periodic(&self) -> Option<Epoch> {
        self.in_flight.as_ref().filter(|it| !it.then_stop).map(|it| it.epoch)
    }

    pub(crate) fn is_publishing(&self, epoch: Epoch) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.is_in(Stage::Publishing, epoch))
    }

    pub(super) fn is_collecting(&self, epoch: Epoch) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.is_in(Stage::Collecting, epoch))
    }

    pub(super) fn is_committing(&self, epoch: Epoch) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.is_in(Stage::Committing, epoch))
    }

    /// The run has been ordered to end, so a task may end with unfinished work.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.is_some() || self.released
    }
}

/// Events.
impl RunModel {
    pub(super) fn acknowledge(
        &mut self,
        task: TaskId,
        at: usize,
        epoch: Epoch,
        snapshot: Bytes,
        commit: Option<Bytes>,
        as_whole: bool,
    ) -> Result<Applied, Rejection> {
        self.known_epoch(epoch)?;
        let Some(checkpoint) = self.in_flight.as_mut().filter(|it| it.epoch == epoch) else {
            // A checkpoint of this run that was already given up: only now is it known that data is
            // lost with it.
            let is_lost = as_whole && Some(epoch) > self.last_complete && self.failure.is_none() && !self.is_over();
            if is_lost {
                self.fail(RunFailure::PreCommitLost { epoch });
                return Ok(Applied::Changed);
            }
            return Ok(Applied::Duplicate);
        };
        if self.tasks.has(at, ACKED) {
            return Ok(Applied::Duplicate);
        }
        if self.tasks.has(at, ENDED) {
            return Err(Rejection::TaskEnded(task));
        }
        let acknowledged = self.tasks.acknowledge(task, at, snapshot, commit, as_whole);
        checkpoint.snapshots.done += 1;
        checkpoint.commits.total += acknowledged.commits;
        checkpoint.commits.done += acknowledged.done;
        checkpoint.as_whole |= as_whole;
        if acknowledged.too_late {
            self.ended_without_commit(task);
        }
        self.publish_if_collected();
        Ok(Applied::Changed)
    }

    pub(super) fn committed(&mut self, task: TaskId, at: usize, epoch: Epoch) -> Result<Applied, Rejection> {
        self.known_epoch(epoch)?;
        let Some(checkpoint) = self.in_flight.as_mut().filter(|it| it.epoch == epoch) else {
            return Ok(Applied::Duplicate);
        };
        // Nothing may be committed before the manifest is durable: otherwise data that a crash
        // undoes would already be visible. If a previous controller has ordered the commit, its
        // manifest was durable.
        let ordered = checkpoint.stage == Stage::Committing || checkpoint.resumed;
        let has_to = self.tasks.has_to_commit(task, at);
        if !ordered || !self.tasks.has(at, ACKED) || !(has_to || checkpoint.resumed) {
            return Err(Rejection::NothingToCommit { task, epoch });
        }
        if self.tasks.has(at, COMMITTED) {
            return Ok(Applied::Duplicate);
        }
        if self.tasks.has(at, ENDED) {
            return Err(Rejection::TaskEnded(task));
        }
        if !has_to {
            // The previous controller knew from another subtask that the whole operator commits;
            // that one has not reported here yet.
            self.tasks.committed_early(task, at);
            return Ok(Applied::Changed);
        }
        self.tasks.set(at, COMMITTED);
        checkpoint.commits.done += 1;
        if checkpoint.commits.is_all() && checkpoint.is_in(Stage::Committing, epoch) {
            self.complete();
        }
        Ok(Applied::Changed)
    }

    /// The effect of a task's successful end on the checkpoint in flight.
    pub(super) fn finished_in_checkpoint(&mut self, task: TaskId, at: usize) {
        if self.tasks.commit_is_pending(task, at) {
            return self.ended_without_commit(task);
        }
        let acked = self.tasks.has(at, ACKED);
        let Some(checkpoint) = self.in_flight.as_ref().filter(|it| it.is_in(Stage::Collecting, it.epoch) && !acked)
        else {
            return;
        };
        if checkpoint.then_stop {
            let epoch = checkpoint.epoch;
            self.fail(RunFailure::FinishedWithoutSnapshot { task, epoch });
        } else {
            self.abandon_periodic();
        }
    }

    /// The task, or one of the same operator, has ended with something to commit.
    fn ended_without_commit(&mut self, task: TaskId) {
        let epoch = self.in_flight.as_ref().map(|it| it.epoch).or(self.newest);
        match (self.is_over(), epoch) {
            (false, Some(epoch)) => self.fail(RunFailure::FinishedWithoutCommit { task, epoch }),
            // A task that was ordered to stop commits no more; the next run does it, from the
            // manifest.
            _ => self.give_up(),
        }
    }

    /// The periodic checkpoint in flight won't become complete, and the run continues if no data is
    /// lost with it.
    fn abandon_periodic(&mut self) {
        match self.in_flight.as_ref().filter(|it| it.as_whole && !self.is_over()).map(|it| it.epoch) {
            Some(epoch) => self.fail(RunFailure::PreCommitLost { epoch }),
            None => self.give_up(),
        }
    }

    /// The checkpoint in flight can't become complete: a periodic one ends here, a final one stays
    /// as it is. Its pending actions are dropped.
    pub(super) fn give_up(&mut self) {
        let Some(checkpoint) = &mut self.in_flight else { return };
        checkpoint.doomed = true;
        if !checkpoint.then_stop {
            self.in_flight = None;
            self.counters.checkpoints_abandoned += 1;
        }
        self.queue.retain(|queued| matches!(queued, Queued::Broadcast(Command::Stop(_) | Command::Release)));
        self.touch();
    }

    fn known_epoch(&self, epoch: Epoch) -> Result<(), Rejection> {
        if Some(epoch) > self.newest {
            return Err(Rejection::FutureEpoch { newest: self.newest, got: epoch });
        }
        Ok(())
    }

    fn start(&mut self, then_stop: bool) -> Epoch {
        let resumed = self.resumed_final.filter(|_| then_stop);
        let epoch = resumed.unwrap_or_else(|| self.newest.map_or(Epoch::new(1), Epoch::next));
        self.newest = self.newest.max(Some(epoch));
        let take_part = self.tasks.begin_checkpoint();
        self.in_flight = Some(InFlight {
            epoch,
            then_stop,
            stage: Stage::Collecting,
            doomed: false,
            resumed: resumed.is_some(),
            as_whole: false,
            snapshots: Count::new(0, take_part),
            commits: Count::default(),
        });
        self.broadcast(Command::Checkpoint { epoch, then_stop });
        // If no task is left, there is nothing to wait for: the manifest contains all of them.
        self.publish_if_collected();
        epoch
    }

    fn publish_if_collected(&mut self) {
        let Some(checkpoint) = &mut self.in_flight else { return };
        if checkpoint.is_in(Stage::Collecting, checkpoint.epoch) && checkpoint.snapshots.is_all() {
            checkpoint.stage = Stage::Publishing;
            let epoch = checkpoint.epoch;
            self.queue.push_back(Queued::Publish(epoch));
            self.touch();
        }
    }

    fn complete(&mut self) {
        let Some(checkpoint) = self.in_flight.take() else { return };
        self.last_complete = Some(checkpoint.epoch);
        self.epochs_after = Some(checkpoint.epoch);
        if checkpoint.then_stop {
            self.final_complete = Some(checkpoint.epoch);
        }
        self.counters.checkpoints_completed += 1;
        self.touch();
    }

    /// Queues a command for all workers. It replaces a waiting one: the newer one is always
    /// stronger.
    fn broadcast(&mut self, command: Command) {
        self.queue.retain(|queued| !matches!(queued, Queued::Broadcast(_)));
        self.queue.push_back(Queued::Broadcast(command));
        self.touch();
    }
}
