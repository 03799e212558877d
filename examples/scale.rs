//! Measures the controller's share of a shutdown at sizes that are too large for test machines: the
//! real phases, model, fan-out and checkpoint store, with workers in this process that answer at
//! once, without sockets. `docs/scale.md` explains the figures.
//!
//! ```sh
//! # 10,000 workers and 1,000,000 tasks in one job; then 100,000 jobs
//! cargo run --release --features object-store --example scale
//! # workers, tasks, jobs
//! cargo run --release --features object-store --example scale -- 100 10000 1000
//! ```

use std::{
    env, fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::mpsc;
use winddown::{
    ClusterController, JobContext, JobId, Limits, ObjectStoreCheckpoints, OpenRun, Policy, Role, RunId, Running,
    Scheduler, TaskId, Topology, WorkerId,
    contracts::{
        CheckpointStore, Command, DynCheckpointStore, Event, Order, OrderError, SchedulerError, Transport, WorkerEvent,
    },
    drive,
};

type Failure = Box<dyn std::error::Error>;

/// Workers that obey every order at once, and the scheduler that runs them.
#[derive(Clone)]
struct Workers {
    /// The tasks of each worker, by its number less one.
    tasks: Arc<[Vec<TaskId>]>,
    /// The operator whose tasks have data to commit.
    sink: u32,
    events: mpsc::UnboundedSender<WorkerEvent>,
    orders: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
}

impl Workers {
    fn of(topology: &Topology, events: mpsc::UnboundedSender<WorkerEvent>) -> Self {
        let mut tasks = vec![Vec::new(); topology.workers().len()];
        for task in topology.task_ids() {
            if let Some(worker) = topology.worker_index_of(task) {
                tasks[worker as usize].push(task);
            }
        }
        let left = Arc::new(AtomicU64::new(tasks.len() as u64));
        let sink = u32::try_from(topology.operators().len()).unwrap_or(1).saturating_sub(1);
        Self { tasks: tasks.into(), sink, events, orders: Arc::default(), left }
    }

    fn say(&self, run: RunId, worker: WorkerId, event: Event) {
        // When the job is over, the receiver is gone.
        let _ = self.events.send(WorkerEvent::new(run, worker, event));
    }
}

impl Transport for Workers {
    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        self.orders.fetch_add(1, Ordering::Relaxed);
        let Order { run, command } = order;
        let of_worker = usize::try_from(worker.get() - 1).ok().and_then(|at| self.tasks.get(at));
        for &task in of_worker.into_iter().flatten() {
            match &command {
                Command::Checkpoint { epoch, .. } => {
                    let commit = (task.operator == self.sink).then(|| Bytes::from_static(b"transaction-42"));
                    let ends = commit.is_none();
                    let snapshot = Bytes::from_static(b"offset 1234567890");
                    self.say(run, worker, Event::CheckpointCompleted { task, epoch: *epoch, snapshot, commit });
                    if ends {
                        self.say(run, worker, Event::TaskFinished { task });
                    }
                }
                Command::Commit { epoch, .. } if task.operator == self.sink => {
                    self.say(run, worker, Event::CommitCompleted { task, epoch: *epoch });
                    self.say(run, worker, Event::TaskFinished { task });
                }
                _ => {}
            }
        }
        if matches!(command, Command::Release) {
            self.left.fetch_sub(1, Ordering::Relaxed);
            self.say(run, worker, Event::WorkerFinished);
        }
        Ok(())
    }
}

impl Scheduler for Workers {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, _: bool) -> Result<(), SchedulerError> {
        Ok(())
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        Ok((0..self.left.load(Ordering::Relaxed)).map(WorkerId::new).collect())
    }
}

/// What a shutdown took.
#[derive(Clone, Copy, Default)]
struct Took {
    orders: u64,
    messages: u64,
}

/// One job that runs, and what is needed to stop it.
struct Job {
    context: JobContext<ClusterController<Workers>, Workers>,
    running: Running,
    workers: Workers,
    events: mpsc::UnboundedReceiver<WorkerEvent>,
}

impl Job {
    fn new(
        id: JobId,
        topology: Arc<Topology>,
        store: Arc<dyn DynCheckpointStore>,
        limits: Limits,
    ) -> Result<Self, Failure> {
        let (sender, events) = mpsc::unbounded_channel();
        let workers = Workers::of(&topology, sender);
        let open = OpenRun::without_store(id, RunId::new(1));
        let controller = ClusterController::builder(&open, topology, Arc::new(workers.clone()));
        let controller = controller.limits(limits.clone()).store(store).build();
        let (context, running) = JobContext::builder(&open).limits(limits).build(controller, workers.clone())?;
        Ok(Self { context, running, workers, events })
    }

