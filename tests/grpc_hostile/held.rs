//! What is kept costs what it is.

use bytes::Bytes;
use prost::Message as _;
use winddown::{
    contracts::{Event, OpenRun},
    grpc::{
        GrpcTransport,
        proto::arroyo_rpc::{
            SubtaskCheckpointMetadata, TableSubtaskCheckpointMetadata, TaskCheckpointCompletedReq, WorkerContext,
        },
        tonic::transport::Endpoint,
    },
    mailbox::Mailbox,
};

use crate::{
    measure::{alone, resident},
    raw::call_as_another,
    support::*,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b12_small_states_do_not_keep_the_buffers_that_they_came_in() {
    const COUNT: usize = 5000;
    let _alone = alone();
    let port = Port::open().await;
    let transport = std::sync::Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(1)));
    let mut mailbox = Mailbox::new(4);
    let _registered = port.server.register(transport, mailbox.sender()).unwrap();
    let channel = Endpoint::from_shared(format!("http://{}", port.address)).unwrap().connect_lazy();
    let context = WorkerContext { worker_id: 1, job_id: JOB.into(), generation: RUN.get(), ..Default::default() };
    let table = TableSubtaskCheckpointMetadata { data: Bytes::from_static(&[7; 16]), ..Default::default() };
    let message = TaskCheckpointCompletedReq {
        worker_context: Some(context),
        operator_id: "count".into(),
        epoch: 1,
        metadata: Some(SubtaskCheckpointMetadata {
            table_metadata: [("winddown.snapshot".to_owned(), table)].into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    let message = message.encode_to_vec();
    let mut kept: Vec<Bytes> = Vec::with_capacity(COUNT);
    let mut before = 0;
    for count in 0..COUNT {
        // After some, so that the pools of the connection are what they will be.
        if count == COUNT / 10 {
            before = resident();
        }
        call_as_another(channel.clone(), "arroyo_rpc.JobControllerGrpc/TaskCheckpointCompleted", message.clone())
            .await
            .unwrap();
        match mailbox.try_recv().unwrap().event {
            Event::CheckpointCompleted { snapshot, .. } => kept.push(snapshot),
            other => panic!("{other:?}"),
        }
    }
    let each = resident().saturating_sub(before) / (COUNT * 9 / 10);
    assert!(each < 512, "a state of 16 bytes costs {each} bytes");
    assert_eq!(kept.len(), COUNT);
}
