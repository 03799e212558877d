use std::{collections::BTreeMap, fs, time::Duration};

use tokio::{sync::mpsc::UnboundedReceiver, time::Instant};
use winddown::{
    EmbeddedCluster, JobId, OpenRun, RunId,
    contracts::{Command, Event, Manifest, Order, TaskCommit, TaskSnapshot, Transport, WorkerEvent, WorkerStopMode},
    embedded::EmbeddedRun,
    worker::{EventSink, SinkClosed, WorkerOptions},
};

use super::*;
use crate::{
    input::Input,
    output::{Output, Part},
};

const WORKERS: u32 = 2;
const TEXT: &str = "one two\nthree\nthe two\none one one\n\nlast line\nof the text";
const FIRST_TWO_LINES_EACH: &str = "one two\nthree\n\nlast line";

struct Events(mpsc::UnboundedSender<WorkerEvent>);

impl EventSink for Events {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        self.0.send(event).map_err(|_| SinkClosed)
    }
}

struct Job {
    dir: tempfile::TempDir,
    workload: Workload,
    meter: Arc<Meter>,
    cluster: EmbeddedCluster,
    manifest: Option<Manifest>,
    runs: u64,
}

/// The least that a controller does.
struct Run {
    hosted: EmbeddedRun,
    events: UnboundedReceiver<WorkerEvent>,
    tasks: usize,
    finished: usize,
    exhausted: usize,
    failed: Vec<TaskError>,
    acks: BTreeMap<Epoch, Vec<TaskSnapshot>>,
    committed: usize,
}

impl Job {
    fn new(text: &str, rate: Option<u64>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("input"), text).unwrap();
        let input = Input::collect(&[dir.path().join("input")], &|_| false).unwrap();
        let work = |(worker, share)| Work {
            worker,
            share,
            output: dir.path().join(format!("worker-{worker}")),
            rate,
            fault: None,
            stall: None,
        };
        let workload = Workload { works: (0..).zip(input.shares(WORKERS).unwrap()).map(work).collect() };
        let cluster = EmbeddedCluster::new(WorkerOptions { heartbeat: None, ..WorkerOptions::default() });
        Self { dir, workload, meter: Meter::new(WORKERS), cluster, manifest: None, runs: 0 }
    }

    fn start(&mut self) -> Run {
        self.runs += 1;
        let (sink, events) = mpsc::unbounded_channel();
        let topology = topology(WORKERS).unwrap();
        let from = self.manifest.as_ref().map(|manifest| manifest.epoch);
        let hosted = self.cluster.start(
            &OpenRun::new("words", RunId::new(self.runs), self.manifest.clone()).unwrap(),
            &topology,
            Events(sink),
            self.workload.start(from, &self.meter),
        );
        Run {
            hosted: hosted.unwrap(),
            events,
            tasks: topology.tasks(),
            finished: 0,
            exhausted: 0,
            failed: Vec::new(),
            acks: BTreeMap::new(),
            committed: 0,
        }
    }

    /// Publishes a checkpoint.
    fn publish(&mut self, run: &Run, epoch: u64) {
        let tasks = run.acks[&Epoch::new(epoch)].clone();
        assert_eq!(tasks.len(), run.tasks);
        let (job, run, epoch) = (JobId::from("words"), run.hosted.run(), Epoch::new(epoch));
        self.manifest = Some(Manifest { job, run, epoch, then_stop: false, tasks });
    }

    /// The committed output of all workers, as it stands.
    fn committed(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for Work { worker, output: folder, .. } in &self.workload.works {
            let snapshots = self.manifest.iter().flat_map(|manifest| &manifest.tasks);
            let sink = snapshots.filter(|snapshot| snapshot.task == TaskId::new(2, *worker));
            let parts: Vec<_> = sink.flat_map(|sink| Part::decode(&sink.snapshot).unwrap()).collect();
            // As the next run would see it; on a copy, so that nothing is changed.
            let copy = self.dir.path().join("copy");
            fs::create_dir_all(&copy).unwrap();
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                fs::copy(&path, copy.join(path.file_name().unwrap())).unwrap();
            }
            let from = self.manifest.as_ref().map(|manifest| manifest.epoch);
            let output = Output::open(&copy, RunId::new(self.runs), from, &parts).unwrap();
            for (word, count) in output.totals().unwrap().iter() {
                *all.entry(String::from_utf8(word.to_vec()).unwrap()).or_default() += count;
            }
            fs::remove_dir_all(&copy).unwrap();
        }
        all
    }
}

