//! Orders, as they come in.

use std::{collections::HashSet, sync::Arc};

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, codegen::http::HeaderMap, metadata::MetadataMap};

use crate::{
    contracts::{Command, Epoch, Order, TaskId, Topology, WorkerStopMode},
    grpc::arroyo::{fence::Addressee, wire},
    grpc::guard::{Fate, Porter},
    grpc::proto::arroyo_rpc::{
        CheckpointReq, CheckpointResp, CommitReq, CommitResp, JobFinishedReq, JobFinishedResp, StopExecutionReq,
        StopExecutionResp, StopMode, worker_grpc_server::WorkerGrpc,
    },
    worker::Worker,
};

pub(super) struct Orders {
    pub(super) worker: Worker,
    pub(super) addressee: Addressee,
    pub(super) topology: Arc<Topology>,
    /// The tasks of this worker. A controller of the Arroyo family sends every worker the commits of all.
    pub(super) here: HashSet<TaskId>,
}

/// Turns large orders for others away before they are read.
#[derive(Clone)]
pub(super) struct Gate(pub(super) Arc<Addressee>);

impl Porter for Gate {
    fn fate(&self, path: &str) -> Fate {
        if path.starts_with("/arroyo_rpc.WorkerGrpc/") { Fate::Read } else { Fate::Scant }
    }

    async fn admit(&self, headers: &HeaderMap, _: &[u8], _: usize) -> Result<Option<OwnedSemaphorePermit>, Status> {
        self.0.check(&MetadataMap::from_headers(headers.clone())).map(|()| None)
    }
}

impl Orders {
    fn take<M>(&self, request: Request<M>, read: impl FnOnce(M) -> Result<Command, Status>) -> Result<(), Status> {
        self.addressee.check(request.metadata())?;
        let command = read(request.into_inner())?;
        let order = Order { run: self.addressee.run, command };
        self.worker.handle(order).map_err(wire::refusal)
    }
}

#[tonic::async_trait]
impl WorkerGrpc for Orders {
    async fn checkpoint(&self, request: Request<CheckpointReq>) -> Result<Response<CheckpointResp>, Status> {
        self.take(request, |message| {
            Ok(Command::Checkpoint { epoch: Epoch::new(message.epoch), then_stop: message.then_stop })
        })?;
        Ok(Response::new(CheckpointResp {}))
    }

    async fn commit(&self, request: Request<CommitReq>) -> Result<Response<CommitResp>, Status> {
        self.take(request, |message| {
            let tasks = wire::commits(&self.topology, &message, |task| self.here.contains(&task));
            Ok(Command::Commit { epoch: Epoch::new(message.epoch), tasks: tasks.into() })
        })?;
        Ok(Response::new(CommitResp {}))
    }

    async fn stop_execution(&self, request: Request<StopExecutionReq>) -> Result<Response<StopExecutionResp>, Status> {
        self.take(request, |message| match StopMode::try_from(message.stop_mode) {
            Ok(StopMode::Graceful) => Ok(Command::Stop(WorkerStopMode::Graceful)),
            Ok(StopMode::Immediate) => Ok(Command::Stop(WorkerStopMode::Immediate)),
            Err(_) => Err(Status::invalid_argument(format!(
                "expected stop_mode 0 (graceful) or 1 (immediate), got {}",
                message.stop_mode
            ))),
        })?;
        Ok(Response::new(StopExecutionResp {}))
    }

    async fn job_finished(&self, request: Request<JobFinishedReq>) -> Result<Response<JobFinishedResp>, Status> {
        self.take(request, |_| Ok(Command::Release))?;
        Ok(Response::new(JobFinishedResp {}))
    }
}
