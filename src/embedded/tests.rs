//! A chain of tasks with in-band barriers and a two-phase commit, and a test in the controller's
//! place.

mod chain;
mod faults;
mod hosting;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{EmbeddedCluster, EmbeddedRun};
use crate::{
    contracts::{
        Command, Epoch, Event, JobId, Manifest, OpenRun, Order, OrderErrorKind, Role, RunId, Scheduler, TaskCommit,
        TaskError, TaskId, TaskSnapshot, Topology, Transport, WorkerId, WorkerStopMode,
    },
    worker::{
        Barrier, TaskContext, TaskOrder, WorkerOptions,
        test_support::{Listener, sink, witnessed},
    },
};

const QUIET: WorkerOptions = WorkerOptions { heartbeat: None, grace: Duration::from_secs(5) };
const FIRST: WorkerId = WorkerId::new(1);
const SECOND: WorkerId = WorkerId::new(2);

fn job() -> JobId {
    JobId::from("numbers")
}

async fn alive(cluster: &EmbeddedCluster, run: u64) -> Vec<WorkerId> {
    cluster.workers_for_job(&job(), Some(RunId::new(run))).await.unwrap()
}

/// `workers` workers with one task each, which is a source.
fn sources(workers: u64) -> Topology {
    Topology::builder().operator("source", Role::Source, (1..=workers).map(WorkerId::new)).build().unwrap()
}

async fn until_stopped(mut ctx: TaskContext) -> Result<(), TaskError> {
    loop {
        match ctx.order().await {
            TaskOrder::Stop(_) => return Ok(()),
            TaskOrder::Checkpoint(Barrier { epoch, .. }) => {
                ctx.events().checkpointed(epoch, Bytes::new(), None).await?;
            }
            TaskOrder::Commit { .. } => {}
        }
    }
}

/// Heeds nothing, but can be aborted.
async fn stubborn(_: TaskContext) -> Result<(), TaskError> {
    std::future::pending().await
}

async fn send(run: &EmbeddedRun, worker: WorkerId, command: Command) {
    run.send(worker, Order { run: run.run(), command }).await.unwrap();
}

fn finished(operator: u32) -> Event {
    Event::TaskFinished { task: TaskId::new(operator, 0) }
}
