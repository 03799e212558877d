//! Jobs of Arroyo's workers, as they are (`tests/support/arroyo.rs`): who commits, chains, every
//! call, no error for an answer that is not the worker's fault, no order twice.

use std::{sync::Arc, time::Duration};
use winddown::RunId;
use winddown::contracts::WorkerEvent;
use winddown::mailbox::Incoming;

use crate::arroyo::{Diary, Does, Graph, Keeps, Manners, Node, arroyo_worker_of};
use crate::support::*;
use prost::Message as _;
use tokio::time::timeout;
use winddown::{
    AnyStopped, Epoch, JobController, Limits, Mailbox, PhaseKind, Policy, Receipt, Role, Running, StopRequest,
    Topology,
    contracts::Transport,
    drive,
    grpc::{
        proto::arroyo_rpc::{
            HeartbeatReq, RegisterWorkerReq, RegisterWorkerResp, SinkDataReq, SinkDataResp, TaskStartedReq,
            TaskStartedResp, WorkerContext, WorkerFinishedReq, WorkerFinishedResp, WorkerInitializationCompleteReq,
            WorkerInitializationCompleteResp,
            controller_grpc_server::{ControllerGrpc, ControllerGrpcServer},
        },
        tonic::{self, Code, Request, Response, Status},
        *,
    },
};
use winddown::{
    OpenRun,
    contracts::{Command, Event, Order, OrderErrorKind, WorkerStopMode},
    drive::OnSpentCheckpoint,
};

const LONG: Duration = Duration::from_secs(30);

