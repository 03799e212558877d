//! A worker of the Arroyo family, as far as a shutdown sees it: written on the generated code alone, with no part of the worker kit and
//! nothing that is ours on the wire. It can be told to misbehave.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::{net::TcpListener, sync::Notify};
use tokio_stream::wrappers::TcpListenerStream;
use winddown::grpc::{
    proto::arroyo_rpc::{
        controller_grpc_client::ControllerGrpcClient,
        job_controller_grpc_client::JobControllerGrpcClient,
        worker_grpc_server::{WorkerGrpc, WorkerGrpcServer},
        *,
    },
    tonic::{Code, Request, Response, Status, async_trait, transport::Channel, transport::Server},
};

/// What it does with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    /// As it should.
    Obeys,
    /// It answers, and does nothing.
    Nothing,
    /// It never answers.
    Hangs,
    /// It answers with this code.
    Refuses(Code),
    /// It answers, and its task fails.
    Fails,
    /// It answers, and falls silent: no heartbeat any more.
    GoesSilent,
    /// It ends in the middle of the call.
    Dies,
}

/// How it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    pub checkpoint: Does,
    pub stop: Does,
    pub release: Does,
    /// The generation that it reports for.
    pub generation: u64,
}

impl Default for Manners {
    fn default() -> Self {
        Self { checkpoint: Does::Obeys, stop: Does::Obeys, release: Does::Obeys, generation: super::support::RUN.get() }
    }
}

/// What it was told and what it was answered.
#[derive(Clone, Default)]
pub struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    pub fn write(&self, entry: impl Into<String>) {
        self.0.lock().unwrap().push(entry.into());
    }

    pub fn has(&self, entry: &str) -> bool {
        self.0.lock().unwrap().iter().any(|line| line == entry)
    }

    pub fn entries(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Clone)]
struct Worker {
    number: u64,
    manners: Manners,
    controller: Channel,
    diary: Diary,
    leaves: Arc<Notify>,
    silent: Arc<Mutex<bool>>,
    /// The task finishes after the commit of the final checkpoint.
    then_stop: Arc<Mutex<bool>>,
}

/// Runs the worker until it is released.
pub async fn arroyo_worker(number: u64, controller: SocketAddr, manners: Manners, diary: Diary) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = winddown::grpc::tonic::transport::Endpoint::from_shared(format!("http://{controller}")).unwrap();
    let worker = Worker {
        number,
        manners,
        controller: endpoint.connect_lazy(),
        diary,
        leaves: Arc::default(),
        silent: Arc::default(),
        then_stop: Arc::default(),
    };
    let served = Server::builder().add_service(WorkerGrpcServer::new(worker.clone()));
    let leaves = Arc::clone(&worker.leaves);
    let heartbeats = async {
        worker.register(address).await;
        loop {
            worker.heartbeat().await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        _ = served.serve_with_incoming(TcpListenerStream::new(listener)) => {}
        () = heartbeats => {}
        () = leaves.notified() => {}
    }
}

impl Worker {
    fn context(&self) -> WorkerContext {
        WorkerContext {
            machine_id: "m-1".into(),
            worker_id: self.number,
            job_id: super::support::JOB.into(),
            generation: self.manners.generation,
            pipeline_id: "p-1".into(),
        }
    }

    fn reports(&self) -> JobControllerGrpcClient<Channel> {
        JobControllerGrpcClient::new(self.controller.clone())
    }

    fn note<T>(&self, what: &str, answer: Result<T, Status>) {
        let answer = answer.map_or_else(|status| format!("{:?}", status.code()), |_| "Ok".into());
        self.diary.write(format!("{what}: {answer}"));
    }

    async fn register(&self, address: SocketAddr) {
        let message = RegisterWorkerReq {
            worker_context: Some(self.context()),
            rpc_address: format!("http://{address}"),
            data_address: "127.0.0.1:0".into(),
            resources: Some(WorkerResources { slots: 16 }),
            slots: 16,
            ..Default::default()
        };
        let answer = ControllerGrpcClient::new(self.controller.clone()).register_worker(message).await;
        self.note("register", answer);
    }

    async fn heartbeat(&self) {
        if !*self.silent.lock().unwrap() {
            let message = HeartbeatReq { worker_context: Some(self.context()), time: 1 };
            let answer = self.reports().heartbeat(message).await;
            self.note("heartbeat", answer);
        }
    }

    fn subtask(&self) -> u32 {
        u32::try_from(self.number - 1).unwrap()
    }

