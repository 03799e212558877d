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

#[cfg(test)]
pub(crate) use arroyo::takes;

/// Whether a worker may give this address. Whatever else is allowed, it is a web address with a port.
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
