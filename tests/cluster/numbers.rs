//! Workers that count and publish what they have counted, and outlive their controller: the
//! embedded cluster, the real store, and a journal.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;
use winddown::{
    AnyPhase, AnyStopped, Barrier, ClusterController, EmbeddedCluster, Epoch, JobContext, JobId, JobSender, Limits,
    Mailbox, ObjectStoreCheckpoints, OpenRun, Receipt, Role, Scheduler, TaskContext, TaskOrder, Topology, WorkerId,
    checkpoint::object_store::memory::InMemory,
    contracts::{CheckpointStore, DynCheckpointStore, TaskError, WorkerEvent},
    embedded::EmbeddedRun,
    rehydrate,
    testing::scripted::ScriptedJournal,
    worker::{EventSink, SinkClosed},
};

use crate::crash_points::{Place, Watch, Watched};

pub(crate) const WORKERS: u64 = 3;

pub(crate) fn job_id() -> JobId {
    "numbers".into()
}

/// The workers' way to whoever is their controller now. While there is none they wait, as workers
/// behind a network do.
#[derive(Clone)]
struct Line(watch::Sender<Option<JobSender>>);

impl EventSink for Line {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        let mut line = self.0.subscribe();
        loop {
            let sender = line.borrow_and_update().clone();
            if let Some(sender) = sender
                && sender.event(event.clone()).await.is_ok()
            {
                return Ok(());
            }
            line.changed().await.map_err(|_| SinkClosed)?;
        }
    }
}

/// What was published: (worker, from, to), each once.
type World = Arc<Mutex<Vec<(WorkerId, u64, u64)>>>;

fn publish(world: &World, worker: WorkerId, data: &[u8]) {
    let number = |at: usize| u64::from_be_bytes(data[at..at + 8].try_into().unwrap());
    let (from, to) = (number(0), number(8));
    let mut world = world.lock().unwrap();
    let end = world.iter().filter(|(id, ..)| *id == worker).map(|(.., to)| *to).max().unwrap_or(0);
    if !world.contains(&(worker, from, to)) && from != to {
        assert_eq!(from, end, "{worker} publishes {from}..{to} after {end}");
        world.push((worker, from, to));
    }
}

/// How the counting ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Never,
    /// There is no more to count.
    Exhausted,
    /// A task fails.
    Fails,
}

/// What it does so after: so many numbers, one each three milliseconds.
const ENDS_AT: u64 = 7;

/// Counts; its snapshot takes a moment, and so does its commit. With `commits` unset it publishes
/// nothing, and needs no commit.
async fn count(mut ctx: TaskContext, world: World, commits: bool, ending: Ending) -> Result<(), TaskError> {
    let pause = |ms| tokio::time::sleep(Duration::from_millis(ms));
    let (worker, mut counted, mut published, mut last) = (ctx.worker(), 0_u64, 0_u64, None);
    let mut pace = tokio::time::interval(Duration::from_millis(3));
    loop {
        tokio::select! {
            biased;
            order = ctx.order() => match order {
                TaskOrder::Checkpoint(Barrier { epoch, then_stop, .. }) => {
                    pause(2 * worker.get()).await;
                    let data: Bytes = [published.to_be_bytes(), counted.to_be_bytes()].concat().into();
                    ctx.events().checkpointed(epoch, data.clone(), commits.then_some(data)).await?;
                    if then_stop && !commits {
                        return Ok(());
                    }
                    last = then_stop.then_some(epoch);
                }
                TaskOrder::Commit { epoch, data } => {
                    pause(2 * worker.get()).await;
                    publish(&world, worker, &data);
                    published = u64::from_be_bytes(data[8..16].try_into().unwrap());
                    ctx.events().committed(epoch).await?;
                    if last == Some(epoch) {
                        return Ok(());
                    }
                }
                TaskOrder::Stop(_) => return Ok(()),
            },
            _ = pace.tick(), if last.is_none() && !(ending == Ending::Exhausted && counted == ENDS_AT) => {
                counted += 1;
                match ending {
                    Ending::Exhausted if counted == ENDS_AT => ctx.events().source_exhausted().await?,
                    Ending::Fails if counted == ENDS_AT && worker.get() == 1 => return Err(TaskError::fatal("as told")),
                    _ => {}
                }
            }
        }
    }
}

/// The job's context, with everything that its controller talks to under watch.
pub(crate) type Job = JobContext<ClusterController<Watched<EmbeddedRun>>, Watched<EmbeddedCluster>>;

