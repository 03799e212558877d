//! The simulated world: workers, their tasks, the store, the journal. It survives crashes of the controller, and is the truth that claims
//! are measured against.

use std::{
    collections::VecDeque,
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use super::{
    choice::Chooser,
    digest::{Folding, digest},
    report::{CanHappen, Violation},
    scenario::Scenario,
};
use crate::{
    Command, Epoch, Event, JobSender, Manifest, OrderErrorKind, PhaseKind, PhaseRecord, Progress, RunId, StopRequest,
    TaskError, TaskId, WorkerEvent, WorkerId, WorkerStopMode,
};

pub(super) const JOB: &str = "job";
/// The run that is explored; the runs before and after it are strangers.
pub(super) const RUN: RunId = RunId::new(7);
const SOURCE: TaskId = TaskId::new(0, 0);
const SINK: TaskId = TaskId::new(1, 0);
const COMMITTING_SINK: TaskId = TaskId::new(1, 1);

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// It was told to, or had nothing left to do.
    Finished,
    /// It was stopped where it was.
    Halted,
    Failed,
    Killed,
}

#[derive(Clone, Copy, Debug, Hash)]
pub(super) struct Task {
    pub(super) id: TaskId,
    pub(super) worker: usize,
    pub(super) has_commits: bool,
    exhausted: bool,
    pub(super) acked: Option<Epoch>,
    /// Its last acknowledged checkpoint is the final one.
    is_last: bool,
    pub(super) committed: Option<Epoch>,
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each may hold with each other")]
pub(super) struct Worker {
    pub(super) is_dead: bool,
    /// Alive, but deaf and mute.
    pub(super) is_frozen: bool,
    newest: Option<(Epoch, bool)>,
    stop: Option<u8>,
    is_leaving: bool,
    /// It has said that it leaves.
    has_left: bool,
}

/// What is on its way in the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Event(WorkerEvent),
    /// The worker's process ends.
    Exit(usize),
    /// The kill of the worker takes effect.
    Kill(usize),
}

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) item: Item,
    pub(super) not_before: u64,
}

/// What a call of a collaborator does to the world.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Order(usize, Command),
    Publish(Manifest),
    Write(PhaseRecord),
    StopWorkers { force: bool },
}

/// Why an effect was refused by the world itself.
#[derive(Debug)]
pub(super) enum Refusal {
    Order(OrderErrorKind),
    Store(crate::StoreError),
    Journal(crate::JournalError),
}

/// What the schedule's runner is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The controller's process dies.
    Crash,
    /// The drive is dropped, and started again.
    Drop,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) chooser: Chooser,
    pub(super) scenario: &'static Scenario,
    began: Instant,
    pub(super) tasks: [Task; 3],
    pub(super) workers: [Worker; 2],
    pub(super) queue: VecDeque<Pending>,
    pub(super) late: Vec<(u64, Effect)>,
    pub(super) manifests: Vec<Manifest>,
    pub(super) record: Option<PhaseRecord>,
    /// A worker of the next run, which nobody may touch.
    pub(super) neighbour_is_alive: bool,
    /// How many controllers there have been.
    pub(super) attempt: u32,
    pub(super) sender: Option<JobSender>,
    pub(super) progress: Option<watch::Receiver<Progress>>,
    pub(super) signal: Option<Signal>,
    /// Nothing goes wrong any more: a drive has given up, and the next must succeed.
    pub(super) is_healed: bool,
    pub(super) asked: Option<StopRequest>,
    pub(super) last_asked_at: u64,
    /// Grows with every change, so that a quiet world is known.
    pub(super) version: u64,
    pub(super) calls: Vec<(u8, u64)>,
    /// What the present controller has been told, whatever the order.
    pub(super) told: u64,
    /// Every order's first sending: what, to whom, when.
    pub(super) first_sent: Vec<(u64, usize, u64)>,
    pub(super) sent: u64,
    pub(super) final_epoch: Option<Epoch>,
    pub(super) failure_told_at: Option<u64>,
    pub(super) violations: Vec<Violation>,
    pub(super) happened: [u32; CanHappen::COUNT],
    /// What the environment has planned; see there.
    pub(super) plan: super::environment::Plan,
}

impl World {
    pub(super) fn new(scenario: &'static Scenario) -> Self {
        let task = |id, worker, has_commits| Task {
            id,
            worker,
            has_commits,
            exhausted: false,
            acked: None,
            is_last: false,
            committed: None,
            end: None,
        };
        Self {
            chooser: Chooser::default(),
            scenario,
            began: Instant::now(),
            tasks: [task(SOURCE, 0, false), task(SINK, 0, false), task(COMMITTING_SINK, 1, scenario.commits)],
            workers: [Worker::default(); 2],
            queue: VecDeque::new(),
            late: Vec::new(),
            manifests: Vec::new(),
            record: None,
            neighbour_is_alive: true,
            attempt: 0,
            sender: None,
            progress: None,
            signal: None,
            is_healed: false,
            asked: None,
            last_asked_at: 0,
            version: 0,
            calls: Vec::new(),
            told: 0,
            first_sent: Vec::new(),
            sent: 0,
            final_epoch: None,
            failure_told_at: None,
            violations: Vec::new(),
            happened: [0; CanHappen::COUNT],
            plan: super::environment::Plan::default(),
        }
    }

