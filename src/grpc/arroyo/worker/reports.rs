//! Reports to the controller, in their order, until each has been accepted.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};
use tonic::{Code, IntoRequest, Request, Status, transport::Channel};

use crate::{
    contracts::{Event, TaskId, Topology, WorkerEvent},
    grpc::{
        GrpcWorkerOptions,
        arroyo::{fence::Addressee, wire},
        proto::{
            arroyo_rpc::{
                ErrorDomain, HeartbeatReq, RegisterWorkerReq, RetryHint, TaskCheckpointCompletedReq,
                TaskCheckpointEventReq, TaskCheckpointEventType, TaskError, TaskFailedReq, TaskFinishedReq,
                WorkerContext, WorkerFinishedReq, WorkerResources, controller_grpc_client::ControllerGrpcClient,
                job_controller_grpc_client::JobControllerGrpcClient,
            },
            winddown::{
                SourceExhaustedReq, WorkerLeavingReq, winddown_controller_grpc_client::WinddownControllerGrpcClient,
            },
        },
    },
    worker::{EventSink, SinkClosed, lock},
};

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
    /// Whether the controller at the other end of the connection knows this worker's address.
    registered: AtomicBool,
    accepted: Mutex<Instant>,
    silence: watch::Sender<Option<Silence>>,
}

/// What an answer means for a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
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
    fn of(status: &Status) -> Self {
        match status.code() {
            Code::ResourceExhausted => Self::Full,
            Code::InvalidArgument | Code::OutOfRange | Code::Unimplemented => Self::Never,
            // Another generation, too: who fences whom is not known here, and the orphan limit ends a stale worker.
            _ => Self::Away,
        }
    }
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
                    self.silence.send_replace(Some(Silence::Said));
                }
                // A controller that accepts nothing is none.
                return if self.is_orphaned() { self.orphaned() } else { Ok(()) };
            }
            let wait = waits.next().unwrap_or(self.options.backoff_max);
            if Instant::now() + wait >= self.deadline(begun) {
                tokio::time::sleep_until(self.deadline(begun)).await;
                return self.orphaned();
            }
            sleep(wait).await;
        }
    }
}

impl GrpcWorkerOptions {
    fn backoff(&self) -> ExponentialBuilder {
        ExponentialBuilder::new()
            .with_min_delay(self.backoff_min)
            .with_max_delay(self.backoff_max)
            .without_max_times()
            .with_jitter()
    }
}

/// What a worker says when it is asked to leave, beside its reports: a backlog of those must not delay it.
pub(super) struct Notice {
    context: WorkerContext,
    channel: Channel,
    options: GrpcWorkerOptions,
    /// How long the worker works on.
    time: Duration,
}

impl Notice {
    pub(super) fn new(addressee: &Addressee, channel: Channel, options: GrpcWorkerOptions, time: Duration) -> Self {
        Self { context: context(addressee), channel, options, time }
    }

    /// Tells the controller, and returns when the time is over.
    pub(super) async fn give(&self) {
        if self.time.is_zero() {
            return;
        }
        let told = async {
            self.tell().await;
            std::future::pending::<()>().await;
        };
        // Told or not, the time is the same.
        let _ = timeout(self.time, told).await;
    }

    async fn tell(&self) {
        let mut waits = self.options.backoff().build();
        loop {
            let mut client = WinddownControllerGrpcClient::new(self.channel.clone());
            let message = WorkerLeavingReq { worker_context: Some(self.context.clone()), time: wire::now() };
            let mut request = message.into_request();
            request.set_timeout(self.options.calls.call);
            match timeout(self.options.calls.call, client.worker_leaving(request)).await {
                Ok(Ok(_)) => return,
                // A controller that does not know the call (of the Arroyo family, or an older one) hears of it by the worker's end.
                Ok(Err(status)) if Answer::of(&status) == Answer::Never => return,
                _ => sleep(waits.next().unwrap_or(self.options.backoff_max)).await,
            }
        }
    }
}

fn context(addressee: &Addressee) -> WorkerContext {
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
        silence: watch::Sender<Option<Silence>>,
    ) -> Self {
        Self {
            context: context(addressee),
            address,
            topology,
            channel,
            options,
            slots: tasks as u64,
            registered: AtomicBool::new(false),
            accepted: Mutex::new(Instant::now()),
            silence,
        }
    }

    /// When a report that was begun then is given up. It has the time of one call even where nothing was tried for long.
    fn deadline(&self, begun: Instant) -> Instant {
        (*lock(&self.accepted) + self.options.orphan).max(begun + self.options.calls.call)
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
        self.silence.send_replace(Some(Silence::Orphaned));
        Err(SinkClosed)
    }

    fn heed(&self, event: &Event, status: &Status) -> Answer {
        let answer = Answer::of(status);
        if answer == Answer::Away {
            self.registered.store(false, Ordering::Relaxed);
        }
        let (worker, code) = (self.context.worker_id, status.code());
        if answer == Answer::Never {
            tracing::warn!(
                worker,
                ?code,
                why = status.message(),
                ?event,
                "the controller will never accept this report"
            );
        } else {
            tracing::debug!(worker, ?code, why = status.message(), "report not accepted, will be tried again");
        }
        answer
    }

    async fn attempt(&self, event: &Event) -> Result<(), Status> {
        let limit = self.options.calls.call;
        let calls = async {
            if !self.registered.load(Ordering::Relaxed) {
                self.register().await?;
                self.registered.store(true, Ordering::Relaxed);
            }
            self.report(event).await
        };
        let late = |_| Status::deadline_exceeded(format!("no answer within {}", crate::text::rounded(limit)));
        timeout(limit, calls).await.map_err(late)?
    }

    async fn register(&self) -> Result<(), Status> {
        let message = RegisterWorkerReq {
            worker_context: Some(self.context.clone()),
            time: wire::now(),
            rpc_address: self.address.clone(),
            data_address: String::new(),
            resources: Some(WorkerResources { slots: self.slots }),
            slots: self.slots,
        };
        ControllerGrpcClient::new(self.channel.clone()).register_worker(self.request(message)).await.map(drop)
    }

    async fn report(&self, event: &Event) -> Result<(), Status> {
        let mut client = JobControllerGrpcClient::new(self.channel.clone());
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

    fn task_error(&self, task: TaskId, error: &crate::contracts::TaskError) -> TaskError {
        let retry_hint = if error.retryable { RetryHint::WithBackoff } else { RetryHint::NoRetry };
        TaskError {
            operator_id: self.operator_id(task),
            task_id: task.operator,
            subtask_idx: task.subtask,
            error: error.message.to_string(),
            error_domain: ErrorDomain::User.into(),
            retry_hint: retry_hint.into(),
            details: String::new(),
        }
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = message.into_request();
        request.set_timeout(self.options.calls.call);
        request
    }

    /// A task that the topology does not have goes without a name; the controller refuses it.
    fn operator_id(&self, task: TaskId) -> String {
        self.topology.operators().get(task.operator as usize).map(|it| it.name().to_string()).unwrap_or_default()
    }
}
