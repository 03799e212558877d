//! The controller's side of the wire: what workers report, checked and passed into the mailbox of the right job.

mod registry;
mod service;
mod validate;

use std::{fmt, sync::Arc, time::Duration};

use futures_core::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::oneshot,
};
use tonic::transport::server::{Connected, Router, Server, TcpIncoming};

pub use self::registry::{RegisterError, Registration};
use self::{registry::Registry, service::Service};
use super::{
    ControllerOptions, GrpcTransport, KeepAlive, ServeError,
    proto::{
        arroyo_rpc::{
            controller_grpc_server::ControllerGrpcServer, job_controller_grpc_server::JobControllerGrpcServer,
        },
        winddown::winddown_controller_grpc_server::WinddownControllerGrpcServer,
    },
};
use crate::mailbox::JobSender;

/// Serves the workers of any number of jobs. A cheap handle to clone.
///
/// What a worker reports is checked against its run before it is passed on, and a rejected message changes nothing (invariant I11):
///
/// | what is wrong | answer |
/// |---|---|
/// | the job is not registered here, or has ended | `NOT_FOUND` |
/// | it is another generation than the job's run | `FAILED_PRECONDITION` |
/// | no context or body; an unknown worker, operator or subtask; a task of another worker; an epoch that was never ordered | `INVALID_ARGUMENT` |
/// | the job's mailbox is full, and stays so for [`mailbox_wait`](ControllerOptions::mailbox_wait) | `RESOURCE_EXHAUSTED` |
///
/// A call waits while its job's mailbox is full (back-pressure). The calls of other jobs do not wait with it, unless they share its
/// connection, and [`calls_per_connection`](ControllerOptions::calls_per_connection) are waiting there: each worker has one of its own.
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
        self.registry.register(transport, job, self.options.waiting_per_job)
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

    /// [`serve`](Self::serve) on connections of any kind: TLS, Unix sockets, a simulated network.
    ///
    /// # Errors
    /// [`ServeError`] when `incoming` fails.
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
        let router = self.router().await;
        serve(router, incoming, shutdown, self.options.drain).await
    }

    async fn router(&self) -> Router {
        let ControllerOptions { max_message, calls_per_connection, keep_alive, .. } = self.options;
        let service = Service { registry: Arc::clone(&self.registry), wait: self.options.mailbox_wait };
        let reports = JobControllerGrpcServer::new(service.clone()).max_decoding_message_size(max_message);
        let workers = ControllerGrpcServer::new(service.clone()).max_decoding_message_size(max_message);
        let extras = WinddownControllerGrpcServer::new(service).max_decoding_message_size(max_message);
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<JobControllerGrpcServer<Service>>().await;
        health.set_serving::<ControllerGrpcServer<Service>>().await;
        let router = server(keep_alive, calls_per_connection).add_service(health_service);
        with_reflection(router).add_service(reports).add_service(workers).add_service(extras)
    }
}

impl fmt::Debug for ControllerServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControllerServer").field("jobs", &self.registry.jobs()).finish_non_exhaustive()
    }
}

/// A server that frees the connections of silent peers, and handles so many calls of one connection at a time.
pub(super) fn server(keep_alive: KeepAlive, calls_per_connection: u32) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(keep_alive.every))
        .http2_keepalive_timeout(Some(keep_alive.timeout))
        .concurrency_limit_per_connection(calls_per_connection.max(1) as usize)
        .max_concurrent_streams(calls_per_connection.max(1))
}

#[cfg(feature = "grpc-reflection")]
pub(super) fn with_reflection(router: Router) -> Router {
    let builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(super::proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    match builder.build_v1() {
        Ok(reflection) => router.add_service(reflection),
        Err(error) => {
            tracing::error!(%error, "no reflection: the committed descriptors can't be read");
            router
        }
    }
}

#[cfg(not(feature = "grpc-reflection"))]
pub(super) const fn with_reflection(router: Router) -> Router {
    router
}

/// Serves until `shutdown` resolves, and then until every call has ended or `drain` is over. A connection that is cut off never
/// ends by itself, so without that bound a shutdown would wait for its peer.
pub(super) async fn serve<I, IO, E>(
    router: Router,
    incoming: I,
    shutdown: impl Future<Output = ()> + Send,
    drain: Duration,
) -> Result<(), ServeError>
where
    I: Stream<Item = Result<IO, E>> + Send,
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    IO::ConnectInfo: Clone + Send + Sync + 'static,
    E: Into<crate::contracts::BoxError> + Send,
{
    let (stop, stopped) = oneshot::channel::<()>();
    let until = async { drop(stopped.await) };
    let mut server = std::pin::pin!(router.serve_with_incoming_shutdown(incoming, until));
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
