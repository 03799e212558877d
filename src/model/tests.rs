mod checkpoint;
mod events;
mod health;
mod random;
mod reference;
mod taken_over;
mod wanted;
mod whole;

use crate::contracts::TaskError;
use bytes::Bytes;

use super::*;
use crate::contracts::{Command, ControllerError, Role};

const RUN: RunId = RunId::new(3);
const HEARTBEAT: Duration = Duration::from_secs(30);
const ONE: WorkerId = WorkerId::new(1);
const TWO: WorkerId = WorkerId::new(2);
/// Sources on both workers, sinks on both.
const SOURCES: [TaskId; 2] = [TaskId::new(0, 0), TaskId::new(0, 1)];
const SINKS: [TaskId; 2] = [TaskId::new(1, 0), TaskId::new(1, 1)];

/// A model with a hand on the clock, and short ways to say things.
struct Bench {
    model: RunModel,
    start: Instant,
    now: Instant,
}

fn topology() -> Arc<Topology> {
    let builder = Topology::builder().operator("source", Role::Source, [ONE, TWO]);
    Arc::new(builder.operator("sink", Role::Inner, [ONE, TWO]).build().unwrap())
}

fn worker_of(task: TaskId) -> WorkerId {
    if task.subtask == 0 { ONE } else { TWO }
}

fn all() -> impl Iterator<Item = TaskId> {
    SOURCES.into_iter().chain(SINKS)
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

impl Bench {
    fn new() -> Self {
        let start = Instant::now();
        Self { model: RunModel::new(topology(), RUN, HEARTBEAT, None, start), start, now: start }
    }

    fn at(&mut self, seconds: u64) -> &mut Self {
        self.now = self.start + Duration::from_secs(seconds);
        self
    }

    fn say(&mut self, worker: WorkerId, event: Event) -> Result<Applied, Rejection> {
        self.model.handle(WorkerEvent::new(RUN, worker, event), self.now)
    }

    fn ack(&mut self, task: TaskId, number: u64) -> Result<Applied, Rejection> {
        let snapshot = Bytes::from(format!("{task} at {number}"));
        self.say(worker_of(task), Event::CheckpointCompleted { task, epoch: epoch(number), snapshot, commit: None })
    }

    fn pre_commit(&mut self, task: TaskId, number: u64) -> Result<Applied, Rejection> {
        let snapshot = Bytes::from(format!("{task} at {number}"));
        let commit = Some(Bytes::from(format!("{task} commits {number}")));
        self.say(worker_of(task), Event::CheckpointCompleted { task, epoch: epoch(number), snapshot, commit })
    }

    fn commit(&mut self, task: TaskId, number: u64) -> Result<Applied, Rejection> {
        self.say(worker_of(task), Event::CommitCompleted { task, epoch: epoch(number) })
    }

    fn finish(&mut self, task: TaskId) -> Result<Applied, Rejection> {
        self.say(worker_of(task), Event::TaskFinished { task })
    }

    fn fail(&mut self, task: TaskId) -> Result<Applied, Rejection> {
        self.say(worker_of(task), Event::TaskFailed { task, error: TaskError::fatal("disk full") })
    }

    /// Every source acks, every sink pre-commits.
    fn collect(&mut self, number: u64) {
        for task in SOURCES {
            assert_eq!(self.ack(task, number), Ok(Applied::Changed));
        }
        for task in SINKS {
            assert_eq!(self.pre_commit(task, number), Ok(Applied::Changed));
        }
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.model.poll_action()).collect()
    }

    fn stage(&self) -> crate::contracts::CheckpointStage {
        self.model.status().checkpoint
    }
}

fn job() -> crate::contracts::JobId {
    "job".into()
}

fn stop_order(mode: WorkerStopMode, workers: impl Into<Vec<WorkerId>>) -> Action {
    Action::Send { command: Command::Stop(mode), workers: workers.into() }
}

fn checkpoint_order(number: u64, then_stop: bool) -> Action {
    Action::Send { command: Command::Checkpoint { epoch: epoch(number), then_stop }, workers: vec![ONE, TWO] }
}

fn no_checkpoint(result: &Result<crate::contracts::CheckpointStart, ControllerError>) -> bool {
    matches!(result, Err(error @ ControllerError::NoCheckpoint(_)) if !error.is_retryable())
}
