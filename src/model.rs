//! The state of a run, as a deterministic state machine without I/O, clock or async: events and the
//! time come in, actions go out.
//!
//! [`ClusterController`](crate::cluster::ClusterController) is this model with a transport around
//! it. Use [`RunModel`] directly to build another kind of controller. Its methods come in four
//! kinds:
//!
//! - **getters**: [`status`](RunModel::status), [`failure`](RunModel::failure),
//!   [`counters`](RunModel::counters), [`wants`](RunModel::wants),
//!   [`next_heartbeat_deadline`](RunModel::next_heartbeat_deadline), all O(1), and
//!   [`manifest`](RunModel::manifest);
//! - **handle**: [`handle`](RunModel::handle) accepts an event, in O(1) and without allocating (the
//!   end of a chain costs as much as the length of the chain);
//!   [`check_health`](RunModel::check_health) accepts the time;
//! - **commands**: `begin_…` state the goal, [`published`](RunModel::published) and
//!   [`abandon`](RunModel::abandon) report the outcome of a checkpoint;
//! - **poll**: [`poll_action`](RunModel::poll_action) returns each pending action once.
//!
//! ```
//! use std::{sync::Arc, time::{Duration, Instant}};
//! use winddown::{contracts::{CheckpointStart, Event, FinalCheckpoint, WorkerEvent}, prelude::*};
//! use winddown::model::{Action, RunModel};
//!
//! let (run, worker, task) = (RunId::new(1), WorkerId::new(7), TaskId::new(0, 0));
//! let topology = Topology::builder().operator("source", Role::Source, [worker]).build()?;
//! let now = Instant::now();
//! let mut model = RunModel::new(Arc::new(topology), run, Duration::from_secs(30), None, now);
//!
//! let epoch = Epoch::new(1);
//! assert_eq!(model.begin_checkpoint(true)?, CheckpointStart::Started(epoch));
//! assert!(matches!(model.poll_action(), Some(Action::Send { workers, .. }) if workers == [worker]));
//!
//! let snapshot = Event::CheckpointCompleted { task, epoch, snapshot: "offset 42".into(), commit: None };
//! model.handle(WorkerEvent::new(run, worker, snapshot), now)?;
//! assert_eq!(model.poll_action(), Some(Action::Publish(epoch)));
//! let manifest = model.manifest(&"wordcount".into()).ok_or("every snapshot is in")?;
//! assert_eq!(manifest.tasks[0].snapshot, "offset 42");
//!
//! model.published(epoch); // once the manifest is durable
//! assert_eq!(model.status().final_checkpoint, FinalCheckpoint::Complete(epoch));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod action;
mod checkpoint;
mod counters;
mod ends;
mod holdups;
mod tasks;
#[cfg(test)]
mod tests;
mod workers;

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

pub use action::Action;
pub use counters::{Counters, Rejected};

use self::{
    action::Queued,
    checkpoint::InFlight,
    tasks::{FINISHED, SOURCE, Tasks},
    workers::Workers,
};
use crate::contracts::{
    Applied, Count, Epoch, Event, FinalCheckpoint, Manifest, OpenRun, Rejection, RunFailure, RunId, RunStatus, TaskId,
    Topology, WorkerEvent, WorkerId, WorkerStopMode,
};

