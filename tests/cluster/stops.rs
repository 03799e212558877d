//! Real workers in this process, the real controller, the real store, and `drive`: whatever stops a
//! run, and whatever befalls its workers meanwhile, the runs after it end with every number
//! published once.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep};
use winddown::{
    AnyStopped, Barrier, ClusterController, EmbeddedCluster, JobContext, JobId, Limits, Mailbox,
    ObjectStoreCheckpoints, PhaseKind, Policy, Receipt, Role, Scheduler, StopRequest, TaskContext, TaskOrder, Topology,
    WorkerId,
    checkpoint::object_store::memory::InMemory,
    contracts::{CheckpointStore, DynCheckpointStore, TaskError},
    drive,
    drive::OnSpentCheckpoint,
    worker::WorkerOptions,
};

const WORKERS: u64 = 4;
const TOTAL: u64 = 400;
const PACE: Duration = Duration::from_millis(10);
const JOB: &str = "numbers";

/// What the world sees: per worker, the stretches of numbers published. Publishing one again is
/// nothing; a gap or an overlap is a fault.
#[derive(Clone, Default)]
struct World(Arc<Mutex<Published>>);

type Published = BTreeMap<WorkerId, Vec<(u64, u64)>>;

impl World {
    fn publish(&self, worker: WorkerId, (from, to): (u64, u64)) {
        let mut world = self.0.lock().unwrap();
        let stretches = world.entry(worker).or_default();
        if from == to || stretches.contains(&(from, to)) {
            return;
        }
        let end = stretches.last().map_or(0, |(_, end)| *end);
        assert_eq!(from, end, "{worker} publishes {from}..{to} after {stretches:?}: something is lost or doubled");
        stretches.push((from, to));
    }

    fn published(&self) -> u64 {
        self.0.lock().unwrap().values().filter_map(|stretches| stretches.last()).map(|(_, end)| end).sum()
    }
}

fn encode(from: u64, to: u64) -> Bytes {
    [from.to_be_bytes(), to.to_be_bytes()].concat().into()
}

fn decode(bytes: &[u8]) -> (u64, u64) {
    let number = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().unwrap());
    (number(0), number(8))
}

/// Source and sink in one: it counts to `TOTAL`, and publishes what it has counted at each commit.
async fn count(mut ctx: TaskContext, world: World, fail_at: Option<u64>) -> Result<(), TaskError> {
    let worker = ctx.worker();
    let (mut counted, mut published, mut last) = (0, 0, None);
    if let Some(restored) = ctx.restored() {
        let stretch = decode(&restored.snapshot);
        counted = stretch.1;
        published = counted;
        world.publish(worker, stretch);
    }
    if counted == TOTAL {
        ctx.events().source_exhausted().await?;
    }
    let mut pace = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            biased;
            order = ctx.order() => match order {
                TaskOrder::Checkpoint(Barrier { epoch, then_stop, .. }) => {
                    // Everything that is not yet published, earlier checkpoints that were given up
                    // included.
                    let stretch = encode(published, counted);
                    ctx.events().checkpointed(epoch, stretch.clone(), Some(stretch)).await?;
                    last = then_stop.then_some(epoch);
                }
                TaskOrder::Commit { epoch, data } => {
                    let stretch = decode(&data);
                    world.publish(worker, stretch);
                    published = published.max(stretch.1);
                    ctx.events().committed(epoch).await?;
                    if last == Some(epoch) {
                        return Ok(());
                    }
                }
                TaskOrder::Stop(_) => return Ok(()),
            },
            _ = pace.tick(), if counted < TOTAL && last.is_none() => {
                counted += 1;
                if Some(counted) == fail_at && worker == WorkerId::new(1) {
                    return Err(TaskError::retryable("out of disk"));
                }
                if counted == TOTAL {
                    ctx.events().source_exhausted().await?;
                }
            }
        }
    }
}

