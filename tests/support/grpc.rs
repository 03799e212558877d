//! A job whose workers speak gRPC on 127.0.0.1: the controller's side, a scheduler of workers that
//! are tasks of this process, and workers of every kind of health.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use winddown::{
    ClusterController, Epoch, JobContext, JobId, Limits, OpenRun, Role, RunId, Running, Scheduler, TaskContext, TaskId,
    TaskOrder, Topology, WorkerId,
    contracts::{CheckpointStore, Manifest, SchedulerError, StoreError, TaskError},
    grpc::*,
    worker::{TaskSpec, WorkerSpec},
};

pub const JOB: &str = "words";
pub const RUN: RunId = RunId::new(3);

pub const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

pub const fn worker(number: u64) -> WorkerId {
    WorkerId::new(number)
}

pub fn task(number: u64) -> TaskId {
    TaskId::new(0, u32::try_from(number - 1).unwrap())
}

/// One operator with a source task on each of `count` workers.
pub fn topology(count: u64) -> Arc<Topology> {
    Arc::new(Topology::builder().operator("count", Role::Source, (1..=count).map(worker)).build().unwrap())
}

/// Short, so that a test is; the worst case that follows from them is what is asserted.
pub fn limits() -> Limits {
    Limits {
        final_checkpoint: ms(3000),
        finish: ms(1500),
        recover: ms(500),
        // An Arroyo worker lingers for a second.
        release: ms(2500),
        kill: ms(1000),
        verify_every: ms(10),
        order: ms(400),
        heartbeat: ms(1200),
        health_every: ms(50),
        checkpoint_every: None,
        order_retries: 3,
        checkpoint_retries: 3,
        scheduler_retries: 2,
        backoff_min: ms(20),
        backoff_max: ms(200),
        ..Limits::default()
    }
}

pub fn worker_options() -> GrpcWorkerOptions {
    GrpcWorkerOptions {
        heartbeat: ms(200),
        grace: ms(300),
        orphan: ms(2000),
        calls: calls(),
        backoff_min: ms(10),
        backoff_max: ms(100),
        ..GrpcWorkerOptions::default()
    }
}

pub fn calls() -> CallOptions {
    let keep_alive = KeepAlive { every: ms(200), timeout: ms(200) };
    CallOptions { connect: ms(200), call: ms(400), keep_alive }
}

/// Manifests in memory.
#[derive(Default)]
pub struct Store(Mutex<Vec<Manifest>>);

impl Store {
    pub fn last(&self) -> Option<Manifest> {
        self.0.lock().unwrap().last().cloned()
    }
}

impl CheckpointStore for Store {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        Ok(OpenRun::new(job.clone(), RUN.next(), self.last())?)
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let mut manifests = self.0.lock().unwrap();
        if manifests.last() != Some(manifest) {
            manifests.push(manifest.clone());
        }
        Ok(())
    }

    async fn latest(&self, _: &JobId) -> Result<Option<Manifest>, StoreError> {
        Ok(self.last())
    }
}

/// Runs workers as tasks of this process; killing one drops its future.
#[derive(Clone, Default)]
pub struct Fleet(Arc<Mutex<BTreeMap<WorkerId, JoinHandle<()>>>>);

impl Fleet {
    pub fn add(&self, number: u64, alive: impl Future<Output = ()> + Send + 'static) {
        self.0.lock().unwrap().insert(worker(number), tokio::spawn(alive));
    }

    pub fn is_alive(&self, number: u64) -> bool {
        !self.0.lock().unwrap()[&worker(number)].is_finished()
    }

    pub fn kill(&self, number: u64) {
        self.0.lock().unwrap()[&worker(number)].abort();
    }
}

impl Scheduler for Fleet {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        if force {
            self.0.lock().unwrap().values().for_each(JoinHandle::abort);
        }
        Ok(())
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let workers = self.0.lock().unwrap();
        Ok(workers.iter().filter(|(_, alive)| !alive.is_finished()).map(|(worker, _)| *worker).collect())
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) == 1 {
            self.0.lock().unwrap().values().for_each(JoinHandle::abort);
        }
    }
}

pub fn port_options() -> ControllerOptions {
    ControllerOptions {
        drain: ms(50),
        mailbox_wait: ms(300),
        registration_wait: ms(300),
        ..ControllerOptions::default()
    }
}

/// The port of a controller, which can be closed and opened again.
pub struct Port {
    pub server: ControllerServer,
    pub address: SocketAddr,
    open: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Port {
    pub async fn open() -> Self {
        Self::open_with(port_options()).await
    }

    pub async fn open_with(options: ControllerOptions) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut port = Self { server: ControllerServer::new(options), address, open: None };
        port.serve(listener);
        port
    }

    fn serve(&mut self, listener: TcpListener) {
        let (stop, stopped) = oneshot::channel();
        let server = self.server.clone();
        let serving = tokio::spawn(async move { server.serve(listener, async { drop(stopped.await) }).await.unwrap() });
        self.open = Some((stop, serving));
    }

    pub async fn close(&mut self) {
        if let Some((stop, serving)) = self.open.take() {
            drop(stop);
            serving.await.unwrap();
        }
    }

