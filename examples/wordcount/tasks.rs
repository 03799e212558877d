//! The tasks of one worker: source → count → sink.
//!
//! Barriers travel in the channels between them, with the data. The source gives its position; `count` passes on everything that it
//! has counted since the last barrier, so that it has no state left to give; the sink makes these counts durable, and names
//! them in its snapshot for the commit. What is in the channels, or counted and not passed on, when a run ends in any other way than by a
//! checkpoint is dropped: the next run reads it again.
//!
//! Files are read and written inside the task (with [`blocking`]) and not on a thread of their own: a task that was aborted is over
//! only when its last write is, and so a worker that is reported gone touches no file any more.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{runtime, sync::mpsc, task};
use winddown::{Epoch, Role, TaskContext, TaskError, TaskId, Topology, TopologyError, WorkerId};

use crate::{
    count::Count,
    share::{Position, Share},
    sink::Sink,
    source::Source,
    words::Counts,
};

/// How many batches of text wait between source and count.
const TEXT_AHEAD: usize = 4;

/// The operators, in the order of their numbers in the topology.
const OPERATORS: [(&str, Role); 3] = [("source", Role::Source), ("count", Role::Inner), ("sink", Role::Inner)];

/// From the source to `count`.
pub(crate) enum Text {
    /// Whole words.
    Batch(Vec<u8>),
    /// What came before belongs to the checkpoint, what comes after does not.
    Barrier(winddown::Barrier),
    /// A graceful stop: nothing comes any more. A channel that closes without it means that the task before has ended otherwise,
    /// and whoever sees that waits to be told to stop.
    End,
}

/// From `count` to the sink.
pub(crate) enum Deltas {
    /// All words since the last barrier, and the barrier.
    Barrier(Counts, winddown::Barrier),
    /// As [`Text::End`].
    End,
}

/// Runs `work` that may block this thread. The other tasks of the runtime go on meanwhile.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let can_move = runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == runtime::RuntimeFlavor::MultiThread);
    if can_move { task::block_in_place(work) } else { work() }
}

/// How many lines each worker has read, for the screen.
#[derive(Debug)]
pub(crate) struct Meter(Box<[AtomicU64]>);

impl Meter {
    /// Nothing is read yet.
    pub(crate) fn new(workers: u32) -> Arc<Self> {
        Arc::new(Self((0..workers).map(|_| AtomicU64::new(0)).collect()))
    }

    /// All lines read.
    pub(crate) fn lines(&self) -> u64 {
        self.0.iter().map(|lines| lines.load(Ordering::Relaxed)).sum()
    }

    /// A worker has read so many lines of its share.
    pub(crate) fn set(&self, worker: usize, lines: u64) {
        if let Some(place) = self.0.get(worker) {
            place.store(lines, Ordering::Relaxed);
        }
    }
}

/// Failure injection (`--fail-at-line`): the first worker's source fails once.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// How many lines it has read then.
    pub(crate) at_line: u64,
    /// Whether it is still to fail.
    pub(crate) armed: Arc<AtomicBool>,
}

/// What the tasks of a run are made from; the same for every run of a job.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// One share for each worker.
    pub(crate) shares: Vec<Share>,
    /// One output folder for each worker.
    pub(crate) outputs: Vec<PathBuf>,
    /// Lines per second and worker.
    pub(crate) rate: Option<u64>,
    /// Where sources tell how far they are.
    pub(crate) meter: Arc<Meter>,
    /// The failure to inject.
    pub(crate) fault: Option<Fault>,
}

impl Plan {
    /// The topology: on each worker one task of each operator.
    pub(crate) fn topology(&self) -> Result<Topology, TopologyError> {
        let workers = || (1..).take(self.shares.len()).map(WorkerId::new);
        let operators = OPERATORS.into_iter();
        operators.fold(Topology::builder(), |all, (name, role)| all.operator(name, role, workers())).build()
    }

    /// The parts of all workers of a run that starts from checkpoint `from`, to be handed out as tasks.
    pub(crate) fn parts(&self, from: Option<Epoch>) -> Parts {
        let mut parts = Parts { workers: Vec::new() };
        for (worker, (share, folder)) in self.shares.iter().zip(&self.outputs).enumerate() {
            let (text, texts) = mpsc::channel(TEXT_AHEAD);
            let (delta, deltas) = mpsc::channel(1);
            let source = Source {
                worker,
                share: share.clone(),
                rate: self.rate,
                meter: Arc::clone(&self.meter),
                fault: self.fault.clone().filter(|_| worker == 0),
                link: text,
            };
            let sink = Sink { folder: folder.clone(), from, input: deltas };
            let count = Count { input: texts, link: delta };
            parts.workers.push([Some(Part::Source(source)), Some(Part::Count(count)), Some(Part::Sink(sink))]);
        }
        parts
    }

    /// How far the checkpoint that `snapshots` belongs to is: the lines that are committed with it, and whether that is all.
    pub(crate) fn done(&self, manifest: Option<&winddown::Manifest>) -> Result<Done, TaskError> {
        let Some(manifest) = manifest else { return Ok(Done { lines: 0, all: false }) };
        let mut done = Done { lines: 0, all: true };
        for (subtask, share) in (0..).zip(&self.shares) {
            let source = manifest.tasks.iter().find(|snapshot| snapshot.task == TaskId::new(0, subtask));
            let position = source.map_or_else(|| Ok(share.start()), |source| position(&source.snapshot))?;
            done.lines += position.lines;
            done.all &= share.is_read(position);
        }
        Ok(done)
    }
}

/// How far a checkpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// Lines that are committed with it.
    pub(crate) lines: u64,
    /// Whether that is the whole input.
    pub(crate) all: bool,
}

/// A source's snapshot.
pub(crate) fn position(snapshot: &[u8]) -> Result<Position, TaskError> {
    serde_json::from_slice(snapshot).map_err(|error| TaskError::fatal(format!("a source's snapshot: {error}")))
}

/// The tasks that have not been handed out yet.
pub(crate) struct Parts {
    workers: Vec<[Option<Part>; OPERATORS.len()]>,
}

enum Part {
    Source(Source),
    Count(Count),
    Sink(Sink),
}

impl Parts {
    /// The task that `ctx` belongs to, each once.
    pub(crate) fn start(&mut self, ctx: TaskContext) -> impl Future<Output = Result<(), TaskError>> + Send + use<> {
        let TaskId { operator, subtask } = ctx.task();
        let worker = self.workers.get_mut(subtask as usize);
        let part = worker.and_then(|parts| parts.get_mut(operator as usize)).and_then(Option::take);
        async move {
            match part {
                Some(Part::Source(source)) => source.run(ctx).await,
                Some(Part::Count(count)) => count.run(ctx).await,
                Some(Part::Sink(sink)) => sink.run(ctx).await,
                None => Err(TaskError::fatal(format!("wordcount has no {}", ctx.task()))),
            }
        }
    }
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
