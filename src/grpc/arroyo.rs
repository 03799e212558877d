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

/// Whether these bytes are a message that a worker or a controller sends, for which all that is read of them is read.
#[cfg(test)]
pub(crate) fn takes(bytes: &[u8]) -> bool {
    use proto::{arroyo_rpc as arroyo, winddown};
    let reports = read::<arroyo::TaskCheckpointEventReq>(bytes)
        | read::<arroyo::TaskFailedReq>(bytes)
        | read::<arroyo::NonfatalErrorReq>(bytes)
        | read::<arroyo::RegisterWorkerReq>(bytes)
        | read::<arroyo::WorkerInitializationCompleteReq>(bytes)
        | read::<arroyo::SinkDataReq>(bytes)
        | read::<winddown::SourceExhaustedReq>(bytes)
        | read::<winddown::WorkerLeavingReq>(bytes);
    let orders = read::<arroyo::CheckpointReq>(bytes) | read::<arroyo::StopExecutionReq>(bytes);
    reports | orders | wire::takes(bytes)
}

#[cfg(test)]
fn read<M: prost::Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> bool {
    let Ok(message) = M::decode(bytes) else { return false };
    assert!(M::decode(&*message.encode_to_vec()).is_ok_and(|again| again == message), "{message:?}");
    true
}
