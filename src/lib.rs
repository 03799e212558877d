//! winddown
#![forbid(unsafe_code)]

#[cfg(feature = "object-store")]
pub mod checkpoint;
mod cluster;
mod contracts;
mod drive;
#[cfg(feature = "embedded")]
pub mod embedded;
mod error;
#[cfg(feature = "grpc")]
pub mod grpc;
mod ids;
mod job;
mod limits;
mod machine;
pub mod model;
mod phases;
mod topology;
#[cfg(feature = "worker")]
pub mod worker;

#[cfg(feature = "object-store")]
pub use checkpoint::ObjectStoreCheckpoints;
pub use cluster::{ClusterBuilder, ClusterController};
pub use contracts::*;
pub use drive::{Attachment, DriveError, Leg, OnSpentCheckpoint, Policy, Receipt, drive};
#[cfg(feature = "embedded")]
pub use embedded::{EmbeddedCluster, EmbeddedRun};
pub use error::{Failed, Failure, WrongJob};
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use job::{
    Incoming, JobBuilder, JobContext, JobGone, JobMessage, JobSender, Mailbox, ParseStopRequestError, Progress,
    Requested, StopRequest, TryEventError, Visit,
};
pub use limits::Limits;
pub use machine::{
    AfterCheckpointStopping, AfterFinishing, AfterForce, AfterGraceful, AfterImmediate, AfterRecovering, AfterRunning,
    AnyPhase, EDGES, Edge, Force, Graceful, Immediate, Phase, PhaseKind, StopBehavior, StopMode, SuccessorOf,
    WeakerThan, edge,
};
pub use phases::{
    AnyStopped, CheckpointStopping, Checkpointed, Drained, Evidence, Finishing, Halted, Killed, Recovering, Running,
    Stopped, Stopping,
};
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
#[cfg(feature = "worker")]
pub use worker::{
    Barrier, EventSink, SinkClosed, TaskContext, TaskControl, TaskEvents, TaskOrder, TaskSpec, Worker, WorkerOptions,
    WorkerSpec,
};
