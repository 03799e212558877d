//! The state of each task: one `u32` per task for everything that is needed on every message, and
//! its last snapshot.

use bytes::Bytes;

use crate::{
    contracts::{Manifest, Role, TaskCommit, TaskId, TaskSnapshot, Topology},
    text::Bulk,
};

/// The task has finished successfully.
pub(super) const FINISHED: u32 = 1;
/// The task has failed.
pub(super) const FAILED: u32 = 1 << 1;
/// The task has ended, successfully or not.
pub(super) const ENDED: u32 = FINISHED | FAILED;
/// The task is a source.
pub(super) const SOURCE: u32 = 1 << 2;
/// The source has read its whole input.
pub(super) const EXHAUSTED: u32 = 1 << 3;
/// The task's state for the newest checkpoint is durable.
pub(super) const ACKED: u32 = 1 << 4;
/// The last snapshot of the task came with something to commit.
pub(super) const NEEDS_COMMIT: u32 = 1 << 5;
/// The commit data of the last snapshot has been committed.
pub(super) const COMMITTED: u32 = 1 << 6;

/// The lower bits of a slot hold the flags, the others the index of the worker
/// (`Topology::MAX_WORKERS` fits in).
const FLAG_BITS: u32 = 8;

/// Every task of the run, addressed by `base[operator] + subtask`.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    /// The first slot of each operator, and one additional entry: the end of the last operator.
    base: Box<[u32]>,
    operators: Box<[Commits]>,
    slots: Box<[u32]>,
    /// Separate from the slots, so that the data that is read on every message stays dense.
    states: Box<[Reported]>,
}

/// The commits of an operator in the newest checkpoint, so that it costs the same for any number of
/// subtasks to find out that all of them have to commit.
#[derive(Clone, Copy, Debug, Default)]
struct Commits {
    /// One subtask has reported that all of them have to.
    as_whole: bool,
    /// Subtasks that take part in the checkpoint.
    take_part: u32,
    /// Subtasks that reported something to commit, each for itself.
    own: u32,
    /// Subtasks that reported a state with nothing to commit, and have ended since.
    ended: u32,
    /// Subtasks that reported a commit, because they were ordered to before it was known here that
    /// they have to.
    early: u32,
}

/// The effect of a reported state on the commits of its checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    /// The number of additional commits that the checkpoint waits for.
    pub(super) commits: u32,
    /// The number of them that have been carried out.
    pub(super) done: u32,
    /// A subtask that turns out to have to commit has already ended.
    pub(super) too_late: bool,
}

/// The last state that a task reported.
#[derive(Clone, Default)]
struct Reported {
    snapshot: Bytes,
    commit: Option<Bytes>,
}

