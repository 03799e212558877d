mod checkpoints;
mod orders;
mod scripted;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt;
use tokio::time::Instant;

use self::scripted::{Answer, Store, Workers};
use super::ClusterController;
use crate::{
    contracts::{
        Command, ControllerError, Epoch, Event, JobController, OpenRun, OrderErrorKind, Role, RunId, TaskId, Topology,
        WorkerEvent, WorkerId, WorkerStopMode,
    },
    limits::Limits,
};

const RUN: RunId = RunId::new(5);
const GRACEFUL: WorkerStopMode = WorkerStopMode::Graceful;
const IMMEDIATE: WorkerStopMode = WorkerStopMode::Immediate;

fn limits() -> Limits {
    Limits { checkpoint_every: None, ..Limits::default() }
}

fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

/// A controller of `count` workers, each with one task, and what stands on the other side.
struct Bench {
    controller: ClusterController<Workers>,
    workers: Arc<Workers>,
    store: Arc<Store>,
    start: Instant,
}

impl Bench {
    fn new(count: u64) -> Self {
        Self::with_limits(count, limits())
    }

    fn with_limits(count: u64, limits: Limits) -> Self {
        let topology = Topology::builder().operator("task", Role::Source, (1..=count).map(WorkerId::new));
        let (workers, store) = (Arc::new(Workers::default()), Arc::new(Store::default()));
        let controller = ClusterController::builder(
            &OpenRun::without_store("job", RUN),
            topology.build().unwrap(),
            Arc::clone(&workers),
        )
        .limits(limits);
        let controller = controller.store(Arc::clone(&store) as Arc<_>).build();
        Self { controller, workers, store, start: Instant::now() }
    }

    fn say(&mut self, worker: u64, event: Event) {
        let event = WorkerEvent::new(RUN, WorkerId::new(worker), event);
        self.controller.handle(event, super::now()).unwrap();
    }

    fn ack(&mut self, worker: u64, number: u64, commit: bool) {
        let commit = commit.then(|| Bytes::from(format!("commit of {worker}")));
        let (task, epoch) = (task(worker), epoch(number));
        self.say(worker, Event::CheckpointCompleted { task, epoch, snapshot: Bytes::new(), commit });
    }

    fn finish(&mut self, worker: u64) {
        self.say(worker, Event::TaskFinished { task: task(worker) });
    }

    /// Lets the controller work for so long; the errors that it tells, each with the time.
    async fn run_for(&mut self, duration: Duration) -> Vec<(Duration, ControllerError)> {
        let end = Instant::now() + duration;
        let mut errors = Vec::new();
        while let Ok(progress) = tokio::time::timeout_at(end, self.controller.progress()).await {
            if let Err(error) = progress {
                errors.push((self.start.elapsed(), error));
            }
        }
        errors
    }

    async fn run_well_for(&mut self, duration: Duration) {
        let errors = self.run_for(duration).await;
        assert!(errors.is_empty(), "{errors:?}");
    }

    /// Polls `progress` once and drops it.
    fn poll_once(&mut self) -> Option<Result<(), ControllerError>> {
        self.controller.progress().now_or_never()
    }

    fn outstanding(&self) -> u32 {
        self.controller.status().orders_outstanding
    }
}

fn task(worker: u64) -> TaskId {
    TaskId::new(0, u32::try_from(worker - 1).unwrap())
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The future must be `Send`, or no phase could be spawned.
fn send<F: Future + Send>(future: F) -> F {
    future
}
