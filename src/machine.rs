//! The typed machine: the phases, and the legal steps between them.
//!
//! Everything here comes from the one table in `src/machine/table.rs`: the proof traits, the
//! successor enums, [`PhaseKind`], [`EDGES`], and, through a test, the generated pages in `docs/`.

#[macro_use]
mod define;
mod context;
mod failure;
mod held;
mod journaling;
mod live;
mod modes;
pub(crate) mod phases;
mod progress;
mod reason;
pub(crate) mod record;
mod table;
mod trail;

pub use context::{JobBuilder, JobContext};
pub use failure::{StepError, StepFailed, WrongJob};
pub use live::BuildError;
pub use modes::{Force, Graceful, Immediate, StopBehavior, StopMode, WeakerThan};
pub use phases::{
    AnyStopped, CheckpointStopping, Checkpointed, Completed, Drained, Evidence, Finishing, Halted, Killed,
    NothingToReplay, Recovering, Running, Stopped, Stopping,
};
pub(crate) use progress::{Call, Trouble};
pub use progress::{Progress, ProgressReport};
pub use reason::{Reason, ReasonKind};
pub(crate) use record::{BoxJournal, Journal, JournalError, PhaseRecord};
pub use table::{
    AfterCheckpointStopping, AfterFinishing, AfterForce, AfterGraceful, AfterImmediate, AfterRecovering, AfterRunning,
    AnyPhase, EDGES, PhaseKind,
};
pub use trail::{Phases, Visit};

pub(crate) use held::Held;
pub(crate) use phases::{NothingAlive, Replay, hold, listed, pause, replay, step_for};

use self::phases::{HealthWatch, sealed};

/// A phase of a shutdown. Each is a type of its own; this trait is sealed.
///
/// A value of a phase exists only if its edge was taken (invariant I1): phases have no public
/// constructor, no public fields and no usable `Deserialize`.
pub trait Phase: sealed::Mint + Into<AnyPhase> + Send + 'static {
    /// The phase as a value.
    const KIND: PhaseKind;
}

/// Proof that the machine has an edge from phase `From` to this phase. Sealed: only the table
/// implements it.
///
/// The bound is on the *target* of the step, so that the compiler's message is one sentence about
/// the step:
///
/// ```compile_fail
/// use winddown::{CheckpointStopping, Checkpointed, Stopped, edge};
///
/// // error: illegal shutdown transition: `Stopped<Checkpointed>` -> `CheckpointStopping`
/// edge::<Stopped<Checkpointed>, CheckpointStopping>();
/// ```
#[diagnostic::on_unimplemented(
    message = "illegal shutdown transition: `{From}` -> `{Self}`",
    label = "the shutdown machine has no edge from `{From}` to `{Self}`",
    note = "docs/transitions.md lists every legal step; docs/errors.md says what to do instead"
)]
pub trait SuccessorOf<From: Phase>: Phase + sealed::EdgeFrom<From> {
    /// When the edge is taken.
    const WHEN: &'static str;
}

/// A legal step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Edge {
    /// The phase that the step leaves.
    pub from: PhaseKind,
    /// The phase that the step enters.
    pub to: PhaseKind,
    /// When.
    pub when: &'static str,
}

/// The edge from one phase type to another. It compiles only if there is one.
///
/// ```
/// use winddown::{CheckpointStopping, Running, edge};
///
/// assert_eq!(edge::<Running, CheckpointStopping>().when, "a stop request with a checkpoint");
/// ```
pub const fn edge<From: Phase, To: SuccessorOf<From>>() -> Edge {
    Edge { from: From::KIND, to: To::KIND, when: To::WHEN }
}

impl PhaseKind {
    /// Whether nothing follows: one of the `Stopped` phases.
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::StoppedCheckpointed
                | Self::StoppedCompleted
                | Self::StoppedDrained
                | Self::StoppedHalted
                | Self::StoppedKilled
        )
    }

    /// Whether the machine has an edge from this phase to `to`.
    pub fn can_become(self, to: Self) -> bool {
        EDGES.iter().any(|edge| edge.from == self && edge.to == to)
    }

    /// The strongest stop request that the phase already fulfils; it yields to a stronger one
    /// (invariant I4).
    pub const fn fulfils(self) -> Option<crate::contracts::StopRequest> {
        use crate::contracts::StopRequest;
        match self {
            Self::Running => None,
            // The final checkpoint stops every task at a consistent point, and does more than a
            // graceful stop.
            Self::Finishing | Self::CheckpointStopping | Self::StoppingGraceful => Some(StopRequest::Graceful),
            Self::Recovering | Self::StoppingImmediate => Some(StopRequest::Immediate),
            _ => Some(StopRequest::Force),
        }
    }
}

/// A text that is not the tag of any phase.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a phase's tag (`running`, `stopping-force` and so on; docs/transitions.md lists them), got `{0}`")]
pub struct ParsePhaseKindError(String);

/// Reads a phase's [`tag`](PhaseKind::tag).
impl std::str::FromStr for PhaseKind {
    type Err = ParsePhaseKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_tag(text).ok_or_else(|| ParsePhaseKindError(text.to_owned()))
    }
}

impl std::fmt::Display for PhaseKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}
