//! The tasks of one worker: source → count → sink.
//!
//! Barriers travel with the data in the channels between them. The source reports its position.
//! `count` passes on everything that it has counted since the last barrier, so it has no state to
//! report. The sink makes these counts durable, and names all parts of its output in its snapshot.
//! If a run ends without a checkpoint, what is in the channels, or counted and not passed on, is
//! dropped: the next run reads it again.
//!
//! Files are read and written inside the task (with [`blocking`]) and not on a separate thread: an
//! aborted task ends only after its last write, so a worker that is reported gone changes no file
//! any more.

use std::{path::PathBuf, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::{runtime, sync::mpsc, task};
use winddown::{
    Epoch, Role, TaskContext, TaskId, Topology, WorkerId,
    contracts::{BoxFuture, Manifest, RunFailure, TaskError, TopologyError},
};

use crate::{
    count::Count,
    meter::Meter,
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
    /// A graceful stop: nothing follows. If the channel closes without it, the previous task has
    /// ended in another way, and the receiver waits for its own stop order.
    End,
}

/// From `count` to the sink.
pub(crate) enum Deltas {
    /// All words since the last barrier, and the barrier.
    Barrier(Counts, winddown::Barrier),
    /// As [`Text::End`].
    End,
}

/// Runs `work`, which may block this thread. The other tasks of the runtime continue meanwhile.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let can_move = runtime::Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == runtime::RuntimeFlavor::MultiThread);
    if can_move { task::block_in_place(work) } else { work() }
}

/// Failure injection (`--fail-at-line`): the first worker's source fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// How many lines it has read then.
    pub(crate) at_line: u64,
}

impl Fault {
    /// The failure.
    pub(crate) fn error(self) -> TaskError {
        TaskError::retryable(format!("injected failure at line {}", self.at_line))
    }
}

/// Failure injection (`--stall-at-line`): the first worker's source is as good as frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stall {
    /// How many lines it has read then.
    pub(crate) at_line: u64,
    /// For how long it does nothing.
    pub(crate) time: Duration,
}

/// What one worker does, in any run of a job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Work {
    /// The number of the worker, which is that of its subtask of each operator.
    pub(crate) worker: u32,
    /// What it reads.
    pub(crate) share: Share,
    /// Where it writes.
    #[serde(with = "crate::share::any_path")]
    pub(crate) output: PathBuf,
    /// Lines per second.
    pub(crate) rate: Option<u64>,
    /// The failure to inject.
    pub(crate) fault: Option<Fault>,
    /// The stall to inject.
    pub(crate) stall: Option<Stall>,
}

impl Work {
    /// The id of its worker.
    #[cfg(target_os = "linux")]
    pub(crate) fn id(&self) -> WorkerId {
        WorkerId::new(u64::from(self.worker) + 1)
    }

    /// Its tasks for a run that starts from checkpoint `from`, to be handed out.
    pub(crate) fn parts(&self, from: Option<Epoch>, meter: &Arc<Meter>) -> Parts {
        let (text, texts) = mpsc::channel(TEXT_AHEAD);
        let (delta, deltas) = mpsc::channel(1);
        let source = Source {
            worker: self.worker,
            share: self.share.clone(),
            rate: self.rate,
            meter: Arc::clone(meter),
            fault: self.fault,
            stall: self.stall,
            link: text,
        };
        let sink = Sink { folder: self.output.clone(), from, input: deltas };
        let count = Count { input: texts, link: delta };
        Parts([Some(Part::Source(source)), Some(Part::Count(count)), Some(Part::Sink(sink))])
    }
}

/// What is the same for every run of a job.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    /// The work of each worker.
    pub(crate) works: Vec<Work>,
}

/// The topology: on each worker one task of each operator.
pub(crate) fn topology(workers: u32) -> Result<Topology, TopologyError> {
    let ids = || (1..=u64::from(workers)).map(WorkerId::new);
    let operators = OPERATORS.into_iter();
    operators.fold(Topology::builder(), |all, (name, role)| all.operator(name, role, ids())).build()
}

/// The tasks of one worker process, each with what it was in checkpoint `manifest`.
#[cfg(target_os = "linux")]
pub(crate) fn task_specs(worker: u32, manifest: Option<&Manifest>) -> Vec<winddown::worker::TaskSpec> {
    let snapshots = manifest.map(|manifest| manifest.tasks.as_slice()).unwrap_or_default();
    let spec = |(operator, (_, role))| {
        let task = TaskId::new(operator, worker);
        winddown::worker::TaskSpec {
            task,
            role,
            restored: snapshots.iter().find(|snapshot| snapshot.task == task).cloned(),
        }
    };
    (0..).zip(OPERATORS).map(spec).collect()
}

impl Workload {
    /// The tasks of all workers for a run in this process.
    pub(crate) fn start(
        &self,
        from: Option<Epoch>,
        meter: &Arc<Meter>,
    ) -> impl FnMut(TaskContext) -> BoxFuture<'static, Result<(), TaskError>> + use<> {
        let mut parts: Vec<_> = self.works.iter().map(|work| work.parts(from, meter)).collect();
        move |ctx| match parts.get_mut(ctx.task().subtask as usize) {
            Some(parts) => Box::pin(parts.start(ctx)),
            None => Box::pin(std::future::ready(Err(unknown(ctx.task())))),
        }
    }

    /// The failure is injected once per call of this program.
    pub(crate) fn note(&mut self, failure: Option<&RunFailure>) {
        for work in &mut self.works {
            work.fault.take_if(
                |fault| matches!(failure, Some(RunFailure::TaskFailed { error, .. }) if *error == fault.error()),
            );
        }
    }

    /// How far the checkpoint is: the lines that are committed with it, and whether that is all.
    pub(crate) fn done(&self, manifest: Option<&Manifest>) -> Result<Done, TaskError> {
        let Some(manifest) = manifest else { return Ok(Done { lines: 0, all: false }) };
        let mut done = Done { lines: 0, all: true };
        for Work { worker, share, .. } in &self.works {
            let source = manifest.tasks.iter().find(|snapshot| snapshot.task == TaskId::new(0, *worker));
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

/// The tasks of one worker that have not been handed out yet.
pub(crate) struct Parts([Option<Part>; OPERATORS.len()]);

enum Part {
    Source(Source),
    Count(Count),
    Sink(Sink),
}

impl Parts {
    /// The task that `ctx` belongs to, each once.
    pub(crate) fn start(&mut self, ctx: TaskContext) -> impl Future<Output = Result<(), TaskError>> + Send + use<> {
        let part = self.0.get_mut(ctx.task().operator as usize).and_then(Option::take);
        async move {
            match part {
                Some(Part::Source(source)) => source.run(ctx).await,
                Some(Part::Count(count)) => count.run(ctx).await,
                Some(Part::Sink(sink)) => sink.run(ctx).await,
                None => Err(unknown(ctx.task())),
            }
        }
    }
}

fn unknown(task: TaskId) -> TaskError {
    TaskError::fatal(format!("wordcount has no task {task}"))
}

#[cfg(test)]
mod tests;
