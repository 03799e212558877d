//! Real worker processes and real gRPC: whatever befalls a worker, the job ends in `Stopped` inside the worst-case formula, no process is
//! left, and the next run goes on to the end without losing or doubling anything.
#![cfg(all(target_os = "linux", feature = "grpc", feature = "object-store", feature = "process"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/counting.rs"]
mod counting;
#[path = "support/process.rs"]
mod support;

use std::{cell::Cell, collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use counting::{Manners, assert_exact, calls, tell, topology};
use rustix::process::Signal;
use support::{Stage, job, signal};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use winddown::{
    grpc::{ControllerOptions, ControllerServer, GrpcTransport},
    process::WorkerProcess,
    *,
};

const WORKERS: u64 = 3;
const SICK: u64 = 1;
const POLICY: OnSpentCheckpoint = OnSpentCheckpoint::Escalate;

/// Not a test: the watchdog of the schedulers here starts at this one.
#[test]
fn watchdog_entry() {
    winddown::process::init();
}

/// Not a test: the workers start at this one.
#[test]
fn worker_entry() {
    if let Some(worker) = WorkerEnv::from_env().unwrap() {
        counting::worker_main(worker);
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Short, so that a test is; long enough for a busy machine not to make a healthy worker look sick.
fn limits() -> Limits {
    Limits {
        final_checkpoint: ms(8000),
        finish: ms(3000),
        recover: ms(1500),
        release: ms(3000),
        kill: ms(5000),
        verify_every: ms(20),
        order: ms(1000),
        heartbeat: ms(3000),
        health_every: ms(100),
        checkpoint_every: Some(ms(250)),
        order_retries: 1,
        checkpoint_retries: 2,
        scheduler_retries: 1,
        backoff_min: ms(20),
        backoff_max: ms(200),
        ..Limits::default()
    }
}

/// A job's store, its published numbers and its processes.
struct Bench {
    stage: Stage,
    store: Arc<ObjectStoreCheckpoints>,
    limits: Limits,
    pace: Duration,
}

/// A run, for a script that plays its part beside the drive.
struct Live {
    progress: watch::Receiver<Progress>,
    sender: JobSender,
    pids: BTreeMap<u64, i32>,
    /// From when on, and how long it may take until `Stopped`.
    bound: Cell<Option<(Instant, Duration)>>,
    limits: Limits,
    port: Port,
}

impl Live {
    fn ask(&self, request: StopRequest) {
        self.bound.set(self.limits.worst_case(PhaseKind::Running, POLICY).map(|bound| (Instant::now(), bound)));
        self.sender.request(request).unwrap();
    }

    /// Signals the sick worker.
    fn strike(&self, what: Signal) {
        signal(self.pids[&SICK], what);
    }

    async fn until(&self, what: &str, is_so: impl FnMut(&Progress) -> bool) {
        let mut progress = self.progress.clone();
        let seen = timeout(Duration::from_secs(20), progress.wait_for(is_so)).await;
        assert!(seen.is_ok_and(|seen| seen.is_ok()), "waited in vain for {what}: {:?}", self.progress.borrow());
    }

    /// Waits until there is something to resume from.
    async fn under_way(&self) {
        self.until("a checkpoint", |now| now.status.last_complete.is_some()).await;
    }

    /// Waits until all but the sick worker have given their states to the final checkpoint.
    async fn collecting(&self) {
        let all_but_one = Count::new(2, 3);
        let collecting = |now: &Progress| {
            let stage = now.status.checkpoint;
            let is_final = matches!(now.status.final_checkpoint, FinalCheckpoint::InFlight(_));
            is_final && matches!(stage, CheckpointStage::Collecting { acks, .. } if acks == all_but_one)
        };
        self.until("the final checkpoint", collecting).await;
    }
}

impl Bench {
    fn new() -> Self {
        let stage = Stage::new();
        let store = Arc::new(ObjectStoreCheckpoints::local(stage.path("checkpoints")).unwrap());
        Self { stage, store, limits: limits(), pace: ms(5) }
    }

    /// One run with a sick worker, and a script beside it.
    async fn run(&self, manners: Manners, script: impl AsyncFnOnce(&mut Live)) -> Receipt {
        let scheduler = self.stage.builder().grace(ms(1000)).open().await.unwrap();
        let Restored { run, manifest } = self.store.open_run(&job()).await.unwrap();
        let topology = Arc::new(topology(WORKERS));
        let transport = Arc::new(GrpcTransport::new(job(), run, Arc::clone(&topology)).options(calls()));
        let mailbox = Mailbox::new(64);
        let server = ControllerServer::new(ControllerOptions { drain: ms(100), ..ControllerOptions::default() });
        let registration = server.register(Arc::clone(&transport), mailbox.sender()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::open(listener.local_addr().unwrap()).await;
        let (shutdown, told) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { server.serve(listener, async { drop(told.await) }).await });

        let (mut pids, mut watches) = (BTreeMap::new(), JoinSet::new());
        for number in 1..=WORKERS {
            let manners = if number == SICK { manners } else { Manners::Healthy };
            let task = counting::task_of(number);
            let restored = manifest.iter().flat_map(|it| &it.tasks).find(|snapshot| snapshot.task == task);
            let mut command = self.stage.this_program("worker_entry");
            tell(&mut command, manners, &self.stage.path(""), WORKERS, self.pace, restored);
            let env = WorkerEnv::new(job(), run, WorkerId::new(number), port.address.to_string());
            let process = scheduler.start(env, command).await.unwrap();
            pids.insert(number, support::pid(&process));
            watches.spawn(tell_end(
                process,
                WorkerEvent::new(run, WorkerId::new(number), Event::WorkerFinished),
                &mailbox,
            ));
        }
        let mut controller = ClusterController::builder(job(), run, topology, transport)
            .limits(self.limits.clone())
            .store(Arc::clone(&self.store) as Arc<dyn DynCheckpointStore>);
        if let Some(manifest) = &manifest {
            controller = controller.restored(manifest);
        }
        let builder = JobContext::builder(job(), run).limits(self.limits.clone()).mailbox(mailbox);
        let (mut context, running) = builder.build(controller.build(), scheduler.clone());
        let (progress, sender) = (context.progress(), context.sender());
        let mut live = Live { progress, sender, pids, bound: Cell::new(None), limits: self.limits.clone(), port };

        let policy = Policy::escalate();
        let drive = async { (drive(running, &mut context, &policy).await.unwrap(), Instant::now()) };
        let ((receipt, ended), ()) = tokio::join!(drive, script(&mut live));
        if let Some((since, bound)) = live.bound.get() {
            assert!(ended - since <= bound, "{:?}, expected at most {bound:?}: {receipt}", ended - since);
        }
        drop((registration, watches, shutdown));
        serving.await.unwrap().unwrap();
        self.stage.end(scheduler).await;
        receipt
    }

    /// Runs on to the end of the input, and checks that nothing was lost or doubled.
    async fn finish(mut self) {
        self.pace = ms(1);
        let receipt = self.run(Manners::Healthy, async |_| {}).await;
        assert_eq!(receipt.stopped.name(), "drained", "{receipt}");
        assert_exact(&self.stage.path(""), WORKERS);
    }

    /// A run that is asked to stop as soon as it is under way; then the run that ends the job.
    async fn stop_with(manners: Manners, request: StopRequest) -> Receipt {
        let bench = Self::new();
        let receipt = bench
            .run(manners, async |live| {
                match manners {
                    // No checkpoint is ever complete.
                    Manners::Mute | Manners::OtherRun => sleep(ms(500)).await,
                    _ => live.under_way().await,
                }
                live.ask(request);
            })
            .await;
        bench.finish().await;
        receipt
    }
}

/// The end of a process is known at once. What it reported is in the mailbox by then.
fn tell_end(mut process: WorkerProcess, event: WorkerEvent, mailbox: &Mailbox) -> impl Future<Output = ()> + use<> {
    let sender = mailbox.sender();
    async move {
        process.gone().await;
        let _ = sender.event(event).await;
    }
}

fn walked(receipt: &Receipt) -> Vec<&'static str> {
    receipt.legs.iter().map(|leg| leg.phase.name()).collect()
}

const FORCED: [&str; 4] = ["Running", "CheckpointStopping", "Stopping<Force>", "Stopped<Killed>"];

#[tokio::test]
async fn healthy_workers_stop_in_every_mode() {
    for (request, evidence) in StopRequest::ALL.into_iter().zip(["checkpointed", "drained", "halted", "killed"]) {
        let receipt = Bench::stop_with(Manners::Healthy, request).await;
        assert_eq!(receipt.stopped.name(), evidence, "{receipt}");
    }
}

#[tokio::test]
async fn a_worker_killed_before_the_final_checkpoint() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::Healthy, async |live| {
            live.under_way().await;
            live.strike(Signal::KILL);
            live.ask(StopRequest::Checkpoint);
        })
        .await;
    assert_eq!(receipt.stopped.name(), "killed", "{receipt}");
    bench.finish().await;
}

