//! Calls with bytes for a message, and no generated client in between.
#![allow(unreachable_pub, reason = "each test file uses its part")]

use bytes::{Buf as _, BufMut as _};
use winddown::grpc::tonic::{
    Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    codegen::http::uri::PathAndQuery,
    transport::Channel,
};

/// Everything that can be called on a controller.
pub const METHODS: [&str; 9] = [
    "arroyo_rpc.JobControllerGrpc/Heartbeat",
    "arroyo_rpc.JobControllerGrpc/TaskCheckpointEvent",
    "arroyo_rpc.JobControllerGrpc/TaskCheckpointCompleted",
    "arroyo_rpc.JobControllerGrpc/TaskFinished",
    "arroyo_rpc.JobControllerGrpc/TaskFailed",
    "arroyo_rpc.ControllerGrpc/RegisterWorker",
    "arroyo_rpc.ControllerGrpc/TaskStarted",
    "arroyo_rpc.ControllerGrpc/WorkerFinished",
    "winddown.WinddownControllerGrpc/SourceExhausted",
];

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

/// Calls `method` (`package.Service/Method`) with these bytes.
pub async fn call(channel: Channel, method: &str, bytes: Vec<u8>) -> Result<(), Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PathAndQuery::try_from(format!("/{method}")).unwrap();
    client.unary(Request::new(bytes), path, Raw).await.map(drop)
}
