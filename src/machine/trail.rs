//! The phases of a job so far, and the channel to readers of all of them.

use std::sync::{Arc, OnceLock};

use futures_util::{Stream, stream};
use tokio::{sync::watch, time::Instant};

use super::{PhaseKind, Reason, ReasonKind, reason::About};

/// One stay in a phase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// The phase.
    pub phase: PhaseKind,
    /// When it was entered.
    pub entered: Instant,
    // A reason in two parts takes less memory: each job has seven of these.
    kind: ReasonKind,
    about: Option<Arc<About>>,
}

impl Visit {
    pub(super) fn new(phase: PhaseKind, entered: Instant, reason: Reason) -> Self {
        let (kind, about) = reason.into_parts();
        Self { phase, entered, kind, about }
    }

    /// Why it was entered.
    pub fn reason(&self) -> Reason {
        Reason::from_parts(self.kind, self.about.clone())
    }
}

/// The phases so far. The longest path through the machine has six phases, so no transition
/// allocates.
#[derive(Clone, Debug)]
pub(super) struct Trail {
    visits: [Visit; Self::CAPACITY],
    len: u8,
}

impl Trail {
    const CAPACITY: usize = 6;

    fn new(first: &Visit) -> Self {
        Self { visits: std::array::from_fn(|_| first.clone()), len: 1 }
    }

    fn push(&mut self, visit: Visit) {
        // Every edge leads to a later phase in the machine's order, so the path ends before the
        // array does.
        if let Some(slot) = self.visits.get_mut(usize::from(self.len)) {
            *slot = visit;
            self.len += 1;
        }
    }

    fn visits(&self) -> &[Visit] {
        &self.visits[..usize::from(self.len)]
    }
}

/// The trail and a channel to its readers. The channel is created for the first reader and holds a
/// copy, because most jobs have no reader.
#[derive(Debug)]
pub(super) struct LiveTrail {
    trail: Trail,
    followed: OnceLock<watch::Sender<Trail>>,
}

impl LiveTrail {
    pub(super) fn new(first: &Visit) -> Self {
        Self { trail: Trail::new(first), followed: OnceLock::new() }
    }

    pub(super) fn push(&mut self, visit: Visit) {
        if let Some(followed) = self.followed.get() {
            followed.send_modify(|trail| trail.push(visit.clone()));
        }
        self.trail.push(visit);
    }

    pub(super) fn visits(&self) -> &[Visit] {
        self.trail.visits()
    }

    pub(super) fn phase(&self) -> PhaseKind {
        self.trail.visits[usize::from(self.trail.len.saturating_sub(1))].phase
    }

    pub(super) fn follow(&self) -> Phases {
        let followed = self.followed.get_or_init(|| watch::Sender::new(self.trail.clone()));
        Phases { trail: followed.subscribe(), told: 0 }
    }
}

/// Every phase that a job enters, in order, none skipped. Get it from
/// [`JobContext::phases`](super::JobContext::phases).
///
/// A shutdown has at most seven phases, so nothing piles up for a slow reader, and a late reader
/// gets all of them.
#[derive(Clone, Debug)]
pub struct Phases {
    trail: watch::Receiver<Trail>,
    told: usize,
}

impl Phases {
    /// Waits for the next phase. `None` after the end of the shutdown, or when the job's context is
    /// gone.
    ///
    /// # Cancel safety
    /// Safe: a phase counts as read only when it is returned.
    pub async fn next(&mut self) -> Option<Visit> {
        loop {
            let (next, is_over) = {
                let trail = self.trail.borrow_and_update();
                let is_over = trail.visits().last().is_some_and(|last| last.phase.is_terminal());
                (trail.visits().get(self.told).cloned(), is_over)
            };
            if next.is_some() {
                self.told += 1;
                return next;
            }
            if is_over || self.trail.changed().await.is_err() && !self.has_more() {
                return None;
            }
        }
    }

    fn has_more(&self) -> bool {
        self.trail.borrow().visits().len() > self.told
    }

    /// The same as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Visit> + Send {
        stream::unfold(self, |mut phases| async move { phases.next().await.map(|visit| (visit, phases)) })
    }
}

#[cfg(test)]
mod tests {
    use super::Trail;
    use crate::machine::{EDGES, PhaseKind};

    fn longest_walk_from(phase: PhaseKind) -> usize {
        let edges = EDGES.iter().filter(|edge| edge.from == phase);
        1 + edges.map(|edge| longest_walk_from(edge.to)).max().unwrap_or(0)
    }

    #[test]
    fn the_longest_walk_fits_exactly() {
        assert_eq!(longest_walk_from(PhaseKind::Running), Trail::CAPACITY);
    }
}
