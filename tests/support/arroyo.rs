//! A worker of Arroyo (commit addb390, 0.16.0-dev), as far as a shutdown sees it: written on the
//! generated code alone, with no part of the worker kit and nothing that is ours on the wire. What
//! it does for its engine is a sketch; what it says, and when, is not:
//!
//! - it never sets `needs_commit`: the configurations of its tables say who commits;
//! - it reports checkpoints by operator, starts and ends by node, one report after the other;
//! - any error for an answer ends it: it reports nothing any more. A refused heartbeat ends its
//!   heartbeats;
//! - it refuses an order for another worker, and takes one that names none;
//! - an order twice is two orders: a second barrier, or a panic where the source or the sink has
//!   ended;
//! - it lingers for a second after `JobFinished`; its node says `WorkerFinished`, it does not.
//!
//! It can be told to misbehave.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

#[path = "arroyo/manners.rs"]
mod manners;
#[path = "arroyo/orders.rs"]
mod orders;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tokio_stream::wrappers::TcpListenerStream;
use winddown::grpc::{
    proto::arroyo_rpc::{
        controller_grpc_client::ControllerGrpcClient, job_controller_grpc_client::JobControllerGrpcClient,
        worker_grpc_server::WorkerGrpcServer, *,
    },
    tonic::{
        Request, Status,
        transport::{Channel, Server},
    },
};

pub use self::manners::{Diary, Does, Graph, Keeps, Manners, Node, simple};

/// What is reported to the controller, in its order.
enum Report {
    Started(TaskStartedReq),
    Initialized(WorkerInitializationCompleteReq),
    Event(TaskCheckpointEventReq),
    Completed(Box<TaskCheckpointCompletedReq>),
    Finished(TaskFinishedReq),
    Failed(TaskFailedReq),
    Nonfatal(NonfatalErrorReq),
    Shown(SinkDataReq),
}

/// A node's subtask on this worker.
#[derive(Debug, Default)]
struct Task {
    subtask: u32,
    has_ended: bool,
    /// Its sink has pre-committed this epoch, and waits.
    waits: Option<u64>,
    /// It ends once it waits for nothing.
    is_last: bool,
}

#[derive(Clone)]
struct Worker {
    number: u64,
    manners: Manners,
    graph: Arc<Graph>,
    controller: Channel,
    diary: Diary,
    leaves: Arc<Notify>,
    node_is_dead: Arc<AtomicBool>,
    silent: Arc<Mutex<bool>>,
    reports: mpsc::UnboundedSender<Report>,
    tasks: Arc<Mutex<BTreeMap<u32, Task>>>,
}

/// The node (of the cluster) of a worker with one subtask of the [`simple`] graph, until the worker
/// has ended.
pub async fn arroyo_worker(number: u64, controller: SocketAddr, manners: Manners, diary: Diary) {
    arroyo_worker_of(simple(number), number, controller, manners, diary).await;
}