#[tokio::test]
async fn a_worker_killed_during_the_final_checkpoint() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::HoldsState, async |live| {
            live.under_way().await;
            live.ask(StopRequest::Checkpoint);
            live.collecting().await;
            live.strike(Signal::KILL);
        })
        .await;
    assert_eq!(walked(&receipt), FORCED, "{receipt}");
    assert!(receipt.last_error.unwrap().contains("worker 1 left with 1 unfinished tasks"));
    bench.finish().await;
}

/// The manifest is durable and a commit is missing: that is no `Checkpointed`, and the next run carries the commit out.
#[tokio::test]
async fn i3_a_worker_killed_before_its_commit() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::HoldsCommit, async |live| {
            live.under_way().await;
            live.ask(StopRequest::Checkpoint);
            let committing = |now: &Progress| {
                let acks = Count::new(2, 3);
                matches!(now.status.checkpoint, CheckpointStage::Committing { acks: now, .. } if now == acks)
                    && matches!(now.status.final_checkpoint, FinalCheckpoint::InFlight(_))
            };
            live.until("the commits", committing).await;
            live.strike(Signal::KILL);
        })
        .await;
    assert_eq!(walked(&receipt), FORCED, "{receipt}");
    assert!(bench.store.latest(&job()).await.unwrap().unwrap().then_stop, "the final checkpoint is durable");
    bench.finish().await;
}