impl Run {
    async fn order(&self, command: Command) {
        for worker in (1..=u64::from(WORKERS)).map(WorkerId::new) {
            let order = Order { run: self.hosted.run(), command: command.clone() };
            self.hosted.send(worker, order).await.unwrap();
        }
    }

    async fn checkpoint(&mut self, epoch: u64, then_stop: bool) {
        let epoch = Epoch::new(epoch);
        self.order(Command::Checkpoint { epoch, then_stop }).await;
        self.until(|run| run.acks.get(&epoch).is_some_and(|acks| acks.len() == run.tasks)).await;
    }

    async fn commit(&mut self, epoch: u64) {
        let epoch = Epoch::new(epoch);
        let before = self.committed;
        let mut sent = 0;
        for snapshot in &self.acks[&epoch] {
            let Some(data) = snapshot.commit.clone() else { continue };
            sent += 1;
            let tasks = [TaskCommit { task: snapshot.task, data }].into();
            let order = Order { run: self.hosted.run(), command: Command::Commit { epoch, tasks } };
            self.hosted.send(WorkerId::new(u64::from(snapshot.task.subtask) + 1), order).await.unwrap();
        }
        self.until(|run| run.committed == before + sent).await;
    }

    async fn all_finished(&mut self) {
        self.until(|run| run.finished + run.failed.len() == run.tasks).await;
    }

    async fn until(&mut self, done: impl Fn(&Self) -> bool) {
        while !done(self) {
            match self.events.recv().await.unwrap().event {
                Event::TaskFinished { .. } => self.finished += 1,
                Event::TaskFailed { error, .. } => self.failed.push(error),
                Event::SourceExhausted { .. } => self.exhausted += 1,
                Event::CommitCompleted { .. } => self.committed += 1,
                Event::CheckpointCompleted { task, epoch, snapshot, commit } => {
                    let snapshot = TaskSnapshot { task, snapshot, commit, finished: false };
                    self.acks.entry(epoch).or_default().push(snapshot);
                }
                _ => {}
            }
        }
    }
}

fn naive(text: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for word in text.split(|letter: char| !letter.is_ascii_alphabetic()).filter(|word| !word.is_empty()) {
        *counts.entry(word.to_ascii_lowercase()).or_default() += 1;
    }
    counts
}

/// The last run of a job: to the end of the input, with the final checkpoint.
async fn finish(job: &mut Job, epoch: u64) {
    let mut run = job.start();
    run.until(|run| run.exhausted == WORKERS as usize).await;
    run.checkpoint(epoch, true).await;
    job.publish(&run, epoch);
    run.commit(epoch).await;
    run.all_finished().await;
    assert_eq!(run.finished, run.tasks, "{:?}", run.failed);
    assert!(job.workload.done(job.manifest.as_ref()).unwrap().all);
}

#[tokio::test(start_paused = true)]
async fn all_input_is_counted_once() {
    let mut job = Job::new(TEXT, None);
    finish(&mut job, 1).await;
    assert_eq!(job.committed(), naive(TEXT));
    assert_eq!(job.workload.done(job.manifest.as_ref()).unwrap(), Done { lines: 7, all: true });
    assert_eq!(job.meter.lines(), 7);
    // A run that starts at the end has nothing to add.
    finish(&mut job, 2).await;
    assert_eq!(job.committed(), naive(TEXT));
}

#[tokio::test(start_paused = true)]
async fn nothing_counts_before_its_checkpoint_and_all_of_it_after() {
    let mut job = Job::new(TEXT, Some(1));
    let mut run = job.start();
    tokio::time::sleep(Duration::from_millis(1500)).await; // two lines each
    run.checkpoint(1, false).await;
    assert_eq!(job.committed(), BTreeMap::new());
    job.publish(&run, 1);
    assert_eq!(job.workload.done(job.manifest.as_ref()).unwrap(), Done { lines: 4, all: false });
    // The commit order never comes: the next run commits.
    tokio::time::sleep(Duration::from_secs(1)).await; // one more line each, which is lost
    run.order(Command::Stop(WorkerStopMode::Immediate)).await;
    run.all_finished().await;
    assert_eq!(run.finished, run.tasks);
    assert_eq!(job.committed(), naive(FIRST_TWO_LINES_EACH));
    finish(&mut job, 2).await;
    assert_eq!(job.committed(), naive(TEXT));
}

