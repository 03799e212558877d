//! Sends orders to workers, with one channel to each.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use super::{
    AddressError, CallOptions, Connect, endpoint,
    fence::{Addressee, Dialect},
    once::Once,
    proto::arroyo_rpc::{
        CheckpointReq, JobFinishedReq, StopExecutionReq, StopMode, worker_grpc_client::WorkerGrpcClient,
    },
    wire::{self, Effect},
};
use crate::{
    clock::{after, bearable},
    contracts::{
        Command, Epoch, JobId, OpenRun, Order, OrderError, OrderErrorKind, OtherRun, RunId, Topology, Transport,
        WorkerId, WorkerStopMode,
    },
};

/// Carries the orders of one run to its workers over gRPC.
///
/// A worker's address is set at the start ([`set_address`](Self::set_address)), or by the worker
/// itself when it registers with the [`ControllerServer`](super::ControllerServer). An order to a
/// worker without an address waits for one, within the order's own time.
///
/// A worker of our own kit recognizes a repeated order. Any other (Arroyo's, and any that has not
/// registered) may obey it twice, so an order that may have arrived is never sent to such a worker
/// again: if it is not known whether it arrived, `send` returns `Ok`, and the worker's reports
/// tell. An order that was lost on the way is then noticed only when the time of its phase is over
/// ([`Limits::worst_case`](crate::Limits::worst_case)).
///
/// Each worker of the run has one lazily opened connection, which is opened again after a failure;
/// no worker waits for another (invariant I9). Every order carries its deadline (`grpc-timeout`),
/// and HTTP/2 pings detect workers that were cut off. Dropping the transport closes the
/// connections.
///
/// ```
/// use std::sync::Arc;
/// use winddown::{grpc::GrpcTransport, prelude::*};
///
/// let (open, worker) = (OpenRun::without_store("words", RunId::new(1)), WorkerId::new(1));
/// let topology = Arc::new(Topology::builder().operator("source", Role::Source, [worker]).build()?);
/// let transport = Arc::new(GrpcTransport::new(&open, Arc::clone(&topology)));
/// transport.set_address(worker, "10.0.0.7:9190")?;
/// let controller = ClusterController::builder(&open, topology, transport).limits(Limits::default()).build();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct GrpcTransport {
    job: JobId,
    run: RunId,
    topology: Arc<Topology>,
    options: CallOptions,
    connect: Connect,
    workers: HashMap<WorkerId, Peer>,
    /// The newest checkpoint that was ordered: a report of a newer one is an error.
    newest: AtomicU64,
}

/// What is known about a worker.
struct Peer {
    line: watch::Sender<Option<Line>>,
    /// It has registered as one of our kit.
    is_kit: AtomicBool,
    once: Once,
}

/// The way to a worker.
#[derive(Clone)]
struct Line {
    endpoint: Endpoint,
    /// Opened by the first order: a channel needs a runtime, and an address may be set outside of
    /// one.
    channel: Arc<OnceLock<Channel>>,
}

impl GrpcTransport {
    /// A transport to the workers of `topology`, without any known address.
    pub fn new(open: &OpenRun, topology: impl Into<Arc<Topology>>) -> Self {
        let topology = topology.into();
        let peer = || Peer { line: watch::Sender::new(None), is_kit: AtomicBool::new(false), once: Once::default() };
        let workers = topology.workers().iter().map(|worker| (*worker, peer())).collect();
        Self {
            job: open.job().clone(),
            run: open.run(),
            topology,
            options: CallOptions::default(),
            connect: Connect::default(),
            workers,
            newest: AtomicU64::new(0),
        }
    }

    /// Sets options other than the defaults, for addresses that are set from now on. Use the same
    /// value for `call` as for [`Limits::order`](crate::limits::Limits::order): the shorter of the
    /// two counts.
    #[must_use]
    pub fn options(mut self, options: CallOptions) -> Self {
        self.options = options;
        self
    }

    /// Sets how channels are opened.
    #[must_use]
    pub fn connect_with(mut self, connect: Connect) -> Self {
        self.connect = connect;
        self
    }

    /// Sets or changes the address where a worker takes orders; orders that wait for it are sent.
    /// Setting the same address again keeps the connection.
    ///
    /// # Errors
    /// [`AddressError`] if `address` is not an address. A worker that is not in the run changes
    /// nothing: [`knows`](Self::knows) tells.
    pub fn set_address(&self, worker: WorkerId, address: &str) -> Result<(), AddressError> {
        let endpoint = endpoint(address, &self.options)?;
        if let Some(peer) = self.workers.get(&worker) {
            peer.line.send_if_modified(|line| {
                let is_new = line.as_ref().is_none_or(|line| line.endpoint.uri() != endpoint.uri());
                if is_new {
                    *line = Some(Line { endpoint, channel: Arc::default() });
                }
                is_new
            });
        }
        Ok(())
    }

    /// Says that this worker runs the worker kit, which tells a repeated order from a new one: an order
    /// that may have arrived is then sent again. A worker that registers says it itself; call this for
    /// a worker whose address you have set. A worker that the run does not have changes nothing.
    pub fn set_kit(&self, worker: WorkerId) {
        if let Some(peer) = self.workers.get(&worker) {
            peer.is_kit.store(true, Ordering::Release);
        }
    }

