//! A third worker, which the topology does not have: its start is called while the job runs or
//! stops. It is in flight for a while, and then the worker is there, deaf to everything but a kill.
//! A scheduler lists it from the call on, and a forced stop ends its start.

use super::{
    report::CanHappen,
    world::{Item, Pending, World},
};
use crate::contracts::WorkerId;

pub(super) const LATE_WORKER: WorkerId = WorkerId::new(3);
/// Virtual milliseconds.
const IN_FLIGHT: u64 = 5;

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Late {
    #[default]
    NotCalled,
    InFlight,
    There,
    Over,
}

impl World {
    /// A start is called, unless the run was stopped with force.
    pub(super) fn call_start(&mut self, now: u64) {
        self.note(CanHappen::StartInFlight);
        self.touch();
        self.late_worker = Late::InFlight;
        self.queue.push_back(Pending { item: Item::Enter, not_before: now + IN_FLIGHT });
    }

    /// The start ends with a worker, unless it was stopped.
    pub(super) fn enter(&mut self) {
        if self.late_worker == Late::InFlight {
            self.touch();
            self.late_worker = Late::There;
        }
    }

    /// A forced stop is called: no start of the run ends with a worker from here on.
    pub(super) fn fence(&mut self) {
        if self.late_worker == Late::InFlight {
            self.note(CanHappen::StartRefused);
        }
        if matches!(self.late_worker, Late::InFlight | Late::NotCalled) {
            self.touch();
            self.late_worker = Late::Over;
        }
    }

    /// Kills it, if it is there.
    pub(super) fn kill_late(&mut self) {
        if self.late_worker == Late::There {
            self.late_worker = Late::Over;
        }
    }
}
