//! How a worker's events leave it: one queue, one pump, one book of what has been said.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::{Interval, MissedTickBehavior},
};

use super::{EventSink, SinkClosed};
use crate::{
    clock::{MOMENT, bearable},
    contracts::{Epoch, Event, RunId, WorkerEvent, WorkerId},
};

/// The queue of a worker's events.
///
/// What tasks report takes a place in `room`, and waits for one: that is the back-pressure. Ends of tasks and the end of
/// the worker need none, because there is one each by construction: so a task whose future has completed never lingers,
/// alive, behind a controller that reads no events at the moment.
#[derive(Debug)]
pub(super) struct Outbox {
    queue: mpsc::UnboundedSender<Queued>,
    room: Arc<Semaphore>,
    /// Its one stored permit is a flag: any number of repeated orders makes one repetition.
    again: Notify,
    /// The same for what lasts.
    lasting_again: Notify,
}

/// An event in the queue.
#[derive(Debug)]
pub(super) struct Queued {
    /// The task's position in its worker; none for the worker's own events.
    index: Option<usize>,
    event: Event,
    /// Held until the event has been delivered.
    _place: Option<OwnedSemaphorePermit>,
}

impl Outbox {
    /// How many reports of one worker's tasks wait for delivery before tasks are held back.
    const ROOM: usize = 64;

    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Queued>) {
        let (queue, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(Self::ROOM));
        (Self { queue, room, again: Notify::new(), lasting_again: Notify::new() }, receiver)
    }

    /// Waits for a place.
    pub(super) async fn place(&self) -> Result<OwnedSemaphorePermit, SinkClosed> {
        Arc::clone(&self.room).acquire_owned().await.map_err(|_| SinkClosed)
    }

    /// Queues an event. A worker that was killed has no pump, and drops it.
    pub(super) fn put(&self, index: Option<usize>, event: Event, place: Option<OwnedSemaphorePermit>) {
        let _ = self.queue.send(Queued { index, event, _place: place });
    }

    /// Has everything that was delivered delivered again.
    pub(super) fn repeat(&self) {
        self.again.notify_one();
    }

    /// Has what no new order makes anybody say again delivered again: which sources and which tasks have ended.
    pub(super) fn repeat_lasting(&self) {
        self.lasting_again.notify_one();
    }

    /// Nothing is delivered any more: whoever waits for a place, or will, gets [`SinkClosed`].
    pub(super) fn close(&self) {
        self.room.close();
    }
}

/// Delivers a worker's events, one after the other.
pub(super) struct Pump<S> {
    pub(super) sink: S,
    pub(super) run: RunId,
    pub(super) worker: WorkerId,
    pub(super) outbox: Arc<Outbox>,
    pub(super) queue: mpsc::UnboundedReceiver<Queued>,
    pub(super) book: Book,
}

/// With so many heartbeats, which sources and tasks have ended is said again.
const BEATS_PER_REPETITION: u32 = 10;

impl<S: EventSink> Pump<S> {
    /// Runs until the sink closes, or until it is aborted.
    pub(super) async fn run(mut self, heartbeat: Option<Duration>) {
        if self.deliver_all(heartbeat.map(ticker)).await == Err(SinkClosed) {
            tracing::warn!(
                run = self.run.get(),
                worker = self.worker.get(),
                "nobody takes this worker's events any more"
            );
        }
        self.outbox.close();
    }

    async fn deliver_all(&mut self, mut heartbeat: Option<Interval>) -> Result<(), SinkClosed> {
        let mut beats = 0_u32;
        loop {
            // A heartbeat waits in `deliver` like any event, and the next one is not made before it is through: so no more
            // than one is ever under way. It comes first, or a busy queue would starve it.
            tokio::select! {
                biased;
                () = tick(&mut heartbeat), if !self.book.left => {
                    self.deliver(Event::Heartbeat).await?;
                    beats += 1;
                    // Who took an event in may have crashed before acting on it, and the next controller may have nothing to order.
                    if beats.is_multiple_of(BEATS_PER_REPETITION) {
                        self.repeat_lasting().await?;
                    }
                }
                () = self.outbox.again.notified() => self.repeat().await?,
                () = self.outbox.lasting_again.notified() => self.repeat_lasting().await?,
                Some(queued) = self.queue.recv() => {
                    self.book.record(queued.index, &queued.event);
                    self.deliver(queued.event).await?;
                }
            }
        }
    }

