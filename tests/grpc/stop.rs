//! Jobs whose workers speak gRPC, stopped in every mode.

use std::sync::Arc;

use crate::arroyo::{Diary, Manners, arroyo_worker};
use crate::support::*;
use prost::Message as _;
use winddown::{
    AnyStopped, Epoch, JobController, Mailbox, OpenRun, Policy, StopRequest,
    contracts::{Command, Event, Order, RunFailure, TaskError, Transport, WorkerEvent, WorkerStopMode},
    drive,
    grpc::{Departure, GrpcTransport, proto::arroyo_rpc::SubtaskCheckpointMetadata},
    machine::AfterCheckpointStopping,
    mailbox::Incoming,
};

const FIRST: Epoch = Epoch::new(1);

fn arroyo(bench: &Bench, number: u64, manners: Manners) -> Diary {
    let diary = Diary::default();
    bench.fleet.add(number, arroyo_worker(number, bench.port.address, manners, diary.clone()));
    diary
}

#[tokio::test]
async fn a_final_checkpoint_is_complete_and_the_workers_leave_by_themselves() {
    let (bench, mut job, running) = Bench::new(3).await;
    for number in 1..=3 {
        bench.healthy(number).await;
    }
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let AfterCheckpointStopping::Stopped(stopped) = stopping.next(&mut job).await.unwrap() else { panic!() };

    assert_eq!(stopped.evidence().epoch(), FIRST);
    assert!(!stopped.killed_workers());
    assert_eq!(bench.departures(), [Departure::Released; 3]);
    let manifest = bench.store.last().unwrap();
    assert!(manifest.then_stop);
    for (number, snapshot) in (1..=3).zip(&manifest.tasks) {
        let task = task(number);
        assert_eq!(snapshot.task, task);
        assert_eq!(snapshot.snapshot, format!("state of {task}"), "what the task gave, and nothing around it");
        assert_eq!(snapshot.commit.as_ref().unwrap(), &format!("rows of {task}"));
        assert_eq!(bench.committed.all()[&(FIRST, task)], format!("rows of {task}"));
    }
}

#[tokio::test]
async fn graceful_and_immediate_stops_end_in_their_evidence_and_nobody_is_killed() {
    for request in [StopRequest::Graceful, StopRequest::Immediate] {
        let (bench, mut job, running) = Bench::new(2).await;
        bench.healthy(1).await;
        bench.healthy(2).await;
        job.sender().request(request).unwrap();
        let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
        match (request, &receipt.stopped()) {
            (StopRequest::Graceful, AnyStopped::Drained(stopped)) => assert!(!stopped.killed_workers()),
            (StopRequest::Immediate, AnyStopped::Halted(stopped)) => assert!(!stopped.killed_workers()),
            (request, stopped) => panic!("{request:?} ended in {stopped:?}"),
        }
    }
}

/// A worker that knows nothing of winddown is stopped with a final checkpoint, its commit included.
#[tokio::test]
async fn arroyo_style_workers_are_stopped_with_a_final_checkpoint() {
    let (bench, mut job, running) = Bench::new(3).await;
    let diaries: Vec<_> = (1..=2).map(|number| arroyo(&bench, number, Manners::default())).collect();
    bench.healthy(3).await;
    eventually("the tasks to run", || diaries.iter().all(|diary| diary.has("started 0: Ok"))).await;
    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let AfterCheckpointStopping::Stopped(stopped) = stopping.next(&mut job).await.unwrap() else { panic!() };

    assert_eq!((stopped.evidence().epoch(), stopped.killed_workers()), (FIRST, false));
    for diary in diaries {
        let told: Vec<_> = diary.entries().into_iter().filter(|entry| !entry.starts_with("heartbeat")).collect();
        let expected = [
            "register: Ok",
            "initialized: Ok",
            "started 0: Ok",
            "checkpoint 1 then_stop=true",
            "STARTED_ALIGNMENT count: Ok",
            "STARTED_CHECKPOINTING count: Ok",
            "FINISHED_SYNC count: Ok",
            "completed count 1: Ok",
            "commit 1 of count: subtasks [0, 1]",
            "FINISHED_COMMIT count: Ok",
            "finished 0: Ok",
            "job finished",
            "worker finished: Ok",
        ];
        assert_eq!(told, expected);
    }
    let manifest = bench.store.last().unwrap();
    let handed_back = SubtaskCheckpointMetadata::decode(manifest.tasks[1].snapshot.clone()).unwrap();
    assert_eq!((handed_back.subtask_index, handed_back.table_metadata.len()), (1, 1), "as the worker gave it");
}

