//! The modes of [`Stopping`](crate::machine::Stopping), from the mildest to the strongest.

use crate::{
    contracts::WorkerStopMode,
    machine::{JobContext, ReasonKind, Stopping, phases::sealed},
};

/// Sources stop reading, and what has been read is processed to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Graceful {}

/// Every task stops where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Immediate {}

/// The scheduler kills the workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Force {}

/// A mode of [`Stopping`](crate::machine::Stopping). Sealed.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a mode of stopping: there are `Graceful`, `Immediate` and `Force`, and none can be added from outside",
    label = "expected `Graceful`, `Immediate` or `Force`",
    note = "what workers do on a stop is up to their tasks: a mode of your own is an order that they understand"
)]
pub trait StopMode: sealed::Mode + Send + Sync + 'static {
    /// The mode as a value.
    const BEHAVIOR: StopBehavior;
}

/// The action of a [`Stopping`](crate::machine::Stopping) phase, as a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StopBehavior {
    /// The workers are ordered to stop their tasks.
    StopJob(WorkerStopMode),
    /// The scheduler kills the workers.
    StopWorkers,
}

impl StopMode for Graceful {
    const BEHAVIOR: StopBehavior = StopBehavior::StopJob(WorkerStopMode::Graceful);
}

impl StopMode for Immediate {
    const BEHAVIOR: StopBehavior = StopBehavior::StopJob(WorkerStopMode::Immediate);
}

impl StopMode for Force {
    const BEHAVIOR: StopBehavior = StopBehavior::StopWorkers;
}

/// Proof that a stop of this mode may be escalated to mode `Stronger` (invariant I4: a stop never
/// becomes weaker). Sealed.
#[diagnostic::on_unimplemented(
    message = "a stop never becomes weaker: `Stopping<{Self}>` can't be escalated to `Stopping<{Stronger}>`",
    label = "`{Stronger}` is not stronger than `{Self}`",
    note = "the order is Graceful -> Immediate -> Force"
)]
pub trait WeakerThan<Stronger: StopMode>: StopMode {
    #[doc(hidden)]
    fn escalate<C, S>(stopping: Stopping<Self>, job: &mut JobContext<C, S>, token: sealed::Token) -> Stopping<Stronger>
    where
        Self: Sized;
}

macro_rules! weaker {
    ($($weaker:ty => $stronger:ty),+) => { $(
        #[diagnostic::do_not_recommend]
        impl WeakerThan<$stronger> for $weaker {
            // This needs the same proof as every step: an escalation that is not in the table does
            // not compile here.
            fn escalate<C, S>(
                stopping: Stopping<Self>,
                job: &mut JobContext<C, S>,
                _: sealed::Token,
            ) -> Stopping<$stronger> {
                job.enter(stopping, (), ReasonKind::Program)
            }
        }
    )+ };
}

weaker!(Graceful => Immediate, Graceful => Force, Immediate => Force);
