//! winddown
#![forbid(unsafe_code)]

mod cluster;
pub mod contracts;
mod ids;
mod limits;
pub mod model;
mod topology;

pub use cluster::{ClusterBuilder, ClusterController};
pub use contracts::*;
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use limits::Limits;
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