/// Ids with gaps, chains, a sink of files on fewer workers than there are, and Kafka's, which gives
/// no commit data.
fn pipeline() -> Graph {
    let node = |id, operators: &[(&'static str, Keeps)], workers: &[u64]| Node {
        id,
        operators: operators.to_vec(),
        workers: workers.to_vec(),
    };
    vec![
        node(1, &[("read", Keeps::Offsets), ("parse", Keeps::Offsets), ("watermark", Keeps::Offsets)], &[1, 2, 3]),
        node(4, &[("window", Keeps::Windows)], &[1, 2, 3]),
        node(5, &[("project", Keeps::Offsets), ("to-kafka", Keeps::Transaction)], &[1, 2, 3]),
        node(9, &[("to-files", Keeps::Files)], &[1, 2]),
    ]
}

/// Subtasks of operators in it, and of those that commit.
const STATES: usize = 3 * 3 + 3 + 2 * 3 + 2;
const COMMITS: usize = 3 + 2;

fn kafka(workers: u64) -> Graph {
    vec![Node { id: 6, operators: vec![("to-kafka", Keeps::Transaction)], workers: (1..=workers).collect() }]
}

/// What the author of a controller writes: the graph's nodes, as they are.
fn topology_of(graph: &Graph) -> Arc<Topology> {
    let mut builder = Topology::builder();
    for (position, node) in graph.iter().enumerate() {
        let role = if position == 0 { Role::Source } else { Role::Inner };
        let names = node.operators.iter().map(|(name, _)| *name);
        builder = builder.chain(node.id, role, names, node.workers.iter().copied().map(worker));
    }
    Arc::new(builder.build().unwrap())
}

struct Cluster {
    bench: Bench,
    job: Job,
    diaries: Vec<Diary>,
}

/// A job of this graph; worker *i* has the *i*-th manners, and the last ones for ever.
async fn start(graph: Graph, manners: &[Manners], limits: Limits) -> (Cluster, Running) {
    let (bench, job, running) = Bench::of(topology_of(&graph), limits).await;
    let mut diaries = Vec::new();
    for (number, position) in (1..=graph[0].workers.len() as u64).zip(0..) {
        let diary = Diary::default();
        let manners = manners.get(position).or(manners.last()).copied().unwrap_or_default();
        let node = arroyo_worker_of(graph.clone(), number, bench.port.address, manners, diary.clone());
        bench.fleet.add(number, node);
        diaries.push(diary);
    }
    for diary in &diaries {
        eventually("the workers to begin", || diary.has("initialized: Ok")).await;
    }
    (Cluster { bench, job, diaries }, running)
}

impl Cluster {
    async fn stop(&mut self, running: Running, request: StopRequest) -> Receipt {
        self.job.sender().request(request).unwrap();
        timeout(LONG, drive(running, &mut self.job, &Policy::give_back())).await.unwrap().unwrap()
    }

    /// No worker met anything that ends one of Arroyo's.
    fn all_went_well(&self) {
        for diary in &self.diaries {
            let bad = |entry: &String| {
                let refused = entry.contains(": ") && !entry.ends_with(": Ok") && !entry.starts_with("commit ");
                let refused = refused && entry != "worker finished: NotFound";
                refused || entry.starts_with("panic") || entry.starts_with("lost") || entry.contains("names no worker")
            };
            let entries = diary.entries();
            assert_eq!(entries.iter().filter(|entry| bad(entry)).collect::<Vec<_>>(), Vec::<&String>::new());
        }
    }
}

fn is_checkpointed(receipt: &Receipt) -> bool {
    matches!(receipt.stopped(), AnyStopped::Checkpointed(stopped) if !stopped.killed_workers())
}

/// A periodic and a final checkpoint of a job that has everything: `Checkpointed`, every pre-commit
/// committed, nothing lost, no order twice.
#[tokio::test]
async fn a1_a2_a3_a_whole_job_is_checkpointed_while_it_runs_and_at_its_end() {
    let manners = Manners { stumbles: true, shows: true, ..Manners::default() };
    let limits = Limits { checkpoint_every: Some(ms(50)), ..limits() };
    let (mut cluster, running) = start(pipeline(), &[manners], limits).await;
    let (mut progress, sender) = (cluster.job.progress(), cluster.job.sender());
    let asked = tokio::spawn(async move {
        progress.wait_for(|it| it.status.last_complete >= Some(Epoch::new(2))).await.unwrap();
        sender.request(StopRequest::Checkpoint).unwrap();
    });
    let receipt = timeout(LONG, drive(running, &mut cluster.job, &Policy::give_back())).await.unwrap().unwrap();
    asked.await.unwrap();
    assert!(is_checkpointed(&receipt), "{receipt}");
    cluster.all_went_well();

    let last = cluster.bench.store.last().unwrap();
    assert!(last.then_stop && last.epoch >= Epoch::new(3), "{:?}", last.epoch);
    assert_eq!(last.tasks.len(), STATES);
    assert_eq!(last.tasks.iter().filter(|task| task.commit.is_some()).count(), COMMITS);
    let epochs = usize::try_from(last.epoch.get()).unwrap();
    for (diary, files) in cluster.diaries.iter().zip([true, true, false]) {
        for epoch in 1..=epochs {
            assert_eq!(diary.of(&format!("checkpoint {epoch} ")).len(), 1);
            assert_eq!(diary.count(&format!("commit {epoch} of to-kafka: nothing")), 1);
            let of_files = diary.count(&format!("commit {epoch} of to-files: subtasks [0, 1]"));
            assert_eq!(of_files, usize::from(files), "a worker without such a subtask panics at it");
        }
        assert_eq!(diary.count("FINISHED_COMMIT to-kafka: Ok"), epochs);
        // A checkpoint and a commit for each epoch, and the release: as many as for the plainest
        // job.
        assert_eq!(diary.orders(), 2 * epochs + 1);
        assert_eq!(diary.count("nonfatal: Ok"), epochs);
    }
    let status = cluster.job.status();
    assert_eq!(usize::try_from(status.nonfatal_errors).unwrap(), 3 * epochs);
    assert_eq!(usize::try_from(status.tasks.done).unwrap(), STATES);
}

#[tokio::test]
async fn a1_as_many_round_trips_as_for_the_plain_case() {
    let mut round_trips = Vec::new();
    for graph in [crate::arroyo::simple(3), kafka(3), pipeline()] {
        let (mut cluster, running) = start(graph, &[], limits()).await;
        let receipt = cluster.stop(running, StopRequest::Checkpoint).await;
        assert!(is_checkpointed(&receipt), "{receipt}");
        cluster.all_went_well();
        round_trips.push(cluster.diaries.iter().map(Diary::orders).collect::<Vec<_>>());
    }
    assert_eq!(round_trips, [[3, 3, 3]; 3]);
}

/// I3: the manifest is durable, and one subtask of Kafka's sink has not said that it has committed.
#[tokio::test]
async fn i3_a1_no_checkpointed_while_one_subtask_has_not_committed() {
    let deaf = Manners { commit: Does::Nothing, ..Manners::default() };
    let limits = Limits { final_checkpoint: ms(800), finish: ms(300), ..limits() };
    let (mut cluster, running) = start(kafka(2), &[Manners::default(), deaf], limits).await;
    cluster.job.sender().request(StopRequest::Checkpoint).unwrap();
    let receipt = timeout(LONG, drive(running, &mut cluster.job, &Policy::escalate())).await.unwrap().unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Halted(_) | AnyStopped::Killed(_)), "{receipt}");
    assert_eq!(cluster.job.status().last_complete, None);
    let manifest = cluster.bench.store.last().unwrap();
    assert!(manifest.tasks.iter().all(|task| task.commit.is_some()), "the next run has to commit both");
}

