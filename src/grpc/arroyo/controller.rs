//! The controller's side of the wire: what workers report, checked and passed into the mailbox of the right job.

mod registry;
mod service;
mod validate;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use futures_core::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
};
use tonic::{
    service::Routes,
    transport::server::{Connected, Server, TcpIncoming},
};

pub use self::registry::{RegisterError, Registration};
use self::{registry::Registry, service::Service};
use super::{
    ControllerOptions, GrpcTransport, KeepAlive, ServeError,
    door::{Visitor, admitted},
    guard::{Gauge, Guard, Porter},
    proto::{
        arroyo_rpc::{
            controller_grpc_server::ControllerGrpcServer, job_controller_grpc_server::JobControllerGrpcServer,
        },
        winddown::winddown_controller_grpc_server::WinddownControllerGrpcServer,
    },
};
use crate::{clock::bearable, mailbox::JobSender};

/// Serves the workers of any number of jobs. A cheap handle to clone.
///
/// What a worker reports is checked against its run before it is passed on, and a rejected message changes nothing (invariant I11):
///
/// | what is wrong | answer |
/// |---|---|
/// | the job is not registered here, or has ended | `NOT_FOUND` |
/// | it is another generation than the job's run | `FAILED_PRECONDITION` |
/// | no context or body; an unknown worker, operator or subtask; a task of another worker; an epoch that was never ordered | `INVALID_ARGUMENT` |
/// | it is larger than [`max_message`](ControllerOptions::max_message) | `OUT_OF_RANGE` |
/// | the rest of it has not come within [`body`](ControllerOptions::body) | `DEADLINE_EXCEEDED` |
/// | the job's mailbox is full, and stays so for [`mailbox_wait`](ControllerOptions::mailbox_wait) | `RESOURCE_EXHAUSTED` |
///
/// That is what our own worker kit hears, which reports again. To any other worker an error for an answer is the end (Arroyo's report never
/// again), so it hears none for what is not its fault: its calls wait for room in the mailbox for as long as it takes, and for a job that
/// is not registered for [`registration_wait`](ControllerOptions::registration_wait).
///
/// A call waits while its job's mailbox is full (back-pressure). The calls of other jobs do not wait with it, unless they share its
/// connection, and [`calls_per_connection`](ControllerOptions::calls_per_connection) are waiting there: each worker has one of its own.
///
/// Whoever calls, what he can take is bounded: connections ([`Admission`](crate::grpc::Admission)), and the bytes of messages on their way in
/// ([`arriving`](ControllerOptions::arriving)). A message above 4 KiB is read only if a worker of a registered run speaks.
#[derive(Clone, Default)]
pub struct ControllerServer {
    options: ControllerOptions,
    registry: Arc<Registry>,
}

impl ControllerServer {
    /// A server without any job.
    pub fn new(options: ControllerOptions) -> Self {
        Self { options, registry: Arc::default() }
    }

    /// Takes in what the workers of `transport`'s run report, and passes it to `job`, until the registration is dropped. A worker
    /// that registers tells the transport its address. A newer run of the same job takes the older one's place.
    ///
    /// # Errors
    /// [`RegisterError`] when a run of the job that is not older is registered.
    pub fn register(&self, transport: Arc<GrpcTransport>, job: JobSender) -> Result<Registration, RegisterError> {
        self.registry.register(
            transport,
            job,
            self.options.waiting_per_job,
            self.options.arriving.max(self.options.max_message),
        )
    }

