//! Workers that accept stop orders over real gRPC on loopback, and a controller's connections to
//! them.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{net::TcpListener, runtime, sync::oneshot, time::sleep};
use winddown::{
    OpenRun, Role, RunId, Topology, WorkerId,
    grpc::{
        CallOptions, GrpcTransport,
        proto::arroyo_rpc::{
            CheckpointReq, CheckpointResp, CommitReq, CommitResp, JobFinishedReq, JobFinishedResp, StopExecutionReq,
            StopExecutionResp,
            worker_grpc_client::WorkerGrpcClient,
            worker_grpc_server::{WorkerGrpc, WorkerGrpcServer},
        },
        tonic::{
            Request, Response, Status, async_trait,
            transport::{Channel, Endpoint, Server, server::TcpIncoming},
        },
    },
};

use super::interleave::micros;
use crate::report::Result;

pub(super) const JOB: &str = "bench";
pub(super) const RUN: RunId = RunId::new(1);

/// Who is called: our controller says it in this header, and so do the baselines.
const WORKER: &str = "winddown-worker";

/// Nobody is sick.
const NOBODY: u64 = 0;

/// All workers of a run. They share a port, which does not change the cost of an order, because
/// each has its own connection. They run on a separate runtime.
pub(super) struct Workers {
    pub(super) address: SocketAddr,
    manners: Arc<Manners>,
    runtime: Option<runtime::Runtime>,
    _shutdown: oneshot::Sender<()>,
}

/// What they do, and what they have seen.
struct Manners {
    handler_ms: AtomicU64,
    /// The number of the worker that never answers.
    sick: AtomicU64,
    start: Instant,
    /// When the newest order arrived at each, in nanoseconds after `start`.
    arrivals: Box<[AtomicU64]>,
}

impl Workers {
    pub(super) fn start(number: usize) -> Result<Self> {
        let manners = Arc::new(Manners {
            handler_ms: AtomicU64::new(0),
            sick: AtomicU64::new(NOBODY),
            start: Instant::now(),
            arrivals: (0..number).map(|_| AtomicU64::new(0)).collect(),
        });
        let runtime = multi_thread()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let (shutdown, told) = oneshot::channel::<()>();
        let service = WorkerGrpcServer::new(Service(Arc::clone(&manners)));
        runtime.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let serving = Server::builder().add_service(service).serve_with_incoming(incoming);
            tokio::select! {
                result = serving => if let Err(error) = result { eprintln!("the workers' server: {error}") },
                _ = told => {}
            }
        });
        Ok(Self { address, manners, runtime: Some(runtime), _shutdown: shutdown })
    }

    /// From now on a handler takes so long, and the `sick` worker (if any) never answers.
    pub(super) fn behave(&self, handler_ms: u64, sick: Option<WorkerId>) {
        self.manners.handler_ms.store(handler_ms, Ordering::Relaxed);
        self.manners.sick.store(sick.map_or(NOBODY, WorkerId::get), Ordering::Relaxed);
    }

    /// When the last of the healthy workers got the newest order, in microseconds after `since`;
    /// `None` if one has not got it.
    pub(super) fn last_arrival(&self, since: Instant) -> Option<f64> {
        let since = self.manners.nanos(since);
        let sick = self.manners.sick.load(Ordering::Relaxed);
        let healthy = (1..).zip(&self.manners.arrivals).filter(|(number, _)| *number != sick);
        let arrived = healthy.map(|(_, arrival)| arrival.load(Ordering::Acquire).checked_sub(since));
        let last = arrived.collect::<Option<Vec<u64>>>()?.into_iter().max()?;
        Some(micros(Duration::from_nanos(last)))
    }

    /// How many have got the newest order.
    pub(super) fn arrived(&self, since: Instant) -> usize {
        let since = self.manners.nanos(since);
        self.manners.arrivals.iter().filter(|arrival| arrival.load(Ordering::Acquire) >= since).count()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Handlers that never answer are not waited for.
            runtime.shutdown_background();
        }
    }
}

impl Manners {
    fn nanos(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX)
    }
}

struct Service(Arc<Manners>);

#[async_trait]
impl WorkerGrpc for Service {
    async fn stop_execution(
        &self,
        request: Request<StopExecutionReq>,
    ) -> std::result::Result<Response<StopExecutionResp>, Status> {
        let now = self.0.nanos(Instant::now());
        let number = request.metadata().get(WORKER).and_then(|number| number.to_str().ok()?.parse::<u64>().ok());
        let number = number.ok_or_else(|| Status::invalid_argument("expected the number of a worker"))?;
        let place = usize::try_from(number).ok().and_then(|number| self.0.arrivals.get(number.checked_sub(1)?));
        place.ok_or_else(|| Status::invalid_argument("no such worker"))?.store(now, Ordering::Release);
        if number == self.0.sick.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        match self.0.handler_ms.load(Ordering::Relaxed) {
            0 => {}
            millis => sleep(Duration::from_millis(millis)).await,
        }
        Ok(Response::new(StopExecutionResp {}))
    }

    async fn checkpoint(&self, _: Request<CheckpointReq>) -> std::result::Result<Response<CheckpointResp>, Status> {
        Ok(Response::new(CheckpointResp {}))
    }

    async fn commit(&self, _: Request<CommitReq>) -> std::result::Result<Response<CommitResp>, Status> {
        Ok(Response::new(CommitResp {}))
    }

    async fn job_finished(&self, _: Request<JobFinishedReq>) -> std::result::Result<Response<JobFinishedResp>, Status> {
        Ok(Response::new(JobFinishedResp {}))
    }
}

/// A generated client, as anybody would use it.
pub(super) type Client = WorkerGrpcClient<Channel>;

/// A client of each worker, with a connection of its own. To be called on a runtime.
pub(super) fn clients(address: SocketAddr, number: usize) -> Result<Vec<Client>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
    Ok((0..number).map(|_| WorkerGrpcClient::new(endpoint.connect_lazy())).collect())
}

/// One stop order by a plain client.
pub(super) async fn call(mut client: Client, number: u64, limit: Option<Duration>) -> std::result::Result<(), Status> {
    let mut request = Request::new(StopExecutionReq { stop_mode: 0 });
    request.metadata_mut().insert(WORKER, number.into());
    if let Some(limit) = limit {
        request.set_timeout(limit);
        let answer = tokio::time::timeout(limit, client.stop_execution(request)).await;
        return answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))).map(drop);
    }
    client.stop_execution(request).await.map(drop)
}

/// One task on each of so many workers.
pub(super) fn topology(workers: usize) -> Result<Arc<Topology>> {
    let ids = (1..=workers as u64).map(WorkerId::new);
    Ok(Arc::new(Topology::builder().operator("source", Role::Source, ids).build()?))
}

/// Our transport to all of them.
pub(super) fn transport(open: &OpenRun, address: SocketAddr, topology: &Arc<Topology>) -> Result<Arc<GrpcTransport>> {
    let options = CallOptions { connect: Duration::from_secs(20), call: Duration::from_secs(30), ..Default::default() };
    let transport = GrpcTransport::new(open, Arc::clone(topology)).options(options);
    for worker in topology.workers() {
        transport.set_address(*worker, &address.to_string())?;
        transport.set_kit(*worker);
    }
    Ok(Arc::new(transport))
}

/// As many threads as cores.
pub(super) fn multi_thread() -> Result<runtime::Runtime> {
    Ok(runtime::Builder::new_multi_thread().enable_all().build()?)
}

/// Allows as many open files as the system lets this process have.
pub(super) fn allow_many_files() -> Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(())
}