impl std::fmt::Debug for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let commit = self.commit.as_deref().map(Bulk);
        f.debug_struct("Reported").field("snapshot", &Bulk(&self.snapshot)).field("commit", &commit).finish()
    }
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
        let states = vec![Reported::default(); slots.len()].into();
        let operators = vec![Commits::default(); topology.operators().len()].into();
        Self { base: base.into(), operators, slots, states }
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

    /// Whether the task's operator commits the newest checkpoint as a whole.
    fn is_whole(&self, operator: u32) -> bool {
        self.operators.get(operator as usize).is_some_and(|it| it.as_whole)
    }

    /// Whether the task, or its operator as a whole, reported something to commit.
    pub(super) fn has_to_commit(&self, task: TaskId, at: usize) -> bool {
        self.has(at, NEEDS_COMMIT) || (self.has(at, ACKED) && self.is_whole(task.operator))
    }

    /// The same, and the task has not committed it.
    pub(super) fn commit_is_pending(&self, task: TaskId, at: usize) -> bool {
        self.has_to_commit(task, at) && !self.has(at, COMMITTED)
    }

    /// Stores the snapshot of the newest checkpoint; `as_whole` says that the whole operator has to
    /// commit.
    pub(super) fn acknowledge(
        &mut self,
        task: TaskId,
        at: usize,
        snapshot: Bytes,
        commit: Option<Bytes>,
        as_whole: bool,
    ) -> Acknowledged {
        // The new snapshot covers the uncommitted data of earlier, abandoned checkpoints, so it
        // replaces those flags too.
        let commit_flag = if commit.is_some() { NEEDS_COMMIT } else { 0 };
        self.slots[at] = (self.slots[at] & !(NEEDS_COMMIT | COMMITTED)) | ACKED | commit_flag;
        let operator = &mut self.operators[task.operator as usize];
        let mut acknowledged = Acknowledged { commits: 0, done: 0, too_late: false };
        if as_whole && !operator.as_whole {
            operator.as_whole = true;
            acknowledged.commits = operator.take_part.saturating_sub(operator.own);
            acknowledged.done = operator.early;
            acknowledged.too_late = operator.ended > 0;
        } else if commit.is_some() && !operator.as_whole {
            operator.own += 1;
            acknowledged.commits = 1;
        }
        self.states[at] = Reported { snapshot, commit };
        acknowledged
    }

    /// The task has committed, and its operator may yet turn out to commit as a whole.
    pub(super) fn committed_early(&mut self, task: TaskId, at: usize) {
        self.set(at, COMMITTED);
        self.operators[task.operator as usize].early += 1;
    }

    /// The task has ended. Its operator may yet turn out to commit as a whole.
    pub(super) fn ended(&mut self, task: TaskId, at: usize) {
        if self.has(at, ACKED) && !self.has(at, COMMITTED) && !self.has_to_commit(task, at) {
            self.operators[task.operator as usize].ended += 1;
        }
    }

    /// Marks the operators with commit data in the checkpoint that the run starts from: they have
    /// to commit again. Returns the number of tasks.
    pub(super) fn commit_again(&mut self, manifest: &Manifest) -> u32 {
        let mut commits = 0;
        let of = |it: &&TaskSnapshot| it.commit.is_some();
        for operator in manifest.tasks.iter().filter(of).map(|it| it.task.operator) {
            if let Some(operator) = self.operators.get_mut(operator as usize) {
                operator.as_whole = true;
            }
        }
        for it in &manifest.tasks {
            if let Some(at) = self.locate(it.task).filter(|_| self.is_whole(it.task.operator) && !it.finished) {
                self.set(at, ACKED);
                self.states[at].commit.clone_from(&it.commit);
                commits += 1;
            }
        }
        commits
    }

    /// The state that the task started from.
    pub(super) fn restore(&mut self, at: usize, snapshot: Bytes) {
        self.states[at] = Reported { snapshot, commit: None };
    }

    /// Prepares for a new checkpoint, and counts the tasks that take part in it: those that have
    /// not ended.
    pub(super) fn begin_checkpoint(&mut self) -> u32 {
        let mut all = 0;
        for (operator, bounds) in self.operators.iter_mut().zip(self.base.windows(2)) {
            let mut take_part = 0;
            for slot in &mut self.slots[bounds[0] as usize..bounds[1] as usize] {
                *slot &= !ACKED;
                take_part += u32::from(*slot & ENDED == 0);
            }
            *operator = Commits { take_part, ..Commits::default() };
            all += take_part;
        }
        all
    }

    /// Every task of the checkpoint, once all snapshots have arrived. A task without one had ended
    /// before the checkpoint began.
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
                    // The data of an ended task has been committed since; otherwise the run fails.
                    // A task without data also has to commit if its operator commits as a whole:
                    // now, and again if this fails.
                    commit: state
                        .commit
                        .clone()
                        .or_else(|| self.is_whole(task.operator).then(Bytes::new))
                        .filter(|_| !finished),
                    finished,
                }
            })
            .collect()
    }

    /// The tasks that have to commit, each with the index of its worker and whether its operator
    /// commits as a whole.
    pub(super) fn commits<'a>(&'a self, topology: &'a Topology) -> impl Iterator<Item = (u32, TaskCommit, bool)> {
        (0..).zip(topology.task_ids()).filter_map(|(at, task)| {
            let pending = self.has(at, ACKED) && self.commit_is_pending(task, at);
            pending.then(|| (self.worker(at), self.commit(task, at), self.is_whole(task.operator)))
        })
    }

    /// The commit data of all subtasks of an operator in the newest checkpoint.
    pub(super) fn commits_of(&self, operator: u32) -> impl Iterator<Item = TaskCommit> {
        let end = self.base.get(operator as usize + 1).copied().unwrap_or_default();
        let first = self.base.get(operator as usize).copied().unwrap_or(end);
        let subtasks = (first..end).filter(|at| self.has(*at as usize, ACKED));
        subtasks.map(move |at| self.commit(TaskId::new(operator, at - first), at as usize))
    }

    fn commit(&self, task: TaskId, at: usize) -> TaskCommit {
        TaskCommit { task, data: self.states[at].commit.clone().unwrap_or_default() }
    }
}
