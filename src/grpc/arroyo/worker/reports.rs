//! Reports to the controller, in their order, until each has been accepted.

use std::sync::{Arc, Mutex};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{
    Code, IntoRequest, Request, Status,
    metadata::{MetadataMap, MetadataValue},
    transport::Channel,
};

use crate::{
    clock::{MOMENT, after, bearable, later},
    contracts::{Event, TaskError, TaskId, Topology, WorkerEvent},
    grpc::{
        GrpcWorkerOptions,
        arroyo::{
            fence::{Addressee, Dialect},
            wire,
        },
        guard::MARK,
        proto::{
            arroyo_rpc::{
                self, ErrorDomain, HeartbeatReq, NonfatalErrorReq, RegisterWorkerReq, RetryHint,
                TaskCheckpointCompletedReq, TaskCheckpointEventReq, TaskCheckpointEventType, TaskFailedReq,
                TaskFinishedReq, WorkerContext, WorkerFinishedReq, WorkerInitializationCompleteReq, WorkerResources,
                controller_grpc_client::ControllerGrpcClient, job_controller_grpc_client::JobControllerGrpcClient,
            },
            winddown::{SourceExhaustedReq, winddown_controller_grpc_client::WinddownControllerGrpcClient},
        },
    },
    text::{Printable, beginning},
    worker::{EventSink, SinkClosed, lock},
};

/// What a controller answers holds nothing.
const ANSWER: usize = 4 << 10;

/// Why nothing is reported any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    /// The last word has been accepted.
    Said,
    /// Nobody has accepted anything for too long.
    Orphaned,
}

/// The sink of a worker whose controller is elsewhere.
pub(super) struct Reports {
    context: WorkerContext,
    address: String,
    topology: Arc<Topology>,
    channel: Channel,
    options: GrpcWorkerOptions,
    /// As many as tasks: it takes no others.
    slots: u64,
    /// The controller at the other end of the connection, if it knows this worker's address.
    registered: Mutex<Option<Controller>>,
    accepted: Mutex<Instant>,
    ends: Ends,
}

/// Whom the worker tells that something has come to its end.
pub(super) struct Ends {
    pub(super) silence: watch::Sender<Option<Silence>>,
    /// Tasks whose reports will never be taken.
    pub(super) refused: mpsc::UnboundedSender<(TaskId, TaskError)>,
}

/// Who took the registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Controller {
    /// One of ours: its answers say so.
    Ours,
    /// One of the Arroyo family, which does not know what is ours alone.
    Another,
}

/// What an answer means for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It is in.
    Accepted,
    /// The controller is there, but has no room now.
    Full,
    /// The same report will never be accepted.
    Never,
    /// Worth another attempt; whoever answers then may be another controller.
    Away,
}

impl Answer {
    pub(super) fn of(status: &Status) -> Self {
        // Somebody else may be at the controller's address for a moment, whose words mean nothing.
        let is_ours = is_ours(status.metadata());
        match status.code() {
            Code::ResourceExhausted if is_ours => Self::Full,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented if is_ours => Self::Never,
            // Another generation, too: who fences whom is not known here, and the orphan limit ends a stale worker.
            _ => Self::Away,
        }
    }
}

/// Whether it is a call that only our controllers have, and was answered as one that is not there.
fn is_ours_alone(event: &Event, status: &Status) -> bool {
    matches!(event, Event::SourceExhausted { .. }) && status.code() == Code::Unimplemented
}

fn is_ours(metadata: &MetadataMap) -> bool {
    metadata.contains_key(MARK)
}

impl EventSink for Reports {
    async fn deliver(&self, event: WorkerEvent) -> Result<(), SinkClosed> {
        let begun = Instant::now();
        let mut waits = self.options.backoff().build();
        loop {
            let answer = match timeout_at(self.deadline(begun), self.attempt(&event.event)).await {
                Ok(Ok(())) => Answer::Accepted,
                Ok(Err(status)) => self.heed(&event.event, &status),
                Err(_) => return self.orphaned(),
            };
            if matches!(answer, Answer::Accepted | Answer::Full) {
                *lock(&self.accepted) = Instant::now();
            }
            if matches!(answer, Answer::Accepted | Answer::Never) {
                if event.event == Event::WorkerFinished {
                    self.ends.silence.send_replace(Some(Silence::Said));
                }
                // A controller that accepts nothing is none.
                return if self.is_orphaned() { self.orphaned() } else { Ok(()) };
            }
            let wait = waits.next().unwrap_or(self.options.backoff_max);
            if after(wait) >= self.deadline(begun) {
                tokio::time::sleep_until(self.deadline(begun)).await;
                return self.orphaned();
            }
            sleep(wait).await;
        }
    }
}