/// The state of one run: its tasks, checkpoints, commits, heartbeats and failures.
///
/// See the [module](self) for how to drive it. Its guarantees:
///
/// - A final checkpoint is [`Complete`](FinalCheckpoint::Complete) only when every task's state is
///   in its manifest, the manifest is durable, and every commit is acknowledged (invariant I3).
/// - Foreign, unknown, repeated and late events change nothing but a counter (invariant I11).
#[derive(Clone, Debug)]
pub struct RunModel {
    topology: Arc<Topology>,
    run: RunId,
    heartbeat: Duration,
    tasks: Tasks,
    workers: Workers,
    finished: u32,
    failed: u32,
    sources: Count,
    failure: Option<RunFailure>,
    latest_failure: Option<RunFailure>,
    failures: u32,
    nonfatal_errors: u32,
    counters: Counters,
    /// The newest used epoch: started in this run, or complete before it.
    newest: Option<Epoch>,
    /// A controller uses no more than [`EPOCHS_PER_CONTROLLER`] above this.
    epochs_after: Option<Epoch>,
    last_complete: Option<Epoch>,
    in_flight: Option<InFlight>,
    final_complete: Option<Epoch>,
    /// The final checkpoint has been requested, so no periodic one starts any more.
    final_asked: bool,
    /// The epoch with which a previous controller started the final checkpoint of this run.
    resumed_final: Option<Epoch>,
    stop: Option<WorkerStopMode>,
    released: bool,
    queue: VecDeque<Queued>,
    revision: u64,
}

/// The maximum number of epochs that a controller uses before one of them is complete. The next
/// controller skips this many numbers for each previous one, so none is ever used for two different
/// checkpoints, although not every number is recorded.
pub(crate) const EPOCHS_PER_CONTROLLER: u64 = 1 << 20;

impl RunModel {
    /// The state of a run that starts now. A worker that is silent for `heartbeat` is lost;
    /// `last_complete` is the last complete checkpoint of the job's earlier runs.
    pub fn new(
        topology: Arc<Topology>,
        run: RunId,
        heartbeat: Duration,
        last_complete: Option<Epoch>,
        now: Instant,
    ) -> Self {
        let tasks = Tasks::new(&topology);
        let sources = (0..topology.tasks()).filter(|at| tasks.has(*at, SOURCE)).count();
        Self {
            tasks,
            workers: Workers::new(&topology, now),
            topology,
            run,
            heartbeat,
            finished: 0,
            failed: 0,
            sources: Count::new(0, as_count(sources)),
            failure: None,
            latest_failure: None,
            failures: 0,
            nonfatal_errors: 0,
            counters: Counters::default(),
            newest: last_complete,
            epochs_after: last_complete,
            last_complete,
            in_flight: None,
            final_complete: None,
            final_asked: false,
            resumed_final: None,
            stop: None,
            released: false,
            // The maximum number that can wait at a time, so that handling an event never
            // allocates.
            queue: VecDeque::with_capacity(4),
            revision: 0,
        }
    }

    /// Adopts the snapshots of the manifest that this run starts from, so that a task that ends
    /// without a snapshot in this run keeps its old one.
    pub fn restore(&mut self, manifest: &Manifest) {
        self.set_last_complete(Some(manifest.epoch));
        for task in &manifest.tasks {
            if let Some(at) = self.tasks.locate(task.task) {
                self.tasks.restore(at, task.snapshot.clone());
            }
        }
    }

    /// The starting point of the run, and what is known about previous controllers.
    pub(crate) fn open(&mut self, open: &OpenRun) {
        self.set_last_complete(open.last_complete());
        if let Some(manifest) = open.manifest() {
            self.restore(manifest);
        }
        if let Some(epoch) = open.epochs_after() {
            self.epochs_after(epoch);
        }
        if let Some(epoch) = open.final_epoch() {
            self.resume_final(epoch);
        }
    }

    /// A previous controller started the final checkpoint of this run as `epoch`: it continues with
    /// that number, and no periodic one starts any more. Workers answer the repeated order with
    /// their earlier reports.
    pub fn resume_final(&mut self, epoch: Epoch) {
        self.epochs_after(epoch);
        self.final_asked = true;
        self.resumed_final = Some(epoch);
    }

    /// A previous controller may have used epochs up to this one: the next is above it.
    pub fn epochs_after(&mut self, epoch: Epoch) {
        self.newest = self.newest.max(Some(epoch));
        self.epochs_after = self.epochs_after.max(Some(epoch));
    }