/// The same with a graph.
pub async fn arroyo_worker_of(graph: Graph, number: u64, controller: SocketAddr, manners: Manners, diary: Diary) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let endpoint = winddown::grpc::tonic::transport::Endpoint::from_shared(format!("http://{controller}")).unwrap();
    let (reports, reported) = mpsc::unbounded_channel();
    let subtask =
        |node: &Node| Some((node.id, u32::try_from(node.workers.iter().position(|it| *it == number)?).unwrap()));
    let task = |(id, subtask)| (id, Task { subtask, ..Task::default() });
    let tasks = graph.iter().filter_map(subtask).map(task).collect();
    let worker = Worker {
        number,
        manners,
        graph: Arc::new(graph),
        controller: endpoint.connect_lazy(),
        diary,
        leaves: Arc::default(),
        node_is_dead: Arc::default(),
        silent: Arc::default(),
        reports,
        tasks: Arc::new(Mutex::new(tasks)),
    };
    let target = worker.clone();
    #[allow(clippy::result_large_err, reason = "tonic's own signature")]
    let identity = move |request: Request<()>| target.check_target(request);
    let served = Server::builder().add_service(WorkerGrpcServer::with_interceptor(worker.clone(), identity));
    let leaves = Arc::clone(&worker.leaves);
    tokio::select! {
        _ = served.serve_with_incoming(TcpListenerStream::new(listener)) => {}
        () = worker.speak(address, reported) => {}
        () = leaves.notified() => {}
    }
    if worker.node_is_dead.load(Ordering::Relaxed) {
        return;
    }
    let message = WorkerFinishedReq { worker_context: Some(worker.context()), slots: 16, ..Default::default() };
    let answer = ControllerGrpcClient::new(worker.controller.clone()).worker_finished(message).await;
    worker.note("worker finished", &answer);
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

    #[allow(clippy::result_large_err, reason = "tonic's own signature")]
    fn check_target(&self, request: Request<()>) -> Result<Request<()>, Status> {
        self.diary.order();
        match request.metadata().get("x-target-worker-id").map(|it| it.to_str().unwrap_or_default().parse::<u64>()) {
            Some(Ok(target)) if target == self.number => Ok(request),
            Some(_) => Err(Status::permission_denied("x-target-worker-id mismatch")),
            None => {
                self.diary.write("an order names no worker");
                Ok(request)
            }
        }
    }

    fn note<T>(&self, what: &str, answer: &Result<T, Status>) {
        let answer = answer.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "Ok".into());
        self.diary.write(format!("{what}: {answer}"));
    }

    /// One loop for everything that it says. It ends, for good, with the first error for an answer.
    async fn speak(&self, address: SocketAddr, mut reports: mpsc::UnboundedReceiver<Report>) {
        let mut ends = self.register(address).await.is_err();
        if !ends {
            self.begin();
        }
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        while !ends {
            ends = tokio::select! {
                report = reports.recv() => match report {
                    Some(report) => self.report(report).await.is_err(),
                    None => true,
                },
                _ = tick.tick() => !*self.silent.lock().unwrap() && self.heartbeat().await.is_err(),
            };
        }
        std::future::pending::<()>().await;
    }

    async fn register(&self, address: SocketAddr) -> Result<(), Status> {
        let message = RegisterWorkerReq {
            worker_context: Some(self.context()),
            rpc_address: format!("http://{address}"),
            data_address: "127.0.0.1:0".into(),
            resources: Some(WorkerResources { slots: 16 }),
            slots: 16,
            ..Default::default()
        };
        let answer = ControllerGrpcClient::new(self.controller.clone()).register_worker(message).await;
        self.note("register", &answer);
        answer.map(drop)
    }

    async fn heartbeat(&self) -> Result<(), Status> {
        let message = HeartbeatReq { worker_context: Some(self.context()), time: 1 };
        let answer = JobControllerGrpcClient::new(self.controller.clone()).heartbeat(message).await;
        self.note("heartbeat", &answer);
        answer.map(drop)
    }

    fn begin(&self) {
        let worker_context = Some(self.context());
        let error_message = self.manners.begins.err().map(str::to_owned);
        let success = self.manners.begins.is_ok();
        let initialized = WorkerInitializationCompleteReq { worker_context, time: 1, success, error_message };
        self.say(Report::Initialized(initialized));
        if !success {
            return;
        }
        for (task_id, task) in &*self.tasks.lock().unwrap() {
            let (worker_context, subtask_idx) = (Some(self.context()), task.subtask);
            self.say(Report::Started(TaskStartedReq { worker_context, time: 1, task_id: *task_id, subtask_idx }));
        }
        if self.manners.shows {
            let batch = "{\"count\": 1}".into();
            let message = SinkDataReq { job_id: super::support::JOB.into(), batch, done: true, ..Default::default() };
            self.say(Report::Shown(message));
        }
    }

    fn say(&self, report: Report) {
        // Nobody listens once the worker has ended.
        let _ = self.reports.send(report);
    }

    async fn report(&self, report: Report) -> Result<(), Status> {
        let mut controller = ControllerGrpcClient::new(self.controller.clone());
        let mut client = JobControllerGrpcClient::new(self.controller.clone());
        let (what, answer) = match report {
            Report::Started(it) => (format!("started {}", it.task_id), controller.task_started(it).await.map(drop)),
            Report::Initialized(it) => {
                ("initialized".into(), controller.worker_initialization_complete(it).await.map(drop))
            }
            Report::Event(it) => {
                let what = format!("{} {}", it.event_type().as_str_name(), it.operator_id);
                (what, client.task_checkpoint_event(it).await.map(drop))
            }
            Report::Completed(it) => {
                let what = format!("completed {} {}", it.operator_id, it.epoch);
                (what, client.task_checkpoint_completed(*it).await.map(drop))
            }
            Report::Finished(it) => (format!("finished {}", it.task_id), client.task_finished(it).await.map(drop)),
            Report::Failed(it) => ("failed".into(), client.task_failed(it).await.map(drop)),
            Report::Nonfatal(it) => ("nonfatal".into(), client.nonfatal_error(it).await.map(drop)),
            Report::Shown(it) => ("shown".into(), controller.send_sink_data(it).await.map(drop)),
        };
        self.note(&what, &answer);
        answer
    }

    /// A barrier comes to each subtask here, as it does sooner or later.
    fn barrier(&self, epoch: u64, then_stop: bool) {
        for node in &*self.graph {
            let mut tasks = self.tasks.lock().unwrap();
            let Some(task) = tasks.get_mut(&node.id).filter(|task| !task.has_ended) else { continue };
            for (operator, keeps) in &node.operators {
                self.snapshot(task, operator, *keeps, epoch);
            }
            task.is_last |= then_stop;
            self.end_if_done(node.id, task);
        }
    }

    fn snapshot(&self, task: &mut Task, operator: &str, keeps: Keeps, epoch: u64) {
        use TaskCheckpointEventType::{FinishedSync, StartedAlignment, StartedCheckpointing};
        for event_type in [StartedAlignment, StartedCheckpointing, FinishedSync] {
            self.checkpoint_event(task.subtask, operator, epoch, event_type);
        }
        if matches!(keeps, Keeps::Transaction | Keeps::Files) {
            // What it had not committed before is lost: the transaction in hand is another.
            if let Some(before) = task.waits.replace(epoch).filter(|before| *before != epoch) {
                self.diary.write(format!("lost the pre-commit of {before}"));
            }
        }
        let commit_data = (keeps == Keeps::Files).then(|| Bytes::from(format!("files of {}", self.number)));
        let (table_type, name) = match keeps {
            Keeps::Offsets => (TableEnum::GlobalKeyValue, "s"),
            Keeps::Windows => (TableEnum::ExpiringKeyedTimeTable, "w"),
            Keeps::Transaction => (TableEnum::GlobalKeyValue, "e"),
            Keeps::Files => (TableEnum::GlobalKeyValue, "p"),
        };
        let subtask_index = task.subtask;
        let data = GlobalKeyedTableSubtaskCheckpointMetadata { subtask_index, file: Some("f".into()), commit_data };
        let data = TableSubtaskCheckpointMetadata {
            subtask_index,
            table_type: table_type.into(),
            data: data.encode_to_vec().into(),
        };
        let config = GlobalKeyedTableConfig {
            table_name: name.into(),
            description: "state".into(),
            uses_two_phase_commit: matches!(keeps, Keeps::Transaction | Keeps::Files),
        };
        let config =
            TableConfig { table_type: table_type.into(), config: config.encode_to_vec().into(), state_version: 0 };
        let metadata = SubtaskCheckpointMetadata {
            subtask_index,
            table_metadata: BTreeMap::from([(name.to_owned(), data)]),
            table_configs: BTreeMap::from([(name.to_owned(), config)]),
            ..Default::default()
        };
        self.say(Report::Completed(Box::new(TaskCheckpointCompletedReq {
            worker_context: Some(self.context()),
            operator_id: operator.into(),
            epoch,
            metadata: Some(metadata),
            needs_commit: false,
            ..Default::default()
        })));
    }

    fn checkpoint_event(&self, subtask_idx: u32, operator: &str, epoch: u64, event_type: TaskCheckpointEventType) {
        self.say(Report::Event(TaskCheckpointEventReq {
            worker_context: Some(self.context()),
            subtask_idx,
            epoch,
            event_type: event_type.into(),
            operator_id: operator.into(),
            ..Default::default()
        }));
    }

    fn end_if_done(&self, node: u32, task: &mut Task) {
        if task.is_last && task.waits.is_none() && !task.has_ended {
            task.has_ended = true;
            let (worker_context, subtask_idx) = (Some(self.context()), task.subtask);
            self.say(Report::Finished(TaskFinishedReq { worker_context, time: 1, task_id: node, subtask_idx }));
        }
    }

    fn commit(&self, message: &CommitReq) {
        for (operator, data) in &message.committing_data {
            let node = self.graph.iter().find(|node| node.operators.iter().any(|(it, _)| it == operator)).unwrap();
            let mut tasks = self.tasks.lock().unwrap();
            let task = tasks.get_mut(&node.id).unwrap();
            // A repeated commit, or one that nobody prepared: nothing comes of it.
            if task.waits.take_if(|epoch| *epoch == message.epoch).is_some() {
                if let Some(files) = data.committing_data.get("p") {
                    let own = files.commit_data_by_subtask[&task.subtask].clone();
                    assert_eq!(own, format!("files of {}", self.number), "what this subtask gave");
                }
                self.checkpoint_event(task.subtask, operator, message.epoch, TaskCheckpointEventType::FinishedCommit);
            }
            self.end_if_done(node.id, task);
        }
    }

    fn fail(&self) {
        let (task_id, subtask_idx) = self
            .tasks
            .lock()
            .unwrap()
            .iter_mut()
            .next()
            .map(|(id, task)| {
                task.has_ended = true;
                (*id, task.subtask)
            })
            .unwrap();
        let error = TaskError { task_id, subtask_idx, error: "disk full".into(), ..Default::default() };
        self.say(Report::Failed(TaskFailedReq { worker_context: Some(self.context()), time: 1, error: Some(error) }));
    }

    fn stumble(&self) {
        let error = TaskError {
            operator_id: self.graph[0].operators[0].0.into(),
            task_id: self.graph[0].id,
            error: "a record that can't be read".into(),
            ..Default::default()
        };
        let message = NonfatalErrorReq { worker_context: Some(self.context()), time: 1, error: Some(error) };
        self.say(Report::Nonfatal(message));
    }
}
