//! Messages: half-sent, too large, of nobody, of another run.

use std::sync::Arc;

use prost::Message as _;
use winddown::{
    contracts::{Event, OpenRun, StopRequest},
    drive::{Policy, drive},
    grpc::{
        ControllerOptions, GrpcTransport, Registration,
        proto::arroyo_rpc::{
            SubtaskCheckpointMetadata, TableSubtaskCheckpointMetadata, TaskCheckpointCompletedReq, WorkerContext,
        },
        tonic::{Code, Status, transport::Endpoint},
    },
    machine::{AnyStopped, Running},
    mailbox::Mailbox,
};

use crate::{
    attacks::{Attack, hex},
    measure::{alone, resident},
    raw::{METHODS, SEND_SINK_DATA, call, call_as_another},
    support::*,
};

const MIB: usize = 1 << 20;
const REPORT: &str = "arroyo_rpc.JobControllerGrpc/TaskCheckpointCompleted";

fn context(job: &str, generation: u64, worker_id: u64) -> WorkerContext {
    WorkerContext { worker_id, job_id: job.into(), generation, ..WorkerContext::default() }
}

/// How a report of this worker begins.
fn beginning(context: WorkerContext) -> String {
    hex(&TaskCheckpointCompletedReq { worker_context: Some(context), ..Default::default() }.encode_to_vec())
}

async fn stop_with_checkpoint(bench: &Bench, mut job: Job, running: Running) {
    for number in 1..=2 {
        bench.healthy(number).await;
    }
    for number in 1..=2 {
        eventually("the workers to register", || bench.transport.address(worker(number)).is_some()).await;
    }
    job.sender().request(StopRequest::Checkpoint).unwrap();
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Checkpointed(_)), "{receipt}");
}

/// A job of one worker, of which nobody takes anything in: there is room for so much.
fn another_job(bench: &Bench, room: u32) -> (Mailbox, Registration) {
    let transport = Arc::new(GrpcTransport::new(&OpenRun::without_store("another", RUN), topology(1)));
    let mailbox = Mailbox::new(room);
    let registration = bench.port.server.register(transport, mailbox.sender()).unwrap();
    (mailbox, registration)
}

/// Whoever it says it is: of what nobody has asked for, the beginning is all that is held, and not for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_half_sent_messages_hold_little_and_end_by_their_deadline() {
    let _alone = alone();
    let options = ControllerOptions { body: ms(2500), arriving: 16 * MIB, ..port_options() };
    let (bench, job, running) = Bench::behind(Port::open_with(options).await, topology(2), limits());
    let size = 4 * MIB - 64;
    for (who, most) in [
        ("00".to_owned(), 12),
        (beginning(context("nobody's", 1, 1)), 12),
        (beginning(context(JOB, RUN.get() - 1, 1)), 12),
        (beginning(context(JOB, RUN.get(), 1)), 16 + 24),
    ] {
        let before = resident();
        let mut attack = Attack::start(&format!("half 2 64 {size} {REPORT} {who}"), bench.port.address);
        let held = resident().saturating_sub(before);
        assert!(held < most * MIB, "{who}: {} KiB are held, of {} MiB", held >> 10, 2 * 64 * size / MIB);
        // Of a worker's own, each waits for room first.
        if who != beginning(context(JOB, RUN.get(), 1)) {
            attack.hear("closed");
        }
    }
    stop_with_checkpoint(&bench, job, running).await;
}

/// While others hold all the room there is, what is small comes through, and so does what is large, in its turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_b4_a_stop_goes_on_beside_messages_that_take_all_the_room() {
    let _alone = alone();
    let options = ControllerOptions { body: ms(1500), arriving: 4 * MIB, ..port_options() };
    let (bench, job, running) = Bench::behind(Port::open_with(options).await, topology(2), limits());
    let who = beginning(context(JOB, RUN.get(), 1));
    let attack = Attack::start(&format!("half 4 32 {} {REPORT} {who}", 4 * MIB - 64), bench.port.address);
    stop_with_checkpoint(&bench, job, running).await;
    drop(attack);
}

/// A worker's own server stands behind the same door and guard.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_a_workers_server_holds_two_of_its_largest_orders_and_takes_others_meanwhile() {
    let _alone = alone();
    let (bench, mut job, running) = Bench::new(1).await;
    bench.healthy(1).await;
    eventually("the worker to register", || bench.transport.address(worker(1)).is_some()).await;
    let address = bench.transport.address(worker(1)).unwrap();
    let address = address.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let before = resident();
    let attack = format!("half 4 16 {} arroyo_rpc.WorkerGrpc/Commit", 8 * MIB);
    let attack = Attack::start(&attack, address);
    let held = resident().saturating_sub(before);
    assert!(held < 64 * MIB, "{} MiB are held, of {} MiB", held / MIB, 4 * 16 * 8);
    job.sender().request(StopRequest::Checkpoint).unwrap();
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Checkpointed(_)), "{receipt}");
    drop(attack);
}

