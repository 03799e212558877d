//! The cost of one worker message while a job stops, at 1,000 to 1,000,000 tasks, compared with
//! scanning all tasks on every message.

use std::{
    collections::HashMap,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use winddown::{
    Epoch, Role, RunId, TaskId, Topology, WorkerId,
    contracts::{Event, WorkerEvent, WorkerStopMode},
    model::RunModel,
};

use super::{
    Scale, callgrind,
    interleave::{Contender, interleave, nanos_each},
};
use crate::report::{
    Result,
    data::{MessageRow, Messages, Samples},
};

const RUN: RunId = RunId::new(1);
const EPOCH: Epoch = Epoch::new(1);

/// The same number at every size, so that it is the number of tasks alone that grows.
const WORKERS: u32 = 100;

/// What is said, and in which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    FinishedInOrder,
    FinishedAtRandom,
    SnapshotsAtRandom,
    Heartbeats,
}

impl Kind {
    const ALL: [Self; 4] = [Self::FinishedInOrder, Self::FinishedAtRandom, Self::SnapshotsAtRandom, Self::Heartbeats];

    fn name(self) -> &'static str {
        match self {
            Self::FinishedInOrder => "task finished, in the worst order for a scan",
            Self::FinishedAtRandom => "task finished, at random",
            Self::SnapshotsAtRandom => "snapshot of the final checkpoint, at random",
            Self::Heartbeats => "heartbeat",
        }
    }

    /// For the command line of a probe.
    fn tag(self) -> String {
        format!("{self:?}")
    }

    fn event(self, task: TaskId) -> Event {
        match self {
            Self::FinishedInOrder | Self::FinishedAtRandom => Event::TaskFinished { task },
            Self::SnapshotsAtRandom => {
                let snapshot = Bytes::from_static(b"offset 42");
                Event::CheckpointCompleted { task, epoch: EPOCH, snapshot, commit: None }
            }
            Self::Heartbeats => Event::Heartbeat,
        }
    }
}

/// A run that is being stopped.
fn model(tasks: u32, kind: Kind, now: Instant) -> Result<RunModel> {
    let placement = (0..tasks).map(worker_of);
    let topology = Topology::builder().operator("source", Role::Source, placement).build()?;
    let mut model = RunModel::new(Arc::new(topology), RUN, Duration::from_secs(30), None, now);
    if kind == Kind::SnapshotsAtRandom {
        model.begin_checkpoint(true)?;
    } else {
        model.begin_stop(WorkerStopMode::Graceful);
    }
    while model.poll_action().is_some() {}
    Ok(model)
}

fn worker_of(task: u32) -> WorkerId {
    WorkerId::new(u64::from(task % WORKERS) + 1)
}

/// All tasks, shuffled in a way that repeats.
fn order(tasks: u32, kind: Kind) -> Vec<u32> {
    let mut order: Vec<u32> = (0..tasks).collect();
    if kind != Kind::FinishedInOrder {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for last in (1..order.len()).rev() {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            order.swap(last, usize::try_from(state % (last as u64 + 1)).unwrap_or(last));
        }
    }
    order
}

/// Handles the messages, and checks after each whether all tasks have ended, as a phase does at
/// least after each batch.
///
/// Never inlined: callgrind finds it by its name.
#[inline(never)]
fn take_in(model: &mut RunModel, kind: Kind, order: &[u32], now: Instant) -> usize {
    let mut applied = 0;
    for &task in order {
        let event = WorkerEvent::new(RUN, worker_of(task), kind.event(TaskId::new(0, task)));
        applied += usize::from(model.handle(event, now).is_ok());
        black_box(model.status().all_ended());
    }
    applied
}

/// Nanoseconds per message. Several small models are used, one after the other, so that each figure
/// covers the same number of messages.
fn ours(fresh: &RunModel, kind: Kind, order: &[u32], messages: usize, now: Instant) -> Result<f64> {
    let rounds = messages.div_ceil(order.len());
    let mut took = Duration::ZERO;
    for _ in 0..rounds {
        let mut model = fresh.clone();
        let start = Instant::now();
        let applied = take_in(&mut model, kind, order, now);
        took += start.elapsed();
        if applied != order.len() {
            return Err(format!("{applied} of {} messages were accepted", order.len()).into());
        }
    }
    Ok(nanos_each(took, rounds * order.len()))
}

