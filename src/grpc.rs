//! Workers in other processes: orders and events over gRPC, in the words of Arroyo's worker protocol.
//!
//! - [`GrpcTransport`] carries the orders of one run to its workers; give it to a [`ClusterController`](crate::cluster::ClusterController).
//! - [`ControllerServer`] takes what workers report, checks it, and passes it into the mailbox of the right job. One server
//!   serves many jobs.
//! - [`GrpcWorker`] serves the [worker kit](crate::worker) in a process of its own. Whoever has workers already, in whatever
//!   language, can have them speak the protocol instead: `docs/wire.md` says how.
//!
//! There is neither encryption nor authentication in the protocol. Keep the ports inside a trusted network, or bring a channel of
//! your own ([`GrpcTransport::connect_with`]) and an incoming stream of your own ([`ControllerServer::serve_with_incoming`]).
//!
//! The example `custom_worker` shows both sides in two processes.

mod address;
mod arroyo;
mod door;
mod guard;
mod options;
pub mod proto;

pub use address::{AddressError, Connect};
pub use arroyo::{ControllerServer, Departure, GrpcTransport, GrpcWorker, RegisterError, Registration};
pub use options::{Admission, CallOptions, ControllerOptions, GrpcWorkerOptions, KeepAlive, WorkerAddresses};
pub use tonic;

/// A server could not be started, or ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server ended: {0}")]
pub struct ServeError(crate::contracts::BoxError);