impl GrpcWorkerOptions {
    pub(super) fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(bearable(self.backoff_min).max(MOMENT))
            .with_max_delay(bearable(self.backoff_max).max(MOMENT))
            .without_max_times()
            .with_jitter()
    }
}

pub(super) fn context(addressee: &Addressee) -> WorkerContext {
    WorkerContext {
        machine_id: String::new(),
        worker_id: addressee.worker.get(),
        job_id: addressee.job.as_str().to_owned(),
        generation: addressee.run.get(),
        pipeline_id: String::new(),
    }
}

impl Reports {
    pub(super) fn new(
        addressee: &Addressee,
        tasks: usize,
        address: String,
        topology: Arc<Topology>,
        channel: Channel,
        options: GrpcWorkerOptions,
        ends: Ends,
    ) -> Self {
        Self {
            context: context(addressee),
            // A controller of the Arroyo family takes it for a whole URI.
            address: if address.contains("://") { address } else { format!("http://{address}") },
            topology,
            channel,
            options,
            slots: tasks as u64,
            registered: Mutex::new(None),
            accepted: Mutex::new(Instant::now()),
            ends,
        }
    }

    /// When a report that was begun then is given up. It has the time of one call even where nothing was tried for long.
    fn deadline(&self, begun: Instant) -> Instant {
        later(*lock(&self.accepted), self.options.orphan).max(later(begun, self.options.calls.call))
    }

    fn is_orphaned(&self) -> bool {
        lock(&self.accepted).elapsed() >= self.options.orphan
    }

    fn orphaned(&self) -> Result<(), SinkClosed> {
        let since = lock(&self.accepted).elapsed();
        tracing::error!(
            job = self.context.job_id,
            run = self.context.generation,
            worker = self.context.worker_id,
            ?since,
            "no controller accepts anything; stopping"
        );
        self.ends.silence.send_replace(Some(Silence::Orphaned));
        Err(SinkClosed)
    }

    fn heed(&self, event: &Event, status: &Status) -> Answer {
        let answer = Answer::of(status);
        if answer == Answer::Away {
            *lock(&self.registered) = None;
        }
        let (worker, code, why) = (self.context.worker_id, status.code(), Printable(status.message()));
        if answer != Answer::Never {
            tracing::debug!(worker, ?code, %why, "report not accepted, will be tried again");
            return answer;
        }
        // What it is, which task's, and how large; nothing of a user's data.
        let report = format!("{event:?}");
        let report = beginning(&report, 512);
        tracing::warn!(worker, ?code, %why, report, "the controller will never accept this report");
        if let Event::SourceExhausted { task }
        | Event::CheckpointCompleted { task, .. }
        | Event::CommitCompleted { task, .. } = event
        {
            let error = TaskError::fatal(format!("the controller will never accept its report ({report}): {why}"));
            // Nobody listens any more when the worker leaves.
            let _ = self.ends.refused.send((*task, error));
        }
        answer
    }

    async fn attempt(&self, event: &Event) -> Result<(), Status> {
        let limit = self.options.calls.call;
        let calls = async {
            let registered = *lock(&self.registered);
            let controller = match registered {
                Some(controller) => controller,
                None => self.register().await?,
            };
            *lock(&self.registered) = Some(controller);
            match self.report(event).await {
                // It has no such call. A source that stays is in its next checkpoint like any other.
                Err(status) if controller == Controller::Another && is_ours_alone(event, &status) => Ok(()),
                answer => answer,
            }
        };
        let late = |_| Status::deadline_exceeded(format!("no answer within {}", crate::text::rounded(limit)));
        timeout(limit, calls).await.map_err(late)?
    }

    async fn register(&self) -> Result<Controller, Status> {
        let message = RegisterWorkerReq {
            worker_context: Some(self.context.clone()),
            time: wire::now(),
            rpc_address: self.address.clone(),
            data_address: String::new(),
            resources: Some(WorkerResources { slots: self.slots }),
            slots: self.slots,
        };
        let mut client = ControllerGrpcClient::new(self.channel.clone()).max_decoding_message_size(ANSWER);
        let answer = client.register_worker(self.request(message)).await?;
        Ok(if is_ours(answer.metadata()) { Controller::Ours } else { Controller::Another })
    }

