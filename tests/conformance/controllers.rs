//! Job controllers: `ClusterController` over the suite's own workers, over embedded ones, and over gRPC.

use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use winddown::{
    grpc::{GrpcTransport, GrpcWorker, Registration},
    testing::conformance::{self, Around, ControllerSubject, RunSetup, Workers},
    *,
};

use crate::{
    assert_kept,
    grpc::{Fleet, Port, calls, eventually, worker_options},
};

fn controller<T: Transport>(setup: RunSetup, transport: T) -> ClusterController<T> {
    ClusterController::builder(setup.job, setup.run, setup.topology, Arc::new(transport))
        .limits(setup.limits)
        .store(setup.store)
        .build()
}

struct Bare;

impl ControllerSubject for Bare {
    type Controller = ClusterController<Workers>;

    async fn start(&self, setup: RunSetup) -> Self::Controller {
        let workers = setup.workers.clone();
        controller(setup, workers)
    }
}

#[tokio::test]
async fn a_cluster_controller_keeps_its_contract() {
    assert_kept(conformance::controller(async || Bare).await, &[], &[]);
}

struct Embedded(EmbeddedCluster);

impl ControllerSubject for Embedded {
    type Controller = ClusterController<Around<EmbeddedRun>>;

    async fn start(&self, setup: RunSetup) -> Self::Controller {
        let (job, sink, workers) = (setup.job.clone(), setup.events.clone(), setup.workers.clone());
        let task = move |ctx| workers.clone().task(ctx);
        let run = self.0.start(job, setup.run, &setup.topology, None, sink, task).unwrap();
        let transport = setup.workers.around(run);
        controller(setup, transport)
    }
}

#[tokio::test]
async fn a_controller_of_embedded_workers_keeps_its_contract() {
    let report = conformance::controller(async || Embedded(EmbeddedCluster::default())).await;
    assert_kept(report, &[], &[]);
}

/// Keeps ports and workers until the end of a check.
#[derive(Default)]
struct Grpc {
    fleet: Fleet,
    open: Mutex<Vec<(Port, Registration)>>,
}

impl Grpc {
    /// A worker with its tasks, which do as the check says.
    async fn add(&self, setup: &RunSetup, worker: WorkerId, controller: String) {
        let mine = setup.topology.task_ids().filter(|task| setup.topology.worker_of(*task) == Some(worker));
        let tasks = mine.map(|task| TaskSpec::new(task, Role::Source)).collect();
        let spec = WorkerSpec { run: setup.run, worker, tasks };
        let kit = GrpcWorker::new(setup.job.clone(), spec, Arc::clone(&setup.topology), controller);
        let (kit, workers) = (kit.options(worker_options()), setup.workers.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.fleet.add(worker.get(), async move {
            kit.serve(listener, move |ctx| workers.clone().task(ctx)).await.unwrap();
        });
    }
}

impl ControllerSubject for Grpc {
    type Controller = ClusterController<Around<Arc<GrpcTransport>>>;

    async fn start(&self, setup: RunSetup) -> Self::Controller {
        let port = Port::open().await;
        let transport = GrpcTransport::new(setup.job.clone(), setup.run, Arc::clone(&setup.topology)).options(calls());
        let transport = Arc::new(transport);
        let registration = port.server.register(Arc::clone(&transport), setup.events.clone()).unwrap();
        for worker in setup.topology.workers() {
            self.add(&setup, *worker, port.address.to_string()).await;
        }
        let is_known = |worker: &WorkerId| transport.address(*worker).is_some();
        eventually("every worker to register", || setup.topology.workers().iter().all(is_known)).await;
        self.open.lock().unwrap().push((port, registration));
        let around = setup.workers.around(transport);
        controller(setup, around)
    }
}

#[tokio::test]
async fn a_controller_of_workers_over_grpc_keeps_its_contract() {
    assert_kept(conformance::controller(async || Grpc::default()).await, &[], &[]);
}