#[tokio::test]
async fn a2_chains_with_gaps_in_their_ids_are_stopped_in_every_mode() {
    for request in [StopRequest::Checkpoint, StopRequest::Graceful, StopRequest::Immediate] {
        let (mut cluster, running) = start(pipeline(), &[], limits()).await;
        let receipt = cluster.stop(running, request).await;
        let ended_well = match (request, receipt.stopped()) {
            (StopRequest::Checkpoint, AnyStopped::Checkpointed(stopped)) => !stopped.killed_workers(),
            (StopRequest::Graceful, AnyStopped::Drained(stopped)) => !stopped.killed_workers(),
            (StopRequest::Immediate, AnyStopped::Halted(stopped)) => !stopped.killed_workers(),
            _ => false,
        };
        assert!(ended_well, "{request:?}: {receipt}");
        cluster.all_went_well();
    }
}

#[tokio::test]
async fn a2_a_node_that_fails_is_one_failure_of_its_chain() {
    let failing = Manners { checkpoint: Does::Fails, ..Manners::default() };
    let (mut cluster, running) = start(pipeline(), &[Manners::default(), failing, Manners::default()], limits()).await;
    cluster.job.sender().request(StopRequest::Checkpoint).unwrap();
    let receipt = timeout(LONG, drive(running, &mut cluster.job, &Policy::escalate())).await.unwrap().unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Halted(_) | AnyStopped::Killed(_)), "{receipt}");
    let status = cluster.job.status();
    assert_eq!((status.failures, status.tasks_failed), (1, 3), "{status:?}");
    assert_eq!(cluster.job.controller().failure().unwrap().to_string(), "task 0/1 on worker 2 failed: disk full");
}

#[tokio::test]
async fn a3_an_error_that_ends_nothing_is_in_the_progress() {
    let manners = Manners { stumbles: true, ..Manners::default() };
    let (mut cluster, running) = start(pipeline(), &[manners], limits()).await;
    let receipt = cluster.stop(running, StopRequest::Checkpoint).await;
    assert!(is_checkpointed(&receipt), "{receipt}");
    assert_eq!(cluster.job.status().nonfatal_errors, 3);
    let progress = cluster.job.progress_now();
    assert_eq!(progress.last_error.as_deref(), Some("a record that can't be read"));
}

#[tokio::test]
async fn a3_a_worker_that_could_not_begin_is_a_failure_of_the_run() {
    let (mut cluster, running) = {
        let unable = Manners { begins: Err("no such connector"), ..Manners::default() };
        start(kafka(2), &[Manners::default(), unable], limits()).await
    };
    let receipt = timeout(LONG, drive(running, &mut cluster.job, &Policy::give_back())).await.unwrap().unwrap();
    assert!(receipt.legs().iter().any(|leg| leg.phase == PhaseKind::Recovering), "{receipt}");
    let failure = cluster.job.controller().failure().unwrap();
    assert_eq!(failure.to_string(), "worker 2 could not start: no such connector");
}

/// What another worker than one of our kit says, without a worker.
struct Caller {
    port: Port,
    channel: tonic::transport::Channel,
    mailbox: Mailbox,
    registration: Option<Registration>,
}

const HEARTBEAT: &str = "arroyo_rpc.JobControllerGrpc/Heartbeat";

impl Caller {
    async fn new(capacity: u32) -> Self {
        let (port, mailbox) = (Port::open().await, Mailbox::new(capacity));
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", port.address)).unwrap();
        let mut caller = Self { port, channel: endpoint.connect_lazy(), mailbox, registration: None };
        caller.register(RUN);
        caller
    }

    fn register(&mut self, run: RunId) {
        let transport = Arc::new(GrpcTransport::new(&OpenRun::without_store(JOB, run), topology(2)));
        self.registration = Some(self.port.server.register(transport, self.mailbox.sender()).unwrap());
    }

