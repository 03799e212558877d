//! The simulated world: workers, their tasks, the store, the journal. It survives crashes of the
//! controller, and claims are checked against it.

use std::{collections::VecDeque, hash::Hash, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    choice::Chooser,
    late::{LATE_WORKER, Late},
    report::{CanHappen, Violation},
    scenario::Scenario,
};
use crate::{
    contracts::{Command, Epoch, Manifest, OrderErrorKind, RunId, StopRequest, TaskId, WorkerEvent, WorkerId},
    machine::{PhaseKind, PhaseRecord, Progress},
    mailbox::JobSender,
};

pub(super) const JOB: &str = "job";
/// The explored run; the runs before and after it are foreign.
pub(super) const RUN: RunId = RunId::new(7);
pub(super) const SOURCE: TaskId = TaskId::new(0, 0);
const SINK: TaskId = TaskId::new(1, 0);
pub(super) const COMMITTING_SINK: TaskId = TaskId::new(1, 1);

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End {
    /// It was ordered to, or had nothing left to do.
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
    pub(super) exhausted: bool,
    pub(super) acked: Option<Epoch>,
    /// Its last acknowledged checkpoint is the final one.
    pub(super) is_last: bool,
    pub(super) committed: Option<Epoch>,
    pub(super) end: Option<End>,
}

#[derive(Clone, Copy, Debug, Default, Hash)]
#[allow(clippy::struct_excessive_bools, reason = "each may hold with each other")]
pub(super) struct Worker {
    pub(super) is_dead: bool,
    /// Alive, but unresponsive.
    pub(super) is_frozen: bool,
    pub(super) newest: Option<(Epoch, bool)>,
    pub(super) stop: Option<u8>,
    pub(super) is_leaving: bool,
    /// It has reported that it leaves.
    pub(super) has_left: bool,
}

/// The messages and effects in flight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Event(WorkerEvent),
    /// The worker's process ends.
    Exit(usize),
    /// The kill of the worker takes effect.
    Kill(usize),
    /// The start that is in flight ends with a worker.
    Enter,
}

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) item: Item,
    pub(super) not_before: u64,
}

/// The effect of a collaborator's call on the world.
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Order(usize, Command),
    Publish(Manifest),
    Write(PhaseRecord),
    StopWorkers { force: bool },
}

/// Why the world itself refused an effect.
#[derive(Debug)]
pub(super) enum Refusal {
    Order(OrderErrorKind),
    Store(crate::contracts::StoreError),
    Journal(crate::machine::JournalError),
}

/// What the schedule's runner should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// The controller's process dies.
    Crash,
    /// The drive is dropped, and started again.
    Drop,
}

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each may hold with each other")]
pub(super) struct World {
    pub(super) chooser: Chooser,
    pub(super) scenario: &'static Scenario,
    pub(super) began: Instant,
    pub(super) tasks: [Task; 3],
    pub(super) workers: [Worker; 2],
    pub(super) late_worker: Late,
    /// A list was read since its start was called.
    pub(super) late_was_listed: bool,
    /// The last list of workers could not look, and said of nobody that it is gone.
    pub(super) was_blind: bool,
    pub(super) queue: VecDeque<Pending>,
    pub(super) late: Vec<(u64, Effect)>,
    pub(super) manifests: Vec<Manifest>,
    pub(super) record: Option<PhaseRecord>,
    /// A worker of the next run, which must not be touched.
    pub(super) neighbour_is_alive: bool,
    /// The number of controllers so far.
    pub(super) attempt: u32,
    pub(super) sender: Option<JobSender>,
    pub(super) progress: Option<watch::Receiver<Progress>>,
    pub(super) signal: Option<Signal>,
    /// There are no further failures: a drive has given up, and the next one must succeed.
    pub(super) is_healed: bool,
    pub(super) asked: Option<StopRequest>,
    pub(super) last_asked_at: u64,
    /// Increases with every change, to detect a quiet world.
    pub(super) version: u64,
    pub(super) calls: Vec<(u8, u64)>,
    /// A digest of the events that the current controller has received, independent of their order.
    pub(super) told: u64,
    /// The first sending of every order: command, target and time.
    pub(super) first_sent: Vec<(u64, usize, u64)>,
    pub(super) sent: u64,
    pub(super) final_epoch: Option<Epoch>,
    pub(super) failure_told_at: Option<u64>,
    pub(super) violations: Vec<Violation>,
    pub(super) happened: [u32; CanHappen::COUNT],
    /// The environment's agenda; see there.
    pub(super) agenda: super::environment::Agenda,
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
            tasks: [
                task(SOURCE, 0, false),
                task(SINK, 0, scenario.as_whole),
                task(COMMITTING_SINK, 1, scenario.commits),
            ],
            workers: [Worker::default(); 2],
            late_worker: Late::default(),
            late_was_listed: false,
            was_blind: false,
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
            agenda: super::environment::Agenda::default(),
        }
    }

    /// Virtual milliseconds since the start of the schedule.
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
        self.agenda.quiet_choices = 0;
    }

    pub(super) fn index_of(worker: WorkerId) -> usize {
        usize::from(worker.get() != 1)
    }

    pub(super) fn worker_id(worker: usize) -> WorkerId {
        WorkerId::new(worker as u64 + 1)
    }

    pub(super) fn alive(&self) -> Vec<WorkerId> {
        let late = matches!(self.late_worker, Late::InFlight | Late::There).then_some(LATE_WORKER);
        (0..2).filter(|at| !self.workers[*at].is_dead).map(Self::worker_id).chain(late).collect()
    }

    pub(super) fn has_manifest(&self, epoch: Epoch) -> bool {
        self.manifests.iter().any(|manifest| manifest.epoch == epoch)
    }

    pub(super) fn phase_on_record(&self) -> Option<PhaseKind> {
        self.record.as_ref().map(|record| record.phase)
    }
}

/// The world, as its parts share it.
pub(super) type Shared = Arc<std::sync::Mutex<World>>;

pub(super) fn lock(world: &Shared) -> std::sync::MutexGuard<'_, World> {
    world.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