#[tokio::test]
async fn arroyo_style_workers_are_stopped_gracefully_and_at_once() {
    for (request, order) in [(StopRequest::Graceful, "stop Graceful"), (StopRequest::Immediate, "stop Immediate")] {
        let (bench, mut job, running) = Bench::new(2).await;
        let diaries: Vec<_> = (1..=2).map(|number| arroyo(&bench, number, Manners::default())).collect();
        job.sender().request(request).unwrap();
        let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
        assert!(matches!(receipt.stopped(), AnyStopped::Drained(_) | AnyStopped::Halted(_)), "{:?}", receipt.stopped());
        for diary in diaries {
            assert!(diary.has(order) && diary.has("finished 0: Ok") && diary.has("worker finished: Ok"), "{order}");
        }
    }
}

/// A controller that is away for a while costs time, and nothing else.
#[tokio::test]
async fn a_controller_port_that_closes_in_the_middle_loses_no_completion() {
    let (mut bench, mut job, running) = Bench::new(2).await;
    bench.healthy(1).await;
    bench.healthy(2).await;
    let transport = Arc::clone(&bench.transport);
    let both = || transport.address(worker(1)).is_some() && transport.address(worker(2)).is_some();
    eventually("both workers to register", both).await;
    bench.port.close().await;

    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let stop = tokio::spawn(async move {
        let next = stopping.next(&mut job).await;
        (next.map_err(|failed| failed.to_string()), job)
    });
    let transport = Arc::clone(&bench.transport);
    eventually("the order to go out", || transport.newest_epoch() == FIRST).await;
    tokio::time::sleep(ms(500)).await;
    assert!(!stop.is_finished() && bench.store.last().is_none(), "nothing was heard while the port was closed");
    bench.port.open_again().await;

    let (next, _job) = stop.await.unwrap();
    let AfterCheckpointStopping::Stopped(stopped) = next.unwrap() else { panic!() };
    assert_eq!((stopped.evidence().epoch(), stopped.killed_workers()), (FIRST, false));
    assert_eq!(bench.committed.all().len(), 2);
}

/// No orphan: a worker whose controller never comes back, or does not know its job, stops by itself
/// within the documented time.
#[tokio::test]
async fn a_worker_without_a_controller_stops_by_itself() {
    for port_closes in [true, false] {
        let (mut bench, ..) = Bench::new(1).await;
        bench.healthy(1).await;
        let transport = Arc::clone(&bench.transport);
        eventually("the worker to register", || transport.address(worker(1)).is_some()).await;
        if port_closes {
            bench.port.close().await;
        } else {
            bench.unregister();
        }
        // The time of a call is for its server to end, and a second for a busy machine.
        let options = worker_options();
        bench.all_gone(options.worst_orphan() + options.calls.call + ms(1000)).await;
        assert_eq!(bench.departures(), [Departure::Orphaned]);
    }
}

#[tokio::test]
async fn i11_a_worker_refuses_the_order_of_another_run_and_goes_on() {
    let (bench, mut job, running) = Bench::new(1).await;
    bench.healthy(1).await;
    let ours = Arc::clone(&bench.transport);
    eventually("the worker to register", || ours.address(worker(1)).is_some()).await;
    let newer =
        GrpcTransport::new(&OpenRun::without_store(JOB, RUN.next()), Arc::clone(&bench.topology)).options(calls());
    newer.set_address(worker(1), &ours.address(worker(1)).unwrap()).unwrap();
    let stop = Order { run: RUN.next(), command: Command::Stop(WorkerStopMode::Immediate) };
    let error = newer.send(worker(1), stop).await.unwrap_err();
    assert_eq!(error.to_string(), "rejected: expected an order for run 3, got one for run 4");

    let stopping = running.stop_with_checkpoint(&mut job).unwrap();
    let AfterCheckpointStopping::Stopped(_) = stopping.next(&mut job).await.unwrap() else { panic!() };
}

/// A source that has read its input says so, stays, and takes part in the final checkpoint of the
/// end.
#[tokio::test]
async fn sources_that_end_complete_the_job_with_a_last_checkpoint() {
    let (bench, mut job, running) = Bench::new(2).await;
    for number in 1..=2 {
        let committed = bench.committed.clone();
        bench
            .kit(number, move |ctx| {
                let committed = committed.clone();
                async move {
                    ctx.events().source_exhausted().await?;
                    exactly_once(ctx, committed).await
                }
            })
            .await;
    }
    let receipt = drive(running, &mut job, &Policy::give_back()).await.unwrap();
    let AnyStopped::Completed(stopped) = &receipt.stopped() else { panic!("{:?}", receipt.stopped()) };
    assert_eq!((stopped.evidence().epoch(), stopped.killed_workers()), (FIRST, false));
    assert_eq!(bench.committed.all().len(), 2);
}