    /// The last complete checkpoint of earlier runs; only before the first one of this run.
    pub(crate) fn set_last_complete(&mut self, epoch: Option<Epoch>) {
        self.last_complete = self.last_complete.max(epoch);
        self.newest = self.newest.max(epoch);
        self.epochs_after = self.epochs_after.max(epoch);
    }

    pub(crate) fn set_heartbeat(&mut self, heartbeat: Duration) {
        self.heartbeat = heartbeat;
    }

    /// The run in numbers. `orders_outstanding` is 0: only the sender of the orders knows it.
    pub fn status(&self) -> RunStatus {
        RunStatus {
            tasks: Count::new(self.finished, self.total()),
            tasks_failed: self.failed,
            sources: self.sources,
            workers_left: self.workers.expected(),
            workers_lost: self.workers.lost(),
            workers: as_count(self.topology.workers().len()),
            checkpoint: self.in_flight.as_ref().map(InFlight::stage).unwrap_or_default(),
            final_checkpoint: match (&self.in_flight, self.final_complete) {
                (_, Some(epoch)) => FinalCheckpoint::Complete(epoch),
                (Some(checkpoint), None) if checkpoint.then_stop => FinalCheckpoint::InFlight(checkpoint.epoch),
                _ => FinalCheckpoint::NotStarted,
            },
            last_complete: self.last_complete,
            orders_outstanding: 0,
            failures: self.failures,
            nonfatal_errors: self.nonfatal_errors,
        }
    }

    /// The first failure of the run. Once there is one, no checkpoint can be started or completed
    /// any more.
    pub fn failure(&self) -> Option<&RunFailure> {
        self.failure.as_ref()
    }

    /// The newest failure of the run.
    pub fn latest_failure(&self) -> Option<&RunFailure> {
        self.latest_failure.as_ref()
    }

    /// The workers that are still expected to report, ordered by id.
    pub fn waits_for(&self) -> Vec<WorkerId> {
        self.workers_that(|workers, at| !workers.has_left(at) && workers.is_busy(at))
    }

    /// The workers that no order can reach although a task of theirs has not ended, ordered by id.
    pub fn lost_workers(&self) -> Vec<WorkerId> {
        self.workers_that(|workers, at| !workers.is_reachable(at) && workers.is_busy(at))
    }

    fn workers_that(&self, is_meant: impl Fn(&Workers, u32) -> bool) -> Vec<WorkerId> {
        let all = (0..).zip(self.topology.workers());
        let mut meant: Vec<_> = all.filter(|(at, _)| is_meant(&self.workers, *at)).map(|(_, worker)| *worker).collect();
        meant.sort_unstable();
        meant
    }

    /// Counters of the incoming events.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The tasks and workers of the run.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// When the next worker counts as lost if it stays silent: the time to call
    /// [`check_health`](Self::check_health). `None` when no worker is watched.
    pub fn next_heartbeat_deadline(&self) -> Option<Instant> {
        self.workers.next_deadline(self.heartbeat)
    }

    /// Increases whenever the pending orders or publications may have changed.
    pub(crate) fn revision(&self) -> u64 {
        self.revision
    }

    /// Handles an event of a worker; `now` is the time of its arrival.
    ///
    /// # Errors
    /// [`Rejection`] says why the event changed nothing.
    pub fn handle(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        let outcome = self.apply(event, now);
        self.counters.count(outcome);
        outcome
    }

    /// Finds the workers that have been silent for too long. It costs O(1), and O(1) for each
    /// worker that it finds.
    pub fn check_health(&mut self, now: Instant) {
        while let Some((at, silent_for)) = self.workers.take_overdue(self.heartbeat, now) {
            let worker = self.worker_id(at);
            self.fail(RunFailure::WorkerLost { worker, silent_for });
        }
    }

