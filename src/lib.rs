//! winddown
#![forbid(unsafe_code)]

#[cfg(feature = "object-store")]
pub mod checkpoint;
pub mod contracts;
#[cfg(feature = "embedded")]
pub mod embedded;
mod ids;
mod limits;
mod topology;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "object-store")]
pub use checkpoint::ObjectStoreCheckpoints;
pub use contracts::*;
#[cfg(feature = "embedded")]
pub use embedded::{EmbeddedCluster, EmbeddedRun, StartError};
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use limits::Limits;
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
#[cfg(feature = "worker")]
pub use worker::{
    Barrier, EventSink, SinkClosed, TaskContext, TaskControl, TaskEvents, TaskOrder, TaskSpec, Worker, WorkerOptions,
    WorkerSpec,
};
