//! The controller dies at any moment of a shutdown, and the next one goes on: with real workers that outlive it, the real store, and a
//! journal. Whatever the moment, every number is published once, there is at most one final epoch, and the evidence is the same or less.
#![cfg(all(feature = "embedded", feature = "object-store"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use support::journal::Notebook;
use tokio::sync::watch;
use winddown::{checkpoint::object_store::memory::InMemory, *};

const WORKERS: u64 = 3;

fn job_id() -> JobId {
    "numbers".into()
}

/// The workers' way to whoever is their controller now. While there is none they wait, as workers behind a network do.
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

/// Counts; its snapshot takes a moment, and so does its commit. With `commits` unset it publishes nothing, and needs no commit.
async fn count(mut ctx: TaskContext, world: World, commits: bool) -> Result<(), TaskError> {
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
            _ = pace.tick(), if last.is_none() => counted += 1,
        }
    }
}

struct Scene {
    cluster: EmbeddedCluster,
    hosted: EmbeddedRun,
    topology: Topology,
    store: Arc<ObjectStoreCheckpoints>,
    notebook: Notebook,
    line: Line,
    world: World,
}

impl Scene {
    async fn new(commits: bool) -> Self {
        let store = Arc::new(ObjectStoreCheckpoints::new(Arc::new(InMemory::new()), ""));
        let run = store.open_run(&job_id()).await.unwrap().run;
        let placement = (1..=WORKERS).map(WorkerId::new);
        let topology = Topology::builder().operator("count", Role::Source, placement).build().unwrap();
        let (cluster, line) = (EmbeddedCluster::default(), Line(watch::Sender::new(None)));
        let world = World::default();
        let tasks = Arc::clone(&world);
        let hosted = cluster
            .start(job_id(), run, &topology, None, line.clone(), move |ctx| count(ctx, Arc::clone(&tasks), commits))
            .unwrap();
        Self { cluster, hosted, topology, store, notebook: Notebook::default(), line, world }
    }

    fn controller(&self, final_epoch: Option<Epoch>, last_complete: Option<Epoch>) -> ClusterController<EmbeddedRun> {
        let run = self.hosted.run();
        let builder = ClusterController::builder(job_id(), run, self.topology.clone(), Arc::new(self.hosted.clone()))
            .store(Arc::clone(&self.store) as Arc<dyn DynCheckpointStore>)
            .last_complete(last_complete);
        match final_epoch {
            Some(epoch) => builder.resume_final(epoch).build(),
            None => builder.build(),
        }
    }

    /// A new controller takes the job up, from the journal or from the start.
    async fn take_up(&self) -> (JobContext<ClusterController<EmbeddedRun>, EmbeddedCluster>, AnyPhase) {
        let mailbox = Mailbox::new(64);
        self.line.0.send_replace(Some(mailbox.sender()));
        let builder = JobContext::builder(job_id(), self.hosted.run()).mailbox(mailbox).journal(self.notebook.clone());
        match self.notebook.load(&job_id()).await.unwrap() {
            None => {
                let (job, running) = builder.build(self.controller(None, None), self.cluster.clone());
                (job, running.into())
            }
            Some(record) => {
                let store: &dyn DynCheckpointStore = &*self.store;
                let limits = Limits::default();
                let rehydrated = rehydrate(record, &job_id(), &self.cluster, Some(store), &limits).await.unwrap();
                let controller = self.controller(rehydrated.final_epoch(), rehydrated.record().last_complete);
                rehydrated.build(builder, controller, self.cluster.clone())
            }
        }
    }

    /// Lets a controller drive for so long, then lets it die with all that it knows. The user asks in the 20th millisecond of the first.
    async fn drive_for(&self, time: Duration, request: Option<StopRequest>) -> Option<Receipt> {
        let (mut job, phase) = self.take_up().await;
        if let Some(request) = request {
            support::request_later(&job, ASKED, request);
        }
        let driven = tokio::time::timeout(time, drive(phase, &mut job, &Policy::escalate())).await;
        self.line.0.send_replace(None);
        driven.ok().map(Result::unwrap)
    }

