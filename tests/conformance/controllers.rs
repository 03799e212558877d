//! Job controllers: `ClusterController` over the suite's own workers, over embedded ones, and over
//! gRPC.

use std::sync::Arc;

use winddown::{
    ClusterController, EmbeddedCluster,
    contracts::{BoxController, BoxTransport, Transport},
    embedded::EmbeddedRun,
    grpc::GrpcTransport,
    testing::conformance::{self, Around, ControllerSubject, RunSetup, Workers},
};

use crate::{assert_kept, transports::Grpc};

fn controller<T: Transport>(setup: RunSetup, transport: T) -> ClusterController<T> {
    ClusterController::builder(&setup.open, setup.topology, Arc::new(transport))
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

/// The same behind pointers: the controller, and its transport.
struct Boxed;

impl ControllerSubject for Boxed {
    type Controller = BoxController;

    async fn start(&self, setup: RunSetup) -> BoxController {
        let transport: BoxTransport = Arc::new(setup.workers.clone());
        let controller = ClusterController::builder(&setup.open, setup.topology, transport);
        Box::new(controller.limits(setup.limits).store(setup.store).build())
    }
}

#[tokio::test]
async fn u6_a_boxed_controller_over_a_boxed_transport_keeps_its_contract() {
    assert_kept(conformance::controller(async || Boxed).await, &[], &[]);
}

struct Embedded(EmbeddedCluster);

impl ControllerSubject for Embedded {
    type Controller = ClusterController<Around<EmbeddedRun>>;

    async fn start(&self, setup: RunSetup) -> Self::Controller {
        let (sink, workers) = (setup.events.clone(), setup.workers.clone());
        let task = move |ctx| workers.clone().task(ctx);
        let run = self.0.start(&setup.open, &setup.topology, sink, task).unwrap();
        let transport = setup.workers.around(run);
        controller(setup, transport)
    }
}

#[tokio::test]
async fn a_controller_of_embedded_workers_keeps_its_contract() {
    let report = conformance::controller(async || Embedded(EmbeddedCluster::default())).await;
    assert_kept(report, &[], &[]);
}

#[derive(Default)]
struct OverGrpc(Grpc);

impl ControllerSubject for OverGrpc {
    type Controller = ClusterController<Around<Arc<GrpcTransport>>>;

    async fn start(&self, setup: RunSetup) -> Self::Controller {
        let transport = self.0.start_all(setup.transport()).await;
        let around = setup.workers.around(transport);
        controller(setup, around)
    }
}

#[tokio::test]
async fn a_controller_of_workers_over_grpc_keeps_its_contract() {
    assert_kept(conformance::controller(async || OverGrpc::default()).await, &[], &[]);
}
