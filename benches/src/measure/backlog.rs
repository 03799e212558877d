//! A stop request behind a backlog of worker messages, beside one channel for everything.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{runtime::Runtime, sync::mpsc};
use winddown::{
    JobContext, JobController, JobSender, Mailbox, OpenRun, RunId, StopRequest, WorkerId,
    contracts::{
        Applied, CheckpointStart, ControllerError, Event, Rejection, RunFailure, RunStatus, WorkerEvent, WorkerStopMode,
    },
    machine::AfterRunning,
};

use super::{
    Scale,
    interleave::{Contender, interleave, micros},
    jobs::{NoController, NoScheduler},
};
use crate::report::{
    self,
    data::{Backlog, BacklogRow, Samples},
};

/// Counts what it is told, and asks for a stop while it has the message of a certain number in
/// hand.
struct Asking {
    rest: NoController,
    handled: u64,
    at: u64,
    sender: JobSender,
    asked: Arc<Asked>,
}

/// When the stop was asked for, and how many messages were handled after that.
#[derive(Debug)]
struct Asked {
    start: Instant,
    nanos: AtomicU64,
    handled_after: AtomicU64,
}

impl Asked {
    fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), nanos: AtomicU64::new(0), handled_after: AtomicU64::new(0) })
    }

    fn now(&self) {
        let nanos = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanos.store(nanos, Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_nanos(self.nanos.load(Ordering::Relaxed)))
    }
}

impl JobController for Asking {
    fn status(&self) -> RunStatus {
        self.rest.status()
    }

    fn failure(&self) -> Option<&RunFailure> {
        None
    }

    fn handle(&mut self, event: WorkerEvent, now: Instant) -> Result<Applied, Rejection> {
        self.handled += 1;
        if self.handled == self.at {
            self.asked.now();
            // The job that is asked is the one that holds this controller, so it is there.
            let _ = self.sender.request(StopRequest::Checkpoint);
        } else if self.handled > self.at {
            self.asked.handled_after.fetch_add(1, Ordering::Relaxed);
        }
        self.rest.handle(event, now)
    }

    fn check_health(&mut self, _: Instant) {}

    fn begin_checkpoint(&mut self, then_stop: bool) -> Result<CheckpointStart, ControllerError> {
        self.rest.begin_checkpoint(then_stop)
    }

    fn begin_stop(&mut self, _: WorkerStopMode) {}

    fn begin_release(&mut self) {}

    async fn progress(&mut self) -> Result<(), ControllerError> {
        self.rest.progress().await
    }
}

/// Messages that are handled before the stop is asked for.
const BEFORE: usize = 100;

fn heartbeat() -> WorkerEvent {
    WorkerEvent::new(RunId::new(1), WorkerId::new(1), Event::Heartbeat)
}

/// The two lanes: a running job with a backlog behind the message that it has in hand. Returns the
/// time from the request until the job has left `Running`, and how many messages it handled in
/// between.
fn ours(runtime: &Runtime, backlog: usize) -> report::Result<(f64, u64)> {
    let mailbox = Mailbox::new(u32::try_from(BEFORE + backlog)?);
    let sender = mailbox.sender();
    for _ in 0..BEFORE + backlog {
        sender.try_event(heartbeat())?;
    }
    let asked = Asked::new();
    let (at, told) = (BEFORE as u64, Arc::clone(&asked));
    let controller = Asking { rest: NoController, handled: 0, at, sender, asked: told };
    let builder = JobContext::builder(&OpenRun::without_store("bench", RunId::new(1))).simulated().mailbox(mailbox);
    let (mut job, running) = builder.build(controller, NoScheduler).unwrap();
    runtime.block_on(async {
        match running.next(&mut job).await? {
            AfterRunning::CheckpointStopping(_) => {}
            other => return Err(format!("expected `CheckpointStopping`, got {}", other.kind()).into()),
        }
        Ok((micros(asked.ago()), asked.handled_after.load(Ordering::Relaxed)))
    })
}

enum Message {
    Worker(WorkerEvent),
    Stop,
}

/// The usual way: the request stands in the channel behind the backlog.
fn shared_channel(runtime: &Runtime, backlog: usize) -> report::Result<(f64, u64)> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    for _ in 0..backlog {
        sender.send(Message::Worker(heartbeat()))?;
    }
    let mut controller = NoController;
    let start = Instant::now();
    sender.send(Message::Stop)?;
    runtime.block_on(async {
        let mut handled = 0;
        while let Some(message) = receiver.recv().await {
            match message {
                Message::Worker(event) => {
                    controller.handle(event, Instant::now())?;
                    handled += 1;
                }
                Message::Stop => return Ok((micros(start.elapsed()), handled)),
            }
        }
        Err("the channel was closed".into())
    })
}

/// Item 5.
pub(super) fn backlog(scale: Scale) -> report::Result<Backlog> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut rows = Vec::new();
    for &backlog in scale.pick(&[0, 1000][..], &[0, 1000, 100_000], &[0, 1000, 10_000, 100_000, 1_000_000]) {
        let (mut read_before, mut shared_read_before) = (0, 0);
        let mut contenders: [Contender; 2] = [
            Box::new(|| {
                let (time, read) = ours(&runtime, backlog)?;
                read_before = read_before.max(read);
                Ok(time)
            }),
            Box::new(|| {
                let (time, read) = shared_channel(&runtime, backlog)?;
                shared_read_before = shared_read_before.max(read);
                Ok(time)
            }),
        ];
        let figures = interleave(scale.pick(2, 11, 21), &mut contenders)?;
        drop(contenders);
        let [ours, shared_channel] = [&figures[0], &figures[1]].map(|figures| Samples::of(figures.clone()));
        rows.push(BacklogRow { backlog, read_before, ours, shared_channel, shared_read_before });
    }
    Ok(Backlog { rows })
}