/// The usual way: a map of all tasks, and `all` over it after every message. It stops at the first
/// task that runs, so its worst order is the one in which it looks at them, with the first task
/// last.
struct Scan {
    tasks: HashMap<TaskId, bool>,
    order: Vec<TaskId>,
}

impl Scan {
    /// So many messages are timed, spread over the whole drain: all of them would take hours.
    const SAMPLES: usize = 100;

    fn new(tasks: u32, kind: Kind) -> Self {
        let map: HashMap<_, _> = (0..tasks).map(|task| (TaskId::new(0, task), false)).collect();
        let mut order: Vec<_> = if kind == Kind::FinishedInOrder {
            map.keys().copied().collect()
        } else {
            order(tasks, kind).into_iter().map(|task| TaskId::new(0, task)).collect()
        };
        if kind == Kind::FinishedInOrder {
            order.rotate_left(1);
        }
        Self { tasks: map, order }
    }

    fn each(&mut self) -> f64 {
        self.tasks.values_mut().for_each(|finished| *finished = false);
        let every = (self.order.len() / Self::SAMPLES).max(1);
        let (mut took, mut timed) = (Duration::ZERO, 0);
        for (at, task) in self.order.iter().enumerate() {
            let finish = |tasks: &mut HashMap<TaskId, bool>| {
                if let Some(finished) = tasks.get_mut(task) {
                    *finished = true;
                }
            };
            if at % every != every - 1 {
                finish(&mut self.tasks);
                continue;
            }
            let start = Instant::now();
            finish(&mut self.tasks);
            black_box(self.tasks.values().all(|finished| *finished));
            took += start.elapsed();
            timed += 1;
        }
        nanos_each(took, timed)
    }
}

/// Item 3.
pub(super) fn messages(scale: Scale) -> Result<Messages> {
    let mut rows = Vec::new();
    for kind in Kind::ALL {
        for &tasks in scale.pick(&[100, 1000][..], &[1000, 10_000, 100_000], &[1000, 10_000, 100_000, 1_000_000]) {
            rows.push(row(tasks, kind, scale)?);
        }
    }
    Ok(Messages { workers: WORKERS, rows })
}

fn row(tasks: u32, kind: Kind, scale: Scale) -> Result<MessageRow> {
    let now = Instant::now();
    let (fresh, order) = (model(tasks, kind, now)?, order(tasks, kind));
    let messages = scale.pick(1000, 200_000, 1_000_000);
    let scans = matches!(kind, Kind::FinishedInOrder | Kind::FinishedAtRandom);
    let mut scan = scans.then(|| Scan::new(tasks, kind));
    let mut contenders: Vec<Contender> = vec![Box::new(|| ours(&fresh, kind, &order, messages, now))];
    if let Some(scan) = &mut scan {
        contenders.push(Box::new(|| Ok(scan.each())));
    }
    let figures = interleave(scale.pick(2, 5, 9), &mut contenders)?;
    drop(contenders);
    // Not a clone, whose queue has no room set aside.
    let mut model = model(tasks, kind, now)?;
    let counted = allocation_counter::measure(|| {
        black_box(take_in(&mut model, kind, &order, now));
    });
    let times = scale.pick(100, 1000, 1000).min(order.len() / 2);
    let instructions = if scale == Scale::Smoke {
        None
    } else {
        callgrind::instructions(&format!("message-{}-{tasks}", kind.tag()), times, "take_in")?
    };
    #[expect(clippy::cast_precision_loss, reason = "of counts far below 2^52")]
    Ok(MessageRow {
        message: kind.name().to_owned(),
        tasks: order.len(),
        ours_ns: Samples::of(figures[0].clone()),
        scan_ns: figures.get(1).map(|figures| Samples::of(figures.clone())),
        allocations: counted.count_total as f64 / order.len() as f64,
        instructions,
    })
}

/// Takes in so many messages in a run of so many tasks.
pub(super) fn probe(what: &str, times: usize) -> Result<bool> {
    let Some((tag, tasks)) = what.strip_prefix("message-").and_then(|rest| rest.split_once('-')) else {
        return Ok(false);
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.tag() == tag).ok_or("no such message")?;
    let (tasks, now) = (tasks.parse()?, Instant::now());
    let (mut model, order) = (model(tasks, kind, now)?, order(tasks, kind));
    let applied = take_in(&mut model, kind, order.get(..times).ok_or("not so many tasks")?, now);
    if applied == times { Ok(true) } else { Err(format!("{applied} of {times} messages were accepted").into()) }
}
