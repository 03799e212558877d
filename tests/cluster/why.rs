//! `why` names the culprit: seeded faults on a real embedded cluster. The fault is known here, and
//! `why` has to find it from the live state alone.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::time::sleep;
use winddown::{
    ClusterController, EmbeddedCluster, Mailbox, ObjectStoreCheckpoints,
    checkpoint::object_store::memory::InMemory,
    contracts::{DynCheckpointStore, Manifest, OrderError, OrderErrorKind, SchedulerError, StoreError, TaskError},
    embedded::EmbeddedRun,
    journal::{JournalError, PhaseRecord},
    prelude::*,
    why::{Who, Why},
    worker::WorkerOptions,
};

const WORKERS: u64 = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Frozen,
    Dead,
    Refuses,
    AnswersNoOrder,
    Unreachable,
    NoSnapshot,
    NoCommit,
    IgnoresStop,
    StoreFails,
    StoreHangs,
    SchedulerFails,
    SchedulerHangs,
    JournalFails,
    JournalHangs,
    DoesNotLeave,
}

const FAULTS: [Fault; 15] = [
    Fault::Frozen,
    Fault::Dead,
    Fault::Refuses,
    Fault::AnswersNoOrder,
    Fault::Unreachable,
    Fault::NoSnapshot,
    Fault::NoCommit,
    Fault::IgnoresStop,
    Fault::StoreFails,
    Fault::StoreHangs,
    Fault::SchedulerFails,
    Fault::SchedulerHangs,
    Fault::JournalFails,
    Fault::JournalHangs,
    Fault::DoesNotLeave,
];

impl Fault {
    fn request(self) -> StopRequest {
        match self {
            Self::IgnoresStop => StopRequest::Immediate,
            Self::SchedulerFails | Self::SchedulerHangs => StopRequest::Force,
            _ => StopRequest::Checkpoint,
        }
    }

    fn is_found(self, who: &Who, sick: WorkerId) -> bool {
        match who {
            Who::Task { worker, .. } | Who::Worker(worker) => *worker == sick && !self.is_of_a_service(),
            Who::Store => matches!(self, Self::StoreFails | Self::StoreHangs),
            Who::Scheduler => matches!(self, Self::SchedulerFails | Self::SchedulerHangs),
            Who::Journal => matches!(self, Self::JournalFails | Self::JournalHangs),
            _ => false,
        }
    }

    fn is_of_a_service(self) -> bool {
        let of = [Self::StoreFails, Self::StoreHangs, Self::SchedulerFails, Self::SchedulerHangs];
        of.contains(&self) || matches!(self, Self::JournalFails | Self::JournalHangs)
    }
}

/// A collaborator that does what the fault says.
#[derive(Clone)]
struct Sick<T> {
    inner: T,
    fault: Fault,
    worker: WorkerId,
}

impl Transport for Sick<EmbeddedRun> {
    async fn send(&self, worker: WorkerId, order: winddown::contracts::Order) -> Result<(), OrderError> {
        let no = |kind| Err(OrderError::new(kind, "\u{1b}[2Jno"));
        match self.fault {
            Fault::Refuses if worker == self.worker => no(OrderErrorKind::Refused),
            Fault::Unreachable if worker == self.worker => no(OrderErrorKind::Unreachable),
            Fault::AnswersNoOrder if worker == self.worker => pending().await,
            _ => self.inner.send(worker, order).await,
        }
    }
}

impl CheckpointStore for Sick<ObjectStoreCheckpoints> {
    async fn open_run(&self, job: &JobId) -> Result<OpenRun, StoreError> {
        self.inner.open_run(job).await
    }

    async fn publish(&self, manifest: &Manifest) -> Result<(), StoreError> {
        match self.fault {
            Fault::StoreFails => Err(StoreError::Unavailable("no route".into())),
            Fault::StoreHangs => pending().await,
            _ => self.inner.publish(manifest).await,
        }
    }

    async fn latest(&self, job: &JobId) -> Result<Option<Manifest>, StoreError> {
        self.inner.latest(job).await
    }
}

impl Scheduler for Sick<EmbeddedCluster> {
    async fn stop_workers(&self, job: &JobId, run: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        match self.fault {
            Fault::SchedulerFails => Err(SchedulerError::Unavailable("no route".into())),
            Fault::SchedulerHangs => pending().await,
            _ => self.inner.stop_workers(job, run, force).await,
        }
    }

    async fn workers_for_job(&self, job: &JobId, run: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        match self.fault {
            Fault::DoesNotLeave => Ok(vec![self.worker]),
            _ => self.inner.workers_for_job(job, run).await,
        }
    }
}

impl Journal for Sick<()> {
    async fn load(&self, _: &JobId) -> Result<Option<PhaseRecord>, JournalError> {
        Ok(None)
    }

    async fn write(&self, _: &PhaseRecord) -> Result<(), JournalError> {
        match self.fault {
            Fault::JournalFails => Err(JournalError::Unavailable("disk full".into())),
            Fault::JournalHangs => pending().await,
            _ => Ok(()),
        }
    }
}

async fn work(mut ctx: TaskContext, fault: Fault, sick: WorkerId) -> Result<(), TaskError> {
    let fault = (ctx.worker() == sick).then_some(fault);
    let mut is_final = false;
    loop {
        match ctx.order().await {
            TaskOrder::Checkpoint(_) if fault == Some(Fault::NoSnapshot) => {}
            TaskOrder::Checkpoint(Barrier { epoch, then_stop }) => {
                is_final = then_stop;
                ctx.events().checkpointed(epoch, "state".into(), Some("data".into())).await?;
            }
            TaskOrder::Commit { .. } if fault == Some(Fault::NoCommit) => {}
            TaskOrder::Commit { epoch, .. } => {
                ctx.events().committed(epoch).await?;
                if is_final {
                    return Ok(());
                }
            }
            TaskOrder::Stop(_) if fault == Some(Fault::IgnoresStop) => pending().await,
            TaskOrder::Stop(_) => return Ok(()),
        }
    }
}

