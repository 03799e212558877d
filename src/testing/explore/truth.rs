//! The invariants, checked against the world: for every effect when it happens, and for every claim
//! at the end.

use std::time::Duration;

use super::{
    late::LATE_WORKER,
    report::CanHappen,
    state::digest_of_command,
    world::{End, JOB, RUN, World},
};
use crate::{
    contracts::{Command, Epoch, JobId, Manifest, RunId, StopRequest, StoreError},
    limits::Limits,
    machine::{
        AnyStopped, JournalError, PhaseKind, PhaseRecord,
        record::{Write, may_write},
    },
};

/// How old the scheduler's last answer may be, according to the scenario's limits. Virtual
/// milliseconds.
const VERIFY_EVERY: u64 = 2;

/// Phases that release workers once their evidence is proven.
const RELEASING: [PhaseKind; 4] =
    [PhaseKind::Finishing, PhaseKind::CheckpointStopping, PhaseKind::StoppingGraceful, PhaseKind::StoppingImmediate];
/// Phases that take a final checkpoint.
const CHECKPOINTING: [PhaseKind; 2] = [PhaseKind::CheckpointStopping, PhaseKind::Finishing];

impl World {
    /// An order is about to be sent.
    pub(super) fn check_order(&mut self, at: usize, run: RunId, command: &Command) {
        if run != RUN {
            self.violated("I11", format!("an order of run {run} went to a worker of run {RUN}"));
        }
        self.check_is_written_down(command);
        match command {
            Command::Checkpoint { epoch, then_stop } => self.check_checkpoint(*epoch, *then_stop),
            Command::Commit { epoch, .. } if !self.has_manifest(*epoch) => {
                self.violated("I3", format!("the commit of epoch {epoch} was ordered before its manifest was durable"));
            }
            Command::Stop(mode) => {
                let (phase, deadline) = self.phase_and_deadline();
                let late = deadline.is_some_and(|deadline| self.now() > deadline);
                if RELEASING.contains(&phase) && late {
                    self.violated("I5", format!("a {} order was sent after the deadline of {phase}", command.name()));
                }
                if self.agenda.strongest_sent > Some(*mode as u8) {
                    self.violated("I4", format!("a {} order was sent after a stronger one", command.name()));
                }
                self.agenda.strongest_sent = self.agenda.strongest_sent.max(Some(*mode as u8));
            }
            _ => {}
        }
        self.check_independence(at, command);
    }

    fn phase_and_deadline(&self) -> (PhaseKind, Option<u64>) {
        let Some(progress) = &self.progress else { return (PhaseKind::Running, None) };
        let progress = progress.borrow();
        let ms = |at: Duration| u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        (progress.phase, progress.deadline.map(|at| ms(at.saturating_duration_since(self.at(0)))))
    }

    /// I7: every action matches the record, and the record is durable.
    fn check_is_written_down(&mut self, command: &Command) {
        let phase = self.phase_on_record();
        let is = |phases: &[PhaseKind]| phase.is_some_and(|phase| phases.contains(&phase));
        let written = match command {
            Command::Checkpoint { then_stop: true, epoch } => {
                is(&CHECKPOINTING) && self.record.as_ref().is_some_and(|record| record.final_epoch == Some(*epoch))
            }
            Command::Checkpoint { .. } => is(&CHECKPOINTING) || is(&[PhaseKind::Running]),
            // A durable checkpoint collects its commits to the end, whatever was requested since.
            Command::Commit { .. } => phase.is_some(),
            Command::Stop(crate::contracts::WorkerStopMode::Graceful) => is(&[PhaseKind::StoppingGraceful]),
            Command::Stop(crate::contracts::WorkerStopMode::Immediate) => is(&[PhaseKind::StoppingImmediate]),
            Command::Release => is(&RELEASING),
        };
        if !written {
            let record = self.record.as_ref().map(|record| (record.phase, record.final_epoch));
            self.violated(
                "I7",
                format!("a {} order was sent while the durable record said {record:?}", command.name()),
            );
        }
    }

    fn check_checkpoint(&mut self, epoch: Epoch, then_stop: bool) {
        if then_stop {
            let first = *self.final_epoch.get_or_insert(epoch);
            if first != epoch {
                self.violated(
                    "I3",
                    format!("epoch {epoch} is a second final checkpoint of the run: epoch {first} was ordered"),
                );
            }
        } else if self.final_epoch == Some(epoch) {
            self.violated(
                "I3",
                format!("epoch {epoch} was ordered as the final checkpoint, and then as one that is not"),
            );
        }
    }

