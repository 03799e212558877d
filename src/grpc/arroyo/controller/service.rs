//! The services, call by call.

use std::{sync::Arc, time::Duration};

use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status, codegen::http::HeaderMap};

use super::{
    registry::Registry,
    validate::{Speaker, Subject, invalid},
};
use crate::{
    contracts::{Event, TaskError},
    grpc::{
        AddressError, WorkerAddresses, address,
        arroyo::{
            fence::Dialect,
            wire::{self, Commit},
        },
        door::Guest,
        guard::{Fate, Porter, SMALL},
        proto::{
            arroyo_rpc::{
                self, HeartbeatReq, HeartbeatResp, NonfatalErrorReq, RegisterWorkerReq, RegisterWorkerResp, RetryHint,
                SinkDataReq, SinkDataResp, TaskCheckpointCompletedReq, TaskCheckpointCompletedResp,
                TaskCheckpointEventReq, TaskCheckpointEventResp, TaskCheckpointEventType, TaskFailedReq,
                TaskFailedResp, TaskFinishedReq, TaskFinishedResp, TaskStartedReq, TaskStartedResp, WorkerContext,
                WorkerErrorRes, WorkerFinishedReq, WorkerFinishedResp, WorkerInitializationCompleteReq,
                WorkerInitializationCompleteResp, controller_grpc_server::ControllerGrpc,
                job_controller_grpc_server::JobControllerGrpc,
            },
            winddown::{
                SourceExhaustedReq, SourceExhaustedResp, WorkerLeavingReq, WorkerLeavingResp,
                winddown_controller_grpc_server::WinddownControllerGrpc,
            },
        },
    },
};

#[derive(Clone)]
pub(super) struct Service {
    pub(super) registry: Arc<Registry>,
    /// How long a worker of our kit waits for room in a mailbox.
    pub(super) wait: Duration,
    /// How long any other worker waits for its job to be registered.
    pub(super) registration_wait: Duration,
    pub(super) addresses: WorkerAddresses,
}

/// A preview is shown by whoever drives the job, and is no matter of its end: nothing of it is kept.
const PREVIEW: &str = "/arroyo_rpc.ControllerGrpc/SendSinkData";
const SERVICES: [&str; 3] =
    ["/arroyo_rpc.JobControllerGrpc/", "/arroyo_rpc.ControllerGrpc/", "/winddown.WinddownControllerGrpc/"];

impl Porter for Service {
    fn fate(&self, path: &str) -> Fate {
        match path {
            PREVIEW => Fate::Dropped,
            path if SERVICES.iter().any(|service| path.starts_with(service)) => Fate::Read,
            _ => Fate::Scant,
        }
    }

    /// A worker of a registered run may send what is large. All reports begin with who speaks.
    async fn admit(
        &self,
        headers: &HeaderMap,
        beginning: &[u8],
        len: usize,
    ) -> Result<Option<OwnedSemaphorePermit>, Status> {
        let expected = format_args!("a worker_context in the first {SMALL} bytes of a message of {len}").to_string();
        let context = wire::context(beginning).ok_or_else(|| invalid(expected, "none"))?;
        let speaker = self.speaker(Dialect::of_headers(headers), Some(&context)).await?;
        Ok(speaker.hosted.room(len).await)
    }
}

/// A message, and how its sender takes an answer.
fn open<M>(request: Request<M>) -> (Dialect, M) {
    (Dialect::of(request.metadata()), request.into_inner())
}

fn task_error(error: &arroyo_rpc::TaskError) -> TaskError {
    let retryable = error.retry_hint() == RetryHint::WithBackoff;
    TaskError { message: wire::said(&error.error).into(), retryable }
}

impl Service {
    /// Checks a message, and passes on what it says.
    async fn take(
        &self,
        dialect: Dialect,
        context: Option<WorkerContext>,
        read: impl FnOnce(&Speaker) -> Result<Event, Status>,
    ) -> Result<(), Status> {
        let context = context.as_ref();
        let mut speaker = self.speaker(dialect, context).await?;
        let event = read(&speaker)?;
        if dialect == Dialect::Kit {
            return speaker.hosted.deliver(speaker.worker, event, self.wait).await;
        }
        // The job's context may be gone a moment before its registration is, and another take its place.
        let job = context.map_or("", |context| context.job_id.as_str());
        let mut patience = self.registry.patience(job, self.registration_wait);
        loop {
            match speaker.hosted.deliver_at_length(speaker.worker, event.clone()).await {
                Err(refusal) if patience.again(&refusal).await => speaker = self.speaker(dialect, context).await?,
                outcome => return outcome.map_err(|refusal| refusal.status),
            }
        }
    }

    /// Who speaks. A worker that an error would end waits for its job.
    async fn speaker(&self, dialect: Dialect, context: Option<&WorkerContext>) -> Result<Speaker, Status> {
        let wait = match dialect {
            Dialect::Kit => Duration::ZERO,
            Dialect::Foreign => self.registration_wait,
        };
        let mut patience = self.registry.patience(context.map_or("", |context| context.job_id.as_str()), wait);
        loop {
            match self.registry.speaker(context, dialect) {
                Err(refusal) if patience.again(&refusal).await => {}
                outcome => return outcome.map_err(|refusal| refusal.status),
            }
        }
    }
}