/// Every call, in every wrong way: an answer, and nothing is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b4_every_call_is_answered_whatever_is_sent() {
    let _alone = alone();
    let (bench, job, running) = Bench::new(2).await;
    let (_other, _registered) = another_job(&bench, 100);
    let channel = Endpoint::from_shared(format!("http://{}", bench.port.address)).unwrap().connect_lazy();
    let large = |context| {
        let mut bytes =
            TaskCheckpointCompletedReq { worker_context: Some(context), ..Default::default() }.encode_to_vec();
        // A field that nobody knows, of 3 MiB.
        bytes.extend([0xfa, 0x7f]);
        prost::encoding::encode_varint(3 << 20, &mut bytes);
        bytes.resize(bytes.len() + (3 << 20), 0);
        bytes
    };
    let before = resident();
    for method in METHODS {
        for (what, bytes, code) in [
            ("too large", vec![0; 5 * MIB], Code::OutOfRange),
            ("no message", vec![0xff; 64], Code::Internal),
            ("no message, large", vec![0xff; MIB], Code::InvalidArgument),
            ("nobody's", large(context("nobody's", 1, 1)), Code::NotFound),
            ("of another run", large(context(JOB, RUN.get() - 1, 1)), Code::FailedPrecondition),
            ("of a worker that the run does not have", large(context(JOB, RUN.get(), 9)), Code::InvalidArgument),
        ] {
            let answer = call(channel.clone(), method, bytes).await;
            if method == SEND_SINK_DATA && code != Code::OutOfRange {
                assert!(answer.is_ok(), "a preview is dropped unread: {answer:?}");
            } else {
                assert_eq!(answer.unwrap_err().code(), code, "{method}: {what}");
            }
        }
        // A large one of a worker of a run is read, and then answered by what it says.
        let answer = call_as_another(channel.clone(), method, large(context("another", RUN.get(), 1))).await;
        let code = answer.as_ref().err().map(Status::code);
        assert!(matches!(code, None | Some(Code::InvalidArgument)), "{method}: {answer:?}");
    }
    let held = resident().saturating_sub(before);
    assert!(held < 64 * MIB, "{} MiB are held", held / MIB);
    stop_with_checkpoint(&bench, job, running).await;
}

/// A job that takes nothing in holds what its option says, and no other job with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i9_b4_a_job_that_takes_nothing_in_holds_so_much_and_another_goes_on() {
    let _alone = alone();
    let options = ControllerOptions { arriving: 16 * MIB, ..port_options() };
    let (bench, job, running) = Bench::behind(Port::open_with(options).await, topology(2), limits());
    let (mut stuck, _registered) = another_job(&bench, 1);
    let channel = Endpoint::from_shared(format!("http://{}", bench.port.address)).unwrap().connect_lazy();
    let report = |size: usize| TaskCheckpointCompletedReq {
        worker_context: Some(context("another", RUN.get(), 1)),
        operator_id: "count".into(),
        epoch: 1,
        metadata: Some(SubtaskCheckpointMetadata {
            table_metadata: [(
                "winddown.snapshot".to_owned(),
                TableSubtaskCheckpointMetadata { data: vec![7; size].into(), ..Default::default() },
            )]
            .into(),
            ..Default::default()
        }),
        ..Default::default()
    };
    call_as_another(channel.clone(), REPORT, report(16).encode_to_vec()).await.unwrap();
    let before = resident();
    let message = report(3 * MIB).encode_to_vec();
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let endpoint = Endpoint::from_shared(format!("http://{}", bench.port.address)).unwrap();
            tokio::spawn(call_as_another(endpoint.connect_lazy(), REPORT, message.clone()))
        })
        .collect();
    stop_with_checkpoint(&bench, job, running).await;
    assert!(calls.iter().all(|call| !call.is_finished()), "they wait");
    // The senders are here too: each holds its message twice.
    let held = resident().saturating_sub(before);
    assert!(held < (32 * 3 * 2 + 16 * 2 + 16) * MIB, "{} MiB are held", held / MIB);
    let Some(first) = stuck.try_recv() else { panic!("the small one is there") };
    assert!(matches!(first.event, Event::CheckpointCompleted { .. }), "{first:?}");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
}