fn limits() -> Limits {
    Limits {
        checkpoint_every: Some(Duration::from_millis(500)),
        final_checkpoint: Duration::from_secs(20),
        heartbeat: Duration::from_secs(8),
        ..Limits::default()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    Kill,
    Freeze,
    FreezeAndThaw,
    TaskFails,
}

const FAULTS: [Fault; 5] = [Fault::None, Fault::Kill, Fault::Freeze, Fault::FreezeAndThaw, Fault::TaskFails];

struct Bench {
    cluster: EmbeddedCluster,
    store: Arc<ObjectStoreCheckpoints>,
    world: World,
}

impl Bench {
    fn new() -> Self {
        Self {
            cluster: EmbeddedCluster::new(WorkerOptions::default()),
            store: Arc::new(ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), "numbers")),
            world: World::default(),
        }
    }

    /// One run. The fault strikes worker 1 at `fault_at`, the request comes at `stop_at`.
    async fn run(&self, stop: Option<(StopRequest, Duration)>, (fault, fault_at): (Fault, Duration)) -> Receipt {
        let job_id = JobId::from(JOB);
        let open = self.store.open_run(&job_id).await.unwrap();
        let topology =
            Topology::builder().operator("count", Role::Source, (1..=WORKERS).map(WorkerId::new)).build().unwrap();
        let mailbox = Mailbox::new(64);
        let (world, fail_at) =
            (self.world.clone(), (fault == Fault::TaskFails).then_some(fault_at.as_millis() / PACE.as_millis()));
        let fail_at = fail_at.and_then(|at| u64::try_from(at).ok());
        let hosted = self
            .cluster
            .start(&open, &topology, mailbox.sender(), move |ctx| count(ctx, world.clone(), fail_at))
            .unwrap();
        let controller = ClusterController::builder(&open, topology, Arc::new(hosted.clone()))
            .limits(limits())
            .store(Arc::clone(&self.store) as Arc<dyn DynCheckpointStore>);
        let (mut job, running) = JobContext::builder(&open)
            .simulated()
            .limits(limits())
            .mailbox(mailbox)
            .build(controller.build(), self.cluster.clone())
            .unwrap();

        let sick = WorkerId::new(1);
        tokio::spawn(async move {
            sleep(fault_at).await;
            match fault {
                Fault::None | Fault::TaskFails => {}
                Fault::Kill => assert!(hosted.kill_worker(sick)),
                Fault::Freeze => assert!(hosted.freeze_worker(sick)),
                Fault::FreezeAndThaw => {
                    assert!(hosted.freeze_worker(sick));
                    sleep(Duration::from_secs(3)).await;
                    hosted.thaw_worker(sick);
                }
            }
        });
        let asked = Arc::new(Mutex::new(None));
        if let Some((request, at)) = stop {
            let (sender, asked) = (job.sender(), Arc::clone(&asked));
            tokio::spawn(async move {
                sleep(at).await;
                *asked.lock().unwrap() = Some(Instant::now());
                let _ = sender.request(request);
            });
        }
        let receipt = drive(running, &mut job, &Policy::escalate()).await.unwrap();
        if let Some(asked) = *asked.lock().unwrap() {
            let bound = limits().worst_case(PhaseKind::Running, OnSpentCheckpoint::Escalate).unwrap();
            assert!(asked.elapsed() <= bound, "{:?} after the request", asked.elapsed());
        }
        let alive = self.cluster.workers_for_job(&JobId::from(JOB), None).await.unwrap();
        assert_eq!(alive, [], "nothing is left alive (I2)");
        receipt
    }

    /// Runs until all input is consumed, and checks that every number is published.
    async fn finish(&self) {
        let receipt = self.run(None, (Fault::None, Duration::ZERO)).await;
        assert_eq!(receipt.stopped().name(), "completed", "{receipt}");
        assert_eq!(self.world.published(), WORKERS * TOTAL);
    }
}