#[tonic::async_trait]
impl JobControllerGrpc for Service {
    async fn heartbeat(&self, request: Request<HeartbeatReq>) -> Result<Response<HeartbeatResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |_| Ok(Event::Heartbeat)).await?;
        Ok(Response::new(HeartbeatResp {}))
    }

    /// The end of a commit says something; the other steps, and such as a later version may bring, are signs of life.
    async fn task_checkpoint_event(
        &self,
        request: Request<TaskCheckpointEventReq>,
    ) -> Result<Response<TaskCheckpointEventResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context.clone(), |speaker| {
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
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |speaker| {
            let metadata = message.metadata.ok_or_else(|| invalid("metadata", "none"))?;
            let task = speaker.task_of(&message.operator_id, metadata.subtask_index)?;
            let epoch = speaker.epoch(message.epoch)?;
            let (snapshot, commit) = wire::state(&metadata, message.needs_commit).map_err(Status::invalid_argument)?;
            Ok(match commit {
                Commit::None => Event::CheckpointCompleted { task, epoch, snapshot, commit: None },
                Commit::Own(commit) => Event::CheckpointCompleted { task, epoch, snapshot, commit: Some(commit) },
                Commit::Whole(commit) => Event::OperatorPreCommitted { task, epoch, snapshot, commit },
            })
        })
        .await?;
        Ok(Response::new(TaskCheckpointCompletedResp {}))
    }

    async fn task_finished(&self, request: Request<TaskFinishedReq>) -> Result<Response<TaskFinishedResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |speaker| {
            let Subject { task, is_chain } = speaker.subject(message.task_id, message.subtask_idx)?;
            Ok(if is_chain { Event::ChainFinished { task } } else { Event::TaskFinished { task } })
        })
        .await?;
        Ok(Response::new(TaskFinishedResp {}))
    }

    async fn task_failed(&self, request: Request<TaskFailedReq>) -> Result<Response<TaskFailedResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |speaker| {
            let failure = message.error.ok_or_else(|| invalid("an error", "none"))?;
            let Subject { task, is_chain } = speaker.subject_of_error(&failure)?;
            let error = task_error(&failure);
            Ok(if is_chain { Event::ChainFailed { task, error } } else { Event::TaskFailed { task, error } })
        })
        .await?;
        Ok(Response::new(TaskFailedResp {}))
    }

    /// Whatever it says of the task, it ends nothing.
    async fn nonfatal_error(&self, request: Request<NonfatalErrorReq>) -> Result<Response<WorkerErrorRes>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |speaker| {
            let error = message.error.unwrap_or_default();
            let task = speaker.subject_of_error(&error).ok().map(|subject| subject.task);
            Ok(Event::NonfatalError { task, error: task_error(&error) })
        })
        .await?;
        Ok(Response::new(WorkerErrorRes {}))
    }
}

#[tonic::async_trait]
impl ControllerGrpc for Service {
    async fn register_worker(
        &self,
        request: Request<RegisterWorkerReq>,
    ) -> Result<Response<RegisterWorkerResp>, Status> {
        let peer = request.extensions().get::<Guest>().and_then(|guest| guest.peer);
        let (dialect, message) = open(request);
        let speaker = self.speaker(dialect, message.worker_context.as_ref()).await?;
        let refused = |error: AddressError| Status::invalid_argument(error.to_string());
        address::check(&message.rpc_address, self.addresses, peer).map_err(refused)?;
        speaker.hosted.transport.register(speaker.worker, &message.rpc_address, dialect).map_err(refused)?;
        match (speaker.hosted.hint(speaker.worker), dialect) {
            // Its next report waits for the job; this one has no more to say.
            (Ok(()), _) | (Err(_), Dialect::Foreign) => {}
            (Err(status), Dialect::Kit) => return Err(status),
        }
        Ok(Response::new(RegisterWorkerResp {}))
    }

    async fn task_started(&self, request: Request<TaskStartedReq>) -> Result<Response<TaskStartedResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |speaker| {
            speaker.subject(message.task_id, message.subtask_idx).map(|_| Event::Heartbeat)
        })
        .await?;
        Ok(Response::new(TaskStartedResp {}))
    }

    async fn worker_initialization_complete(
        &self,
        request: Request<WorkerInitializationCompleteReq>,
    ) -> Result<Response<WorkerInitializationCompleteResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |_| {
            let why = message.error_message.as_deref().filter(|why| !why.is_empty()).unwrap_or("it does not say why");
            let error = || TaskError::fatal(wire::said(why));
            Ok(if message.success { Event::Heartbeat } else { Event::WorkerFailed { error: error() } })
        })
        .await?;
        Ok(Response::new(WorkerInitializationCompleteResp {}))
    }

    async fn send_sink_data(&self, _: Request<SinkDataReq>) -> Result<Response<SinkDataResp>, Status> {
        Ok(Response::new(SinkDataResp {}))
    }

    async fn worker_finished(
        &self,
        request: Request<WorkerFinishedReq>,
    ) -> Result<Response<WorkerFinishedResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |_| Ok(Event::WorkerFinished)).await?;
        Ok(Response::new(WorkerFinishedResp {}))
    }
}

#[tonic::async_trait]
impl WinddownControllerGrpc for Service {
    async fn source_exhausted(
        &self,
        request: Request<SourceExhaustedReq>,
    ) -> Result<Response<SourceExhaustedResp>, Status> {
        let (dialect, message) = open(request);
        self.take(dialect, message.worker_context, |speaker| {
            // A call of our own protocol: an operator's index, whoever calls it.
            Ok(Event::SourceExhausted { task: speaker.task(message.task_id, message.subtask_idx)? })
        })
        .await?;
        Ok(Response::new(SourceExhaustedResp {}))
    }

    async fn worker_leaving(&self, request: Request<WorkerLeavingReq>) -> Result<Response<WorkerLeavingResp>, Status> {
        let (dialect, message) = open(request);
        let speaker = self.speaker(dialect, message.worker_context.as_ref()).await?;
        speaker.hosted.note_leaving(speaker.worker);
        Ok(Response::new(WorkerLeavingResp {}))
    }
}
