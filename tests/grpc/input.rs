//! What a controller's server does with what strangers, stale workers and broken ones send it.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
};
use winddown::grpc;

use crate::raw::{METHODS, SEND_SINK_DATA, call};
use crate::support::*;
use bytes::Bytes;
use proptest::{prelude::*, test_runner::TestRunner};
use prost::Message;
use winddown::{
    Epoch, Mailbox, OpenRun,
    contracts::{Command, Event, Order, Transport},
    grpc::{
        proto::{arroyo_rpc::*, winddown::SourceExhaustedReq},
        tonic::{Code, Status, transport::Channel},
        *,
    },
};

/// A server with one job that reads nothing, and whatever is in its mailbox.
struct Desk {
    port: Port,
    channel: Channel,
    mailbox: Mailbox,
    transport: Arc<GrpcTransport>,
    registration: Registration,
}

/// The newest checkpoint that the workers of a [`Desk`] have been ordered to take.
const ORDERED: u64 = 5;

const HEARTBEAT: &str = "arroyo_rpc.JobControllerGrpc/Heartbeat";

impl Desk {
    async fn new() -> Self {
        let port = Port::open().await;
        let mailbox = Mailbox::new(4);
        let transport = Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(2)).options(calls()));
        let registration = port.server.register(Arc::clone(&transport), mailbox.sender()).unwrap();
        let checkpoint = Command::Checkpoint { epoch: Epoch::new(ORDERED), then_stop: false };
        transport.set_address(worker(1), "127.0.0.1:1").unwrap();
        transport.send(worker(1), Order { run: RUN, command: checkpoint }).await.unwrap_err();
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", port.address)).unwrap();
        Self { port, channel: endpoint.connect_lazy(), mailbox, transport, registration }
    }

    async fn say(&self, method: &str, message: &impl Message) -> Result<(), Status> {
        call(self.channel.clone(), method, message.encode_to_vec()).await
    }

    fn received(&mut self) -> Option<Event> {
        self.mailbox.try_recv().map(|event| event.event)
    }

    fn addresses(&self) -> [Option<String>; 2] {
        [worker(1), worker(2)].map(|worker| self.transport.address(worker))
    }
}

fn context() -> WorkerContext {
    WorkerContext { worker_id: 1, job_id: JOB.into(), generation: RUN.get(), ..Default::default() }
}

fn completed(context: WorkerContext, operator_id: &str, subtask: u32, epoch: u64) -> TaskCheckpointCompletedReq {
    TaskCheckpointCompletedReq {
        worker_context: Some(context),
        operator_id: operator_id.into(),
        epoch,
        metadata: Some(SubtaskCheckpointMetadata { subtask_index: subtask, ..Default::default() }),
        ..Default::default()
    }
}