pub(crate) struct Scene {
    pub(crate) cluster: EmbeddedCluster,
    open: OpenRun,
    hosted: EmbeddedRun,
    topology: Topology,
    store: Arc<ObjectStoreCheckpoints>,
    pub(crate) journal: ScriptedJournal,
    line: Line,
    world: World,
    limits: Limits,
    commits: bool,
    pub(crate) watch: Watch,
}

impl Scene {
    pub(crate) async fn new(commits: bool, ending: Ending, limits: Limits) -> Self {
        let store = Arc::new(ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), ""));
        let open = store.open_run(&job_id()).await.unwrap();
        let placement = (1..=WORKERS).map(WorkerId::new);
        let topology = Topology::builder().operator("count", Role::Source, placement).build().unwrap();
        let (cluster, line) = (EmbeddedCluster::default(), Line(watch::Sender::new(None)));
        let world = World::default();
        let tasks = Arc::clone(&world);
        let hosted = cluster
            .start(&open, &topology, line.clone(), move |ctx| count(ctx, Arc::clone(&tasks), commits, ending))
            .unwrap();
        let (journal, watch) = (ScriptedJournal::default(), Watch::default());
        Self { cluster, open, hosted, topology, store, journal, line, world, limits, commits, watch }
    }

    fn watched<T>(&self, collaborator: T) -> Watched<T> {
        Watched(collaborator, self.watch.clone())
    }

    fn controller(&self, open: &OpenRun) -> ClusterController<Watched<EmbeddedRun>> {
        ClusterController::builder(open, self.topology.clone(), Arc::new(self.watched(self.hosted.clone())))
            .limits(self.limits.clone())
            .store(Arc::new(self.watched(Arc::clone(&self.store))))
            .build()
    }

    /// A new controller takes the job up, from the journal or from the start. It dies at `fatal`.
    pub(crate) async fn take_up(&self, fatal: Option<Place>) -> (Job, AnyPhase) {
        let mailbox = Mailbox::new(64);
        self.line.0.send_replace(Some(mailbox.sender()));
        self.watch.rest();
        let (limits, scheduler) = (self.limits.clone(), self.watched(self.cluster.clone()));
        let journal = self.watched(self.journal.clone());
        let store: Arc<dyn DynCheckpointStore> = Arc::clone(&self.store) as _;
        let checkpoints = Some((store, &self.topology));
        let found =
            rehydrate(&job_id(), journal.clone(), scheduler.clone(), checkpoints, limits.clone()).await.unwrap();
        let (job, phase) = match found {
            None => {
                let builder = JobContext::builder(&self.open).simulated().limits(limits).mailbox(mailbox);
                let builder = builder.journal(journal);
                let (job, running) = builder.build(self.controller(&self.open), scheduler).unwrap();
                (job, running.into())
            }
            Some(rehydrated) => {
                let controller = self.controller(rehydrated.open());
                rehydrated.simulated().mailbox(mailbox).build(controller).await.unwrap()
            }
        };
        self.watch.begin(&job, fatal);
        (job, phase)
    }

    /// The controller is gone, and nobody takes events in.
    pub(crate) fn hang_up(&self) {
        self.line.0.send_replace(None);
    }

    /// What must be true at the end, whatever went wrong on the way.
    pub(crate) async fn check(&self, receipt: &Receipt) {
        assert_eq!(self.cluster.workers_for_job(&job_id(), None).await.unwrap(), [], "I2");
        assert!(self.final_epochs().len() <= 1, "more than one final epoch: {:?}", self.final_epochs());
        if let AnyStopped::Checkpointed(stopped) = &receipt.stopped() {
            let manifest = self.store.latest(&job_id()).await.unwrap().unwrap();
            assert_eq!((manifest.epoch, manifest.then_stop), (stopped.evidence().epoch(), true), "I3");
            for task in manifest.tasks.iter().filter(|_| self.commits) {
                let worker = self.topology.worker_of(task.task).unwrap();
                let to = u64::from_be_bytes(task.snapshot[8..16].try_into().unwrap());
                let end = self.world.lock().unwrap().iter().filter(|(id, ..)| *id == worker).map(|(.., to)| *to).max();
                assert_eq!(end.unwrap_or(0), to, "every commit of the final checkpoint is carried out (I3)");
            }
        }
        // The record of the end is taken up as the same end.
        let (job, phase) = self.take_up(None).await;
        assert_eq!((phase.kind(), job.phase()), (receipt.stopped().kind(), receipt.stopped().kind()));
    }

    fn final_epochs(&self) -> Vec<Epoch> {
        let mut epochs: Vec<_> =
            self.journal.records().iter().filter_map(winddown::journal::PhaseRecord::final_epoch).collect();
        epochs.dedup();
        epochs
    }
}
