//! A worker process that counts, publishes what it has counted by two-phase commit, and can be told
//! to misbehave.
//!
//! Every number from 0 on is published once, or something is lost or doubled: a published stretch
//! is a file `FROM-TO`.
#![allow(unreachable_pub, reason = "each test file uses its part")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpListener, time::sleep};
use tokio_stream::wrappers::TcpListenerStream;
use winddown::{
    Barrier, Role, TaskContext, TaskId, TaskOrder, Topology, WorkerId,
    contracts::{TaskError, TaskSnapshot},
    grpc::{
        CallOptions, GrpcWorker, GrpcWorkerOptions, KeepAlive,
        proto::arroyo_rpc::{
            CheckpointReq, CheckpointResp, CommitReq, CommitResp, JobFinishedReq, JobFinishedResp, StopExecutionReq,
            StopExecutionResp,
            worker_grpc_client::WorkerGrpcClient,
            worker_grpc_server::{WorkerGrpc, WorkerGrpcServer},
        },
        tonic::{
            Request, Response, Status, async_trait,
            transport::{Channel, Endpoint, Server, server::TcpIncoming},
        },
    },
    process::WorkerEnv,
    worker::{TaskSpec, WorkerSpec},
};

/// How far each worker counts.
pub const TOTAL: u64 = 400;

/// What a worker is told, in its environment.
const MANNERS: &str = "COUNTING_MANNERS";
const FOLDER: &str = "COUNTING_FOLDER";
const WORKERS: &str = "COUNTING_WORKERS";
const PACE: &str = "COUNTING_PACE";
const RESTORED: &str = "COUNTING_RESTORED";

/// How a worker behaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manners {
    #[default]
    Healthy,
    /// It does not give its state to the final checkpoint until there is a file `go`.
    HoldsState,
    /// It never carries out the commit of the final checkpoint.
    HoldsCommit,
    /// It takes `StopExecution` in, does nothing, and never answers.
    NeverAnswersStop,
    /// It answers an error to `StopExecution`.
    RefusesStop,
    /// It accepts connections where it takes orders, and says nothing.
    Mute,
    /// It says that it has finished, and then stays, whatever it is told.
    Stays,
    /// It says that it belongs to the next run.
    OtherRun,
    /// Asked to leave, it gives notice, and works on for a while.
    GivesNotice,
}

impl Manners {
    const ALL: [Self; 9] = [
        Self::Healthy,
        Self::HoldsState,
        Self::HoldsCommit,
        Self::NeverAnswersStop,
        Self::RefusesStop,
        Self::Mute,
        Self::Stays,
        Self::OtherRun,
        Self::GivesNotice,
    ];
}

pub fn topology(workers: u64) -> Topology {
    Topology::builder().operator("count", Role::Source, (1..=workers).map(WorkerId::new)).build().unwrap()
}

pub fn task_of(worker: u64) -> TaskId {
    TaskId::new(0, u32::try_from(worker - 1).unwrap())
}

pub fn calls() -> CallOptions {
    let keep_alive = KeepAlive { every: Duration::from_secs(1), timeout: Duration::from_secs(1) };
    CallOptions { connect: Duration::from_millis(500), call: Duration::from_secs(1), keep_alive }
}

/// Tells a worker what to do.
pub fn tell(
    command: &mut std::process::Command,
    manners: Manners,
    folder: &Path,
    workers: u64,
    pace: Duration,
    restored: Option<&TaskSnapshot>,
) {
    let pace = pace.as_millis().to_string();
    command.env(MANNERS, format!("{manners:?}")).env(FOLDER, folder).env(WORKERS, workers.to_string()).env(PACE, pace);
    if let Some(restored) = restored {
        command.env(RESTORED, str::from_utf8(&restored.snapshot).unwrap());
    }
}

/// The whole life of a worker process.
pub fn worker_main(worker: WorkerEnv) -> ! {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work(worker));
    std::process::exit(0);
}

async fn work(env: WorkerEnv) {
    let told = |name: &str| env::var(name).unwrap();
    let manners = Manners::ALL.into_iter().find(|it| format!("{it:?}") == told(MANNERS)).unwrap();
    let counting = Counting {
        manners,
        pace: Duration::from_millis(told(PACE).parse().unwrap()),
        gate: Path::new(&told(FOLDER)).join("go"),
        published: Path::new(&told(FOLDER)).join("published").join(env.worker.get().to_string()),
    };
    let task = task_of(env.worker.get());
    let mut spec = TaskSpec::new(task, Role::Source);
    spec.restored = env::var(RESTORED).ok().map(|stretch| {
        let state = Bytes::from(stretch);
        TaskSnapshot { task, snapshot: state.clone(), commit: Some(state), finished: false }
    });
    let run = if manners == Manners::OtherRun { env.run.next() } else { env.run };
    let spec = WorkerSpec { run, worker: env.worker, tasks: vec![spec] };
    let options = GrpcWorkerOptions {
        heartbeat: Duration::from_millis(300),
        grace: Duration::from_millis(500),
        orphan: Duration::from_secs(10),
        calls: calls(),
        backoff_min: Duration::from_millis(20),
        backoff_max: Duration::from_millis(200),
        ..GrpcWorkerOptions::default()
    };
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
    let leave = async move {
        terminated.recv().await;
    };
    let topology = topology(told(WORKERS).parse().unwrap());
    let worker = GrpcWorker::new(env.job.clone(), spec, topology, env.controller.clone()).options(options);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = front(manners, listener.local_addr().unwrap()).await;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let factory = move |ctx| count(ctx, counting.clone());
    let notice = Duration::from_secs(if manners == Manners::GivesNotice { 20 } else { 0 });
    worker.leave_on(leave).notice(notice).serve_with_incoming(incoming, address, factory).await.unwrap();
    if manners == Manners::Stays {
        std::future::pending::<()>().await;
    }
}