    /// Stops it with a final checkpoint.
    async fn stop(mut self) -> Result<Took, Failure> {
        let stopping = self.running.stop_with_checkpoint(&mut self.context)?;
        let (sender, mut messages) = (self.context.sender(), 0);
        let deliver = async {
            while let Some(event) = self.events.recv().await {
                messages += 1;
                if sender.event(event).await.is_err() {
                    break;
                }
            }
        };
        let policy = Policy::give_back();
        let receipt = tokio::select! {
            receipt = drive(stopping, &mut self.context, &policy) => receipt?,
            () = deliver => return Err("the workers are gone".into()),
        };
        if receipt.stopped().name() != "checkpointed" {
            return Err(format!("expected a final checkpoint, got {receipt}").into());
        }
        Ok(Took { orders: self.workers.orders.load(Ordering::Relaxed), messages })
    }
}

/// A field of `/proc/self/status`, in bytes.
fn memory(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}

fn say(what: &str, took: Took, time: Duration, bytes: u64) {
    let per_second = |count: u64| u128::from(count) * 1_000_000 / time.as_micros().max(1);
    println!(
        "{what}: {:.2} s; {} orders ({}/s), {} messages ({}/s); {} MiB",
        time.as_secs_f64(),
        took.orders,
        per_second(took.orders),
        took.messages,
        per_second(took.messages),
        bytes >> 20
    );
}

fn topology(workers: u64, tasks: u64) -> Result<Arc<Topology>, Failure> {
    const OPERATORS: u64 = 10;
    let operators = OPERATORS.min(tasks / workers.max(1)).max(1);
    let mut builder = Topology::builder();
    for operator in 0..operators {
        let role = if operator == 0 { Role::Source } else { Role::Inner };
        let placement = (0..tasks / operators).map(|subtask| WorkerId::new(subtask % workers + 1));
        builder = builder.operator(format!("operator-{operator}"), role, placement);
    }
    Ok(Arc::new(builder.build()?))
}

/// These workers send no heartbeats, and none is ever lost. But the claims of 100,000 jobs take
/// longer than a worker may be silent.
fn patient() -> Limits {
    let hour = Duration::from_secs(3600);
    Limits { heartbeat: hour, final_checkpoint: hour, release: hour, ..Limits::default() }
}

async fn one_job(workers: u64, tasks: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = Arc::new(ObjectStoreCheckpoints::local(folder.path())?);
    let id = JobId::from("one");
    store.open_run(&id).await?;
    let before = memory("VmRSS");
    let job = Job::new(id, topology(workers, tasks)?, store, patient())?;
    println!("one job of {workers} workers and {tasks} tasks, at rest: {} MiB", (memory("VmRSS") - before) >> 20);
    let began = Instant::now();
    let took = job.stop().await?;
    say("  stopped with a final checkpoint", took, began.elapsed(), memory("VmHWM").saturating_sub(before));
    println!("  its manifest: {} MiB", size(folder.path())? >> 20);
    Ok(())
}

/// What is in a folder, in bytes.
fn size(folder: &Path) -> io::Result<u64> {
    fs::read_dir(folder)?.try_fold(0, |sum, entry| {
        let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
        Ok(sum + if meta.is_dir() { size(&path)? } else { meta.len() })
    })
}

async fn many_jobs(jobs: u64) -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let store = Arc::new(ObjectStoreCheckpoints::local(folder.path())?);
    let limits = Limits { mailbox_capacity: 64, ..patient() };
    let topology = topology(2, 4)?;
    let mut all = Vec::new();
    let before = memory("VmRSS");
    for number in 0..jobs {
        let id = JobId::new(format!("job-{number}"));
        store.open_run(&id).await?;
        all.push(Job::new(
            id,
            Arc::clone(&topology),
            Arc::clone(&store) as Arc<dyn DynCheckpointStore>,
            limits.clone(),
        )?);
    }
    let at_rest = memory("VmRSS").saturating_sub(before);
    println!(
        "{jobs} jobs of 2 workers and 4 tasks, at rest: {} MiB, {} bytes each",
        at_rest >> 20,
        at_rest / jobs.max(1)
    );
    let began = Instant::now();
    let mut stops: FuturesUnordered<_> = all.into_iter().map(Job::stop).collect();
    let mut sum = Took::default();
    while let Some(took) = stops.next().await {
        let took = took?;
        sum = Took { orders: sum.orders + took.orders, messages: sum.messages + took.messages };
    }
    say("  all stopped with a final checkpoint", sum, began.elapsed(), memory("VmHWM").saturating_sub(before));
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut sizes = env::args().skip(1).map(|size| size.parse::<u64>());
    let mut next = |default| sizes.next().unwrap_or(Ok(default));
    let (workers, tasks, jobs) = (next(10_000)?, next(1_000_000)?, next(100_000)?);
    one_job(workers, tasks).await?;
    many_jobs(jobs).await
}