#[tokio::test]
async fn a_refusal_says_what_was_expected_and_what_was_got() {
    use Code::{FailedPrecondition, InvalidArgument, NotFound};
    let mut desk = Desk::new().await;
    let of = |change: fn(&mut WorkerContext)| {
        let mut context = context();
        change(&mut context);
        completed(context, "count", 0, ORDERED)
    };
    let mut damaged = completed(context(), "count", 0, ORDERED);
    damaged.needs_commit = true;
    let table = TableSubtaskCheckpointMetadata {
        table_type: TableEnum::GlobalKeyValue.into(),
        data: Bytes::from_static(b"\xff"),
        ..Default::default()
    };
    damaged.metadata.as_mut().unwrap().table_metadata.insert("p".into(), table);
    let cases = [
        (
            TaskCheckpointCompletedReq { worker_context: None, ..completed(context(), "count", 0, 1) },
            InvalidArgument,
            "expected a worker_context, got none",
        ),
        (
            TaskCheckpointCompletedReq { metadata: None, ..completed(context(), "count", 0, 1) },
            InvalidArgument,
            "expected metadata, got none",
        ),
        (of(|it| it.job_id = "other".into()), NotFound, "expected a job that is registered here, got `other`"),
        (of(|it| it.generation = 2), FailedPrecondition, "expected generation 3 of job `words`, got 2"),
        (of(|it| it.generation = 4), FailedPrecondition, "expected generation 3 of job `words`, got 4"),
        (of(|it| it.worker_id = 9), InvalidArgument, "expected one of the 2 workers of run 3, got worker 9"),
        (of(|it| it.worker_id = 2), InvalidArgument, "expected task 0/0 to be reported by worker 1, got worker 2"),
        (
            completed(context(), "nope", 0, ORDERED),
            InvalidArgument,
            "expected the id of an operator of the job, got `nope`",
        ),
        (
            completed(context(), "count", 7, ORDERED),
            InvalidArgument,
            "expected a subtask of operator `count` below 2, got 7",
        ),
        (
            completed(context(), "count", 0, 0),
            InvalidArgument,
            "expected an epoch from 1 to 5, the newest that was ordered, got 0",
        ),
        (
            completed(context(), "count", 0, 6),
            InvalidArgument,
            "expected an epoch from 1 to 5, the newest that was ordered, got 6",
        ),
        (damaged, InvalidArgument, "expected table `p` to hold a GlobalKeyedTableSubtaskCheckpointMetadata, got "),
    ];
    for (message, code, text) in cases {
        let status = desk.say("arroyo_rpc.JobControllerGrpc/TaskCheckpointCompleted", &message).await.unwrap_err();
        assert_eq!(status.code(), code, "{}", status.message());
        assert!(status.message().starts_with(text), "{}", status.message());
        assert_eq!(desk.received(), None, "{text}");
    }
    let failed = TaskFailedReq { worker_context: Some(context()), ..Default::default() };
    let status = desk.say("arroyo_rpc.JobControllerGrpc/TaskFailed", &failed).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (InvalidArgument, "expected an error, got none"));
    let finished = TaskFinishedReq { worker_context: Some(context()), task_id: 1, ..Default::default() };
    let status = desk.say("arroyo_rpc.JobControllerGrpc/TaskFinished", &finished).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (InvalidArgument, "expected a task_id below 1, got 1"));
    let register = RegisterWorkerReq {
        worker_context: Some(context()),
        rpc_address: "nowhere at all".into(),
        ..Default::default()
    };
    let status = desk.say("arroyo_rpc.ControllerGrpc/RegisterWorker", &register).await.unwrap_err();
    assert!(status.message().starts_with("expected an address such as"), "{}", status.message());
    assert_eq!(desk.received(), None);
}

#[tokio::test]
async fn every_report_becomes_the_event_that_it_means() {
    let mut desk = Desk::new().await;
    let (worker_context, task, epoch) = (Some(context()), task(1), Epoch::new(ORDERED));
    let register = RegisterWorkerReq {
        worker_context: worker_context.clone(),
        rpc_address: "10.0.0.7:1".into(),
        ..Default::default()
    };
    desk.say("arroyo_rpc.ControllerGrpc/RegisterWorker", &register).await.unwrap();
    assert_eq!(desk.received(), Some(Event::Heartbeat));
    assert_eq!(desk.transport.address(worker(1)).unwrap(), "http://10.0.0.7:1/");

    for (event_type, event) in [
        (0, Event::Heartbeat),
        (3, Event::Heartbeat),
        (4, Event::CommitCompleted { task, epoch }),
        (77, Event::Heartbeat),
    ] {
        let message = TaskCheckpointEventReq {
            worker_context: worker_context.clone(),
            operator_id: "count".into(),
            epoch: ORDERED,
            event_type,
            ..Default::default()
        };
        desk.say("arroyo_rpc.JobControllerGrpc/TaskCheckpointEvent", &message).await.unwrap();
        assert_eq!(desk.received(), Some(event), "event_type {event_type}");
    }
    for (retry_hint, retryable) in [(0, false), (1, true), (9, false)] {
        let error = arroyo_rpc_error(retry_hint);
        let message = TaskFailedReq { worker_context: worker_context.clone(), time: 1, error: Some(error) };
        desk.say("arroyo_rpc.JobControllerGrpc/TaskFailed", &message).await.unwrap();
        let error = winddown::contracts::TaskError { message: "disk full".into(), retryable };
        assert_eq!(desk.received(), Some(Event::TaskFailed { task, error }), "retry_hint {retry_hint}");
    }
    let exhausted = SourceExhaustedReq { worker_context: worker_context.clone(), ..Default::default() };
    desk.say("winddown.WinddownControllerGrpc/SourceExhausted", &exhausted).await.unwrap();
    assert_eq!(desk.received(), Some(Event::SourceExhausted { task }));
    let started = TaskStartedReq { worker_context: worker_context.clone(), ..Default::default() };
    desk.say("arroyo_rpc.ControllerGrpc/TaskStarted", &started).await.unwrap();
    assert_eq!(desk.received(), Some(Event::Heartbeat));
    let finished = WorkerFinishedReq { worker_context, ..Default::default() };
    desk.say("arroyo_rpc.ControllerGrpc/WorkerFinished", &finished).await.unwrap();
    assert_eq!(desk.received(), Some(Event::WorkerFinished));
}