#[tokio::test]
async fn a_failed_task_says_why_and_whether_another_run_may_get_past_it() {
    for error in [TaskError::retryable("disk full"), TaskError::fatal("bad record")] {
        let (bench, mut job, mut running) = Bench::new(1).await;
        let failure = error.clone();
        bench.kit(1, move |_| std::future::ready(Err(failure.clone()))).await;
        running.run(&mut job).await.unwrap();
        let expected = RunFailure::TaskFailed { task: task(1), worker: worker(1), error };
        assert_eq!(job.controller().failure(), Some(&expected));
    }
}

/// The answer to the first order may have been lost, and the reports with it.
#[tokio::test]
async fn a_repeated_order_is_answered_again_with_its_reports() {
    let (bench, job, _running) = Bench::new(1).await;
    drop(job);
    let mut bench = bench;
    bench.unregister();
    let mut mailbox = Mailbox::new(100);
    let _registration = bench.port.server.register(Arc::clone(&bench.transport), mailbox.sender()).unwrap();
    bench.healthy(1).await;
    let order = Order { run: RUN, command: Command::Checkpoint { epoch: FIRST, then_stop: false } };
    let completed = Event::CheckpointCompleted {
        task: task(1),
        epoch: FIRST,
        snapshot: format!("state of {}", task(1)).into(),
        commit: Some(format!("rows of {}", task(1)).into()),
    };
    for _ in 0..2 {
        let transport = Arc::clone(&bench.transport);
        eventually("the worker to register", || transport.address(worker(1)).is_some()).await;
        bench.transport.send(worker(1), order.clone()).await.unwrap();
        let report = async {
            loop {
                match mailbox.next(None).await {
                    Incoming::Worker(WorkerEvent { event: Event::Heartbeat, .. }) => {}
                    Incoming::Worker(event) => return event.event,
                    Incoming::Request(request) => panic!("{request:?}"),
                }
            }
        };
        assert_eq!(tokio::time::timeout(ms(20_000), report).await.unwrap(), completed);
    }
}

/// What a process does on SIGTERM: its tasks end, the controller hears of it, and `serve` returns.
#[tokio::test]
async fn a_worker_leaves_when_its_process_is_told_to() {
    let (bench, job, _running) = Bench::new(1).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (told, signal) = tokio::sync::oneshot::channel::<()>();
    let serving = kit_worker(1, &bench.topology, bench.port.address.to_string())
        .leave_on(async { drop(signal.await) })
        .serve(listener, |ctx| exactly_once(ctx, bench.committed.clone()));
    let transport = Arc::clone(&bench.transport);
    let tell = async {
        eventually("the worker to register", || transport.address(worker(1)).is_some()).await;
        drop(told);
    };
    let (departure, ()) = tokio::join!(serving, tell);
    assert_eq!(departure.unwrap(), Departure::Released);
    drop(job);
}

#[tokio::test]
async fn a_worker_on_all_interfaces_must_say_where_it_is_reached() {
    let (bench, ..) = Bench::new(1).await;
    for advertised in [None, Some("127.0.0.1:9")] {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let mut kit = kit_worker(1, &bench.topology, bench.port.address.to_string()).leave_on(std::future::ready(()));
        if let Some(address) = advertised {
            kit = kit.advertise(address);
        }
        let served = kit.serve(listener, |ctx| exactly_once(ctx, bench.committed.clone())).await;
        match advertised {
            None => assert!(served.unwrap_err().to_string().contains("set it with `advertise`")),
            Some(_) => assert_eq!(bench.transport.address(worker(1)).unwrap(), "http://127.0.0.1:9/"),
        }
    }
}

#[tokio::test]
async fn controller_and_worker_answer_health_checks() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let (bench, ..) = Bench::new(1).await;
    bench.healthy(1).await;
    let transport = Arc::clone(&bench.transport);
    eventually("the worker to register", || transport.address(worker(1)).is_some()).await;
    for (address, service) in [
        (format!("http://{}", bench.port.address), "arroyo_rpc.JobControllerGrpc"),
        (transport.address(worker(1)).unwrap(), "arroyo_rpc.WorkerGrpc"),
    ] {
        let channel = winddown::grpc::tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy();
        let request = HealthCheckRequest { service: service.into() };
        let answer = HealthClient::new(channel).check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
}

#[cfg(feature = "grpc-reflection")]
#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (bench, ..) = Bench::new(1).await;
    let address = format!("http://{}", bench.port.address);
    let channel = winddown::grpc::tonic::transport::Endpoint::from_shared(address).unwrap().connect_lazy();
    let message_request = Some(MessageRequest::ListServices(String::new()));
    let request = tokio_stream::once(ServerReflectionRequest { host: String::new(), message_request });
    let mut answers = ServerReflectionClient::new(channel).server_reflection_info(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let MessageResponse::ListServicesResponse(list) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&"arroyo_rpc.JobControllerGrpc"), "{names:?}");
}