    /// The job.
    pub fn job(&self) -> &JobId {
        &self.job
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// The tasks and workers of the run.
    pub fn topology(&self) -> &Arc<Topology> {
        &self.topology
    }

    /// Whether the run has this worker.
    pub fn knows(&self, worker: WorkerId) -> bool {
        self.workers.contains_key(&worker)
    }

    /// The address where a worker takes orders, if known.
    pub fn address(&self, worker: WorkerId) -> Option<String> {
        Some(self.workers.get(&worker)?.line.borrow().as_ref()?.endpoint.uri().to_string())
    }

    /// The newest checkpoint that was ordered from any worker; epoch 0 if there was none.
    pub fn newest_epoch(&self) -> Epoch {
        Epoch::new(self.newest.load(Ordering::Acquire))
    }

    /// A worker registers its address and its kind. A refused address changes neither.
    pub(super) fn register(&self, worker: WorkerId, address: &str, dialect: Dialect) -> Result<(), AddressError> {
        let before = self.address(worker);
        self.set_address(worker, address)?;
        if let Some(peer) = self.workers.get(&worker) {
            peer.is_kit.store(dialect == Dialect::Kit, Ordering::Release);
        }
        let now = self.address(worker);
        if before.is_some() && before != now {
            tracing::warn!(
                job = %self.job, run = %self.run, %worker, ?before, ?now, "a worker now takes orders at another address"
            );
        }
        Ok(())
    }

    async fn channel(&self, line: &watch::Sender<Option<Line>>) -> Option<Channel> {
        let line = line.subscribe().wait_for(Option::is_some).await.ok()?.clone()?;
        Some(line.channel.get_or_init(|| self.connect.open(line.endpoint)).clone())
    }

    fn request<M>(&self, worker: WorkerId, message: M, deadline: Instant) -> Request<M> {
        let mut request = Request::new(message);
        request.set_timeout(bearable(deadline.saturating_duration_since(Instant::now())));
        Addressee { job: self.job.clone(), run: self.run, worker }.write(request.metadata_mut());
        request
    }

    async fn call(
        &self,
        channel: Channel,
        worker: WorkerId,
        command: Command,
        deadline: Instant,
    ) -> Result<(), Status> {
        /// A worker's answers are empty.
        const ANSWER: usize = 4 << 10;
        let mut client = WorkerGrpcClient::new(channel).max_decoding_message_size(ANSWER);
        match command {
            Command::Checkpoint { epoch, then_stop } => {
                let message = CheckpointReq {
                    epoch: epoch.get(),
                    // Cleaning up checkpoints is not part of a shutdown: every checkpoint stays
                    // restorable.
                    min_epoch: 0,
                    timestamp: wire::now(),
                    then_stop,
                    is_commit: false,
                };
                client.checkpoint(self.request(worker, message, deadline)).await.map(drop)
            }
            Command::Commit { epoch, tasks } => {
                let message = wire::commit_req(&self.topology, epoch, &tasks);
                client.commit(self.request(worker, message, deadline)).await.map(drop)
            }
            Command::Stop(mode) => {
                let mode = match mode {
                    WorkerStopMode::Graceful => StopMode::Graceful,
                    WorkerStopMode::Immediate => StopMode::Immediate,
                };
                let message = StopExecutionReq { stop_mode: mode.into() };
                client.stop_execution(self.request(worker, message, deadline)).await.map(drop)
            }
            Command::Release => client.job_finished(self.request(worker, JobFinishedReq {}, deadline)).await.map(drop),
        }
    }

    /// Recorded before the order is sent, so that no answer can arrive too early.
    fn note_epoch(&self, command: &Command) {
        if let Command::Checkpoint { epoch, .. } | Command::Commit { epoch, .. } = command {
            self.newest.fetch_max(epoch.get(), Ordering::AcqRel);
        }
    }
}

impl Transport for GrpcTransport {
    fn is_for(&self, open: &OpenRun) -> Result<(), OtherRun> {
        open.check(&self.job, self.run)
    }

    async fn send(&self, worker: WorkerId, order: Order) -> Result<(), OrderError> {
        if order.run != self.run {
            let message = format!("expected an order of run {}, got one of run {}", self.run, order.run);
            return Err(OrderError::new(OrderErrorKind::Rejected, message));
        }
        let Some(peer) = self.workers.get(&worker) else {
            let message = format!("run {} of job `{}` has no worker {worker}", self.run, self.job);
            return Err(OrderError::new(OrderErrorKind::Rejected, message));
        };
        self.note_epoch(&order.command);
        let limit = self.options.call;
        let deadline = after(limit);
        let Ok(Some(channel)) = timeout_at(deadline, self.channel(&peer.line)).await else {
            let message = format!("it has not registered within {}", crate::text::rounded(limit));
            return Err(OrderError::new(OrderErrorKind::Unreachable, message));
        };
        let is_kit = peer.is_kit.load(Ordering::Acquire);
        // Taken before the order is sent, because this future may be dropped while it is on its
        // way.
        let Some(turn) = is_kit.then_some(None).or_else(|| peer.once.take(&order.command).map(Some)) else {
            tracing::debug!(job = %self.job, run = %self.run, %worker, order = order.command.name(), "not sent again");
            return Ok(());
        };
        let name = order.command.name();
        let (error, effect) = match timeout_at(deadline, self.call(channel, worker, order.command, deadline)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(status)) => (wire::order_error(&status), wire::effect(&status)),
            Err(_) => (OrderError::timed_out(limit), Effect::Unknown),
        };
        match (turn, effect) {
            (None, _) => Err(error),
            (Some(turn), Effect::None) => {
                peer.once.give_back(turn);
                Err(error)
            }
            (Some(_), Effect::Unknown) => {
                let (job, run) = (&self.job, self.run);
                tracing::warn!(
                    %job, %run, %worker, order = name, %error, "the order may have arrived, so it is not sent again"
                );
                Ok(())
            }
        }
    }
}

impl fmt::Debug for GrpcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcTransport")
            .field("job", &self.job)
            .field("run", &self.run)
            .field("workers", &self.workers.len())
            .finish_non_exhaustive()
    }
}
