//! Arroyo's worker protocol: a transport, the controller's services and a worker.
//!
//! Orders go to each worker's own server ([`GrpcTransport`]), reports come to the controller's ([`ControllerServer`]).
//! `docs/wire.md` has the messages.

mod controller;
mod fence;
mod once;
mod transport;
mod wire;
mod worker;

pub use controller::{ControllerServer, RegisterError, Registration};
pub use transport::GrpcTransport;
pub use worker::{Departure, GrpcWorker};

use super::{
    AddressError, CallOptions, Connect, ControllerOptions, GrpcWorkerOptions, KeepAlive, ServeError, address::endpoint,
    door, guard, proto,
};
