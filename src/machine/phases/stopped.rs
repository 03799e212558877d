//! The end: nothing of the run is alive, and the type says what was achieved.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::{
    release::NothingAlive,
    sealed::{Entry, Mint},
};
use crate::{
    contracts::{ConfirmedBy, Epoch, JobId, RunId},
    machine::{JobContext, Phase, PhaseKind},
};

/// The job has stopped: the scheduler, asked after the last stop order, listed no worker of the run (invariant I2). `E` is the evidence
/// of how it stopped. Terminal: there is no `next`.
///
/// A function that resumes a job exactly where it stopped can require `Stopped<Checkpointed>`:
///
/// ```compile_fail
/// use winddown::{Checkpointed, Epoch, Killed, Stopped};
///
/// fn resume_exactly(from: &Stopped<Checkpointed>) -> Epoch { from.evidence().epoch() }
/// fn after_a_kill(stopped: &Stopped<Killed>) -> Epoch { resume_exactly(stopped) }
/// ```
pub struct Stopped<E: Evidence> {
    evidence: E,
    gone: Gone,
    entry: Entry,
}

/// Nothing of this run is alive.
#[derive(Clone, Debug)]
pub struct Gone {
    job: JobId,
    run: RunId,
    forced: bool,
    confirmed_by: ConfirmedBy,
}

impl NothingAlive {
    /// The proof, with the job and run that it is about.
    pub(super) fn witness<C, S>(self, job: &JobContext<C, S>) -> Gone {
        Gone { job: job.id.clone(), run: job.run, forced: self.forced(), confirmed_by: self.confirmed_by() }
    }
}

#[diagnostic::do_not_recommend]
impl<E: Evidence> Mint for Stopped<E> {
    type Proof = (E, Gone);

    fn mint(entry: Entry, (evidence, gone): Self::Proof) -> Self {
        Self { evidence, gone, entry }
    }

    fn entry(&self) -> &Entry {
        &self.entry
    }

    fn budget(_: &crate::limits::Limits) -> Option<Duration> {
        None
    }
}

impl<E: Evidence> Stopped<E> {
    /// What the stop proves.
    pub fn evidence(&self) -> &E {
        &self.evidence
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.gone.job
    }

    /// The run that has stopped.
    pub fn run(&self) -> RunId {
        self.gone.run
    }

    /// Whether workers had to be killed: always after a force stop, otherwise those that did not leave once their tasks had ended.
    pub fn killed_workers(&self) -> bool {
        self.gone.forced
    }

    /// Who confirmed that nothing is alive.
    pub fn confirmed_by(&self) -> ConfirmedBy {
        self.gone.confirmed_by
    }

    /// When the last worker was known to be gone.
    pub fn at(&self) -> Instant {
        self.entry.since
    }
}

impl<E: Evidence> fmt::Debug for Stopped<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stopped").field("evidence", &self.evidence).field("gone", &self.gone).finish_non_exhaustive()
    }
}

/// What a [`Stopped`] proves. Sealed.
pub trait Evidence: private::Evidence + fmt::Debug + Copy + Send + 'static {}

mod private {
    #[diagnostic::on_unimplemented(
        message = "`{Self}` is no evidence of how a job stopped, and none can be added from outside",
        label = "evidence is given out by the operation that has proven it"
    )]
    pub trait Evidence {}
}

macro_rules! evidence {
    ($($(#[$doc:meta])* $name:ident($inner:ty);)+) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name($inner);

        impl $name {
            /// For the operation that has proven it.
            pub(super) const fn proven(inner: $inner) -> Self {
                Self(inner)
            }
        }

        #[diagnostic::do_not_recommend]
        impl private::Evidence for $name {}
        #[diagnostic::do_not_recommend]
        impl Evidence for $name {}
    )+ };
}

evidence! {
    /// The final checkpoint is durable and holds every task of the run, every commit was acknowledged, and every task finished
    /// (invariant I3). Resuming from it loses nothing and replays nothing.
    Checkpointed(Epoch);
    /// The job has read all its input and ended by itself: its final checkpoint is durable and holds every task of the run, every commit was
    /// acknowledged, and every task finished (invariant I3). Nothing is left to replay, nor to resume.
    Completed(Epoch);
    /// Everything that was read was processed to the end, and every task finished. What the last
    /// complete checkpoint did not commit is replayed.
    Drained(Option<Epoch>);
    /// Every task stopped where it was. The next run replays from the last complete checkpoint.
    Halted(Option<Epoch>);
    /// The workers were killed. The next run replays from the last complete checkpoint in the store.
    Killed(ConfirmedBy);
}

impl Checkpointed {
    /// The final checkpoint.
    pub const fn epoch(&self) -> Epoch {
        self.0
    }
}

impl Completed {
    /// The final checkpoint.
    pub const fn epoch(&self) -> Epoch {
        self.0
    }
}

/// Evidence that leaves nothing to replay: everything that was read is committed exactly once.
/// Sealed.
///
/// ```
/// use winddown::{Epoch, NothingToReplay, Stopped};
///
/// /// Hands the output over; a kill, say, could have left half of it to be written again.
/// fn publish<E: NothingToReplay>(stopped: &Stopped<E>) -> Epoch {
///     stopped.evidence().final_epoch()
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not prove that nothing is left to replay",
    label = "what was read since the last complete checkpoint is read again by the next run",
    note = "only `Checkpointed` and `Completed` prove it"
)]
pub trait NothingToReplay: Evidence {
    /// The final checkpoint.
    fn final_epoch(&self) -> Epoch;
}

