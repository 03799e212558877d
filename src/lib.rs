//! Stops a distributed streaming job safely, and makes an unsafe order of steps a compile error.
//!
//! A streaming job runs as tasks on many workers. There are three ways to stop it: take a final
//! checkpoint and let every task finish, tell all workers to stop and wait, or have the scheduler
//! kill them. In each case "stopped" must mean that nothing is left alive. Here, each phase of a
//! shutdown is a type, and its consuming `next` returns only legal successors:
#![doc = ""]
#![doc = include_str!("../docs/transitions.svg")]
#![doc = ""]
//! # One job, from its start to its receipt
//!
//! With the feature `object-store`, which stores its checkpoints in a folder:
//!
#![cfg_attr(all(feature = "embedded", feature = "object-store"), doc = "```no_run")]
#![cfg_attr(not(all(feature = "embedded", feature = "object-store")), doc = "```text")]
#![doc = include_str!("../examples/embedded.rs")]
#![doc = "```"]
//!
//! # An illegal step does not compile
//!
//! ```compile_fail,E0277
//! use winddown::prelude::*;
//! use winddown::edge;
//!
//! async fn once_more<C: JobController, S: Scheduler>(stopped: Stopped<Checkpointed>, job: &mut JobContext<C, S>) {
//!     edge::<Stopped<Checkpointed>, CheckpointStopping>(); // take another checkpoint of a job that has stopped
//! }
//! ```
//!
//! The compiler names the error in the terms of the machine:
//!
//! ```text
//! error[E0277]: illegal shutdown transition: `winddown::Stopped<winddown::Checkpointed>` -> `winddown::CheckpointStopping`
//!  |
//!  |     edge::<Stopped<Checkpointed>, CheckpointStopping>();
//!  |                                   ^^^^^^^^^^^^^^^^^^ the shutdown machine has no edge from
//!  |                                   `winddown::Stopped<winddown::Checkpointed>` to `winddown::CheckpointStopping`
//!  = note: docs/transitions.md lists every legal step; docs/errors.md says what to do instead
//! ```
//!
//! A legal step is a method of the current phase, and consumes it:
//!
//! ```
//! use winddown::prelude::*;
//!
//! async fn stop<C: JobController, S: Scheduler>(
//!     job: &mut JobContext<C, S>,
//!     running: Running,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let stopping = running.stop_with_checkpoint(job)?;
//!     match stopping.next(job).await? {
//!         AfterCheckpointStopping::Stopped(stopped) => println!("resume from {}", stopped.evidence().epoch()),
//!         AfterCheckpointStopping::Immediate(stopping) => drop(stopping.next(job).await?),
//!         AfterCheckpointStopping::Force(stopping) => drop(stopping.next(job).await?),
//!     }
//!     Ok(())
//! }
//! ```
//!
//! # Where to start
//!
//! - [`drive()`]: one call from any phase to `Stopped`, with retries, an explicit [`Policy`] and
//!   live [`Progress`].
//! - [`JobContext::new`]: the only way to a [`Running`]. [`JobSender`] is the way to reach the job
//!   from outside: clone it for the API server, the signal handler, the transport.
//! - [`JobController`] and [`Scheduler`]: the traits that you implement, or choose an
//!   implementation of. [`ClusterController`] is a controller over any
//!   [`Transport`](contracts::Transport); a job without a controller is [`Detached`], and can only
//!   be stopped by force.
//! - [`Stopped`]: what is proved about the end, by the type of its [`Evidence`](machine::Evidence).
//! - [`Limits`]: every bound, and [`Limits::worst_case`], which follows from them.
//! - [`Journal`](journal::Journal) and [`rehydrate`]: if a controller crashes during a shutdown,
//!   the next one finishes it.
//! - [`model`]: the known state of a run, as a machine without I/O or clock.
//! - [`durable`]: files that survive a crash, for sinks and stores of your own.
//!
//! The names that a first program needs are at the root, and in [`prelude`]. All others are in
//! their modules: [`contracts`] for the traits that connect a job to its surroundings, [`machine`]
//! for the phases and their successors, `worker` for the tasks.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `worker` | with `embedded` | the worker kit: tasks as async code |
//! | `embedded` | yes | an in-process cluster: a transport and a scheduler |
//! | `grpc` | no | workers in other processes, over gRPC |
//! | `process` | no | a scheduler for workers as child processes (Linux) |
//! | `object-store` | no | checkpoint manifests in a local folder or any object store |
//! | `journal` | no | a journal of shutdowns in a local folder: `FileJournal` |
//! | `metrics` | no | metrics of shutdowns, through the facade of the crate `metrics` |
//! | `recorder` | no | a record of each shutdown, to read afterwards: `recorder` |
//! | `kubernetes` | no | a scheduler for workers as pods, and a lease for controllers |
//! | `sqlx` | no | a journal of shutdowns in SQLite or PostgreSQL: `SqlJournal` |
//! | `testing` | no | scripted collaborators and crash points for tests; conformance suites for your own journal, scheduler, store, controller or transport; the explorer, which tries every outcome of every collaborator on the real phases |
//!
//! Without default features, the crate is only the machine, with few dependencies.
//!
//! # Invariants
//!
//! The documentation refers to the invariants by number; `docs/invariants.md` lists the tests of
//! each.
//!
//! | | |
//! |---|---|
//! | I1 reachability | a phase exists only because its edge was taken |
//! | I2 nothing alive | `Stopped` exists only after the scheduler, asked after the last order, listed no worker of the run |
//! | I3 durable | `Stopped<Checkpointed>`: the manifest is durable, every task is in it, every commit is done, every task has finished |
//! | I4 monotone | none < checkpoint < graceful < immediate < force; a weaker request never undoes a stronger one |
//! | I5 bounded | no await without a deadline; the worst case is a formula of the limits |
//! | I6 nothing lost | a failure gives the phase back; a stop request overtakes any backlog and is never dropped |
//! | I7 write-ahead | with a [`Journal`](journal::Journal), a phase's record is durable before its first effect, and [`rehydrate`] goes on after a crash |
//! | I8 stop means stop | a job that was asked to stop is never restarted or reported running |
//! | I9 independence | a slow, dead or refusing worker delays the order to no other |
//! | I10 cancel safety | dropping a `run` future at any await loses nothing |
//! | I11 fencing | a message, worker or controller of another run changes nothing |
#![forbid(unsafe_code)]
// On docs.rs each item shows the feature that it needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "object-store")]
pub mod checkpoint;
mod clock;
pub mod cluster;
pub mod contracts;
pub mod drive;
pub mod durable;
#[cfg(feature = "embedded")]
pub mod embedded;
#[cfg(any(feature = "object-store", feature = "journal", feature = "sqlx"))]
mod envelope;
#[cfg(test)]
mod fuzz;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod journal;
#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod limits;
pub mod machine;
pub mod mailbox;
#[cfg(feature = "metrics")]
pub mod metrics;
pub mod model;
#[cfg(all(feature = "process", target_os = "linux"))]
pub mod process;
#[cfg(feature = "recorder")]
pub mod recorder;
#[cfg(feature = "testing")]
pub mod testing;
mod text;
pub mod why;
#[cfg(feature = "worker")]
pub mod worker;
#[cfg(any(feature = "kubernetes", all(feature = "process", target_os = "linux")))]
mod worker_env;