    fn final_epochs(&self) -> Vec<Epoch> {
        let written = self.notebook.written.lock().unwrap();
        let mut epochs: Vec<_> = written.iter().filter_map(|written| written.record.final_epoch).collect();
        epochs.dedup();
        epochs
    }
}

const ASKED: Duration = Duration::from_millis(20);

fn strength(evidence: &str) -> usize {
    ["killed", "halted", "drained", "checkpointed"].iter().position(|name| *name == evidence).unwrap()
}

/// The controller dies after each of `lives`; the last one brings the job to its end.
async fn with_lives(request: StopRequest, commits: bool, lives: &[Duration]) -> (&'static str, usize) {
    let scene = Scene::new(commits).await;
    let mut asked = Some(request);
    let mut receipt = None;
    let mut crashes = 0;
    for life in lives.iter().copied().chain([Duration::from_secs(3600)]) {
        receipt = scene.drive_for(life, asked).await;
        // A user whose request died with the controller that had it asks again.
        asked = asked.filter(|_| scene.notebook.last().is_none_or(|record| record.requested.is_none()));
        if receipt.is_some() {
            break;
        }
        crashes += 1;
        // For a while nobody controls the workers.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let receipt = receipt.unwrap();
    assert_eq!(scene.cluster.workers_for_job(&job_id(), None).await.unwrap(), [], "I2");
    assert!(scene.final_epochs().len() <= 1, "more than one final epoch: {:?}", scene.final_epochs());
    assert!(!receipt.may_restart(), "I8");
    if let AnyStopped::Checkpointed(stopped) = &receipt.stopped {
        let manifest = scene.store.latest(&job_id()).await.unwrap().unwrap();
        assert_eq!((manifest.epoch, manifest.then_stop), (stopped.evidence().epoch(), true), "I3");
        for task in manifest.tasks.iter().filter(|_| commits) {
            let worker = scene.topology.worker_of(task.task).unwrap();
            let to = u64::from_be_bytes(task.snapshot[8..16].try_into().unwrap());
            let end = scene.world.lock().unwrap().iter().filter(|(id, ..)| *id == worker).map(|(.., to)| *to).max();
            assert_eq!(end.unwrap_or(0), to, "every commit of the final checkpoint is carried out (I3)");
        }
    }
    // The record of the end is taken up as the same end.
    let (job, phase) = scene.take_up().await;
    assert_eq!((phase.kind(), job.phase()), (receipt.stopped.kind(), receipt.stopped.kind()));
    (receipt.stopped.name(), crashes)
}

#[tokio::test(start_paused = true)]
async fn i7_a_controller_may_die_at_any_moment_and_the_next_one_finishes_with_the_same_evidence_or_less() {
    for request in StopRequest::ALL {
        for commits in [true, false] {
            let (whole, _) = with_lives(request, commits, &[]).await;
            let mut seen = std::collections::BTreeMap::<_, u32>::new();
            for life in 0..60_u64 {
                let life = Duration::from_millis(life) + Duration::from_micros(500);
                let (evidence, crashes) = with_lives(request, commits, &[life]).await;
                assert!(strength(evidence) <= strength(whole), "{evidence} is more than {whole} ({request}, {life:?})");
                *seen.entry((evidence, crashes)).or_default() += 1;
            }
            assert!(
                seen.contains_key(&(whole, 1)),
                "{request}, commits: {commits}: no crash is survived with all: {seen:?}"
            );
            println!("{request:<10} commits: {commits:<5} {seen:?}");
        }
    }
}

/// Two crashes, the second one anywhere in the second life.
#[tokio::test(start_paused = true)]
async fn i7_and_die_again() {
    for first in (21..40).step_by(3) {
        for second in 0..20 {
            let lives = [Duration::from_millis(first), Duration::from_millis(second)];
            with_lives(StopRequest::Checkpoint, true, &lives).await;
        }
    }
}