/// The fault strikes before, with and after the request.
#[tokio::test(start_paused = true)]
async fn every_stop_with_every_fault_loses_and_doubles_nothing() {
    for request in StopRequest::ALL {
        for fault in FAULTS {
            for offset in [-700_i64, -10, 0, 1, 2, 15, 700] {
                let bench = Bench::new();
                let stop_at = Duration::from_millis(1_310);
                let fault_at = Duration::from_millis(u64::try_from(1_310 + offset).unwrap());
                let receipt = bench.run(Some((request, stop_at)), (fault, fault_at)).await;
                if fault == Fault::None {
                    let expected = match request {
                        StopRequest::Checkpoint => "checkpointed",
                        StopRequest::Graceful => "drained",
                        StopRequest::Immediate => "halted",
                        StopRequest::Force => "killed",
                    };
                    assert_eq!(receipt.stopped().name(), expected, "{request}: {receipt}");
                }
                bench.finish().await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i3_a_checkpoint_stop_leaves_nothing_to_replay() {
    let bench = Bench::new();
    let receipt =
        bench.run(Some((StopRequest::Checkpoint, Duration::from_secs(2))), (Fault::None, Duration::ZERO)).await;
    let AnyStopped::Checkpointed(stopped) = receipt.stopped() else { panic!() };
    let manifest = bench.store.latest(&JobId::from(JOB)).await.unwrap().unwrap();
    assert_eq!((manifest.epoch, manifest.then_stop), (stopped.evidence().epoch(), true));
    assert_eq!(manifest.tasks.len(), 4);
    let counted: u64 = manifest.tasks.iter().map(|task| decode(&task.snapshot).1).sum();
    assert_eq!(counted, bench.world.published(), "what was counted is published");
    bench.finish().await;
}

/// A worker that dies in the middle of the final checkpoint ends the wait when it is known to be
/// lost, not at the end of the budget.
#[tokio::test(start_paused = true)]
async fn a_worker_lost_during_the_final_checkpoint_does_not_hang_the_stop() {
    let bench = Bench::new();
    let start = Instant::now();
    let freeze = (Fault::Freeze, Duration::from_millis(1_999));
    let receipt = bench.run(Some((StopRequest::Checkpoint, Duration::from_secs(2))), freeze).await;
    let walked: Vec<_> = receipt.legs().iter().map(|leg| leg.phase.name()).collect();
    assert_eq!(walked, ["Running", "CheckpointStopping", "Stopping<Force>", "Stopped<Killed>"], "{receipt}");
    let silence = limits().heartbeat + limits().health_every;
    assert!(start.elapsed() <= Duration::from_secs(2) + silence + Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(receipt.last_error().unwrap().contains("worker 1 is lost"));
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_run_is_cleaned_up_and_the_next_one_goes_on() {
    for (fault, walked) in [
        (Fault::TaskFails, ["Running", "Recovering", "Stopping<Immediate>", "Stopped<Halted>"]),
        (Fault::Kill, ["Running", "Recovering", "Stopping<Force>", "Stopped<Killed>"]),
        (Fault::Freeze, ["Running", "Recovering", "Stopping<Force>", "Stopped<Killed>"]),
    ] {
        let bench = Bench::new();
        let receipt = bench.run(None, (fault, Duration::from_millis(1_500))).await;
        assert_eq!(
            receipt.legs().iter().map(|leg| leg.phase.name()).collect::<Vec<_>>(),
            walked,
            "{fault:?}: {receipt}"
        );
        assert!(receipt.may_restart());
        bench.finish().await;
    }
}

/// Many stops of all modes in a row, each after a few numbers: all come to the same end.
#[tokio::test(start_paused = true)]
async fn twenty_stops_in_a_row_publish_every_number_once() {
    let bench = Bench::new();
    for round in 0..20_u64 {
        let request = StopRequest::ALL[usize::try_from(round % 4).unwrap()];
        let at = Duration::from_millis(300 + 37 * round);
        let fault = FAULTS[usize::try_from(round / 4).unwrap()];
        let _receipt = bench.run(Some((request, at)), (fault, at / 2)).await;
    }
    bench.finish().await;
}