    /// I9: an order's first sending to one worker does not wait for another.
    fn check_independence(&mut self, at: usize, command: &Command) {
        let (key, now) = (digest_of_command(command) ^ u64::from(self.attempt) << 32, self.now());
        if self.first_sent.iter().any(|sent| (sent.0, sent.1) == (key, at)) {
            return;
        }
        if let Some((_, other, before)) = self.first_sent.iter().find(|sent| sent.0 == key && sent.2 < now).copied() {
            let what = format!(
                "the {} order went to worker {} {} ms after worker {}",
                command.name(),
                at + 1,
                now - before,
                other + 1
            );
            self.violated("I9", what);
        }
        self.first_sent.push((key, at, now));
    }

    /// Workers are about to be asked to leave, or killed.
    pub(super) fn check_stop(&mut self, job: &JobId, run: Option<RunId>, force: bool) -> bool {
        if job.as_str() != JOB || run != Some(RUN) {
            self.violated("I11", format!("the scheduler was told to stop {run:?} of {job:?}"));
            return false;
        }
        let phase = self.phase_on_record();
        let is_written = phase.is_some_and(|phase| {
            RELEASING.contains(&phase) || (force && (phase == PhaseKind::StoppingForce || phase.is_terminal()))
        });
        if !is_written {
            let what = if force { "killed" } else { "asked to leave" };
            self.violated("I7", format!("workers were {what} while the durable record said {phase:?}"));
        }
        true
    }

    pub(super) fn publish(&mut self, manifest: &Manifest) -> Result<(), StoreError> {
        if let Some(found) = self.manifests.iter().find(|found| found.epoch == manifest.epoch) {
            return if found == manifest {
                Ok(())
            } else {
                Err(StoreError::Conflict { job: JOB.into(), epoch: manifest.epoch, by: found.run })
            };
        }
        if let Some(latest) = self.manifests.last().filter(|latest| latest.epoch > manifest.epoch) {
            let (latest, by) = (latest.epoch, latest.run);
            return Err(StoreError::StaleEpoch { job: JOB.into(), epoch: manifest.epoch, latest, by });
        }
        self.check_manifest(manifest);
        self.manifests.push(manifest.clone());
        Ok(())
    }

    fn check_manifest(&mut self, manifest: &Manifest) {
        let epoch = manifest.epoch;
        for task in self.tasks {
            let entry = manifest.tasks.iter().find(|entry| entry.task == task.id);
            // It contains the commit data of each task; otherwise neither this run nor the next
            // would commit it.
            let is_whole = |commit: bool| task.acked >= Some(epoch) && commit == task.has_commits;
            let is_true =
                entry.is_some_and(|it| if it.finished { task.end.is_some() } else { is_whole(it.commit.is_some()) });
            if !is_true {
                self.violated(
                    "I3",
                    format!("the manifest of epoch {epoch} says {entry:?} of task {}, which did {task:?}", task.id),
                );
            }
        }
    }

    pub(super) fn write(&mut self, record: &PhaseRecord) -> Result<(), JournalError> {
        if may_write(self.record.as_ref(), record)? == Write::Needed {
            self.check_record(record);
            self.record = Some(record.clone());
        }
        Ok(())
    }

    fn check_record(&mut self, record: &PhaseRecord) {
        if record.run != RUN || record.job.as_str() != JOB {
            self.violated("I11", "the record is of another run");
        }
        let Some(before) = self.record.clone() else { return };
        if before.phase != record.phase && !before.phase.can_become(record.phase) {
            self.violated("I1", format!("the record went from {} to {}: no such edge", before.phase, record.phase));
        }
        if record.requested < before.requested {
            self.violated("I4", format!("the record had {:?}, and then {:?}", before.requested, record.requested));
        }
        if before.final_epoch.is_some() && before.final_epoch != record.final_epoch {
            self.violated(
                "I7",
                format!("the final epoch was {:?}, and then {:?}", before.final_epoch, record.final_epoch),
            );
        }
    }