#[tokio::test]
async fn a_worker_killed_after_the_final_checkpoint() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::Stays, async |live| {
            live.under_way().await;
            live.ask(StopRequest::Checkpoint);
            let finished = |now: &Progress| {
                matches!(now.status.final_checkpoint, FinalCheckpoint::Complete(_)) && now.status.all_finished()
            };
            live.until("the end of all tasks", finished).await;
            live.strike(Signal::KILL);
        })
        .await;
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped else { panic!("{receipt}") };
    let manifest = bench.store.latest(&job()).await.unwrap().unwrap();
    assert_eq!((manifest.epoch, manifest.then_stop), (stopped.evidence().epoch(), true));
    bench.finish().await;
}

#[tokio::test]
async fn a_worker_frozen_for_ever_in_the_final_checkpoint() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::HoldsState, async |live| {
            live.under_way().await;
            live.ask(StopRequest::Checkpoint);
            live.collecting().await;
            live.strike(Signal::STOP);
        })
        .await;
    assert_eq!(walked(&receipt), FORCED, "{receipt}");
    assert!(receipt.last_error.unwrap().contains("worker 1 is lost: silent for"));
    bench.finish().await;
}

#[tokio::test]
async fn a_worker_frozen_for_ever_before_any_stop_is_recovered_from() {
    let bench = Bench::new();
    let receipt = bench
        .run(Manners::Healthy, async |live| {
            live.under_way().await;
            live.strike(Signal::STOP);
            let Limits { heartbeat, health_every, .. } = live.limits;
            let recover = live.limits.worst_case(PhaseKind::Recovering, POLICY).unwrap();
            live.bound.set(Some((Instant::now(), heartbeat + health_every + recover)));
        })
        .await;
    assert_eq!(walked(&receipt), ["Running", "Recovering", "Stopping<Force>", "Stopped<Killed>"], "{receipt}");
    assert!(receipt.may_restart());
    bench.finish().await;
}

