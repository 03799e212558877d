//! Transports: the suite's own workers, embedded ones, and gRPC.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::net::TcpListener;
use winddown::{
    EmbeddedCluster, Role, WorkerId,
    embedded::EmbeddedRun,
    grpc::{CallOptions, GrpcTransport, GrpcWorker, GrpcWorkerOptions, KeepAlive, Registration},
    testing::conformance::{self, Hook, Rule, TransportRun, TransportSubject, Workers},
    worker::{TaskSpec, WorkerSpec},
};

use crate::{
    assert_kept,
    grpc::{Fleet, Port, eventually, worker_options},
};

#[derive(Default)]
struct Bare(Mutex<Option<Workers>>);

impl TransportSubject for Bare {
    type Transport = Workers;

    async fn start(&self, run: TransportRun) -> Workers {
        self.0.lock().unwrap().insert(run.workers).clone()
    }

    async fn freeze(&self, worker: WorkerId) -> Hook {
        self.0.lock().unwrap().as_ref().unwrap().freeze(worker);
        Hook::Done
    }
}

#[tokio::test]
async fn the_workers_of_the_suite_keep_their_contract() {
    assert_kept(conformance::transport(async || Bare::default()).await, &[], &[]);
}

#[derive(Default)]
struct Embedded(EmbeddedCluster, Mutex<Option<EmbeddedRun>>);

impl TransportSubject for Embedded {
    type Transport = EmbeddedRun;

    async fn start(&self, run: TransportRun) -> EmbeddedRun {
        let TransportRun { open, topology, workers, events, .. } = run;
        let task = move |ctx| workers.clone().task(ctx);
        let hosted = self.0.start(&open, &topology, events, task).unwrap();
        self.1.lock().unwrap().insert(hosted).clone()
    }

    async fn freeze(&self, worker: WorkerId) -> Hook {
        assert!(self.1.lock().unwrap().as_ref().unwrap().freeze_worker(worker));
        Hook::Done
    }
}

#[tokio::test]
async fn embedded_workers_keep_their_contract() {
    assert_kept(conformance::transport(async || Embedded::default()).await, &[], &[]);
}

/// Longer than a busy machine needs for anything here.
const LONG: Duration = Duration::from_secs(30);

fn patient() -> CallOptions {
    CallOptions { connect: LONG, call: LONG, keep_alive: KeepAlive { every: LONG, timeout: LONG } }
}

/// Keeps a port and its workers until the end of a check.
#[derive(Default)]
pub(crate) struct Grpc {
    fleet: Fleet,
    open: Mutex<Vec<(Port, Registration)>>,
}

impl Grpc {
    /// Workers of the run, each of which has registered, and the way to them.
    pub(crate) async fn start_all(&self, setup: TransportRun) -> Arc<GrpcTransport> {
        let port = Port::open().await;
        let transport = GrpcTransport::new(&setup.open, Arc::clone(&setup.topology));
        let transport = transport.options(patient());
        let transport = Arc::new(transport);
        let registration = port.server.register(Arc::clone(&transport), setup.events.clone()).unwrap();
        for worker in setup.topology.workers() {
            self.add(&setup, *worker, port.address.to_string()).await;
        }
        let is_known = |worker: &WorkerId| transport.address(*worker).is_some();
        eventually("every worker to register", || setup.topology.workers().iter().all(is_known)).await;
        self.open.lock().unwrap().push((port, registration));
        transport
    }

    /// A worker with its tasks, which do as the check says.
    async fn add(&self, setup: &TransportRun, worker: WorkerId, controller: String) {
        let mine = setup.topology.task_ids().filter(|task| setup.topology.worker_of(*task) == Some(worker));
        let tasks = mine.map(|task| TaskSpec::new(task, Role::Source)).collect();
        let spec = WorkerSpec { run: setup.open.run(), worker, tasks };
        let kit = GrpcWorker::new(setup.open.job().clone(), spec, Arc::clone(&setup.topology), controller);
        // No check is about a controller that is away.
        let worker_options = GrpcWorkerOptions { orphan: LONG, grace: LONG, calls: patient(), ..worker_options() };
        let (kit, workers) = (kit.options(worker_options), setup.workers.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.fleet.add(worker.get(), async move {
            kit.serve(listener, move |ctx| workers.clone().task(ctx)).await.unwrap();
        });
    }
}

impl TransportSubject for Grpc {
    type Transport = Arc<GrpcTransport>;

    async fn start(&self, run: TransportRun) -> Arc<GrpcTransport> {
        self.start_all(run).await
    }
}

#[tokio::test]
async fn workers_over_grpc_keep_their_contract() {
    let report = conformance::transport(async || Grpc::default()).await;
    // A task of this program can't be frozen from outside; `tests/process/jobs.rs` freezes worker
    // processes.
    assert_kept(report, &[Rule::TransportIndependence], &[]);
}