#[derive(Clone)]
struct Counting {
    manners: Manners,
    pace: Duration,
    gate: PathBuf,
    published: PathBuf,
}

impl Counting {
    /// Publishing a stretch again is nothing.
    fn publish(&self, stretch: &[u8]) {
        fs::create_dir_all(&self.published).unwrap();
        fs::write(self.published.join(str::from_utf8(stretch).unwrap()), "").unwrap();
    }

    async fn gate(&self) {
        while !self.gate.exists() {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn stretch(bytes: &[u8]) -> (u64, u64) {
    let (from, to) = str::from_utf8(bytes).unwrap().split_once('-').unwrap();
    (from.parse().unwrap(), to.parse().unwrap())
}

/// Source and sink in one: it counts to `TOTAL`, and publishes what it has counted at each commit.
async fn count(mut ctx: TaskContext, counting: Counting) -> Result<(), TaskError> {
    let (mut counted, mut published, mut last) = (0, 0, None);
    if let Some(restored) = ctx.restored() {
        counting.publish(&restored.snapshot);
        counted = stretch(&restored.snapshot).1;
        published = counted;
    }
    if counted == TOTAL {
        ctx.events().source_exhausted().await?;
    }
    let mut pace = tokio::time::interval(counting.pace);
    loop {
        tokio::select! {
            biased;
            order = ctx.order() => match order {
                TaskOrder::Checkpoint(Barrier { epoch, then_stop }) => {
                    if then_stop && counting.manners == Manners::HoldsState {
                        counting.gate().await;
                    }
                    // Everything that is not yet published, earlier checkpoints that were given up
                    // included.
                    let state = Bytes::from(format!("{published}-{counted}"));
                    ctx.events().checkpointed(epoch, state.clone(), Some(state)).await?;
                    last = then_stop.then_some(epoch);
                }
                TaskOrder::Commit { epoch, data } => {
                    if last == Some(epoch) && counting.manners == Manners::HoldsCommit {
                        counting.gate().await;
                    }
                    counting.publish(&data);
                    published = published.max(stretch(&data).1);
                    ctx.events().committed(epoch).await?;
                    if last == Some(epoch) {
                        return Ok(());
                    }
                }
                TaskOrder::Stop(_) => return Ok(()),
            },
            _ = pace.tick(), if counted < TOTAL && last.is_none() => {
                counted += 1;
                if counted == TOTAL {
                    ctx.events().source_exhausted().await?;
                }
            }
        }
    }
}

/// Every worker has published every number once.
pub fn assert_exact(folder: &Path, workers: u64) {
    for worker in 1..=workers {
        let files = fs::read_dir(folder.join("published").join(worker.to_string())).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut stretches: Vec<_> = names.map(|name| stretch(name.as_bytes())).filter(|(from, to)| from < to).collect();
        stretches.sort_unstable();
        let mut end = 0;
        for (from, to) in &stretches {
            assert_eq!(*from, end, "worker {worker} has lost or doubled something: {stretches:?}");
            end = *to;
        }
        assert_eq!(end, TOTAL, "worker {worker}: {stretches:?}");
    }
}

/// Where the worker says that it takes orders.
async fn front(manners: Manners, worker: std::net::SocketAddr) -> String {
    if !matches!(manners, Manners::NeverAnswersStop | Manners::RefusesStop | Manners::Mute) {
        return worker.to_string();
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    if manners == Manners::Mute {
        tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok(connection) = listener.accept().await {
                held.push(connection);
            }
        });
    } else {
        let worker = Endpoint::from_shared(format!("http://{worker}")).unwrap().connect_lazy();
        let front = Front { manners, worker: WorkerGrpcClient::new(worker) };
        let server = Server::builder().add_service(WorkerGrpcServer::new(front));
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    }
    address
}

/// Stands before a healthy worker, and passes on what it has no manners about.
#[derive(Clone)]
struct Front {
    manners: Manners,
    worker: WorkerGrpcClient<Channel>,
}

#[async_trait]
impl WorkerGrpc for Front {
    async fn checkpoint(&self, request: Request<CheckpointReq>) -> Result<Response<CheckpointResp>, Status> {
        self.worker.clone().checkpoint(request).await
    }

    async fn commit(&self, request: Request<CommitReq>) -> Result<Response<CommitResp>, Status> {
        self.worker.clone().commit(request).await
    }

    async fn stop_execution(&self, _: Request<StopExecutionReq>) -> Result<Response<StopExecutionResp>, Status> {
        if self.manners == Manners::NeverAnswersStop {
            std::future::pending::<()>().await;
        }
        Err(Status::internal("the disk is on fire"))
    }

    async fn job_finished(&self, request: Request<JobFinishedReq>) -> Result<Response<JobFinishedResp>, Status> {
        self.worker.clone().job_finished(request).await
    }
}