    fn apply(&mut self, WorkerEvent { run, worker, event }: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        if run != self.run {
            return Err(Rejection::OtherRun { expected: self.run, got: run });
        }
        let (task, at, speaker) = match &event {
            Event::Heartbeat => {
                let speaker = self.speaker(worker)?;
                self.workers.seen(speaker, now);
                return Ok(Applied::Changed);
            }
            Event::WorkerFinished => {
                let speaker = self.speaker(worker)?;
                return Ok(self.worker_finished(speaker, worker));
            }
            Event::NonfatalError { .. } => {
                let speaker = self.speaker(worker)?;
                self.nonfatal_errors = self.nonfatal_errors.saturating_add(1);
                self.workers.seen(speaker, now);
                return Ok(Applied::Changed);
            }
            Event::WorkerFailed { error } => {
                self.speaker(worker)?;
                return Ok(self.worker_failed(worker, error));
            }
            Event::SourceExhausted { task }
            | Event::CheckpointCompleted { task, .. }
            | Event::OperatorPreCommitted { task, .. }
            | Event::CommitCompleted { task, .. }
            | Event::TaskFinished { task }
            | Event::TaskFailed { task, .. }
            | Event::ChainFinished { task }
            | Event::ChainFailed { task, .. } => {
                let (at, speaker) = self.slot(worker, *task)?;
                (*task, at, speaker)
            }
        };
        let applied = match event {
            Event::SourceExhausted { .. } => self.source_exhausted(task, at),
            Event::CheckpointCompleted { epoch, snapshot, commit, .. } => {
                self.acknowledge(task, at, epoch, snapshot, commit, false)
            }
            Event::OperatorPreCommitted { epoch, snapshot, commit, .. } => {
                self.acknowledge(task, at, epoch, snapshot, Some(commit), true)
            }
            Event::CommitCompleted { epoch, .. } => self.committed(task, at, epoch),
            Event::TaskFailed { error, .. } => self.task_failed(task, at, error),
            Event::ChainFinished { .. } => self.chain_ended(task, FINISHED, Self::task_finished),
            Event::ChainFailed { error, .. } => self.chain_failed(task, error),
            Event::TaskFinished { .. }
            | Event::Heartbeat
            | Event::NonfatalError { .. }
            | Event::WorkerFailed { .. }
            | Event::WorkerFinished => self.task_finished(task, at),
        }?;
        // Only now, because a rejected event is not a sign of life.
        self.workers.seen(speaker, now);
        Ok(applied)
    }

    fn speaker(&self, worker: WorkerId) -> Result<u32, Rejection> {
        self.workers.index_of(worker).ok_or(Rejection::UnknownWorker(worker))
    }

    /// The task's slot and the index of its worker. No hash is computed if the right worker
    /// reports.
    fn slot(&self, worker: WorkerId, task: TaskId) -> Result<(usize, u32), Rejection> {
        let Some(at) = self.tasks.locate(task) else {
            self.speaker(worker)?;
            return Err(Rejection::UnknownTask(task));
        };
        let placed = self.tasks.worker(at);
        let expected = self.worker_id(placed);
        if expected != worker {
            self.speaker(worker)?;
            return Err(Rejection::NotItsWorker { task, expected, got: worker });
        }
        Ok((at, placed))
    }

    fn worker_id(&self, at: u32) -> WorkerId {
        self.topology.workers()[at as usize]
    }

    fn total(&self) -> u32 {
        as_count(self.topology.tasks())
    }

    /// Records a failure: the checkpoint in flight can't become complete any more.
    fn fail(&mut self, failure: RunFailure) {
        self.failures = self.failures.saturating_add(1);
        self.failure.get_or_insert_with(|| failure.clone());
        self.latest_failure = Some(failure);
        self.give_up();
        self.touch();
    }

    fn touch(&mut self) {
        self.revision += 1;
    }
}

/// `Topology` refuses more tasks or workers than a `u32` can number, so this never saturates.
fn as_count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