    async fn report(&self, event: &Event) -> Result<(), Status> {
        let mut client = JobControllerGrpcClient::new(self.channel.clone()).max_decoding_message_size(ANSWER);
        let (worker_context, time) = (Some(self.context.clone()), wire::now());
        match event {
            Event::Heartbeat => client.heartbeat(self.request(HeartbeatReq { worker_context, time })).await.map(drop),
            Event::SourceExhausted { task } => {
                let (task_id, subtask_idx) = (task.operator, task.subtask);
                let message = SourceExhaustedReq { worker_context, time, task_id, subtask_idx };
                let mut client = WinddownControllerGrpcClient::new(self.channel.clone());
                client.source_exhausted(self.request(message)).await.map(drop)
            }
            Event::CheckpointCompleted { task, epoch, snapshot, commit } => {
                let message = TaskCheckpointCompletedReq {
                    worker_context,
                    time,
                    operator_id: self.operator_id(*task),
                    epoch: epoch.get(),
                    metadata: Some(wire::metadata(task.subtask, snapshot, commit.as_ref())),
                    needs_commit: commit.is_some(),
                };
                client.task_checkpoint_completed(self.request(message)).await.map(drop)
            }
            // The kit says none of these: its tasks commit and end each for itself.
            Event::OperatorPreCommitted { .. } | Event::ChainFinished { .. } | Event::ChainFailed { .. } => {
                let mut status =
                    Status::invalid_argument("expected an event of the worker kit, got one of another engine's");
                status.metadata_mut().insert(MARK, MetadataValue::from_static("1"));
                Err(status)
            }
            Event::NonfatalError { task, error } => {
                let task = task.unwrap_or(TaskId::new(u32::MAX, u32::MAX));
                let error = Some(self.task_error(task, error));
                client.nonfatal_error(self.request(NonfatalErrorReq { worker_context, time, error })).await.map(drop)
            }
            Event::WorkerFailed { error } => {
                let error_message = Some(wire::said(&error.message).to_owned());
                let message = WorkerInitializationCompleteReq { worker_context, time, success: false, error_message };
                let mut client = ControllerGrpcClient::new(self.channel.clone());
                client.worker_initialization_complete(self.request(message)).await.map(drop)
            }
            Event::CommitCompleted { task, epoch } => {
                let message = TaskCheckpointEventReq {
                    worker_context,
                    time,
                    subtask_idx: task.subtask,
                    epoch: epoch.get(),
                    event_type: TaskCheckpointEventType::FinishedCommit.into(),
                    operator_id: self.operator_id(*task),
                };
                client.task_checkpoint_event(self.request(message)).await.map(drop)
            }
            Event::TaskFinished { task } => {
                let (task_id, subtask_idx) = (task.operator, task.subtask);
                let message = TaskFinishedReq { worker_context, time, task_id, subtask_idx };
                client.task_finished(self.request(message)).await.map(drop)
            }
            Event::TaskFailed { task, error } => {
                let error = Some(self.task_error(*task, error));
                client.task_failed(self.request(TaskFailedReq { worker_context, time, error })).await.map(drop)
            }
            Event::WorkerFinished => {
                let message = WorkerFinishedReq { worker_context, time, slots: self.slots };
                ControllerGrpcClient::new(self.channel.clone()).worker_finished(self.request(message)).await.map(drop)
            }
        }
    }

    fn task_error(&self, task: TaskId, error: &TaskError) -> arroyo_rpc::TaskError {
        let retry_hint = if error.retryable { RetryHint::WithBackoff } else { RetryHint::NoRetry };
        arroyo_rpc::TaskError {
            operator_id: self.operator_id(task),
            task_id: task.operator,
            subtask_idx: task.subtask,
            error: wire::said(&error.message).to_owned(),
            error_domain: ErrorDomain::User.into(),
            retry_hint: retry_hint.into(),
            details: String::new(),
        }
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = message.into_request();
        request.set_timeout(bearable(self.options.calls.call));
        Dialect::say_kit(request.metadata_mut());
        request
    }

    /// A task that the topology does not have goes without a name; the controller refuses it.
    fn operator_id(&self, task: TaskId) -> String {
        self.topology.operators().get(task.operator as usize).map(|it| it.name().to_string()).unwrap_or_default()
    }
}
