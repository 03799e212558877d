//! The life of a checkpoint (collecting, publishing, committing), and the commands that start, stop and release.

use bytes::Bytes;

use super::{
    EPOCHS_PER_CONTROLLER, RunModel,
    action::Queued,
    tasks::{ACKED, COMMITTED, ENDED, NEEDS_COMMIT},
};
use crate::contracts::{
    Applied, CheckpointStage, CheckpointStart, Command, ControllerError, Count, Epoch, JobId, Manifest, Rejection,
    RunFailure, TaskId, WorkerStopMode,
};

/// The checkpoint in flight.
///
/// A final one stays here until it is complete, even when it can't become complete any more (`doomed`): its status says
/// how far it came.
#[derive(Clone, Debug)]
pub(super) struct InFlight {
    pub(super) epoch: Epoch,
    pub(super) then_stop: bool,
    phase: Phase,
    doomed: bool,
    /// A controller before this one started it: some of its commits may have been ordered already.
    resumed: bool,
    snapshots: Count,
    commits: Count,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Collecting,
    Publishing,
    Committing,
}

impl InFlight {
    pub(super) fn stage(&self) -> CheckpointStage {
        let epoch = self.epoch;
        match self.phase {
            Phase::Collecting => CheckpointStage::Collecting { epoch, acks: self.snapshots },
            Phase::Publishing => CheckpointStage::Publishing { epoch },
            Phase::Committing => CheckpointStage::Committing { epoch, acks: self.commits },
        }
    }

    fn is_in(&self, phase: Phase, epoch: Epoch) -> bool {
        self.phase == phase && self.epoch == epoch && !self.doomed
    }
}

/// Commands.
impl RunModel {
    /// Starts a checkpoint; `then_stop` makes it the final one. From the first call with `then_stop` on, no periodic
    /// checkpoint starts any more. Starting one costs O(tasks).
    ///
    /// # Errors
    /// [`ControllerError::Run`] when the run has failed, [`ControllerError::NoCheckpoint`] when it is being stopped or
    /// released, or for a periodic checkpoint after the final one was asked for.
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

    /// Orders every worker to stop its tasks. A stronger mode replaces a weaker one; a weaker or equal one changes
    /// nothing. A checkpoint that is not durable yet is given up; one that is durable goes on collecting commits.
    ///
    /// After [`begin_release`](Self::begin_release) it changes nothing if every task has ended; else the release has to
    /// be given again once they have.
    pub fn begin_stop(&mut self, mode: WorkerStopMode) {
        if self.stop >= Some(mode) || (self.released && self.status().all_ended()) {
            return;
        }
        self.released = false;
        self.stop = Some(mode);
        if !self.in_flight.as_ref().is_some_and(|checkpoint| checkpoint.phase == Phase::Committing) {
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

    /// The manifest of this checkpoint is durable: its commits go out, or it is complete if there are none. Anything
    /// else than the checkpoint that is being published is ignored.
    pub fn published(&mut self, epoch: Epoch) {
        let Some(checkpoint) = self.in_flight.as_mut().filter(|it| it.is_in(Phase::Publishing, epoch)) else {
            return;
        };
        checkpoint.phase = Phase::Committing;
        if checkpoint.commits.is_all() {
            self.complete();
        } else {
            self.queue.push_back(Queued::Commit(epoch));
            self.touch();
        }
    }

    /// Gives the periodic checkpoint of this epoch up, so that another can start. Its late snapshots and commits change
    /// nothing. A final checkpoint is never abandoned: it stays what the run waits for.
    pub fn abandon(&mut self, epoch: Epoch) {
        if self.in_flight.as_ref().is_some_and(|it| it.epoch == epoch && !it.then_stop) {
            self.give_up();
        }
    }
}

/// Questions.
impl RunModel {
    /// The manifest of the checkpoint that is being published; `None` when none is. It costs O(tasks).
    pub fn manifest(&self, job: &JobId) -> Option<Manifest> {
        let checkpoint = self.in_flight.as_ref().filter(|it| it.is_in(Phase::Publishing, it.epoch))?;
        Some(Manifest {
            job: job.clone(),
            run: self.run,
            epoch: checkpoint.epoch,
            then_stop: checkpoint.then_stop,
            tasks: self.tasks.snapshots(&self.topology),
        })
    }

    /// Whether a periodic checkpoint may start: the run is neither failed, stopping nor at its final checkpoint, and
    /// none is in flight.
    pub(crate) fn may_start_periodic(&self) -> bool {
        // The last number is the final checkpoint's.
        let given = self.newest.map_or(0, Epoch::get) - self.epochs_after.map_or(0, Epoch::get);
        let has_epochs = given + 1 < EPOCHS_PER_CONTROLLER;
        has_epochs && self.in_flight.is_none() && !self.final_asked && !self.is_over() && self.failure.is_none()
    }

    /// The periodic checkpoint in flight.
    pub(crate) fn periodic(&self) -> Option<Epoch> {
        self.in_flight.as_ref().filter(|it| !it.then_stop).map(|it| it.epoch)
    }

    pub(crate) fn is_publishing(&self, epoch: Epoch) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.is_in(Phase::Publishing, epoch))
    }