    /// Only what was delivered before is in the book, and the queue holds what is newer, so a repetition never overtakes.
    async fn repeat(&self) -> Result<(), SinkClosed> {
        for event in self.book.events() {
            self.deliver(event.clone()).await?;
        }
        Ok(())
    }

    async fn repeat_lasting(&self) -> Result<(), SinkClosed> {
        for event in self.book.lasting() {
            self.deliver(event.clone()).await?;
        }
        Ok(())
    }

    async fn deliver(&self, event: Event) -> Result<(), SinkClosed> {
        self.sink.deliver(WorkerEvent::new(self.run, self.worker, event)).await
    }
}

fn ticker(every: Duration) -> Interval {
    // A zero period would panic in tokio, and so would one without an end, at the first late tick.
    let mut interval = tokio::time::interval(bearable(every).max(MOMENT));
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

async fn tick(interval: &mut Option<Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// What a worker has said, as far as it is worth saying again: of each task the newest event of each kind.
#[derive(Debug)]
pub(super) struct Book {
    tasks: Vec<TaskBook>,
    /// The worker has said that it leaves.
    left: bool,
}

#[derive(Clone, Debug, Default)]
struct TaskBook {
    exhausted: Option<Event>,
    checkpoint: Option<(Epoch, Event)>,
    commit: Option<(Epoch, Event)>,
    end: Option<Event>,
}

impl Book {
    pub(super) fn new(tasks: usize) -> Self {
        Self { tasks: vec![TaskBook::default(); tasks], left: false }
    }

    fn record(&mut self, index: Option<usize>, event: &Event) {
        if let Some(task) = index.and_then(|index| self.tasks.get_mut(index)) {
            let copy = event.clone();
            match event {
                Event::SourceExhausted { .. } => task.exhausted = Some(copy),
                Event::CheckpointCompleted { epoch, .. } | Event::OperatorPreCommitted { epoch, .. } => {
                    newest(&mut task.checkpoint, *epoch, copy);
                }
                Event::CommitCompleted { epoch, .. } => newest(&mut task.commit, *epoch, copy),
                Event::TaskFinished { .. }
                | Event::TaskFailed { .. }
                | Event::ChainFinished { .. }
                | Event::ChainFailed { .. } => task.end = Some(copy),
                Event::Heartbeat | Event::NonfatalError { .. } | Event::WorkerFailed { .. } | Event::WorkerFinished => {
                }
            }
        }
        self.left |= *event == Event::WorkerFinished;
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.tasks.iter().flat_map(TaskBook::events).chain(self.left.then_some(&Event::WorkerFinished))
    }

    fn lasting(&self) -> impl Iterator<Item = &Event> {
        self.tasks.iter().flat_map(|task| task.exhausted.iter().chain(&task.end))
    }
}

impl TaskBook {
    /// In the order in which a task says them: a commit follows its own checkpoint, and comes before the next one.
    fn events(&self) -> impl Iterator<Item = &Event> {
        let (mut first, mut second) = (self.checkpoint.as_ref(), self.commit.as_ref());
        if second.map(|(epoch, _)| epoch) < first.map(|(epoch, _)| epoch) {
            (first, second) = (second, first);
        }
        let epochs = first.into_iter().chain(second).map(|(_, event)| event);
        self.exhausted.iter().chain(epochs).chain(&self.end)
    }
}

fn newest(slot: &mut Option<(Epoch, Event)>, epoch: Epoch, event: Event) {
    if slot.as_ref().is_none_or(|(known, _)| *known <= epoch) {
        *slot = Some((epoch, event));
    }
}
