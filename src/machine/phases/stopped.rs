//! The end: nothing of the run is alive, and the type says what was achieved.

use std::{fmt, time::Duration};

use tokio::time::Instant;

use super::{
    release::NothingAlive,
    sealed::{Entry, Mint},
};
use crate::{
    contracts::{ConfirmedBy, Epoch, JobId, RunId},
    machine::{AnyPhase, JobContext, Phase, PhaseKind, Reason, StepFailed},
};

/// The job has stopped: the scheduler, asked after the last stop order, listed no worker of the run
/// (invariant I2). `E` is the evidence of how it stopped. Terminal: there is no `next`.
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

    fn forced<C, S>(self, _: Reason, _: &mut JobContext<C, S>) -> Result<AnyPhase, StepFailed<Self>>
    where
        Self: Phase,
    {
        Ok(self.into())
    }

    fn ended(self) -> Result<AnyStopped, Self> {
        Ok(E::any(self))
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

    /// Whether workers had to be killed: always after a force stop, otherwise those that did not
    /// leave once their tasks had ended.
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
    pub trait Evidence: Sized {
        fn any(stopped: super::Stopped<Self>) -> super::AnyStopped
        where
            Self: super::Evidence;
    }
}

macro_rules! evidence {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $word:literal, $how:literal;)+) => {
        /// A stopped job, whatever the evidence: what a [`Receipt`](crate::drive::Receipt) holds.
        /// Exhaustive, like [`PhaseKind`].
        #[derive(Debug)]
        pub enum AnyStopped { $( #[doc = $how] $name(Stopped<$name>), )+ }

        impl AnyStopped {
            /// Which phase it is.
            pub const fn kind(&self) -> PhaseKind {
                match self { $( Self::$name(_) => <Stopped<$name> as Phase>::KIND, )+ }
            }

            /// One word for the evidence: `checkpointed`, `completed`, `drained`, `halted` or
            /// `killed`.
            pub const fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => $word, )+ }
            }

            const fn gone(&self) -> &Gone {
                match self { $( Self::$name(stopped) => &stopped.gone, )+ }
            }
        }

        #[diagnostic::do_not_recommend]
        impl From<AnyStopped> for AnyPhase {
            fn from(stopped: AnyStopped) -> Self {
                match stopped { $( AnyStopped::$name(stopped) => stopped.into(), )+ }
            }
        }

        $(
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
        impl private::Evidence for $name {
            fn any(stopped: Stopped<Self>) -> AnyStopped {
                AnyStopped::$name(stopped)
            }
        }

        #[diagnostic::do_not_recommend]
        impl Evidence for $name {}

    )+ };
}

evidence! {
    /// The final checkpoint is durable and holds every task of the run, every commit was
    /// acknowledged, and every task finished (invariant I3). Resuming from it loses nothing and
    /// replays nothing.
    Checkpointed(Epoch), "checkpointed", "With a complete final checkpoint.";
    /// The job has read all its input and ended by itself: its final checkpoint is durable and
    /// holds every task of the run, every commit was acknowledged, and every task finished
    /// (invariant I3). Nothing is left to replay, nor to resume.
    Completed(Epoch), "completed", "By itself, with a complete final checkpoint.";
    /// Everything that was read has flowed to the end, and every task finished. What was not
    /// committed by the last complete checkpoint is replayed.
    Drained(Option<Epoch>), "drained", "After everything that was read had flowed to the end.";
    /// Every task stopped where it was. The next run replays from the last complete checkpoint.
    Halted(Option<Epoch>), "halted", "Where the tasks were.";
    /// The workers were killed. The next run replays from the last complete checkpoint in the
    /// store.
    Killed(ConfirmedBy), "killed", "By killing the workers.";
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
/// use winddown::{Epoch, Stopped, machine::NothingToReplay};
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

impl AnyStopped {
    /// The last complete checkpoint that this stop knows of; `None` after a kill, where only the
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
        self.gone().forced
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
        self.gone().confirmed_by
    }
}