pub use cluster::ClusterController;
pub use contracts::{
    Detached, Epoch, JobController, JobId, OpenRun, Role, RunId, Scheduler, StopRequest, TaskId, Topology, WorkerId,
};
pub use drive::{Policy, Receipt, drive, rehydrate};
pub use limits::Limits;
pub use machine::{
    AnyPhase, AnyStopped, CheckpointStopping, Checkpointed, Completed, Drained, Finishing, Force, Graceful, Halted,
    Immediate, JobContext, Killed, PhaseKind, Progress, Recovering, Running, StepError, StepFailed, Stopped, Stopping,
    edge,
};
pub use mailbox::{JobSender, Mailbox};

#[cfg(feature = "object-store")]
pub use checkpoint::ObjectStoreCheckpoints;
#[cfg(feature = "embedded")]
pub use embedded::EmbeddedCluster;
#[cfg(feature = "journal")]
pub use journal::FileJournal;
#[cfg(feature = "sqlx")]
pub use journal::SqlJournal;
#[cfg(feature = "kubernetes")]
pub use kubernetes::KubernetesScheduler;
#[cfg(all(feature = "process", target_os = "linux"))]
pub use process::ProcessScheduler;
#[cfg(feature = "worker")]
pub use worker::{Barrier, TaskContext, TaskOrder};

/// The common names of programs that stop jobs, for `use winddown::prelude::*`.
///
/// It holds the traits whose methods you call, the successors of each phase, and the names at the
/// crate root that seldom mean something else in a program. All others are in their modules.
pub mod prelude {
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
}

// The README's examples run as doctests if their features are on.
#[cfg(all(doctest, feature = "embedded", feature = "object-store"))]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(all(doctest, feature = "kubernetes"))]
#[doc = include_str!("../docs/kubernetes.md")]
struct Kubernetes;

#[cfg(all(doctest, feature = "embedded", feature = "journal", feature = "testing"))]
#[doc = include_str!("../docs/implementing.md")]
struct Implementing;
