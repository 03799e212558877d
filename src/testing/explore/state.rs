//! The digest of the whole state at a choice point.

use std::hash::{Hash, Hasher};

use super::{
    digest::{Folding, digest},
    world::{Effect, Item, World},
};
use crate::{
    contracts::{Command, Event, Manifest, WorkerEvent},
    machine::PhaseRecord,
};

impl World {
    /// Everything that determines the future, as far as it is visible outside of the futures.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = Folding::default();
        let now = self.now();
        (now, self.attempt, self.scenario.name.len(), self.scenario.opening, self.scenario.spent).hash(&mut hasher);
        (self.scenario.commits, self.scenario.periodic, self.scenario.detached).hash(&mut hasher);
        (
            &self.tasks,
            &self.workers,
            self.late_worker,
            self.late_was_listed,
            self.neighbour_is_alive,
            self.asked,
            self.final_epoch,
        )
            .hash(&mut hasher);
        for pending in &self.queue {
            (digest_of_item(&pending.item), pending.not_before).hash(&mut hasher);
        }
        for (due, effect) in &self.late {
            (due, digest_of_effect(effect)).hash(&mut hasher);
        }
        for manifest in &self.manifests {
            digest_of_manifest(manifest).hash(&mut hasher);
        }
        if let Some(record) = &self.record {
            digest_of_record(record).hash(&mut hasher);
        }
        (&self.calls, self.told, self.sent, &self.agenda, self.sender.is_some()).hash(&mut hasher);
        if let Some(progress) = &self.progress {
            let progress = progress.borrow();
            (progress.phase, progress.status, progress.requested, progress.alive, progress.retries).hash(&mut hasher);
            // The clocks agree, so instants are as good as elapsed times.
            (progress.since - self.began, progress.deadline.map(|at| at.saturating_duration_since(self.began)))
                .hash(&mut hasher);
        }
        hasher.finish()
    }
}

fn digest_of_item(item: &Item) -> u64 {
    match item {
        Item::Event(event) => digest_of_event(event),
        Item::Exit(at) => 1 + *at as u64,
        Item::Kill(at) => 11 + *at as u64,
        Item::Enter => 21,
    }
}

pub(super) fn digest_of_event(event: &WorkerEvent) -> u64 {
    let head = (event.run, event.worker, std::mem::discriminant(&event.event));
    match &event.event {
        Event::CheckpointCompleted { task, epoch, .. }
        | Event::OperatorPreCommitted { task, epoch, .. }
        | Event::CommitCompleted { task, epoch } => digest(&(head, task, epoch)),
        Event::SourceExhausted { task } | Event::TaskFinished { task } | Event::TaskFailed { task, .. } => {
            digest(&(head, task))
        }
        _ => digest(&head),
    }
}

pub(super) fn digest_of_command(command: &Command) -> u64 {
    let kind = std::mem::discriminant(command);
    match command {
        Command::Checkpoint { epoch, then_stop } => digest(&(kind, epoch, then_stop)),
        Command::Commit { epoch, .. } => digest(&(kind, epoch)),
        Command::Stop(mode) => digest(&(kind, mode)),
        Command::Release => digest(&kind),
    }
}

fn digest_of_effect(effect: &Effect) -> u64 {
    match effect {
        Effect::Order(at, command) => digest(&(at, digest_of_command(command))),
        Effect::Publish(manifest) => digest_of_manifest(manifest),
        Effect::Write(record) => digest_of_record(record),
        Effect::StopWorkers { force } => digest(&(7_u8, force)),
    }
}

fn digest_of_manifest(manifest: &Manifest) -> u64 {
    let finished: u64 = manifest.tasks.iter().fold(1, |sum, task| sum * 2 + u64::from(task.finished));
    digest(&(manifest.epoch, manifest.then_stop, finished))
}

fn digest_of_record(record: &PhaseRecord) -> u64 {
    let PhaseRecord { revision, phase, requested, final_epoch, last_complete, killed_workers, attempt, .. } = record;
    digest(&(revision, phase, requested, final_epoch, last_complete, killed_workers, attempt))
}