    pub(super) fn is_collecting(&self, epoch: Epoch) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.is_in(Phase::Collecting, epoch))
    }

    pub(super) fn is_committing(&self, epoch: Epoch) -> bool {
        self.in_flight.as_ref().is_some_and(|it| it.is_in(Phase::Committing, epoch))
    }

    /// The run has been told to end, so that a task may end with its work half done.
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
    ) -> Result<Applied, Rejection> {
        self.known_epoch(epoch)?;
        let Some(checkpoint) = self.in_flight.as_mut().filter(|it| it.epoch == epoch) else {
            return Ok(Applied::Duplicate);
        };
        if self.tasks.has(at, ACKED) {
            return Ok(Applied::Duplicate);
        }
        if self.tasks.has(at, ENDED) {
            return Err(Rejection::TaskEnded(task));
        }
        checkpoint.snapshots.done += 1;
        checkpoint.commits.total += u32::from(commit.is_some());
        self.tasks.acknowledge(at, snapshot, commit);
        self.publish_if_collected();
        Ok(Applied::Changed)
    }

    pub(super) fn committed(&mut self, task: TaskId, at: usize, epoch: Epoch) -> Result<Applied, Rejection> {
        self.known_epoch(epoch)?;
        let Some(checkpoint) = self.in_flight.as_mut().filter(|it| it.epoch == epoch) else {
            return Ok(Applied::Duplicate);
        };
        // Before the manifest is durable nothing may be committed: what a crash takes back would be visible already. Where a
        // controller before this one has ordered the commit, its manifest was durable.
        let ordered = checkpoint.phase == Phase::Committing || checkpoint.resumed;
        if !ordered || !self.tasks.has(at, ACKED) || !self.tasks.has(at, NEEDS_COMMIT) {
            return Err(Rejection::NothingToCommit { task, epoch });
        }
        if self.tasks.has(at, COMMITTED) {
            return Ok(Applied::Duplicate);
        }
        if self.tasks.has(at, ENDED) {
            return Err(Rejection::TaskEnded(task));
        }
        self.tasks.set(at, COMMITTED);
        checkpoint.commits.done += 1;
        if checkpoint.commits.is_all() && checkpoint.is_in(Phase::Committing, epoch) {
            self.complete();
        }
        Ok(Applied::Changed)
    }

    /// What a task's good end means for the checkpoint in flight.
    pub(super) fn finished_in_checkpoint(&mut self, task: TaskId, at: usize) {
        if self.tasks.commit_is_pending(at) {
            let epoch = self.in_flight.as_ref().map(|it| it.epoch).or(self.newest);
            match (self.is_over(), epoch) {
                (false, Some(epoch)) => self.fail(RunFailure::FinishedWithoutCommit { task, epoch }),
                // A task that was told to stop commits no more; the next run does it, from the manifest.
                _ => self.give_up(),
            }
            return;
        }
        let acked = self.tasks.has(at, ACKED);
        let Some(checkpoint) = self.in_flight.as_ref().filter(|it| it.is_in(Phase::Collecting, it.epoch) && !acked)
        else {
            return;
        };
        if checkpoint.then_stop {
            let epoch = checkpoint.epoch;
            self.fail(RunFailure::FinishedWithoutSnapshot { task, epoch });
        } else {
            self.give_up();
        }
    }

    /// The checkpoint in flight can't become complete: a periodic one ends here, a final one stays as it is. What waits
    /// to be done for it is dropped.
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
            phase: Phase::Collecting,
            doomed: false,
            resumed: resumed.is_some(),
            snapshots: Count::new(0, take_part),
            commits: Count::default(),
        });
        self.broadcast(Command::Checkpoint { epoch, then_stop });
        // With no task left there is nothing to wait for: the manifest carries them all.
        self.publish_if_collected();
        epoch
    }

    fn publish_if_collected(&mut self) {
        let Some(checkpoint) = &mut self.in_flight else { return };
        if checkpoint.is_in(Phase::Collecting, checkpoint.epoch) && checkpoint.snapshots.is_all() {
            checkpoint.phase = Phase::Publishing;
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

    /// Queues a command for all workers. It replaces one that waits: the newer is always the stronger.
    fn broadcast(&mut self, command: Command) {
        self.queue.retain(|queued| !matches!(queued, Queued::Broadcast(_)));
        self.queue.push_back(Queued::Broadcast(command));
        self.touch();
    }
}