/// Stops a job that has this fault, and asks why it does not stop.
async fn ask(fault: Fault, worker: WorkerId, after: Duration) -> Why {
    let (cluster, limits) = (EmbeddedCluster::new(WorkerOptions::default()), limits());
    let store = ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), "why");
    let open = store.open_run(&JobId::from("why")).await.unwrap();
    let topology =
        Topology::builder().operator("count", Role::Source, (1..=WORKERS).map(WorkerId::new)).build().unwrap();
    let mailbox = Mailbox::new(64);
    let run = cluster.start(&open, &topology, mailbox.sender(), move |ctx| work(ctx, fault, worker)).unwrap();
    let transport = Arc::new(Sick { inner: run.clone(), fault, worker });
    let store: Arc<dyn DynCheckpointStore> = Arc::new(Sick { inner: store, fault, worker });
    let controller = ClusterController::builder(&open, topology, transport).limits(limits.clone()).store(store);
    let builder = JobContext::builder(&open).simulated().limits(limits).mailbox(mailbox);
    let scheduler = Sick { inner: cluster, fault, worker };
    let journal = Sick { inner: (), fault, worker };
    let (mut job, running) = builder.journal(journal).build(controller.build(), scheduler).unwrap();
    let (progress, sender) = (job.progress(), job.sender());
    let policy = Policy::keep_trying();
    let stop = tokio::spawn(async move { drive(running, &mut job, &policy).await });

    sleep(Duration::from_secs(2)).await;
    match fault {
        Fault::Frozen => assert!(run.freeze_worker(worker)),
        Fault::Dead => assert!(run.kill_worker(worker)),
        _ => {}
    }
    sender.request(fault.request()).unwrap();
    sleep(after).await;
    assert!(!stop.is_finished(), "{fault:?} ended the stop before it was asked about");
    let why = progress.borrow().why();
    stop.abort();
    why
}

fn limits() -> Limits {
    Limits { checkpoint_every: None, release: Duration::from_secs(30), ..Limits::default() }
}

/// 180 faults: each of 15, at each of 4 workers, asked about soon, later, and late.
#[tokio::test(start_paused = true)]
async fn why_names_the_culprit_first() {
    let (mut asked, mut missed) = (0, Vec::new());
    for fault in FAULTS {
        for worker in (1..=WORKERS).map(WorkerId::new) {
            for after in [3, 11, 24] {
                let why = ask(fault, worker, Duration::from_secs(after)).await;
                asked += 1;
                let is_found = why.culprits.first().is_some_and(|first| fault.is_found(&first.who, worker));
                if !is_found {
                    missed.push(format!("{fault:?} at worker {worker} after {after} s:\n{why}"));
                }
                assert!(!why.to_string().contains('\u{1b}'), "a worker's text is escaped");
                if worker.get() == 2 && after == 11 {
                    println!("{fault:?}: {why}\n");
                }
            }
        }
    }
    assert_eq!(asked, 180);
    println!("{} of {asked} missed", missed.len());
    assert!(missed.is_empty(), "{} of {asked}:\n{}", missed.len(), missed.join("\n"));
}

/// A job that nobody has asked to stop has no culprit, and a stop that goes well has none once it
/// is over.
#[tokio::test(start_paused = true)]
async fn nobody_holds_up_a_job_that_runs() {
    let cluster = EmbeddedCluster::default();
    let open = OpenRun::without_store("runs", RunId::new(1));
    let topology = Topology::builder().operator("count", Role::Source, [WorkerId::new(1)]).build().unwrap();
    let mailbox = Mailbox::new(64);
    let run = cluster
        .start(&open, &topology, mailbox.sender(), |ctx| work(ctx, Fault::StoreFails, WorkerId::new(9)))
        .unwrap();
    let controller = ClusterController::builder(&open, topology, Arc::new(run)).build();
    let (mut job, running) =
        JobContext::builder(&open).simulated().mailbox(mailbox).build(controller, cluster).unwrap();
    assert!(Why::of(&job).culprits.is_empty());
    job.sender().request(StopRequest::Graceful).unwrap();
    drop(drive(running, &mut job, &Policy::escalate()).await.unwrap());
    let why = Why::of(&job);
    assert!(why.culprits.is_empty() && why.escalations.is_empty(), "{why}");
}

/// The report of a drive that gives up names the culprit too.
#[tokio::test(start_paused = true)]
async fn the_error_of_a_drive_says_why() {
    let scheduler = winddown::testing::scripted::ScriptedScheduler::new([7]);
    scheduler.always(winddown::testing::scripted::SchedulerAnswer::Unavailable);
    let open = OpenRun::without_store("stuck", RunId::new(1));
    let (mut job, running) = JobContext::builder(&open).simulated().build(Detached, scheduler).unwrap();
    let error = drive(running, &mut job, &Policy::escalate()).await.unwrap_err();
    assert_eq!(error.why().culprits[0].who, Who::Scheduler);
    assert_eq!(error.why().culprits[0].failed, 21, "the first try, and 20 retries");
    assert!(error.why().to_string().contains("the scheduler has failed"), "{}", error.why());
    assert_eq!(error.to_string().matches("unavailable").count(), 1, "a cause is told once: {error}");
}