#[tokio::test(start_paused = true)]
async fn a_graceful_stop_drains_and_the_next_run_replays() {
    let mut job = Job::new(TEXT, Some(1));
    let mut run = job.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let before = Instant::now();
    run.order(Command::Stop(WorkerStopMode::Graceful)).await;
    run.all_finished().await;
    assert_eq!((run.finished, before.elapsed()), (run.tasks, Duration::ZERO), "the end waits for no line");
    assert_eq!(job.committed(), BTreeMap::new());
    finish(&mut job, 1).await;
    assert_eq!(job.committed(), naive(TEXT));
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_that_was_given_up_is_committed_with_the_next() {
    let mut job = Job::new(TEXT, Some(1));
    let mut run = job.start();
    tokio::time::sleep(Duration::from_millis(500)).await;
    run.checkpoint(1, false).await; // never published
    tokio::time::sleep(Duration::from_secs(1)).await;
    run.checkpoint(2, true).await;
    job.publish(&run, 2);
    run.commit(2).await;
    run.all_finished().await;
    assert_eq!(job.committed(), naive(FIRST_TWO_LINES_EACH));
    finish(&mut job, 3).await;
    assert_eq!(job.committed(), naive(TEXT));
}

#[tokio::test(start_paused = true)]
async fn what_is_committed_is_not_named_again() {
    let mut job = Job::new(TEXT, Some(1));
    let mut run = job.start();
    for epoch in 1..=2 {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        run.checkpoint(epoch, false).await;
        job.publish(&run, epoch);
        run.commit(epoch).await;
    }
    let commits = run.acks[&Epoch::new(2)].iter().filter_map(|snapshot| snapshot.commit.as_deref());
    let named: Vec<_> = commits.flat_map(|commit| Part::decode(commit).unwrap()).collect();
    assert_eq!(named.iter().map(|part| part.epoch.get()).collect::<Vec<_>>(), [2, 2]);
}

#[tokio::test(start_paused = true)]
async fn orders_are_seen_at_once_at_the_slowest_rate() {
    let job = &mut Job::new(TEXT, Some(1));
    let mut run = job.start();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let before = Instant::now();
    run.checkpoint(1, false).await;
    run.order(Command::Stop(WorkerStopMode::Immediate)).await;
    run.all_finished().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn the_injected_failure_comes_once() {
    let mut job = Job::new(TEXT, Some(1));
    job.workload.works[0].fault = Some(Fault { at_line: 2 });
    let mut run = job.start();
    run.until(|run| !run.failed.is_empty()).await;
    assert_eq!((&*run.failed[0].message, run.failed[0].retryable), ("injected failure at line 2", true));
    let told_nothing = tokio::time::timeout(Duration::from_secs(1), run.until(|run| run.finished > 0)).await;
    assert!(told_nothing.is_err(), "a task whose neighbour failed waits to be told");
    run.order(Command::Stop(WorkerStopMode::Immediate)).await;
    run.all_finished().await;
    let failed = |error| RunFailure::TaskFailed { task: TaskId::new(0, 0), worker: WorkerId::new(1), error };
    job.workload.note(Some(&failed(TaskError::retryable("another failure"))));
    assert!(job.workload.works[0].fault.is_some());
    job.workload.note(Some(&failed(run.failed[0].clone())));
    finish(&mut job, 1).await;
    assert_eq!(job.committed(), naive(TEXT));
}

#[tokio::test(start_paused = true)]
async fn a_sink_whose_output_is_ahead_fails_for_good() {
    let mut job = Job::new(TEXT, None);
    finish(&mut job, 7).await;
    job.manifest = None;
    let mut run = job.start();
    run.until(|run| run.failed.len() == WORKERS as usize).await;
    assert!(!run.failed[0].retryable && run.failed[0].message.contains("twice"), "{:?}", run.failed);
}

#[test]
fn a_foreign_snapshot_is_refused() {
    assert!(position(b"?").is_err());
}
