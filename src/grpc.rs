//! Workers in other processes: orders and events over gRPC, in the messages of Arroyo's worker
//! protocol.
//!
//! - [`GrpcTransport`] carries the orders of one run to its workers; pass it to a
//!   [`ClusterController`](crate::cluster::ClusterController).
//! - [`ControllerServer`] receives the workers' reports, checks them, and passes them to the
//!   mailbox of the right job. One server serves many jobs.
//! - [`GrpcWorker`] serves the [worker kit](crate::worker) in its own process. Existing workers, in
//!   any language, can speak the protocol instead: `docs/wire.md` explains how.
//!
//! The protocol has neither encryption nor authentication. Keep the ports inside a trusted network,
//! or supply your own channel ([`GrpcTransport::connect_with`]) and your own incoming stream
//! ([`ControllerServer::serve_with_incoming`]).
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

/// A server could not be started, or it ended without a request to shut down.
#[derive(Debug, thiserror::Error)]
#[error("the gRPC server ended: {0}")]
pub struct ServeError(crate::contracts::BoxError);

#[cfg(test)]
pub(crate) use arroyo::takes;

/// Whether a worker may give this address. Every accepted address is a web address with a port.
#[cfg(test)]
pub(crate) fn takes_address(text: &str) -> bool {
    let allowed = [WorkerAddresses::Sockets, WorkerAddresses::Names];
    let taken = allowed.map(|allowed| match address::check(text, allowed, None) {
        Ok(()) => {
            let endpoint = address::endpoint(text, &CallOptions::default()).unwrap();
            let uri = endpoint.uri();
            assert!(matches!(uri.scheme_str(), Some("http" | "https")) && uri.port_u16().is_some(), "{uri}");
            true
        }
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control), "{error:?}");
            false
        }
    });
    taken.contains(&true)
}
