//! Calls with bytes for a message, and no generated client in between.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use bytes::{Buf as _, BufMut as _};
use winddown::grpc::tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Everything that can be called on a controller.
pub const METHODS: [&str; 12] = [
    "arroyo_rpc.JobControllerGrpc/Heartbeat",
    "arroyo_rpc.JobControllerGrpc/TaskCheckpointEvent",
    "arroyo_rpc.JobControllerGrpc/TaskCheckpointCompleted",
    "arroyo_rpc.JobControllerGrpc/TaskFinished",
    "arroyo_rpc.JobControllerGrpc/TaskFailed",
    "arroyo_rpc.ControllerGrpc/RegisterWorker",
    "arroyo_rpc.ControllerGrpc/TaskStarted",
    "arroyo_rpc.ControllerGrpc/WorkerFinished",
    "winddown.WinddownControllerGrpc/SourceExhausted",
    "arroyo_rpc.JobControllerGrpc/NonfatalError",
    "arroyo_rpc.ControllerGrpc/WorkerInitializationComplete",
    SEND_SINK_DATA,
];

/// The one call that becomes no event.
pub const SEND_SINK_DATA: &str = "arroyo_rpc.ControllerGrpc/SendSinkData";

#[derive(Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, bytes: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        buffer.advance(buffer.remaining());
        Ok(Some(()))
    }
}

/// Calls `method` (`package.Service/Method`) with these bytes, as our worker kit does: it is
/// answered at once, whatever the answer is.
pub async fn call(channel: Channel, method: &str, bytes: Vec<u8>) -> Result<(), Status> {
    let mut request = Request::new(bytes);
    request.metadata_mut().insert("winddown-kit", "1".parse().unwrap());
    send(channel, method, request).await
}

/// The same as any other worker does.
pub async fn call_as_another(channel: Channel, method: &str, bytes: Vec<u8>) -> Result<(), Status> {
    send(channel, method, Request::new(bytes)).await
}

async fn send(channel: Channel, method: &str, request: Request<Vec<u8>>) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/{method}")).unwrap();
    client.unary(request, path, Raw).await.map(drop)
}
