//! A whole job on pods: real workers, real gRPC, a real API server. However it is stopped, the next
//! run goes on without losing or doubling anything.

use std::{cell::Cell, collections::BTreeSet, net::SocketAddr, path::Path, sync::Arc};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    time::timeout,
};
use winddown::{
    AnyStopped, ClusterController, JobContext, JobSender, KubernetesScheduler, Limits, Mailbox, ObjectStoreCheckpoints,
    Policy, Progress, Receipt, RunId, Scheduler, StopRequest, WorkerId,
    contracts::{CheckpointStore, ConfirmedBy, DynCheckpointStore, Event, TaskSnapshot, WorkerEvent},
    drive,
    grpc::{ControllerOptions, ControllerServer, GrpcTransport},
    kubernetes::PodChange,
    process::WorkerEnv,
};

use crate::{
    cluster::{Cluster, SOON, job, ms, template},
    counting::{self, Manners, assert_exact, calls, tell, topology},
    kubelet::{Kubelet, Node},
};

const WORKERS: u64 = 3;

fn limits() -> Limits {
    Limits {
        finish: ms(20_000),
        release: ms(20_000),
        kill: ms(30_000),
        verify_every: ms(100),
        order: ms(2000),
        heartbeat: ms(15_000),
        checkpoint_every: Some(ms(250)),
        backoff_min: ms(50),
        ..Limits::default()
    }
}

/// A job's store and what it has published.
struct Bench {
    folder: TempDir,
    store: Arc<ObjectStoreCheckpoints>,
    /// Where the controllers of all runs are found, one after the other.
    address: Cell<Option<SocketAddr>>,
    manners: Cell<Manners>,
}

/// A run, for a script that plays its part beside the drive.
struct Live {
    progress: watch::Receiver<Progress>,
    sender: JobSender,
    leaving: watch::Receiver<BTreeSet<WorkerId>>,
}

impl Live {
    async fn under_way(&self) {
        let mut progress = self.progress.clone();
        let checkpoint = progress.wait_for(|now| now.status.last_complete.is_some());
        timeout(SOON, checkpoint).await.expect("no checkpoint").unwrap();
    }
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(ObjectStoreCheckpoints::local(folder.path().join("checkpoints")).unwrap());
        Self { folder, store, address: Cell::new(None), manners: Cell::default() }
    }

    async fn run(&self, scheduler: &KubernetesScheduler, pace: u64, script: impl AsyncFnOnce(&Live)) -> Receipt {
        let open = self.store.open_run(&job()).await.unwrap();
        let (run, manifest) = (open.run(), open.manifest());
        let topology = Arc::new(topology(WORKERS));
        let transport = Arc::new(GrpcTransport::new(&open, Arc::clone(&topology)).options(calls()));
        let mailbox = Mailbox::new(64);
        let server = ControllerServer::new(ControllerOptions { drain: ms(100), ..ControllerOptions::default() });
        let registration = server.register(Arc::clone(&transport), mailbox.sender()).unwrap();
        let address = self.address.get().unwrap_or_else(|| "127.0.0.1:0".parse().unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        self.address.set(Some(address));
        let (shutdown, told) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move { server.serve(listener, async { drop(told.await) }).await });

        for number in 1..=WORKERS {
            let restored = manifest.iter().flat_map(|it| &it.tasks).find(|it| it.task == counting::task_of(number));
            let env = WorkerEnv::new(&open, WorkerId::new(number), address.to_string());
            scheduler.start(env, self.worker(pace, restored)).await.unwrap();
        }
        let following = tokio::spawn(tell_ends(scheduler.follow(job(), run), run, mailbox.sender()));
        let controller = ClusterController::builder(&open, topology, transport)
            .limits(limits())
            .store(Arc::clone(&self.store) as Arc<dyn DynCheckpointStore>);
        let builder = JobContext::builder(&open).simulated().limits(limits()).mailbox(mailbox);
        let (mut context, running) = builder.build(controller.build(), scheduler.clone()).unwrap();
        let live = Live { progress: context.progress(), sender: context.sender(), leaving: registration.leaving() };
        let policy = Policy::escalate();
        let (receipt, ()) = tokio::join!(drive(running, &mut context, &policy), script(&live));
        following.abort();
        drop((registration, shutdown));
        serving.await.unwrap().unwrap();
        receipt.unwrap()
    }

    /// The template of a worker: this program, at `worker_entry`.
    fn worker(&self, pace: u64, restored: Option<&TaskSnapshot>) -> k8s_openapi::api::core::v1::PodTemplateSpec {
        let mut command = std::process::Command::new("unused");
        tell(&mut command, self.manners.get(), self.folder.path(), WORKERS, ms(pace), restored);
        let text = |text: &std::ffi::OsStr| text.to_str().unwrap().to_owned();
        let env: Vec<_> = command.get_envs().map(|(name, value)| (text(name), text(value.unwrap()))).collect();
        let program = std::env::current_exe().unwrap();
        let mut template = template(&[program.to_str().unwrap(), "--exact", "worker_entry", "--nocapture"], &env);
        template.spec.as_mut().unwrap().termination_grace_period_seconds = Some(60);
        template
    }

    /// Runs on to the end of the input, and checks that nothing was lost or doubled.
    async fn finish(self, scheduler: &KubernetesScheduler) {
        let receipt = self.run(scheduler, 1, async |_| {}).await;
        assert_eq!(receipt.stopped().name(), "completed", "{receipt}");
        assert_exact(self.folder.path(), WORKERS);
    }
}