    pub async fn open_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.serve(listener);
    }
}

pub type Job = JobContext<ClusterController<GrpcTransport>, Fleet>;

/// A running job of `count` workers, of which none is started yet.
pub struct Bench {
    pub port: Port,
    pub fleet: Fleet,
    pub store: Arc<Store>,
    pub topology: Arc<Topology>,
    pub transport: Arc<GrpcTransport>,
    pub committed: Committed,
    departures: Arc<Mutex<Vec<Departure>>>,
    registration: Option<Registration>,
}

impl Bench {
    pub async fn new(count: u64) -> (Self, Job, Running) {
        Self::with_limits(count, limits()).await
    }

    pub async fn with_limits(count: u64, limits: Limits) -> (Self, Job, Running) {
        Self::of(topology(count), limits).await
    }

    pub async fn of(topology: Arc<Topology>, limits: Limits) -> (Self, Job, Running) {
        Self::behind(Port::open().await, topology, limits)
    }

    pub fn behind(port: Port, topology: Arc<Topology>, limits: Limits) -> (Self, Job, Running) {
        let (fleet, store) = (Fleet::default(), Arc::new(Store::default()));
        let transport =
            Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN), Arc::clone(&topology)).options(calls()));
        let controller = ClusterController::builder(
            &OpenRun::without_store(JOB, RUN),
            Arc::clone(&topology),
            Arc::clone(&transport),
        )
        .limits(limits.clone())
        .store(Arc::clone(&store) as Arc<_>)
        .build();
        let (job, running) = JobContext::builder(&OpenRun::without_store(JOB, RUN))
            .simulated()
            .limits(limits)
            .build(controller, fleet.clone())
            .unwrap();
        let registration = port.server.register(Arc::clone(&transport), job.sender()).unwrap();
        let (committed, departures, registration) = (Committed::default(), Arc::default(), Some(registration));
        (Self { port, fleet, store, topology, transport, committed, departures, registration }, job, running)
    }

    /// Adds a worker that hosts the kit.
    pub async fn healthy(&self, number: u64) {
        let committed = self.committed.clone();
        self.kit(number, move |ctx| exactly_once(ctx, committed.clone())).await;
    }

    /// The same with a task of the test's own.
    pub async fn kit<F, Fut>(&self, number: u64, task: F)
    where
        F: FnMut(TaskContext) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let worker = kit_worker(number, &self.topology, self.port.address.to_string());
        let departures = Arc::clone(&self.departures);
        self.fleet.add(number, async move {
            let left = worker.serve(listener, task).await.unwrap();
            departures.lock().unwrap().push(left);
        });
    }

    /// Why the workers that host the kit left.
    pub fn departures(&self) -> Vec<Departure> {
        self.departures.lock().unwrap().clone()
    }

    /// Waits until no worker is alive.
    pub async fn all_gone(&self, within: Duration) {
        let gone = async {
            while !self.fleet.workers_for_job(&JOB.into(), None).await.unwrap().is_empty() {
                tokio::time::sleep(ms(10)).await;
            }
        };
        assert!(tokio::time::timeout(within, gone).await.is_ok(), "a worker is alive after {within:?}");
    }

    /// The server knows the job again.
    pub fn register(&mut self, job: &Job) {
        self.registration = Some(self.port.server.register(Arc::clone(&self.transport), job.sender()).unwrap());
    }

    /// The server forgets the job.
    pub fn unregister(&mut self) {
        self.registration = None;
    }
}

pub fn kit_worker(number: u64, topology: &Arc<Topology>, controller: String) -> GrpcWorker {
    let tasks = vec![TaskSpec::new(task(number), Role::Source)];
    let spec = WorkerSpec { run: RUN, worker: worker(number), tasks };
    GrpcWorker::new(JOB, spec, Arc::clone(topology), controller).options(worker_options())
}

/// What has been committed: by epoch and task.
#[derive(Clone, Default)]
pub struct Committed(Arc<Mutex<BTreeMap<(Epoch, TaskId), Bytes>>>);

impl Committed {
    pub fn all(&self) -> BTreeMap<(Epoch, TaskId), Bytes> {
        self.0.lock().unwrap().clone()
    }
}

/// A source and sink in one, with something to commit in every checkpoint.
pub async fn exactly_once(mut ctx: TaskContext, committed: Committed) -> Result<(), TaskError> {
    let mut last = None;
    loop {
        match ctx.order().await {
            TaskOrder::Checkpoint(barrier) => {
                let (state, rows) = (format!("state of {}", ctx.task()), format!("rows of {}", ctx.task()));
                ctx.events().checkpointed(barrier.epoch, state.into(), Some(rows.into())).await?;
                last = barrier.then_stop.then_some(barrier.epoch).or(last);
            }
            TaskOrder::Commit { epoch, data } => {
                committed.0.lock().unwrap().insert((epoch, ctx.task()), data);
                ctx.events().committed(epoch).await?;
                if last == Some(epoch) {
                    return Ok(());
                }
            }
            TaskOrder::Stop(_) => return Ok(()),
        }
    }
}

/// Waits for something that a test can only look at.
pub async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(ms(5)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(), "expected {what} within 20 s");
}