    /// Serves on `listener` until `shutdown` resolves; then calls under way may take [`drain`](ControllerOptions::drain) to end.
    /// Workers whose calls fail report again to whoever serves the address next.
    ///
    /// # Errors
    /// [`ServeError`] when the listener fails.
    ///
    /// # Cancel safety
    /// Dropping it shuts the server down without waiting. What a worker was not answered it reports again.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError> {
        self.serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown).await
    }

    /// [`serve`](Self::serve) on connections of any kind: TLS, Unix sockets, a simulated network. The address of a peer is known where the connection's
    /// `ConnectInfo` is tonic's `TcpConnectInfo`.
    ///
    /// # Errors
    /// [`ServeError`] when `incoming` ends. What it fails with is waited for, and it is asked again.
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_with_incoming<I, IO, E>(
        &self,
        incoming: I,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), ServeError>
    where
        I: Stream<Item = Result<IO, E>> + Send,
        IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
        IO::ConnectInfo: Clone + Send + Sync + 'static,
        E: Into<crate::contracts::BoxError> + Send,
    {
        let ControllerOptions { calls_per_connection, keep_alive, admission, drain, .. } = self.options;
        let registry = Arc::clone(&self.registry);
        let incoming = admitted(incoming, admission, keep_alive, move || registry.workers());
        let server = server(keep_alive, calls_per_connection);
        serve(server, self.guarded().await, incoming, shutdown, drain).await
    }

    async fn guarded(&self) -> Guard<Routes, Service> {
        let ControllerOptions { max_message, arriving, body, mailbox_wait, registration_wait, addresses, .. } =
            self.options;
        let registry = Arc::clone(&self.registry);
        let service = Service { registry, wait: mailbox_wait, registration_wait, addresses };
        let reports = JobControllerGrpcServer::new(service.clone()).max_decoding_message_size(max_message);
        let workers = ControllerGrpcServer::new(service.clone()).max_decoding_message_size(max_message);
        let extras = WinddownControllerGrpcServer::new(service.clone()).max_decoding_message_size(max_message);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<JobControllerGrpcServer<Service>>().await;
        health.set_serving::<ControllerGrpcServer<Service>>().await;
        let routes = with_reflection(Routes::new(health_service));
        let routes = routes.add_service(reports).add_service(workers).add_service(extras);
        Guard::new(routes.prepare(), service, Gauge::new(max_message, arriving, body))
    }
}

impl fmt::Debug for ControllerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerServer").field("jobs", &self.registry.jobs()).finish_non_exhaustive()
    }
}

/// A server that frees the connections of silent peers, and handles so many calls of one connection at a time.
pub(super) fn server(keep_alive: KeepAlive, calls_per_connection: u32) -> Server {
    /// What a stream and a connection may hold that nobody has read yet.
    const WINDOWS: (u32, u32) = (64 << 10, 128 << 10);
    Server::builder()
        .http2_keepalive_interval(Some(bearable(keep_alive.every)))
        .http2_keepalive_timeout(Some(bearable(keep_alive.timeout)))
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .concurrency_limit_per_connection(calls_per_connection.max(1) as usize)
        .max_concurrent_streams(calls_per_connection.max(1))
}

#[cfg(feature = "grpc-reflection")]
pub(super) fn with_reflection(routes: Routes) -> Routes {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(super::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    match builder.build_v1() {
        Ok(reflection) => routes.add_service(reflection),
        Err(error) => {
            tracing::error!(%error, "no reflection: the committed descriptors can't be read");
            routes
        }
    }
}

#[cfg(not(feature = "grpc-reflection"))]
pub(super) const fn with_reflection(routes: Routes) -> Routes {
    routes
}

/// Serves until `shutdown` resolves, and then until every call has ended or `drain` is over. A connection that is cut off never
/// ends by itself, so without that bound a shutdown would wait for its peer.
pub(super) async fn serve<P: Porter, IO>(
    server: Server,
    service: Guard<Routes, P>,
    incoming: impl Stream<Item = Result<Visitor<IO>, Infallible>> + Send,
    shutdown: impl Future<Output = ()> + Send,
    drain: Duration,
) -> Result<(), ServeError>
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async { drop(stopped.await) };
    let mut server = std::pin::pin!(server.serve_with_incoming_shutdown(service, incoming, until));
    tokio::select! {
        ended = &mut server => return ended.map_err(|error| ServeError(error.into())),
        () = shutdown => {}
    }
    drop(stop);
    match tokio::time::timeout(drain, server).await {
        Ok(ended) => ended.map_err(|error| ServeError(error.into())),
        Err(_) => Ok(()),
    }
}
