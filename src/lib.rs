//! winddown
#![forbid(unsafe_code)]

#[cfg(feature = "object-store")]
pub mod checkpoint;
pub mod contracts;
mod ids;
mod limits;
mod topology;

#[cfg(feature = "object-store")]
pub use checkpoint::ObjectStoreCheckpoints;
pub use contracts::*;
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use limits::Limits;
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