fn arroyo_rpc_error(retry_hint: i32) -> grpc::proto::arroyo_rpc::TaskError {
    grpc::proto::arroyo_rpc::TaskError { error: "disk full".into(), retry_hint, ..Default::default() }
}

/// Back-pressure holds the workers of the job whose mailbox is full, and those of no other.
#[tokio::test]
async fn i9_a_full_mailbox_stalls_no_other_job() {
    let mut desk = Desk::new().await;
    let other_mailbox = Mailbox::new(100);
    let other = Arc::new(GrpcTransport::new(&OpenRun::without_store("other", RUN), topology(2)));
    let _registered = desk.port.server.register(other, other_mailbox.sender()).unwrap();
    let heartbeat =
        |job: &str| HeartbeatReq { worker_context: Some(WorkerContext { job_id: job.into(), ..context() }), time: 1 };
    for _ in 0..4 {
        desk.say(HEARTBEAT, &heartbeat(JOB)).await.unwrap();
    }
    let (full, waiting) = (heartbeat(JOB), heartbeat("other"));
    let stuck = desk.say(HEARTBEAT, &full);
    let other = async {
        for _ in 0..50 {
            desk.say(HEARTBEAT, &waiting).await.unwrap();
        }
    };
    let (stuck, ()) = tokio::join!(stuck, other);
    let status = stuck.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.message(), "the mailbox of job `words` is full, and was so for 300ms; send it again later");
    desk.received().unwrap();
    desk.say(HEARTBEAT, &heartbeat(JOB)).await.unwrap();
}

#[tokio::test]
async fn a_job_is_known_from_its_registration_until_that_is_dropped() {
    let desk = Desk::new().await;
    let heartbeat = HeartbeatReq { worker_context: Some(context()), time: 1 };
    desk.say(HEARTBEAT, &heartbeat).await.unwrap();

    let again = Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN), topology(2)));
    let error = desk.port.server.register(again, desk.mailbox.sender()).unwrap_err();
    assert_eq!(error.to_string(), "expected a run of job `words` after run 3, which is registered, got run 3");
    let newer = Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, RUN.next()), topology(2)));
    let newer = desk.port.server.register(newer, desk.mailbox.sender()).unwrap();
    let status = desk.say(HEARTBEAT, &heartbeat).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "expected generation 4 of job `words`, got 3")
    );

    drop(desk.registration);
    let status = call(desk.channel.clone(), HEARTBEAT, heartbeat.encode_to_vec()).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "the older registration does not take the newer one with it");
    drop(newer);
    let status = call(desk.channel.clone(), HEARTBEAT, heartbeat.encode_to_vec()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a_job_whose_context_is_gone_is_not_found_and_a_large_message_is_refused() {
    let Desk { port: _port, channel, mailbox, registration: _registered, .. } = Desk::new().await;
    let mut large = completed(context(), "count", 0, ORDERED);
    large.operator_id = "x".repeat(5 << 20);
    let status =
        call(channel.clone(), "arroyo_rpc.JobControllerGrpc/TaskCheckpointCompleted", large.encode_to_vec()).await;
    assert_eq!(status.unwrap_err().code(), Code::OutOfRange);
    drop(mailbox);
    let heartbeat = HeartbeatReq { worker_context: Some(context()), time: 1 };
    let status = call(channel, "arroyo_rpc.JobControllerGrpc/Heartbeat", heartbeat.encode_to_vec()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().starts_with("job `words`: the job is gone"), "{}", status.message());
}

/// Fields that are often right, so that a case gets past the first check.
fn contexts() -> impl Strategy<Value = Option<WorkerContext>> {
    let job = prop_oneof![20 => Just(JOB.to_owned()), 1 => ".{0,8}"];
    let generation = prop_oneof![20 => Just(RUN.get()), 1 => any::<u64>()];
    let worker = prop_oneof![20 => Just(1_u64), 3 => Just(2), 1 => any::<u64>()];
    let context = (job, generation, worker, ".{0,8}").prop_map(|(job_id, generation, worker_id, machine_id)| {
        WorkerContext { machine_id, worker_id, job_id, generation, pipeline_id: String::new() }
    });
    proptest::option::weighted(0.9, context)
}

fn small() -> impl Strategy<Value = u32> {
    // Mostly what worker 1 may speak for.
    prop_oneof![8 => Just(0_u32), 3 => 0_u32..3, 1 => any::<u32>()]
}

fn epochs() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 1..=ORDERED, 1 => Just(0), 1 => Just(ORDERED + 1), 1 => any::<u64>()]
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn metadata() -> impl Strategy<Value = Option<SubtaskCheckpointMetadata>> {
    let name = prop_oneof![Just("winddown.snapshot".to_owned()), Just("winddown.commit".to_owned()), ".{0,6}"];
    let table = (small(), -1_i32..4, bytes()).prop_map(|(subtask_index, table_type, data)| {
        TableSubtaskCheckpointMetadata { subtask_index, table_type, data }
    });
    let tables = proptest::collection::btree_map(name, table, 0..4);
    let metadata = (small(), tables).prop_map(|(subtask_index, table_metadata)| SubtaskCheckpointMetadata {
        subtask_index,
        table_metadata,
        ..Default::default()
    });
    proptest::option::weighted(0.9, metadata)
}

