//! What most programs that stop jobs name, for `use winddown::prelude::*`.
//!
//! It holds the traits whose methods you call, what follows each phase, and the names at the crate root
//! that seldom mean something else in a program. The rest is named by its module.

pub use crate::{
    AnyPhase, AnyStopped, CheckpointStopping, Checkpointed, ClusterController, Completed, Detached, Drained, Epoch,
    Finishing, Force, Graceful, Halted, Immediate, JobContext, JobController, JobId, JobSender, Killed, Limits,
    OpenRun, PhaseKind, Policy, Receipt, Recovering, Role, RunId, Running, Scheduler, StepError, StepFailed,
    StopRequest, Stopped, Stopping, TaskId, Topology, WorkerId,
    contracts::{CheckpointStore, Transport},
    drive::drive,
    journal::Journal,
    machine::{
        AfterCheckpointStopping, AfterFinishing, AfterForce, AfterGraceful, AfterImmediate, AfterRecovering,
        AfterRunning, Evidence, NothingToReplay,
    },
};

#[cfg(feature = "worker")]
pub use crate::worker::{Barrier, TaskContext, TaskOrder};
