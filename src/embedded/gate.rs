//! Fault injection: a gate between a worker and its controller.

use std::sync::Arc;

use tokio::sync::watch;

use crate::{
    contracts::WorkerEvent,
    worker::{EventSink, SinkClosed},
};

/// Whether orders and events get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// They get through.
    Open,
    /// They wait until the gate opens.
    Frozen,
    /// They never get through.
    Killed,
}

/// Waits while the gate is frozen.
pub(super) async fn passable(gate: &mut watch::Receiver<Gate>) -> Result<(), SinkClosed> {
    match gate.wait_for(|gate| *gate != Gate::Frozen).await.map(|gate| *gate) {
        Ok(Gate::Open) => Ok(()),
        Ok(Gate::Frozen | Gate::Killed) | Err(_) => Err(SinkClosed),
    }
}

/// A run's sink behind one worker's gate.
pub(super) struct GatedSink<S> {
    pub(super) sink: Arc<S>,
    pub(super) gate: watch::Receiver<Gate>,
}

impl<S: EventSink> EventSink for GatedSink<S> {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        let mut gate = self.gate.clone();
        loop {
            passable(&mut gate).await?;
            // A worker that freezes while its event waits for room must not report either; it
            // delivers again when it thaws. The contract of `EventSink` allows that the first
            // delivery went through as well.
            tokio::select! {
                biased;
                changed = gate.changed() => changed.map_err(|_| SinkClosed)?,
                delivered = self.sink.deliver(event.clone()) => return delivered,
            }
        }
    }
}
