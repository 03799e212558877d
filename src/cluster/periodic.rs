//! When the next periodic checkpoint starts, and when the one in flight has taken too long.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{contracts::Epoch, model::RunModel};

pub(super) struct Periodic {
    every: Option<Duration>,
    limit: Duration,
    state: PeriodicState,
    /// Created when it is first polled, because tokio's timer may not exist before. Removed
    /// whenever `state` changes.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum PeriodicState {
    Off,
    /// None is in flight; the next starts then.
    Waiting(Option<Instant>),
    /// This one is in flight; it is abandoned then.
    InFlight(Epoch, Option<Instant>),
}

impl Periodic {
    /// The next one starts `every` after the end of the previous one; each may take `limit`.
    pub(super) fn new(every: Option<Duration>, limit: Duration) -> Self {
        Self { every, limit, state: PeriodicState::Off, timer: None }
    }

    /// Starts none any more; the one in flight is still watched.
    pub(super) fn stop(&mut self) {
        self.every = None;
    }

    /// Follows the model.
    pub(super) fn settle(&mut self, model: &RunModel) {
        let state = match (model.periodic(), self.every) {
            (Some(epoch), _) => match self.state {
                PeriodicState::InFlight(known, _) if known == epoch => return,
                _ => PeriodicState::InFlight(epoch, Instant::now().checked_add(self.limit)),
            },
            (None, Some(every)) if model.may_start_periodic() => match self.state {
                PeriodicState::Waiting(_) => return,
                PeriodicState::Off | PeriodicState::InFlight(..) => {
                    PeriodicState::Waiting(Instant::now().checked_add(every))
                }
            },
            (None, _) => PeriodicState::Off,
        };
        self.state = state;
        self.timer = None;
    }

    /// Ready when it is time to start one, or to abandon the one in flight; the caller does it and
    /// then settles.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (PeriodicState::Waiting(Some(deadline)) | PeriodicState::InFlight(_, Some(deadline))) = self.state else {
            return Poll::Pending;
        };
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        std::task::ready!(timer.as_mut().poll(cx));
        // A fired timer is not polled again; if the caller changes nothing, the wait starts over.
        self.state = PeriodicState::Off;
        self.timer = None;
        Poll::Ready(())
    }
}
