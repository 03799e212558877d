//! What is known of each task: one `u32` per task for everything that is asked on every message, and its last snapshot.

use bytes::Bytes;

use crate::contracts::{Role, TaskId, TaskSnapshot, Topology};

/// The task has ended well.
pub(super) const FINISHED: u32 = 1;
/// The task has ended badly.
pub(super) const FAILED: u32 = 1 << 1;
/// The task has ended, well or badly.
pub(super) const ENDED: u32 = FINISHED | FAILED;
/// The task is a source.
pub(super) const SOURCE: u32 = 1 << 2;
/// The source has read its whole input.
pub(super) const EXHAUSTED: u32 = 1 << 3;
/// The task's state for the newest checkpoint is durable.
pub(super) const ACKED: u32 = 1 << 4;
/// The last snapshot of the task came with something to commit.
pub(super) const NEEDS_COMMIT: u32 = 1 << 5;
/// What came with the last snapshot has been committed.
pub(super) const COMMITTED: u32 = 1 << 6;

/// The lower bits of a slot hold the flags, the others the index of the worker (`Topology::MAX_WORKERS` fits in).
const FLAG_BITS: u32 = 8;

/// Every task of the run, addressed by `base[operator] + subtask`.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    /// The first slot of each operator, and one entry more: the end of the last operator.
    base: Box<[u32]>,
    slots: Box<[u32]>,
    /// Apart from the slots, so that what is read on every message stays dense.
    states: Box<[State]>,
}

/// The last state that a task gave.
#[derive(Clone, Debug, Default)]
struct State {
    snapshot: Bytes,
    commit: Option<Bytes>,
}

impl Tasks {
    pub(super) fn new(topology: &Topology) -> Self {
        let mut base = Vec::with_capacity(topology.operators().len() + 1);
        let mut end = 0_u32;
        base.push(end);
        for operator in topology.operators() {
            // `Topology` refuses more tasks than a `u32` can number, so this never saturates.
            end = end.saturating_add(operator.parallelism());
            base.push(end);
        }
        let slots: Box<[u32]> = topology
            .task_ids()
            .map(|task| {
                let worker = topology.worker_index_of(task).unwrap_or_default();
                let source =
                    topology.operators().get(task.operator as usize).is_some_and(|op| op.role() == Role::Source);
                (worker << FLAG_BITS) | if source { SOURCE } else { 0 }
            })
            .collect();
        let states = vec![State::default(); slots.len()].into();
        Self { base: base.into(), slots, states }
    }

    /// The slot of a task; `None` if the run has no such task.
    pub(super) fn locate(&self, task: TaskId) -> Option<usize> {
        let operator = task.operator as usize;
        let end = *self.base.get(operator.checked_add(1)?)?;
        let at = self.base.get(operator)?.checked_add(task.subtask)?;
        (at < end).then_some(at as usize)
    }

    /// The index of the worker that the task of this slot is placed on.
    pub(super) fn worker(&self, at: usize) -> u32 {
        self.slots[at] >> FLAG_BITS
    }

    /// Whether any of these flags is set.
    pub(super) fn has(&self, at: usize, flags: u32) -> bool {
        self.slots[at] & flags != 0
    }

    pub(super) fn set(&mut self, at: usize, flags: u32) {
        self.slots[at] |= flags;
    }

    /// Whether the task gave something to commit and has not committed it.
    pub(super) fn commit_is_pending(&self, at: usize) -> bool {
        self.slots[at] & (NEEDS_COMMIT | COMMITTED) == NEEDS_COMMIT
    }

    /// Takes the snapshot of the newest checkpoint in.
    pub(super) fn acknowledge(&mut self, at: usize, snapshot: Bytes, commit: Option<Bytes>) {
        // The new snapshot covers what earlier, abandoned checkpoints left uncommitted, so it replaces those flags too.
        let commit_flag = if commit.is_some() { NEEDS_COMMIT } else { 0 };
        self.slots[at] = (self.slots[at] & !(NEEDS_COMMIT | COMMITTED)) | ACKED | commit_flag;
        self.states[at] = State { snapshot, commit };
    }

    /// The state that the task started from.
    pub(super) fn restore(&mut self, at: usize, snapshot: Bytes) {
        self.states[at] = State { snapshot, commit: None };
    }

    /// Prepares for a new checkpoint, and counts the tasks that take part in it: those that have not ended.
    pub(super) fn begin_checkpoint(&mut self) -> u32 {
        let mut take_part = 0;
        for slot in &mut self.slots {
            *slot &= !ACKED;
            take_part += u32::from(*slot & ENDED == 0);
        }
        take_part
    }

    /// Every task of the checkpoint whose snapshots are all in. A task that gave none for it had ended before it began.
    pub(super) fn snapshots(&self, topology: &Topology) -> Vec<TaskSnapshot> {
        let known = self.slots.iter().zip(&self.states);
        topology
            .task_ids()
            .zip(known)
            .map(|(task, (slot, state))| {
                let finished = slot & ACKED == 0;
                TaskSnapshot {
                    task,
                    snapshot: state.snapshot.clone(),
                    // What an ended task once gave has been committed since: the run fails otherwise.
                    commit: state.commit.clone().filter(|_| !finished),
                    finished,
                }
            })
            .collect()
    }

    /// The tasks that have to commit, each with the index of its worker and what it commits.
    pub(super) fn commits<'a>(&'a self, topology: &'a Topology) -> impl Iterator<Item = (u32, TaskId, &'a Bytes)> {
        (0..).zip(topology.task_ids()).filter_map(|(at, task)| {
            let pending = self.has(at, ACKED) && self.commit_is_pending(at);
            self.states[at].commit.as_ref().filter(|_| pending).map(|data| (self.worker(at), task, data))
        })
    }
}
