//! A sink whose events tests can read.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{EventSink, SinkClosed};
use crate::contracts::{Event, WorkerEvent};

/// The sink's side.
pub(crate) struct Speaker(mpsc::Sender<WorkerEvent>);

/// The test's side.
pub(crate) struct Listener(mpsc::Receiver<WorkerEvent>);

/// A sink with room for `room` events.
pub(crate) fn sink(room: usize) -> (Speaker, Listener) {
    let (sender, receiver) = mpsc::channel(room);
    (Speaker(sender), Listener(receiver))
}

impl EventSink for Speaker {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        self.0.send(event).await.map_err(|_| SinkClosed)
    }
}

impl Listener {
    /// The next event, from any task. A minute of silence on the (paused) clock fails the test
    /// instead of hanging it.
    pub(crate) async fn next(&mut self) -> WorkerEvent {
        let event = timeout(Duration::from_secs(60), self.0.recv()).await.expect("an event within a minute");
        event.expect("the worker still speaks")
    }

    /// The next event other than a heartbeat.
    pub(crate) async fn event(&mut self) -> Event {
        loop {
            match self.next().await.event {
                Event::Heartbeat => {}
                event => return event,
            }
        }
    }

    /// The next `count` events other than heartbeats.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::with_capacity(count);
        while events.len() < count {
            events.push(self.event().await);
        }
        events
    }

    /// All events until there has been none for ten seconds (a paused clock jumps over them).
    pub(crate) async fn until_silent(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(Some(event)) = timeout(Duration::from_secs(10), self.0.recv()).await {
            events.push(event.event);
        }
        events
    }
}

/// Wraps `task` so that it holds `witness`, whose count shows when the task's future has been
/// dropped.
pub(crate) async fn witnessed<T>(witness: Arc<()>, task: impl Future<Output = T> + Send) -> T {
    let result = task.await;
    drop(witness);
    result
}