    fn says(&self, run: RunId) -> impl Future<Output = Result<(), Status>> + Send + 'static {
        let context = WorkerContext { worker_id: 1, job_id: JOB.into(), generation: run.get(), ..Default::default() };
        let heartbeat = HeartbeatReq { worker_context: Some(context), time: 1 };
        crate::raw::call_as_another(self.channel.clone(), HEARTBEAT, heartbeat.encode_to_vec())
    }
}

#[tokio::test]
async fn a4_a_full_mailbox_holds_a_worker_and_does_not_end_it() {
    let mut caller = Caller::new(1).await;
    caller.says(RUN).await.unwrap();
    let mut held: Vec<_> = (0..3).map(|_| tokio::spawn(caller.says(RUN))).collect();
    // Longer than a worker of our kit is held.
    tokio::time::sleep(ms(600)).await;
    assert!(held.iter().all(|call| !call.is_finished()));
    for _ in 0..4 {
        let event = timeout(LONG, caller.mailbox.next(None)).await.unwrap();
        assert!(matches!(event, Incoming::Worker(WorkerEvent { event: Event::Heartbeat, .. })), "{event:?}");
    }
    for call in held.drain(..) {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a4_a_registration_that_is_gone_for_a_moment_is_waited_for_and_no_longer_than_is_said() {
    let mut caller = Caller::new(16).await;
    caller.registration = None;
    let call = tokio::spawn(caller.says(RUN));
    tokio::time::sleep(ms(50)).await;
    caller.register(RUN);
    call.await.unwrap().unwrap();

    caller.registration = None;
    let status = timeout(LONG, caller.says(RUN)).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn a4_the_worker_of_a_run_that_is_about_to_be_registered_waits_and_one_of_a_past_run_does_not() {
    let mut caller = Caller::new(16).await;
    let call = tokio::spawn(caller.says(RUN.next()));
    tokio::time::sleep(ms(50)).await;
    caller.register(RUN.next());
    call.await.unwrap().unwrap();
    let status = caller.says(RUN).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "it is to end");
}

/// Before, it killed the run.
#[tokio::test]
async fn a4_a_job_survives_a_registration_that_is_dropped_for_a_moment() {
    let (mut cluster, running) = start(pipeline(), &[], limits()).await;
    cluster.bench.unregister();
    tokio::time::sleep(ms(250)).await;
    cluster.bench.register(&cluster.job);
    let receipt = cluster.stop(running, StopRequest::Checkpoint).await;
    assert!(is_checkpointed(&receipt), "{receipt}");
    cluster.all_went_well();
}

#[tokio::test]
async fn a5_an_order_for_another_worker_is_refused_and_ours_name_theirs() {
    let (cluster, _running) = start(kafka(2), &[], limits()).await;
    let there = cluster.bench.transport.address(worker(2)).unwrap();
    cluster.bench.transport.set_address(worker(1), &there).unwrap();
    let order = Order { run: RUN, command: Command::Stop(WorkerStopMode::Graceful) };
    let error = cluster.bench.transport.send(worker(1), order.clone()).await.unwrap_err();
    assert_eq!(error.kind, OrderErrorKind::Rejected, "{error}");
    cluster.bench.transport.send(worker(2), order).await.unwrap();
    assert_eq!(cluster.diaries[1].count("stop Graceful"), 1);
    assert!(!cluster.diaries[1].has("an order names no worker"));
}

/// A controller of Arroyo's, as far as it hears of a worker.
#[derive(Clone, Default)]
struct Original(Arc<std::sync::Mutex<Option<String>>>);

#[tonic::async_trait]
impl ControllerGrpc for Original {
    async fn register_worker(&self, it: Request<RegisterWorkerReq>) -> Result<Response<RegisterWorkerResp>, Status> {
        *self.0.lock().unwrap() = Some(it.into_inner().rpc_address);
        Ok(Response::new(RegisterWorkerResp {}))
    }

    async fn task_started(&self, _: Request<TaskStartedReq>) -> Result<Response<TaskStartedResp>, Status> {
        Ok(Response::new(TaskStartedResp {}))
    }

    async fn worker_initialization_complete(
        &self,
        _: Request<WorkerInitializationCompleteReq>,
    ) -> Result<Response<WorkerInitializationCompleteResp>, Status> {
        Ok(Response::new(WorkerInitializationCompleteResp {}))
    }

    async fn send_sink_data(&self, _: Request<SinkDataReq>) -> Result<Response<SinkDataResp>, Status> {
        Ok(Response::new(SinkDataResp {}))
    }

    async fn worker_finished(&self, _: Request<WorkerFinishedReq>) -> Result<Response<WorkerFinishedResp>, Status> {
        Ok(Response::new(WorkerFinishedResp {}))
    }
}

/// A real controller connects to it as it stands.
#[tokio::test]
async fn a5_the_kit_says_its_address_with_its_scheme() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (original, address) = (Original::default(), listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(ControllerGrpcServer::new(original.clone()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tokio::spawn(server.serve_with_incoming(incoming));
    for advertised in [None, Some("worker-3.example:9190"), Some("https://worker-3.example")] {
        *original.0.lock().unwrap() = None;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let expected = match advertised {
            None => format!("http://{}", listener.local_addr().unwrap()),
            Some(it) if it.contains("://") => it.to_owned(),
            Some(it) => format!("http://{it}"),
        };
        let mut kit = kit_worker(1, &topology(1), address.to_string());
        if let Some(address) = advertised {
            kit = kit.advertise(address);
        }
        let serving = tokio::spawn(kit.serve(listener, |ctx| exactly_once(ctx, Committed::default())));
        eventually("the kit to register", || original.0.lock().unwrap().is_some()).await;
        assert_eq!(original.0.lock().unwrap().clone().unwrap(), expected);
        serving.abort();
    }
    server.abort();
}

/// The answer is lost, the work is done: what the workers report tells.
#[tokio::test]
async fn a6_an_order_that_may_have_arrived_is_not_repeated() {
    let lost = Does::ObeysAndHangs;
    let manners = Manners { checkpoint: lost, commit: lost, stop: lost, release: lost, ..Manners::default() };
    for (request, order) in [
        (StopRequest::Checkpoint, "checkpoint 1 then_stop=true"),
        (StopRequest::Graceful, "stop Graceful"),
        (StopRequest::Immediate, "stop Immediate"),
    ] {
        let (mut cluster, running) = start(pipeline(), &[Manners::default(), manners], limits()).await;
        let receipt = cluster.stop(running, request).await;
        let name = receipt.stopped().name();
        assert_eq!(name, ["checkpointed", "drained", "halted"][request as usize], "{receipt}");
        for diary in &cluster.diaries {
            assert_eq!((diary.count(order), diary.count("job finished")), (1, 1), "{:?}", diary.entries());
        }
        cluster.all_went_well();
    }
}

/// An order whose answer is lost, and that was lost too, is found out by the time that the phase
/// has, and by nothing sooner.
#[tokio::test]
async fn a6_an_order_that_was_lost_ends_within_the_worst_case() {
    let deaf = Manners { checkpoint: Does::Hangs, ..Manners::default() };
    let limits = Limits { final_checkpoint: ms(800), ..limits() };
    let (mut cluster, running) = start(kafka(2), &[Manners::default(), deaf], limits.clone()).await;
    cluster.job.sender().request(StopRequest::Checkpoint).unwrap();
    let worst = limits.worst_case(PhaseKind::Running, OnSpentCheckpoint::Escalate).unwrap();
    let receipt = timeout(worst, drive(running, &mut cluster.job, &Policy::escalate())).await.unwrap().unwrap();
    assert!(matches!(receipt.stopped(), AnyStopped::Halted(_)), "{receipt}");
    assert_eq!(cluster.diaries[1].count("checkpoint 1 then_stop=true"), 1);
}

#[tokio::test]
async fn a6_an_order_that_did_not_arrive_is_sent_again() {
    let (cluster, _running) = start(kafka(1), &[], limits()).await;
    let transport = &cluster.bench.transport;
    let here = transport.address(worker(1)).unwrap();
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    transport.set_address(worker(1), &nobody.to_string()).unwrap();
    let checkpoint = Command::Checkpoint { epoch: Epoch::new(1), then_stop: false };
    let order = Order { run: RUN, command: checkpoint };
    let error = transport.send(worker(1), order.clone()).await.unwrap_err();
    assert_eq!(error.kind, OrderErrorKind::Unreachable, "{error}");

    transport.set_address(worker(1), &here).unwrap();
    for _ in 0..3 {
        transport.send(worker(1), order.clone()).await.unwrap();
    }
    assert_eq!(cluster.diaries[0].count("checkpoint 1 then_stop=false"), 1);
}
