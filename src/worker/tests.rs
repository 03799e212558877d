//! One worker with scripted tasks, and a test in the controller's place.

mod ending;
mod events;
mod orders;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::{
    Barrier, TaskContext, TaskOrder, TaskSpec, Worker, WorkerOptions, WorkerSpec,
    test_support::{Listener, Speaker, sink},
};
use crate::contracts::{
    Command, Epoch, Event, Order, OrderErrorKind, Role, RunId, TaskCommit, TaskError, TaskId, WorkerId, WorkerStopMode,
};

const RUN: RunId = RunId::new(7);
const WORKER: WorkerId = WorkerId::new(3);
const SOURCE: TaskId = TaskId::new(0, 0);
const INNER: TaskId = TaskId::new(1, 0);
const QUIET: WorkerOptions = WorkerOptions { heartbeat: None, grace: Duration::from_secs(5) };

fn order(command: Command) -> Order {
    Order { run: RUN, command }
}

fn checkpoint(epoch: u64) -> Order {
    order(Command::Checkpoint { epoch: Epoch::new(epoch), then_stop: false })
}

fn commit(task: TaskId, epoch: u64) -> Order {
    let data = Bytes::from(format!("data {epoch}"));
    order(Command::Commit { epoch: Epoch::new(epoch), tasks: [TaskCommit { task, data }].into() })
}

fn stop(mode: WorkerStopMode) -> Order {
    order(Command::Stop(mode))
}

fn release() -> Order {
    order(Command::Release)
}

/// A worker with one source and one inner task.
fn two_tasks() -> WorkerSpec {
    let tasks = vec![TaskSpec::new(SOURCE, Role::Source), TaskSpec::new(INNER, Role::Inner)];
    WorkerSpec { run: RUN, worker: WORKER, tasks }
}

fn source_only() -> WorkerSpec {
    WorkerSpec { run: RUN, worker: WORKER, tasks: vec![TaskSpec::new(SOURCE, Role::Source)] }
}

fn start<F, Fut>(spec: WorkerSpec, options: WorkerOptions, speaker: Speaker, factory: F) -> Worker
where
    F: FnMut(TaskContext) -> Fut,
    Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
{
    Worker::start(spec, options, &Handle::current(), speaker, factory)
}

/// The orders that tasks received, in the order in which they read them.
type Told = Arc<Mutex<Vec<(TaskId, TaskOrder)>>>;

/// Answers and records every order. Ends on a stop.
async fn obedient(mut ctx: TaskContext, told: Told) -> Result<(), TaskError> {
    loop {
        let order = ctx.order().await;
        told.lock().unwrap().push((ctx.task(), order.clone()));
        match order {
            TaskOrder::Checkpoint(Barrier { epoch, then_stop }) => {
                ctx.events().checkpointed(epoch, Bytes::from_static(b"state"), Some(Bytes::from_static(b"c"))).await?;
                if then_stop {
                    return Ok(());
                }
            }
            TaskOrder::Commit { epoch, .. } => ctx.events().committed(epoch).await?,
            TaskOrder::Stop(_) => return Ok(()),
        }
    }
}

fn obedient_worker(spec: WorkerSpec) -> (Worker, Listener, Told) {
    let (speaker, listener) = sink(100);
    let told = Told::default();
    let worker = start(spec, QUIET, speaker, |ctx| obedient(ctx, Arc::clone(&told)));
    (worker, listener, told)
}

fn completed(task: TaskId, epoch: u64) -> Event {
    let (snapshot, commit) = (Bytes::from_static(b"state"), Some(Bytes::from_static(b"c")));
    Event::CheckpointCompleted { task, epoch: Epoch::new(epoch), snapshot, commit }
}

fn committed(task: TaskId, epoch: u64) -> Event {
    Event::CommitCompleted { task, epoch: Epoch::new(epoch) }
}

fn finished(task: TaskId) -> Event {
    Event::TaskFinished { task }
}

fn barrier(epoch: u64) -> TaskOrder {
    TaskOrder::Checkpoint(Barrier { epoch: Epoch::new(epoch), then_stop: false })
}