    async fn snapshot(&self, epoch: u64) {
        for event_type in [TaskCheckpointEventType::StartedAlignment, TaskCheckpointEventType::FinishedSync] {
            self.checkpoint_event(epoch, event_type).await;
        }
        let data = GlobalKeyedTableSubtaskCheckpointMetadata {
            subtask_index: self.subtask(),
            file: Some("checkpoint-1".into()),
            commit_data: Some(Bytes::from(format!("files of {}", self.number))),
        };
        let table = TableSubtaskCheckpointMetadata {
            subtask_index: self.subtask(),
            table_type: TableEnum::GlobalKeyValue.into(),
            data: data.encode_to_vec().into(),
        };
        let metadata = SubtaskCheckpointMetadata {
            subtask_index: self.subtask(),
            table_metadata: BTreeMap::from([("p".to_owned(), table)]),
            ..Default::default()
        };
        let message = TaskCheckpointCompletedReq {
            worker_context: Some(self.context()),
            operator_id: "count".into(),
            epoch,
            metadata: Some(metadata),
            needs_commit: true,
            ..Default::default()
        };
        let answer = self.reports().task_checkpoint_completed(message).await;
        self.note("completed", answer);
    }

    async fn checkpoint_event(&self, epoch: u64, event_type: TaskCheckpointEventType) {
        let message = TaskCheckpointEventReq {
            worker_context: Some(self.context()),
            subtask_idx: self.subtask(),
            epoch,
            event_type: event_type.into(),
            operator_id: "count".into(),
            ..Default::default()
        };
        let answer = self.reports().task_checkpoint_event(message).await;
        self.note(event_type.as_str_name(), answer);
    }

    async fn finish(&self) {
        let message = TaskFinishedReq {
            worker_context: Some(self.context()),
            task_id: 0,
            subtask_idx: self.subtask(),
            ..Default::default()
        };
        let answer = self.reports().task_finished(message).await;
        self.note("finished", answer);
    }

    async fn fail(&self) {
        let error = TaskError { subtask_idx: self.subtask(), error: "disk full".into(), ..Default::default() };
        let message = TaskFailedReq { worker_context: Some(self.context()), error: Some(error), ..Default::default() };
        let answer = self.reports().task_failed(message).await;
        self.note("failed", answer);
    }

    /// Answers an order as the manners say, and does what follows in the background, as a real worker does.
    async fn order<T>(&self, does: Does, answer: T, obey: impl Future<Output = ()> + Send + 'static) -> Answer<T> {
        let worker = self.clone();
        match does {
            Does::Obeys => drop(tokio::spawn(obey)),
            Does::Nothing => {}
            Does::Hangs => std::future::pending::<()>().await,
            Does::Refuses(code) => return Err(Status::new(code, "no")),
            Does::Fails => drop(tokio::spawn(async move { worker.fail().await })),
            Does::Dies => {
                self.leaves.notify_one();
                std::future::pending::<()>().await;
            }
            Does::GoesSilent => *self.silent.lock().unwrap() = true,
        }
        Ok(Response::new(answer))
    }
}

type Answer<T> = Result<Response<T>, Status>;

#[async_trait]
impl WorkerGrpc for Worker {
    async fn checkpoint(&self, request: Request<CheckpointReq>) -> Answer<CheckpointResp> {
        let CheckpointReq { epoch, then_stop, .. } = *request.get_ref();
        assert!(request.metadata().contains_key("grpc-timeout"), "an order carries its deadline");
        self.diary.write(format!("checkpoint {epoch} then_stop={then_stop}"));
        *self.then_stop.lock().unwrap() |= then_stop;
        let worker = self.clone();
        self.order(self.manners.checkpoint, CheckpointResp {}, async move { worker.snapshot(epoch).await }).await
    }

    async fn commit(&self, request: Request<CommitReq>) -> Answer<CommitResp> {
        let message = request.into_inner();
        let subtasks = &message.committing_data["count"].committing_data["p"].commit_data_by_subtask;
        assert_eq!(subtasks[&self.subtask()], format!("files of {}", self.number), "what this task gave");
        // Some sinks let their first subtask commit for all.
        self.diary.write(format!("commit data of subtasks {:?}", subtasks.keys().collect::<Vec<_>>()));
        self.diary.write(format!("commit {}", message.epoch));
        let worker = self.clone();
        let then_stop = *self.then_stop.lock().unwrap();
        let obey = async move {
            worker.checkpoint_event(message.epoch, TaskCheckpointEventType::FinishedCommit).await;
            if then_stop {
                worker.finish().await;
            }
        };
        self.order(Does::Obeys, CommitResp {}, obey).await
    }

    async fn stop_execution(&self, request: Request<StopExecutionReq>) -> Answer<StopExecutionResp> {
        assert!(request.metadata().contains_key("grpc-timeout"), "an order carries its deadline");
        self.diary.write(format!("stop {:?}", request.get_ref().stop_mode()));
        let worker = self.clone();
        self.order(self.manners.stop, StopExecutionResp {}, async move { worker.finish().await }).await
    }

    async fn job_finished(&self, _: Request<JobFinishedReq>) -> Answer<JobFinishedResp> {
        self.diary.write("job finished");
        let worker = self.clone();
        let obey = async move {
            let message = WorkerFinishedReq { worker_context: Some(worker.context()), slots: 16, ..Default::default() };
            let answer = ControllerGrpcClient::new(worker.controller.clone()).worker_finished(message).await;
            worker.note("worker finished", answer);
            worker.leaves.notify_one();
        };
        self.order(self.manners.release, JobFinishedResp {}, obey).await
    }
}
