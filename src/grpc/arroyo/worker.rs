//! The worker kit in a process of its own.

mod notice;
mod reports;
mod service;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use futures_core::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use tonic::{
    service::Routes,
    transport::{
        Endpoint,
        server::{Connected, TcpIncoming},
    },
};

use self::{
    notice::Notice,
    reports::{Ends, Reports, Silence},
    service::{Gate, Orders},
};
use super::{
    AddressError, CallOptions, Connect, GrpcWorkerOptions, ServeError,
    controller::{serve, server, with_reflection},
    door::admitted,
    endpoint,
    fence::Addressee,
    guard::{Gauge, Guard},
    proto::arroyo_rpc::worker_grpc_server::WorkerGrpcServer,
};
use crate::{
    contracts::{BoxFuture, JobId, TaskError, TaskId, Topology},
    worker::{TaskContext, Worker, WorkerOptions, WorkerSpec},
};

/// Serves one worker of a run: takes orders, runs tasks, and reports to the controller.
///
/// - It registers with the controller, and does so again whenever the connection failed or the controller says that it does not know
///   the job: so a controller that was restarted learns of it.
/// - Reports go out in their order, one at a time; one that fails is tried again with backoff and jitter. While the controller
///   is away tasks are held back, and no report is lost.
/// - A repeated order is answered again, reports included.
/// - A report that the controller says it will never take (a state larger than its `max_message`, say) fails its task: the task is aborted,
///   and the run hears why.
/// - When nothing was accepted by a controller for [`orphan`](GrpcWorkerOptions::orphan), the tasks are told to stop at once, are
///   aborted after [`grace`](GrpcWorkerOptions::grace), and the worker leaves: [`Departure::Orphaned`].
/// - Orders for another run, worker or job are refused (invariant I11).
#[must_use = "a worker does nothing until `serve` is awaited"]
pub struct GrpcWorker {
    job: JobId,
    spec: WorkerSpec,
    topology: Arc<Topology>,
    controller: String,
    options: GrpcWorkerOptions,
    connect: Connect,
    advertised: Option<String>,
    leave: BoxFuture<'static, ()>,
    notice: Duration,
}

/// Why a worker left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departure {
    /// The controller released it, or the process asked it to leave. Every task has ended.
    Released,
    /// No controller accepted anything for too long. A task that never yields may still run: end the process.
    Orphaned,
}

impl GrpcWorker {
    /// A worker of `job` with these tasks, which reports to the controller at `controller`. `topology` is the run's: it gives the
    /// operators' names, which reports carry.
    pub fn new(
        job: impl Into<JobId>,
        spec: WorkerSpec,
        topology: impl Into<Arc<Topology>>,
        controller: impl Into<String>,
    ) -> Self {
        Self {
            job: job.into(),
            spec,
            topology: topology.into(),
            controller: controller.into(),
            options: GrpcWorkerOptions::default(),
            connect: Connect::default(),
            advertised: None,
            leave: Box::pin(std::future::pending()),
            notice: Duration::ZERO,
        }
    }

    /// Other options than the default ones.
    pub fn options(mut self, options: GrpcWorkerOptions) -> Self {
        self.options = options;
        self
    }

    /// Opens the channel to the controller in a way of your own.
    pub fn connect_with(mut self, connect: Connect) -> Self {
        self.connect = connect;
        self
    }

