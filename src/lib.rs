//! winddown
#![forbid(unsafe_code)]

pub mod contracts;
mod ids;
mod limits;
mod topology;

pub use contracts::*;
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use limits::Limits;
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
