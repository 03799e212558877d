//! winddown
#![forbid(unsafe_code)]

pub mod contracts;
mod ids;
mod topology;

pub use contracts::*;
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
