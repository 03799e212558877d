//! The phases of a shutdown. Each is a type; its `run` does the work and may be dropped at any
//! time, its consuming `next` runs and then steps to a legal successor.
//!
//! How a phase is driven:
//!
//! - `phase.next(&mut job).await` returns the successor, or a
//!   [`StepFailed`](crate::machine::StepFailed) that holds the phase.
//! - `phase.run(&mut job).await` does the same work by `&mut`, so you keep the phase with a
//!   `timeout` or `select!` around it. Once it has returned `Ok`, the outcome is stored in the
//!   phase, and `next` takes the step. Before a step to `Stopped`, `next` asks the scheduler again.
//! - A `next` that is dropped before its end leaves the phase in the job:
//!   [`JobContext::take_parked`](crate::machine::JobContext::take_parked).

mod checkpoint_stopping;
mod finishing;
mod recovering;
mod refused;
mod release;
mod replay;
mod running;
pub(crate) mod sealed;
mod stopped;
mod stopping;
mod wait;
pub(crate) mod work;

pub use checkpoint_stopping::CheckpointStopping;
pub use finishing::Finishing;
pub use recovering::Recovering;
pub use running::Running;
pub(crate) use running::step_for;
pub use stopped::{AnyStopped, Checkpointed, Completed, Drained, Evidence, Halted, Killed, NothingToReplay, Stopped};
pub use stopping::Stopping;

pub(crate) use release::{NothingAlive, listed};
pub(crate) use replay::{Replay, replay};
pub(crate) use wait::{HealthWatch, hold, pause};