#[diagnostic::do_not_recommend]
impl NothingToReplay for Checkpointed {
    fn final_epoch(&self) -> Epoch {
        self.0
    }
}

#[diagnostic::do_not_recommend]
impl NothingToReplay for Completed {
    fn final_epoch(&self) -> Epoch {
        self.0
    }
}

impl Drained {
    /// The last complete checkpoint, if there was any.
    pub const fn last_epoch(&self) -> Option<Epoch> {
        self.0
    }
}

impl Halted {
    /// The last complete checkpoint, if there was any.
    pub const fn last_epoch(&self) -> Option<Epoch> {
        self.0
    }
}

impl Killed {
    /// Who confirmed that the workers are gone.
    pub const fn confirmed_by(&self) -> ConfirmedBy {
        self.0
    }
}

/// A stopped job, whatever the evidence: what a [`Receipt`](crate::drive::Receipt) holds. Exhaustive, like [`PhaseKind`].
#[derive(Debug)]
pub enum AnyStopped {
    /// With a complete final checkpoint.
    Checkpointed(Stopped<Checkpointed>),
    /// By itself, with a complete final checkpoint.
    Completed(Stopped<Completed>),
    /// After everything that was read had been processed.
    Drained(Stopped<Drained>),
    /// Where the tasks were.
    Halted(Stopped<Halted>),
    /// By killing the workers.
    Killed(Stopped<Killed>),
}

impl AnyStopped {
    /// Which phase it is.
    pub const fn kind(&self) -> PhaseKind {
        match self {
            Self::Checkpointed(_) => <Stopped<Checkpointed> as Phase>::KIND,
            Self::Completed(_) => <Stopped<Completed> as Phase>::KIND,
            Self::Drained(_) => <Stopped<Drained> as Phase>::KIND,
            Self::Halted(_) => <Stopped<Halted> as Phase>::KIND,
            Self::Killed(_) => <Stopped<Killed> as Phase>::KIND,
        }
    }

    /// The evidence as a word: `checkpointed`, `completed`, `drained`, `halted` or `killed`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Checkpointed(_) => "checkpointed",
            Self::Completed(_) => "completed",
            Self::Drained(_) => "drained",
            Self::Halted(_) => "halted",
            Self::Killed(_) => "killed",
        }
    }

    /// The last complete checkpoint that this stop knows of; `None` after a kill, when only the
    /// store knows.
    pub const fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Checkpointed(stopped) => Some(stopped.evidence.0),
            Self::Completed(stopped) => Some(stopped.evidence.0),
            Self::Drained(stopped) => stopped.evidence.0,
            Self::Halted(stopped) => stopped.evidence.0,
            Self::Killed(_) => None,
        }
    }

    /// Whether workers had to be killed.
    pub const fn killed_workers(&self) -> bool {
        match self {
            Self::Checkpointed(stopped) => stopped.gone.forced,
            Self::Completed(stopped) => stopped.gone.forced,
            Self::Drained(stopped) => stopped.gone.forced,
            Self::Halted(stopped) => stopped.gone.forced,
            Self::Killed(stopped) => stopped.gone.forced,
        }
    }

    /// The final checkpoint, if nothing is left to replay: [`NothingToReplay`] as a value.
    pub const fn nothing_to_replay(&self) -> Option<Epoch> {
        match self {
            Self::Checkpointed(stopped) => Some(stopped.evidence.0),
            Self::Completed(stopped) => Some(stopped.evidence.0),
            Self::Drained(_) | Self::Halted(_) | Self::Killed(_) => None,
        }
    }

    /// Who confirmed that nothing is alive.
    pub const fn confirmed_by(&self) -> ConfirmedBy {
        match self {
            Self::Checkpointed(stopped) => stopped.gone.confirmed_by,
            Self::Completed(stopped) => stopped.gone.confirmed_by,
            Self::Drained(stopped) => stopped.gone.confirmed_by,
            Self::Halted(stopped) => stopped.gone.confirmed_by,
            Self::Killed(stopped) => stopped.gone.confirmed_by,
        }
    }
}
