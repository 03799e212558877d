//! A minimal worker and controller:
//! `cargo run --features grpc,object-store --example custom_worker`. The program starts itself
//! again as the worker in a second process, lets it count for a second, and stops it with a final
//! checkpoint.
#![allow(clippy::wildcard_imports, reason = "short")]
use std::{error::Error, future::pending, sync::Arc, sync::Mutex, time::Duration};

use tokio::{net::TcpListener, process::Child, process::Command as Process};
use winddown::{
    ClusterController, JobContext, JobId, ObjectStoreCheckpoints, Policy, Role, RunId, Scheduler, StopRequest,
    TaskContext, TaskId, TaskOrder, Topology, WorkerId,
    contracts::{CheckpointStore, SchedulerError, TaskError, TopologyError},
    drive,
    grpc::*,
    worker::{TaskSpec, WorkerSpec},
};

type Outcome = Result<(), Box<dyn Error>>;

/// Both processes must agree on these. In production the run comes from
/// `CheckpointStore::open_run`.
const JOB: &str = "counting";
const RUN: RunId = RunId::new(1);
const WORKER: WorkerId = WorkerId::new(1);

/// The dataflow: one operator, which is a source, with one subtask on our worker.
fn topology() -> Result<Arc<Topology>, TopologyError> {
    Topology::builder().operator("count", Role::Source, [WORKER]).build().map(Arc::new)
}

#[tokio::main]
async fn main() -> Outcome {
    match std::env::args().nth(1) {
        Some(controller) => worker(controller).await,
        None => controller().await,
    }
}

/// A task: it checks for orders between two pieces of work.
async fn count(mut ctx: TaskContext) -> Result<(), TaskError> {
    let mut counted: u64 = 0;
    loop {
        tokio::select! {
            order = ctx.order() => match order {
                // Report the current state. There is nothing to commit, so the final checkpoint
                // ends the task.
                TaskOrder::Checkpoint(barrier) => {
                    ctx.events().checkpointed(barrier.epoch, counted.to_string().into(), None).await?;
                    if barrier.then_stop {
                        return Ok(());
                    }
                }
                TaskOrder::Commit { epoch, .. } => ctx.events().committed(epoch).await?,
                TaskOrder::Stop(_) => return Ok(()),
            },
            () = tokio::time::sleep(Duration::from_millis(1)) => counted += 1,
        }
    }
}

/// The worker process: serves the task until the controller releases it, or is unreachable for too
/// long.
async fn worker(controller: String) -> Outcome {
    let spec = WorkerSpec { run: RUN, worker: WORKER, tasks: vec![TaskSpec::new(TaskId::new(0, 0), Role::Source)] };
    let listener = TcpListener::bind("127.0.0.1:0").await?; // for orders; the worker sends the address when it registers
    let departure = GrpcWorker::new(JOB, spec, topology()?, controller).serve(listener, count).await?;
    println!("worker: {departure:?}");
    Ok(())
}

/// A scheduler of one process. Before a job counts as stopped, it is asked for live workers.
struct OneProcess(Mutex<Child>);

impl Scheduler for OneProcess {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        let kill = || self.0.lock().map_or(Ok(()), |mut child| child.start_kill());
        if force { kill().map_err(|error| SchedulerError::Unavailable(error.into())) } else { Ok(()) }
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let status = self.0.lock().map_err(|_| SchedulerError::Refused("poisoned".into()))?.try_wait();
        let is_alive = status.map_err(|error| SchedulerError::Unavailable(error.into()))?.is_none();
        Ok(is_alive.then_some(WORKER).into_iter().collect())
    }
}

/// The controller process.
async fn controller() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await?; // for the workers' reports
    let worker =
        Process::new(std::env::current_exe()?).arg(listener.local_addr()?.to_string()).kill_on_drop(true).spawn()?;
    let folder = tempfile::tempdir()?; // where checkpoints become durable
    let store = Arc::new(ObjectStoreCheckpoints::local(folder.path())?);
    let open = store.open_run(&JOB.into()).await?; // the run's number and its starting point; fences older controllers

    let transport = Arc::new(GrpcTransport::new(&open, topology()?)); // carries orders to the workers
    let cluster = ClusterController::builder(&open, topology()?, Arc::clone(&transport)).store(store).build();
    let (mut job, running) = JobContext::new(&open, cluster, OneProcess(Mutex::new(worker)))?;
    let server = ControllerServer::default(); // carries reports into the job's mailbox
    let _registration = server.register(transport, job.sender())?;
    tokio::spawn(async move { server.serve(listener, pending()).await });

    let requests = job.sender(); // for the API server, the signal handler…
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(1)).await;
        requests.request(StopRequest::Checkpoint)
    });
    let receipt = drive(running, &mut job, &Policy::escalate()).await?; // every phase, to the end
    println!("controller: {:?}", receipt.stopped());
    Ok(())
}