    /// The end: its claims are true in the world.
    pub(super) fn check_end(&mut self, stopped: &AnyStopped, before_crash: Option<&PhaseRecord>) {
        let mut alive = self.alive();
        // A worker that starts after the scheduler's last answer starts after the proof.
        alive.retain(|worker| *worker != LATE_WORKER || self.late_was_listed);
        // The scheduler's last answer is at most this old; workers that have appeared since are not
        // seen.
        let unseen = self.agenda.appeared_at.is_some_and(|at| self.now() - at < VERIFY_EVERY);
        if !alive.is_empty() && !unseen {
            self.violated("I2", format!("{} was said with {alive:?} alive", stopped.kind()));
        }
        if !self.neighbour_is_alive {
            self.violated("I11", "a worker of another run was killed");
        }
        if let Some(record) = before_crash.filter(|record| record.phase.is_terminal() && record.phase != stopped.kind())
        {
            self.violated("I7", format!("{} was on record, {} came of it", record.phase, stopped.kind()));
        }
        match stopped {
            AnyStopped::Checkpointed(stopped) => self.check_checkpointed(stopped.evidence().epoch()),
            AnyStopped::Completed(stopped) => self.check_checkpointed(stopped.evidence().epoch()),
            AnyStopped::Drained(_) => self.check_tasks("Drained", |end| end == Some(End::Finished)),
            AnyStopped::Halted(_) => self.check_tasks("Halted", |end| end.is_some()),
            AnyStopped::Killed(_) => {}
        }
        if let Some(epoch) = stopped.epoch()
            && !self.has_manifest(epoch)
        {
            self.violated("I3", format!("{} speaks of epoch {epoch}, which is not durable", stopped.kind()));
        }
        self.note_end(stopped);
    }

    fn check_tasks(&mut self, claim: &str, holds: fn(Option<End>) -> bool) {
        for task in self.tasks {
            if !holds(task.end) {
                self.violated("I3", format!("{claim} was said of task {}, whose end was {:?}", task.id, task.end));
            }
        }
    }

    fn check_checkpointed(&mut self, epoch: Epoch) {
        self.check_tasks("Checkpointed", |end| end == Some(End::Finished));
        let Some(manifest) = self.manifests.last().filter(|last| last.epoch == epoch && last.then_stop).cloned() else {
            self.violated(
                "I3",
                format!("Checkpointed was said of epoch {epoch}, whose manifest is not durable or not the last"),
            );
            return;
        };
        for task in &manifest.tasks {
            let committed = self.tasks.iter().any(|it| it.id == task.task && it.committed >= Some(epoch));
            if task.commit.is_some() && !committed {
                self.violated(
                    "I3",
                    format!("Checkpointed was said of epoch {epoch}, and task {} has not committed", task.task),
                );
            }
        }
    }

    fn note_end(&mut self, stopped: &AnyStopped) {
        use CanHappen::{CheckpointedAfterCrash, EvidenceSurvivedKill, StoppedAfterTwoCrashes};
        let is_checkpointed = matches!(stopped, AnyStopped::Checkpointed(_));
        if is_checkpointed && self.attempt > 1 {
            self.note(CheckpointedAfterCrash);
        }
        if stopped.killed_workers() && !matches!(stopped, AnyStopped::Killed(_)) {
            self.note(EvidenceSurvivedKill);
        }
        if self.attempt > 2 {
            self.note(StoppedAfterTwoCrashes);
        }
    }

    /// I8 and I6: the request is in effect at the end, and the job may not be restarted.
    pub(super) fn check_requests(&mut self, in_force: Option<StopRequest>, may_restart: bool) {
        if in_force < self.asked {
            self.violated("I6", format!("{:?} was asked for, {in_force:?} is in force", self.asked));
        }
        if may_restart && in_force.is_some() {
            self.violated("I8", format!("{in_force:?} was asked for, and the job may be restarted"));
        }
    }

    /// I5: the drive took no longer than the limits say, counted from the last thing that started
    /// the count anew. Each of `records` may take its time on top of it.
    pub(super) fn check_time(&mut self, limits: &Limits, from: u64, phase: PhaseKind, records: u32) {
        let Some(most) = limits.worst_case(phase, self.scenario.spent) else { return };
        // The scheduler is asked again if recording the end took long.
        let most = most + limits.worst_record() * records + limits.kill * 2;
        let (took, most) = (self.now().saturating_sub(from), u64::try_from(most.as_millis()).unwrap_or(u64::MAX));
        if took > most {
            self.violated("I5", format!("the drive took {took} ms from {phase}, and the limits say {most} ms"));
        }
    }
}
