//! The traits that connect winddown to its environment, without any I/O of their own: a
//! [`JobController`] talks to the workers of one run, a [`Scheduler`] runs and kills them, a
//! [`Transport`] delivers one order to one worker, and a [`CheckpointStore`] makes a checkpoint's
//! manifest durable.

mod boxed_controller;
mod event;
mod ids;
mod job_controller;
mod open_run;
mod order;
mod request;
mod scheduler;
mod status;
mod store;
mod topology;
mod transport;

pub use boxed_controller::{BoxController, DynJobController};
pub use event::{Event, TaskError, WorkerEvent};
pub use ids::{Epoch, JobId, RunId, TaskId, WorkerId};
pub use job_controller::{Applied, CheckpointStart, ControllerError, Detached, JobController, Rejection};
pub use open_run::{OpenRun, OpenRunError, OtherRun};
pub use order::{Command, Order, TaskCommit, WorkerStopMode};
pub use request::{ParseStopRequestError, StopRequest};
pub use scheduler::{BoxScheduler, ConfirmedBy, DynScheduler, EndListener, Scheduler, SchedulerError};
pub use status::{CheckpointStage, Count, FinalCheckpoint, RunFailure, RunStatus};
pub use store::{BoxStore, CheckpointStore, DynCheckpointStore, Manifest, StoreError, TaskSnapshot};
pub use topology::{Operator, Role, Topology, TopologyBuilder, TopologyError};
pub use transport::{BoxTransport, DynTransport, OrderError, OrderErrorKind, OrderReport, Transport};

pub(crate) use job_controller::Attach;
pub(crate) use open_run::TakenUp;

/// A boxed future, as the dyn-safe forms of the contracts return it.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An error of user code, as the contracts pass it on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;
