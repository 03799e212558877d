//! One run after the other of a job with worker processes, of which one is sick, and the
//! controller's side of it in this process.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

pub(crate) use crate::port::Port;

use rustix::process::Signal;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::{Instant, sleep, timeout},
};
use winddown::{
    ClusterController, JobContext, JobSender, Limits, Mailbox, ObjectStoreCheckpoints, PhaseKind, Policy, Progress,
    Receipt, StopRequest, WorkerId,
    contracts::{CheckpointStage, CheckpointStore, Count, DynCheckpointStore, FinalCheckpoint},
    drive,
    drive::OnSpentCheckpoint,
    grpc::{ControllerOptions, ControllerServer, GrpcTransport},
    process::WorkerEnv,
};

use super::{
    counting::{self, Manners, assert_exact, calls, tell, topology},
    support::{self, Stage, job, signal},
};

const WORKERS: u64 = 3;
const SICK: u64 = 1;
pub(crate) const POLICY: OnSpentCheckpoint = OnSpentCheckpoint::Escalate;

pub(crate) const fn ms(millis: u64) -> Duration {
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
pub(crate) struct Bench {
    pub(crate) stage: Stage,
    pub(crate) store: Arc<ObjectStoreCheckpoints>,
    pub(crate) limits: Limits,
    pub(crate) pace: Duration,
}

/// A run, for a script that plays its part beside the drive.
pub(crate) struct Live {
    pub(crate) progress: watch::Receiver<Progress>,
    pub(crate) sender: JobSender,
    pub(crate) pids: BTreeMap<u64, i32>,
    /// From when on, and how long it may take until `Stopped`.
    pub(crate) bound: Cell<Option<(Instant, Duration)>>,
    pub(crate) limits: Limits,
    pub(crate) port: Port,
    pub(crate) leaving: watch::Receiver<BTreeSet<WorkerId>>,
}

impl Live {
    pub(crate) fn ask(&self, request: StopRequest) {
        self.bound.set(self.limits.worst_case(PhaseKind::Running, POLICY).map(|bound| (Instant::now(), bound)));
        self.sender.request(request).unwrap();
    }

    /// Signals the sick worker.
    pub(crate) fn strike(&self, what: Signal) {
        signal(self.pids[&SICK], what);
    }

    pub(crate) async fn until(&self, what: &str, is_so: impl FnMut(&Progress) -> bool) {
        let mut progress = self.progress.clone();
        let seen = timeout(Duration::from_secs(20), progress.wait_for(is_so)).await;
        assert!(seen.is_ok_and(|seen| seen.is_ok()), "waited in vain for {what}: {:?}", self.progress.borrow());
    }

    /// Waits until there is something to resume from.
    pub(crate) async fn under_way(&self) {
        self.until("a checkpoint", |now| now.status.last_complete.is_some()).await;
    }

    /// Waits until all but the sick worker have given their states to the final checkpoint.
    pub(crate) async fn collecting(&self) {
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
    pub(crate) fn new() -> Self {
        let stage = Stage::new();
        let store = Arc::new(ObjectStoreCheckpoints::local(stage.path("checkpoints")).unwrap());
        Self { stage, store, limits: limits(), pace: ms(5) }
    }

    /// One run with a sick worker, and a script beside it.
    pub(crate) async fn run(&self, manners: Manners, script: impl AsyncFnOnce(&mut Live)) -> Receipt {
        let scheduler = self.stage.builder().grace(ms(1000)).open().await.unwrap();
        let open = self.store.open_run(&job()).await.unwrap();
        let manifest = open.manifest();
        let topology = Arc::new(topology(WORKERS));
        let transport = Arc::new(GrpcTransport::new(&open, Arc::clone(&topology)).options(calls()));
        let mailbox = Mailbox::new(64);
        let server = ControllerServer::new(ControllerOptions { drain: ms(100), ..ControllerOptions::default() });
        let registration = server.register(Arc::clone(&transport), mailbox.sender()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = Port::open(listener.local_addr().unwrap()).await;
        let (shutdown, told) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { server.serve(listener, async { drop(told.await) }).await });

        let mut pids = BTreeMap::new();
        for number in 1..=WORKERS {
            let manners = if number == SICK { manners } else { Manners::Healthy };
            let task = counting::task_of(number);
            let restored = manifest.iter().flat_map(|it| &it.tasks).find(|snapshot| snapshot.task == task);
            let mut command = self.stage.this_program("jobs::worker_entry");
            tell(&mut command, manners, &self.stage.path(""), WORKERS, self.pace, restored);
            let env = WorkerEnv::new(&open, WorkerId::new(number), port.address().to_string());
            let process = scheduler.start(env, command).await.unwrap();
            pids.insert(number, support::pid(&process));
        }
        let controller = ClusterController::builder(&open, topology, transport)
            .limits(self.limits.clone())
            .store(Arc::clone(&self.store) as Arc<dyn DynCheckpointStore>);
        let builder = JobContext::builder(&open).simulated().limits(self.limits.clone()).mailbox(mailbox);
        let (mut context, running) = builder.build(controller.build(), scheduler.clone()).unwrap();
        context.hear_of_ends();
        let (progress, sender) = (context.progress(), context.sender());
        let (bound, limits, leaving) = (Cell::new(None), self.limits.clone(), registration.leaving());
        let mut live = Live { progress, sender, pids, bound, limits, port, leaving };

        let policy = Policy::escalate();
        let drive = async { (drive(running, &mut context, &policy).await.unwrap(), Instant::now()) };
        let ((receipt, ended), ()) = tokio::join!(drive, script(&mut live));
        if let Some((since, bound)) = live.bound.get() {
            assert!(ended - since <= bound, "{:?}, expected at most {bound:?}: {receipt}", ended - since);
        }
        drop((registration, shutdown));
        serving.await.unwrap().unwrap();
        self.stage.end(scheduler).await;
        receipt
    }

    /// Runs on to the end of the input, and checks that nothing was lost or doubled.
    pub(crate) async fn finish(mut self) {
        self.pace = ms(1);
        let receipt = self.run(Manners::Healthy, async |_| {}).await;
        assert_eq!(receipt.stopped().name(), "completed", "{receipt}");
        assert_exact(&self.stage.path(""), WORKERS);
    }

    /// A run with a sick worker, and a script beside it; then the run that ends the job.
    pub(crate) async fn with(manners: Manners, script: impl AsyncFnOnce(&mut Live)) -> Receipt {
        let bench = Self::new();
        let receipt = bench.run(manners, script).await;
        bench.finish().await;
        receipt
    }

    /// The same with a run that is asked to stop as soon as it is under way.
    pub(crate) async fn stop_with(manners: Manners, request: StopRequest) -> Receipt {
        Self::with(manners, async |live| {
            match manners {
                // No checkpoint is ever complete.
                Manners::Mute | Manners::OtherRun => sleep(ms(500)).await,
                _ => live.under_way().await,
            }
            live.ask(request);
        })
        .await
    }

    /// A job for each request. They run at the same time, since each does little but wait.
    pub(crate) async fn stop_with_each(manners: Manners, requests: [StopRequest; 2]) -> [Receipt; 2] {
        let [one, two] = requests.map(|request| Self::stop_with(manners, request));
        tokio::join!(one, two).into()
    }
}