    /// Tells the controller this address instead of the listener's own: for a worker behind a name, or one that listens on all interfaces.
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertised = Some(address.into());
        self
    }

    /// Has the worker leave when `signal` resolves (SIGTERM, say): tasks are told to stop at once, and aborted after the grace period. Unless the
    /// controller has told them to stop as well, those that had not come to their end are reported as failed, so that the run is recovered.
    ///
    /// # Cancel safety
    /// `signal` is polled to its end, or dropped with the worker.
    pub fn leave_on(mut self, signal: impl Future<Output = ()> + Send + 'static) -> Self {
        self.leave = Box::pin(signal);
        self
    }

    /// Has the worker give notice when it is asked to leave: it tells the controller, and works on for `time`, in which the controller may
    /// take a final checkpoint ([`Registration::leaving`](super::Registration::leaving)). Then it leaves as without. Keep it below what the
    /// process is given between SIGTERM and SIGKILL (in a pod, `terminationGracePeriodSeconds`), by what its tasks need to stop.
    pub fn notice(mut self, time: Duration) -> Self {
        self.notice = time;
        self
    }

    /// Runs the tasks that `factory` makes and takes orders on `listener`, whose own address is told to the controller; returns when
    /// the worker has left.
    ///
    /// # Errors
    /// [`ServeError`]: the controller's address is none, the listener is on all interfaces and nothing was
    /// [advertised](Self::advertise), or the listener failed.
    ///
    /// # Cancel safety
    /// Dropping it kills the worker: its tasks are aborted, and nothing is reported any more.
    pub async fn serve<F, Fut>(self, listener: TcpListener, factory: F) -> Result<Departure, ServeError>
    where
        F: FnMut(TaskContext) -> Fut,
        Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let here = listener.local_addr().map_err(|error| ServeError(error.into()))?;
        if self.advertised.is_none() && here.ip().is_unspecified() {
            let got = format!("expected an address that the controller can reach, got {here}: say it with `advertise`");
            return Err(ServeError(got.into()));
        }
        self.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)), here.to_string(), factory).await
    }

    /// [`serve`](Self::serve) on connections of any kind. `address` is where the controller reaches the worker, unless another one was
    /// [advertised](Self::advertise).
    ///
    /// # Errors
    /// As [`serve`](Self::serve).
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_with_incoming<I, IO, E, F, Fut>(
        self,
        incoming: I,
        address: impl Into<String>,
        factory: F,
    ) -> Result<Departure, ServeError>
    where
        I: Stream<Item = Result<IO, E>> + Send,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IO::ConnectInfo: Clone + Send + Sync + 'static,
        E: Into<crate::contracts::BoxError> + Send,
        F: FnMut(TaskContext) -> Fut,
        Fut: Future<Output = Result<(), TaskError>> + Send + 'static,
    {
        let Self { job, spec, topology, controller, options, connect, advertised, leave, notice } = self;
        let controller = self::controller(&controller, &options)?;
        let addressee = Addressee { job, run: spec.run, worker: spec.worker };
        let (silence, fell_silent) = watch::channel(None);
        let (refused, refusals) = mpsc::unbounded_channel();
        let here = spec.tasks.iter().map(|task| task.task).collect();
        let channel = connect.open(controller);
        let notice = Notice::new(&addressee, channel.clone(), options, notice);
        let leave = Box::pin(async move {
            leave.await;
            notice.give().await;
        });
        let reports = Reports::new(
            &addressee,
            spec.tasks.len(),
            advertised.unwrap_or_else(|| address.into()),
            Arc::clone(&topology),
            channel,
            options,
            Ends { silence, refused },
        );
        let kit = WorkerOptions { heartbeat: Some(options.heartbeat), grace: options.grace };
        let worker = KillOnDrop(Worker::start(spec, kit, &Handle::current(), reports, factory));
        let orders = Orders { worker: worker.0.clone(), addressee, topology, here };

        let CallOptions { call, keep_alive, .. } = options.calls;
        let guarded = guarded(orders, &options).await;
        let incoming = admitted(incoming, options.admission, keep_alive, || 0);
        let (left, has_left) = oneshot::channel::<()>();
        let shutdown = async { drop(has_left.await) };
        let mut serving = std::pin::pin!(serve(server(keep_alive, CALLS), guarded, incoming, shutdown, call));
        let departure = tokio::select! {
            ended = &mut serving => {
                return Err(ended.err().unwrap_or_else(|| ServeError("no more connections come in".into())));
            }
            departure = depart(&worker.0, fell_silent, leave, &options) => departure,
            never = fail_refused(&worker.0, refusals) => match never {},
        };
        // The answer to the last order is on its way.
        drop(left);
        serving.await?;
        Ok(departure)
    }
}

impl fmt::Debug for GrpcWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrpcWorker")
            .field("job", &self.job)
            .field("spec", &self.spec)
            .field("controller", &self.controller)
            .finish_non_exhaustive()
    }
}

/// Connections that are still open hold the worker too, so the last handle may be dropped late.
struct KillOnDrop(Worker);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        self.0.kill();
    }
}

fn controller(address: &str, options: &GrpcWorkerOptions) -> Result<Endpoint, ServeError> {
    endpoint(address, &options.calls).map_err(|error: AddressError| ServeError(error.into()))
}

/// A controller sends each kind of order once at a time.
const CALLS: u32 = 16;

async fn guarded(orders: Orders, options: &GrpcWorkerOptions) -> Guard<Routes, Gate> {
    let GrpcWorkerOptions { max_message, calls, .. } = *options;
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<WorkerGrpcServer<Orders>>().await;
    let gate = Gate(Arc::new(orders.addressee.clone()));
    let orders = WorkerGrpcServer::new(orders).max_decoding_message_size(max_message);
    let routes = with_reflection(Routes::new(health_service)).add_service(orders);
    Guard::new(routes.prepare(), gate, Gauge::new(max_message, max_message.saturating_mul(2), calls.call))
}

/// A task whose report the controller will never take has failed: it is not told that all went well, and the run hears of it.
async fn fail_refused(worker: &Worker, mut refusals: mpsc::UnboundedReceiver<(TaskId, TaskError)>) -> Infallible {
    while let Some((task, error)) = refusals.recv().await {
        worker.fail(task, error);
    }
    std::future::pending().await
}

/// Waits until the worker has left, or has nobody to work for.
async fn depart(
    worker: &Worker,
    mut fell_silent: watch::Receiver<Option<Silence>>,
    leave: BoxFuture<'static, ()>,
    options: &GrpcWorkerOptions,
) -> Departure {
    let mut leave = std::pin::pin!(async {
        leave.await;
        worker.release();
        std::future::pending::<()>().await;
    });
    tokio::select! {
        () = &mut leave => {}
        () = worker.ended() => {}
        () = until(&mut fell_silent, |silence| *silence == Some(Silence::Orphaned)) => {
            worker.release();
            // The kit aborts at the end of the grace period; what does not yield even then is left to the process.
            let _ = timeout(options.grace.saturating_mul(2), worker.ended()).await;
            worker.kill();
            return Departure::Orphaned;
        }
    }
    // Its last word is on its way. If the controller does not hear it, the scheduler tells it that the worker is gone.
    let _ = timeout(options.calls.call, until(&mut fell_silent, Option::is_some)).await;
    Departure::Released
}

/// Waits until it is so; for ever if nobody can make it so any more.
async fn until(silence: &mut watch::Receiver<Option<Silence>>, is_so: fn(&Option<Silence>) -> bool) {
    if silence.wait_for(is_so).await.is_err() {
        std::future::pending::<()>().await;
    }
}