/// A worker that wakes up in time has lost nothing but time.
#[tokio::test]
async fn a_worker_frozen_and_continued() {
    for request in [StopRequest::Checkpoint, StopRequest::Immediate] {
        let bench = Bench::new();
        let receipt = bench
            .run(Manners::Healthy, async |live| {
                live.under_way().await;
                live.strike(Signal::STOP);
                live.ask(request);
                sleep(ms(700)).await;
                live.strike(Signal::CONT);
            })
            .await;
        match &receipt.stopped {
            AnyStopped::Checkpointed(stopped) => assert!(!stopped.killed_workers(), "{receipt}"),
            AnyStopped::Halted(stopped) => assert!(!stopped.killed_workers(), "{receipt}"),
            other => panic!("{other:?}: {receipt}"),
        }
        bench.finish().await;
    }
}

#[tokio::test]
async fn a_worker_that_never_answers_stop_execution() {
    for request in [StopRequest::Graceful, StopRequest::Immediate] {
        let receipt = Bench::stop_with(Manners::NeverAnswersStop, request).await;
        assert_eq!(receipt.stopped.name(), "killed", "{receipt}");
        assert!(receipt.last_error.as_ref().unwrap().contains("worker 1 timed out"), "{receipt}");
    }
}

#[tokio::test]
async fn a_worker_that_answers_an_error_to_stop_execution() {
    for request in [StopRequest::Graceful, StopRequest::Immediate] {
        let receipt = Bench::stop_with(Manners::RefusesStop, request).await;
        assert_eq!(receipt.stopped.name(), "killed", "{receipt}");
        assert!(receipt.last_error.as_ref().unwrap().contains("the disk is on fire"), "{receipt}");
    }
}

#[tokio::test]
async fn a_worker_that_accepts_connections_and_says_nothing() {
    for request in [StopRequest::Checkpoint, StopRequest::Immediate] {
        let receipt = Bench::stop_with(Manners::Mute, request).await;
        assert_eq!(receipt.stopped.name(), "killed", "{receipt}");
    }
}

/// What the evidence says was proven before; that the process is gone is verified all the same.
#[tokio::test]
async fn i2_a_worker_that_says_finished_and_stays_alive() {
    for (request, evidence) in [(StopRequest::Checkpoint, "checkpointed"), (StopRequest::Immediate, "halted")] {
        let receipt = Bench::stop_with(Manners::Stays, request).await;
        assert_eq!(receipt.stopped.name(), evidence, "{receipt}");
    }
}

#[tokio::test]
async fn i11_a_worker_that_reports_for_another_run() {
    for request in [StopRequest::Checkpoint, StopRequest::Immediate] {
        let receipt = Bench::stop_with(Manners::OtherRun, request).await;
        assert_eq!(receipt.stopped.name(), "killed", "{receipt}");
    }
}

/// No completion is lost, and no healthy worker is taken for a lost one.
#[tokio::test]
async fn the_controllers_port_unreachable_for_five_seconds_in_the_middle() {
    let mut bench = Bench::new();
    (bench.limits.heartbeat, bench.limits.final_checkpoint, bench.pace) = (ms(8000), ms(20_000), ms(25));
    let receipt = bench
        .run(Manners::Healthy, async |live| {
            live.under_way().await;
            live.port.close().await;
            live.ask(StopRequest::Checkpoint);
            sleep(ms(5000)).await;
            assert_eq!(live.progress.borrow().phase, PhaseKind::CheckpointStopping, "nothing was heard meanwhile");
            live.port.open_again().await;
        })
        .await;
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped else { panic!("{receipt}") };
    assert!(!stopped.killed_workers(), "{receipt}");
    bench.finish().await;
}

/// The way from the workers to the controller: a port that can be closed, with all connections through it.
struct Port {
    address: SocketAddr,
    controller: SocketAddr,
    passing: Option<JoinSet<()>>,
}

impl Port {
    async fn open(controller: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut port = Self { address: listener.local_addr().unwrap(), controller, passing: None };
        port.pass(listener);
        port
    }

    fn pass(&mut self, listener: TcpListener) {
        let controller = self.controller;
        let mut passing = JoinSet::new();
        passing.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut worker, _) = listener.accept().await.unwrap();
                connections.spawn(async move {
                    let mut controller = TcpStream::connect(controller).await?;
                    tokio::io::copy_bidirectional(&mut worker, &mut controller).await
                });
            }
        });
        self.passing = Some(passing);
    }

    async fn close(&mut self) {
        if let Some(mut passing) = self.passing.take() {
            passing.shutdown().await;
        }
    }

    async fn open_again(&mut self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.pass(listener);
    }
}
