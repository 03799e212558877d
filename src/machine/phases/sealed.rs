//! The traits that keep phases unforgeable (invariant I1): downstream crates can't name them or
//! construct their arguments.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    limits::Limits,
    machine::{AnyPhase, AnyStopped, JobContext, Phase, Reason, StepFailed, StopMode, Stopping},
};

/// Makes a phase, given the proof that its edge requires.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a phase of the shutdown machine, and no phase can be added to it from outside",
    label = "a phase is reached by a legal transition, and cannot be invented",
    note = "docs/transitions.md lists the phases and every legal step"
)]
pub trait Mint: Sized {
    /// The proof that the phase requires: nothing for most, evidence for `Stopped`.
    type Proof;

    /// Makes the phase.
    fn mint(entry: Entry, proof: Self::Proof) -> Self;

    /// When and for which job the phase was entered.
    fn entry(&self) -> &Entry;

    /// Takes the edge to a forced stop, for a reason. A phase that has none comes back: it is one,
    /// or has ended.
    fn forced<C, S>(self, reason: Reason, job: &mut JobContext<C, S>) -> Result<AnyPhase, StepFailed<Self>>
    where
        Self: Phase;

    /// The end as what it is; a phase that is not the end comes back.
    fn ended(self) -> Result<AnyStopped, Self> {
        Err(self)
    }

    /// How long the phase may take; `None` where it bounds itself otherwise, or waits for a user.
    fn budget(_limits: &Limits) -> Option<Duration> {
        None
    }
}

/// Only the table implements it, for each of its edges.
#[diagnostic::on_unimplemented(message = "illegal shutdown transition: `{From}` -> `{Self}`")]
pub trait EdgeFrom<From> {}

/// A mode of `Stopping`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a mode of stopping: there are `Graceful`, `Immediate` and `Force`, and none can be added from outside",
    label = "a mode is one of `Graceful`, `Immediate` and `Force`, and cannot be invented",
    note = "what workers do on a stop is up to their tasks: a mode of your own is an order that they understand"
)]
pub trait Mode: Copy {
    /// How the work of [`Stopping`](crate::machine::Stopping) in this mode ends.
    type Exit: Clone + std::fmt::Debug + Send + 'static;

    /// The step of [`Stopping`](crate::machine::Stopping) in this mode to a forced stop; see
    /// [`Mint::forced`].
    fn forced<C, S>(
        stopping: Stopping<Self>,
        reason: Reason,
        job: &mut JobContext<C, S>,
    ) -> Result<AnyPhase, StepFailed<Stopping<Self>>>
    where
        Self: StopMode;
}

/// Required to call hidden methods of public traits, so that only this crate can.
#[derive(Clone, Copy, Debug)]
pub struct Token;

/// What a phase remembers about its entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub(crate) identity: u64,
    pub(crate) since: Instant,
    pub(crate) deadline: Option<Instant>,
}

impl Entry {
    // Part of every transition, in code that is compiled in the user's crate.
    #[inline]
    pub(crate) fn new(identity: u64, since: Instant, budget: Option<Duration>) -> Self {
        Self { identity, since, deadline: budget.and_then(|budget| since.checked_add(budget)) }
    }

    /// The total time limit of the phase.
    pub(crate) fn budget(&self) -> Duration {
        self.deadline.map_or(Duration::MAX, |deadline| deadline - self.since)
    }
}