    /// Virtual milliseconds since the schedule began.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn at(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }

    pub(super) fn ms_of(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX)
    }

    /// One of `options`; the first is what happens if nothing goes wrong.
    pub(super) fn choose<O: Copy + std::fmt::Debug>(&mut self, options: &[O]) -> O {
        if self.is_healed || options.len() == 1 {
            return options[0];
        }
        let digest = if self.chooser.is_beyond_plan() { self.digest() } else { 0 };
        self.chooser.choose(options, digest)
    }

    pub(super) fn note(&mut self, what: CanHappen) {
        self.happened[what as usize] += 1;
    }

    pub(super) fn violated(&mut self, invariant: &'static str, what: impl Into<String>) {
        if self.violations.len() < 4 {
            self.violations.push(Violation::new(invariant, what.into()));
        }
    }

    pub(super) fn touch(&mut self) {
        self.version += 1;
        self.plan.quiet_choices = 0;
    }

    pub(super) fn index_of(worker: WorkerId) -> usize {
        usize::from(worker.get() != 1)
    }

    pub(super) fn worker_id(worker: usize) -> WorkerId {
        WorkerId::new(worker as u64 + 1)
    }

    pub(super) fn alive(&self) -> Vec<WorkerId> {
        (0..2).filter(|at| !self.workers[*at].is_dead).map(Self::worker_id).collect()
    }

    pub(super) fn has_manifest(&self, epoch: Epoch) -> bool {
        self.manifests.iter().any(|manifest| manifest.epoch == epoch)
    }

    pub(super) fn phase_on_record(&self) -> Option<PhaseKind> {
        self.record.as_ref().map(|record| record.phase)
    }

    // What workers do.

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
        let event = Self::acknowledgement(task, epoch);
        self.say(self.tasks[at].worker, event);
        if ends {
            self.end(at, End::Finished);
        }
    }

    fn acknowledgement(task: &Task, epoch: Epoch) -> Event {
        let commit = task.has_commits.then(|| Bytes::from_static(b"commit"));
        Event::CheckpointCompleted { task: task.id, epoch, snapshot: Bytes::from_static(b"state"), commit }
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

    /// A worker says again what it has said, as the worker kit does.
    fn repeat(&mut self, at: usize) {
        for task in self.tasks.into_iter().filter(|task| task.worker == at) {
            if task.exhausted {
                self.say(at, Event::SourceExhausted { task: task.id });
            }
            if let Some(epoch) = task.acked {
                if let Some(committed) = task.committed.filter(|committed| *committed < epoch) {
                    self.say(at, Event::CommitCompleted { task: task.id, epoch: committed });
                }
                self.say(at, Self::acknowledgement(&task, epoch));
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
        // What waits already need not wait twice.
        if !self.queue.iter().any(|pending| pending.item == item) {
            self.queue.push_back(Pending { item, not_before: 0 });
        }
    }

    fn stop_workers(&mut self, force: bool) {
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

    /// The worker runs no code any more.
    pub(super) fn die(&mut self, at: usize) {
        self.touch();
        self.workers[at].is_dead = true;
        for task in 0..self.tasks.len() {
            if self.tasks[task].worker == at && self.tasks[task].end.is_none() {
                self.tasks[task].end = Some(End::Killed);
            }
        }
        // What the kernel had taken in from it still arrives; it ends only once.
        self.queue.retain(|pending| !matches!(pending.item, Item::Exit(it) | Item::Kill(it) if it == at));
    }

    /// Everything that decides what happens from here on, as far as it can be seen from outside of the futures.
    fn digest(&self) -> u64 {
        let mut hasher = Folding::default();
        let now = self.now();
        (now, self.attempt, self.scenario.name.len(), self.scenario.opening, self.scenario.spent).hash(&mut hasher);
        (self.scenario.commits, self.scenario.periodic, self.scenario.detached).hash(&mut hasher);
        (&self.tasks, &self.workers, self.neighbour_is_alive, self.asked, self.final_epoch).hash(&mut hasher);
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
        (&self.calls, self.told, self.sent, &self.plan, self.sender.is_some()).hash(&mut hasher);
        if let Some(progress) = &self.progress {
            let progress = progress.borrow();
            (progress.phase, progress.status, progress.requested, progress.alive, progress.retries).hash(&mut hasher);
            // The clocks agree, so instants are as good as what has gone by since.
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
    }
}

pub(super) fn digest_of_event(event: &WorkerEvent) -> u64 {
    let head = (event.run, event.worker, std::mem::discriminant(&event.event));
    match &event.event {
        Event::CheckpointCompleted { task, epoch, .. } | Event::CommitCompleted { task, epoch } => {
            digest(&(head, task, epoch))
        }
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

/// The world, as its parts share it.
pub(super) type Shared = Arc<std::sync::Mutex<World>>;

pub(super) fn lock(world: &Shared) -> std::sync::MutexGuard<'_, World> {
    world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