/// A call: where it goes, and what is in it.
fn calls_of_strangers() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let operator = prop_oneof![12 => Just("count".to_owned()), 1 => ".{0,8}"];
    let completed = (contexts(), operator.clone(), epochs(), metadata(), any::<bool>()).prop_map(
        |(worker_context, operator_id, epoch, metadata, needs_commit)| {
            let message =
                TaskCheckpointCompletedReq { worker_context, time: 0, operator_id, epoch, metadata, needs_commit };
            (METHODS[2], message.encode_to_vec())
        },
    );
    let event = (contexts(), operator, epochs(), small(), any::<i32>()).prop_map(
        |(worker_context, operator_id, epoch, subtask_idx, event_type)| {
            let message =
                TaskCheckpointEventReq { worker_context, time: 0, subtask_idx, epoch, event_type, operator_id };
            (METHODS[1], message.encode_to_vec())
        },
    );
    // The messages of these share their fields' numbers where it matters: the context, and a task
    // or an address.
    let tasks =
        (0..METHODS.len(), contexts(), small(), small()).prop_map(|(method, worker_context, task_id, subtask_idx)| {
            let message = TaskFinishedReq { worker_context, time: 0, task_id, subtask_idx };
            (METHODS[method], message.encode_to_vec())
        });
    let register = (contexts(), prop_oneof![Just("10.0.0.7:1".to_owned()), ".{0,12}"]).prop_map(
        |(worker_context, rpc_address)| {
            let message = RegisterWorkerReq { worker_context, rpc_address, ..Default::default() };
            (METHODS[5], message.encode_to_vec())
        },
    );
    let noise = (0..METHODS.len(), proptest::collection::vec(any::<u8>(), 0..256))
        .prop_map(|(method, bytes)| (METHODS[method], bytes));
    prop_oneof![3 => completed, 2 => event, 2 => tasks, 1 => register, 2 => noise]
}

/// No panic, whatever comes: a handler that panics would break the connection (`UNKNOWN` or
/// `INTERNAL` with no reason of ours). A message that is rejected changes nothing; one that is
/// accepted is one event, of a worker and task of the run.
#[test]
fn arbitrary_messages_never_panic_and_change_nothing_when_rejected() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let desk = RefCell::new(runtime.block_on(Desk::new()));
    let (accepted, rejected) = (Cell::new(0_u32), Cell::new(0_u32));
    let config = ProptestConfig { cases: 800, failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&calls_of_strangers(), |(method, bytes)| {
        let desk = &mut *desk.borrow_mut();
        let before = desk.addresses();
        match runtime.block_on(call(desk.channel.clone(), method, bytes)) {
            Ok(()) if method == SEND_SINK_DATA => {}
            Ok(()) => {
                accepted.set(accepted.get() + 1);
                let event = desk.mailbox.try_recv().expect("an accepted message is an event");
                assert_eq!(event.run, RUN);
                assert!([worker(1), worker(2)].contains(&event.worker), "{event:?}");
            }
            Err(status) => {
                rejected.set(rejected.get() + 1);
                let code = status.code();
                let undecodable = code == Code::Internal && status.message().contains("decode");
                let ours = matches!(code, Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition);
                assert!(ours || undecodable, "{status:?}");
                assert_eq!(desk.addresses(), before);
            }
        }
        assert_eq!(desk.received(), None);
        Ok(())
    });
    outcome.unwrap();
    let (accepted, rejected) = (accepted.get(), rejected.get());
    assert!(accepted > 100 && rejected > 100, "{accepted} accepted, {rejected} rejected: the cases explore too little");
}