/// A pod that has ended is no worker any more: the controller knows at once, and not when
/// heartbeats fail to come.
async fn tell_ends(mut follower: winddown::kubernetes::Follower, run: RunId, sender: JobSender) {
    loop {
        let (worker, change) = follower.next().await.unwrap();
        if matches!(change, PodChange::Ended { .. } | PodChange::Removed) {
            let _ = sender.event(WorkerEvent::new(run, worker, Event::WorkerFinished)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_on_pods_stops_in_every_mode_and_goes_on_exactly() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    for (request, evidence) in StopRequest::ALL.into_iter().zip(["checkpointed", "drained", "halted", "killed"]) {
        let bench = Bench::new();
        let receipt = bench
            .run(&scheduler, 25, async |live| {
                live.under_way().await;
                live.sender.request(request).unwrap();
            })
            .await;
        assert_eq!(receipt.stopped().name(), evidence, "{receipt}");
        assert_eq!(receipt.stopped().confirmed_by(), ConfirmedBy::Host, "{receipt}");
        assert_eq!(scheduler.workers_for_job(&job(), None).await.unwrap(), []);
        bench.finish(&scheduler).await;
    }
    cluster.end().await;
}

/// The node is drained, say. The worker turns its SIGTERM into a notice, the controller takes a
/// final checkpoint within the pod's grace period, and nothing is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_evicted_worker_gives_notice_and_the_job_ends_with_a_final_checkpoint() {
    let Some(cluster) = Cluster::get().await else { return };
    let _node = Kubelet::start(&cluster, "n1");
    let scheduler = cluster.scheduler();
    let bench = Bench::new();
    bench.manners.set(Manners::GivesNotice);
    let receipt = bench
        .run(&scheduler, 25, async |live| {
            live.under_way().await;
            let pods = cluster.pods().list(&kube::api::ListParams::default()).await.unwrap().items;
            let pod = pods[1].metadata.name.as_deref().unwrap();
            cluster.pods().evict(pod, &kube::api::EvictParams::default()).await.unwrap();
            let mut leaving = live.leaving.clone();
            timeout(SOON, leaving.wait_for(|leaving| !leaving.is_empty())).await.expect("no notice").unwrap();
            live.sender.request(StopRequest::Checkpoint).unwrap();
        })
        .await;
    let AnyStopped::Checkpointed(stopped) = &receipt.stopped() else { panic!("{receipt}") };
    assert!(!stopped.killed_workers(), "{receipt}");
    bench.manners.set(Manners::Healthy);
    bench.finish(&scheduler).await;
    cluster.end().await;
}

/// The node of the first run is cut off, its pods are removed with force, and the job goes on
/// elsewhere. Then the old workers wake up, and find a controller at the old address: it is the
/// next run's, and what they say and hold changes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_a_zombie_worker_that_wakes_up_can_commit_nothing() {
    let Some(cluster) = Cluster::get().await else { return };
    let lost = Kubelet::start(&cluster, "lost");
    let scheduler = cluster.scheduler();
    let bench = Bench::new();
    let freeze = |signal| {
        let groups = lost.running();
        for group in groups.values() {
            killpg(Pid::from_raw(*group), signal).unwrap();
        }
        groups.len()
    };
    let receipt = bench
        .run(&scheduler, 25, async |live| {
            live.under_way().await;
            lost.set(Node::CutOff);
            assert_eq!(freeze(Signal::SIGSTOP), 3);
            live.sender.request(StopRequest::Force).unwrap();
        })
        .await;
    let AnyStopped::Killed(stopped) = &receipt.stopped() else { panic!("{receipt}") };
    assert_eq!(stopped.evidence().confirmed_by(), ConfirmedBy::Records, "{receipt}");

    let _node = Kubelet::start(&cluster, "n2");
    let published = || walk(&bench.folder.path().join("published"));
    let receipt = bench
        .run(&scheduler, 25, async |live| {
            let before = published();
            assert_eq!(freeze(Signal::SIGCONT), 3, "they are alive, whatever the records say");
            cluster.until("the new run commits", async || published() > before).await;
            // Refused as long as they try, they leave as orphans.
            cluster.until("the zombies leave", async || lost.running().is_empty()).await;
            live.sender.request(StopRequest::Checkpoint).unwrap();
        })
        .await;
    assert_eq!(receipt.stopped().name(), "checkpointed", "{receipt}");
    bench.finish(&scheduler).await;
    cluster.end().await;
}

fn walk(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 1 };
    entries.map(|entry| walk(&entry.unwrap().path())).sum()
}
