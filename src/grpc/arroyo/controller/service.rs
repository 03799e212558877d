//! The services, call by call.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{
    registry::Registry,
    validate::{Speaker, invalid},
};
use crate::{
    contracts::{Event, TaskError},
    grpc::arroyo::wire,
    grpc::proto::{
        arroyo_rpc::{
            HeartbeatReq, HeartbeatResp, RegisterWorkerReq, RegisterWorkerResp, RetryHint, TaskCheckpointCompletedReq,
            TaskCheckpointCompletedResp, TaskCheckpointEventReq, TaskCheckpointEventResp, TaskCheckpointEventType,
            TaskFailedReq, TaskFailedResp, TaskFinishedReq, TaskFinishedResp, TaskStartedReq, TaskStartedResp,
            WorkerContext, WorkerFinishedReq, WorkerFinishedResp, controller_grpc_server::ControllerGrpc,
            job_controller_grpc_server::JobControllerGrpc,
        },
        winddown::{
            SourceExhaustedReq, SourceExhaustedResp, WorkerLeavingReq, WorkerLeavingResp,
            winddown_controller_grpc_server::WinddownControllerGrpc,
        },
    },
};

#[derive(Clone)]
pub(super) struct Service {
    pub(super) registry: Arc<Registry>,
    pub(super) wait: Duration,
}

impl Service {
    /// Checks a message, and passes on what it says.
    async fn take(
        &self,
        context: Option<WorkerContext>,
        read: impl FnOnce(&Speaker) -> Result<Event, Status>,
    ) -> Result<(), Status> {
        let speaker = self.registry.speaker(context)?;
        let event = read(&speaker)?;
        speaker.hosted.deliver(speaker.worker, event, self.wait).await
    }
}

#[tonic::async_trait]
impl JobControllerGrpc for Service {
    async fn heartbeat(&self, request: Request<HeartbeatReq>) -> Result<Response<HeartbeatResp>, Status> {
        self.take(request.into_inner().worker_context, |_| Ok(Event::Heartbeat)).await?;
        Ok(Response::new(HeartbeatResp {}))
    }

    /// The end of a commit says something; the other steps, and such as a later version may bring, are signs of life.
    async fn task_checkpoint_event(
        &self,
        request: Request<TaskCheckpointEventReq>,
    ) -> Result<Response<TaskCheckpointEventResp>, Status> {
        let message = request.into_inner();
        self.take(message.worker_context.clone(), |speaker| {
            let task = speaker.task_of(&message.operator_id, message.subtask_idx)?;
            let epoch = speaker.epoch(message.epoch)?;
            Ok(match message.event_type() {
                TaskCheckpointEventType::FinishedCommit => Event::CommitCompleted { task, epoch },
                _ => Event::Heartbeat,
            })
        })
        .await?;
        Ok(Response::new(TaskCheckpointEventResp {}))
    }

    async fn task_checkpoint_completed(
        &self,
        request: Request<TaskCheckpointCompletedReq>,
    ) -> Result<Response<TaskCheckpointCompletedResp>, Status> {
        let message = request.into_inner();
        self.take(message.worker_context, |speaker| {
            let metadata = message.metadata.ok_or_else(|| invalid("metadata", "none"))?;
            let task = speaker.task_of(&message.operator_id, metadata.subtask_index)?;
            let epoch = speaker.epoch(message.epoch)?;
            let (snapshot, commit) = wire::state(&metadata, message.needs_commit).map_err(Status::invalid_argument)?;
            if let Some(data) = &commit {
                speaker.hosted.transport.note_commit(epoch, task, data);
            }
            Ok(Event::CheckpointCompleted { task, epoch, snapshot, commit })
        })
        .await?;
        Ok(Response::new(TaskCheckpointCompletedResp {}))
    }

    async fn task_finished(&self, request: Request<TaskFinishedReq>) -> Result<Response<TaskFinishedResp>, Status> {
        let message = request.into_inner();
        self.take(message.worker_context, |speaker| {
            Ok(Event::TaskFinished { task: speaker.task(message.task_id, message.subtask_idx)? })
        })
        .await?;
        Ok(Response::new(TaskFinishedResp {}))
    }

    async fn task_failed(&self, request: Request<TaskFailedReq>) -> Result<Response<TaskFailedResp>, Status> {
        let message = request.into_inner();
        self.take(message.worker_context, |speaker| {
            let failure = message.error.ok_or_else(|| invalid("an error", "none"))?;
            let task = speaker.task(failure.task_id, failure.subtask_idx)?;
            let retryable = failure.retry_hint() == RetryHint::WithBackoff;
            Ok(Event::TaskFailed { task, error: TaskError { message: failure.error.into(), retryable } })
        })
        .await?;
        Ok(Response::new(TaskFailedResp {}))
    }
}

#[tonic::async_trait]
impl ControllerGrpc for Service {
    async fn register_worker(
        &self,
        request: Request<RegisterWorkerReq>,
    ) -> Result<Response<RegisterWorkerResp>, Status> {
        let message = request.into_inner();
        let speaker = self.registry.speaker(message.worker_context)?;
        let set = speaker.hosted.transport.set_address(speaker.worker, &message.rpc_address);
        set.map_err(|error| Status::invalid_argument(error.to_string()))?;
        speaker.hosted.hint(speaker.worker)?;
        Ok(Response::new(RegisterWorkerResp {}))
    }

    async fn task_started(&self, request: Request<TaskStartedReq>) -> Result<Response<TaskStartedResp>, Status> {
        let message = request.into_inner();
        self.take(message.worker_context, |speaker| {
            speaker.task(message.task_id, message.subtask_idx).map(|_| Event::Heartbeat)
        })
        .await?;
        Ok(Response::new(TaskStartedResp {}))
    }

    async fn worker_finished(
        &self,
        request: Request<WorkerFinishedReq>,
    ) -> Result<Response<WorkerFinishedResp>, Status> {
        self.take(request.into_inner().worker_context, |_| Ok(Event::WorkerFinished)).await?;
        Ok(Response::new(WorkerFinishedResp {}))
    }
}

#[tonic::async_trait]
impl WinddownControllerGrpc for Service {
    async fn source_exhausted(
        &self,
        request: Request<SourceExhaustedReq>,
    ) -> Result<Response<SourceExhaustedResp>, Status> {
        let message = request.into_inner();
        self.take(message.worker_context, |speaker| {
            Ok(Event::SourceExhausted { task: speaker.task(message.task_id, message.subtask_idx)? })
        })
        .await?;
        Ok(Response::new(SourceExhaustedResp {}))
    }

    async fn worker_leaving(&self, request: Request<WorkerLeavingReq>) -> Result<Response<WorkerLeavingResp>, Status> {
        let speaker = self.registry.speaker(request.into_inner().worker_context)?;
        speaker.hosted.note_leaving(speaker.worker);
        Ok(Response::new(WorkerLeavingResp {}))
    }
}
