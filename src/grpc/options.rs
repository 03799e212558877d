//! The bounds of the gRPC layer, in one place (invariant I5).

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::clock::bearable;

/// Detects silent peers with HTTP/2 pings, also while no call is in progress.
///
/// Without pings, a connection whose other end was cut off is never detected: calls on it time out,
/// but none opens a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// The interval between pings. Default: 5 s.
    pub every: Duration,
    /// The time to wait for the answer before the connection is closed. Default: 5 s.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), timeout: Duration::from_secs(5) }
    }
}

/// Time limits for calls to one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// The time limit for opening a connection. Default: 2 s.
    pub connect: Duration,
    /// The time limit for one call, including the time to open the connection. It is sent with the
    /// call (`grpc-timeout`), so that the other side can give up too. Default: 5 s, as
    /// [`Limits::order`](crate::limits::Limits::order).
    pub call: Duration,
    /// How a silent peer is detected.
    pub keep_alive: KeepAlive,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), call: Duration::from_secs(5), keep_alive: KeepAlive::default() }
    }
}

impl CallOptions {
    /// How many calls to one peer may wait for its connection. A worker gets only one order of each
    /// kind at a time.
    const WAITING: usize = 16;
    /// How many bytes of unread answers a connection may hold. The answers are empty.
    const WINDOW: u32 = 64 << 10;

    pub(super) fn apply(&self, endpoint: Endpoint) -> Endpoint {
        endpoint
            .connect_timeout(bearable(self.connect))
            .tcp_nodelay(true)
            .http2_keep_alive_interval(bearable(self.keep_alive.every))
            .keep_alive_timeout(bearable(self.keep_alive.timeout))
            .keep_alive_while_idle(true)
            .initial_stream_window_size(Self::WINDOW)
            .initial_connection_window_size(Self::WINDOW)
            .buffer_size(Self::WAITING)
    }
}

/// Which connections a server accepts, and how long each may stay silent.
///
/// A peer that is at its cap gets new connections closed at once. At the total cap, or when
/// descriptors run short, new connections wait in the listener's queue until a place is free. A
/// peer that holds a connection without using it loses it after `handshake` or `idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The limit for all connections. Default: 4096, for a worker's server 256. A worker needs one.
    pub connections: u32,
    /// The limit for connections from one IP address, if the address is known. Default: 512, for a
    /// worker's server 64. Raise it if more workers than that share a host.
    pub per_peer: u32,
    /// How long a connection may take to send the HTTP/2 preface. Default: 5 s.
    pub handshake: Duration,
    /// How long a connection may stay without a call. Default: 2 min, longer than the silence of
    /// any worker that is not lost.
    pub idle: Duration,
    /// How many file descriptors are left to the rest of the process (its journal, its scheduler),
    /// in addition to one for each worker of a registered run, which a stop may need to reach it.
    /// At most half of the process's limit is kept free. Default: 64. Linux only; elsewhere the
    /// number of open descriptors is not known.
    pub reserve: u32,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            connections: 4096,
            per_peer: 512,
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(120),
            reserve: 64,
        }
    }
}

/// Which addresses a worker may [register](super::ControllerServer). The controller connects to
/// them from its own place in the network.
///
/// In every case, the scheme is `http` or `https`, and the address has a host, a port and nothing
/// else. An address of the controller's own host is refused unless the worker connects from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerAddresses {
    /// An IP address and a port.
    #[default]
    Sockets,
    /// As `Sockets`, and the IP address must be the one the worker connects from: for networks
    /// without address translation.
    PeerOnly,
    /// Host names as well. Anybody who can imitate a worker's report can make the controller
    /// resolve any name and connect to it.
    Names,
}

/// How a [`ControllerServer`](super::ControllerServer) treats its callers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// How long a call waits for room in its job's mailbox before it is answered
    /// `RESOURCE_EXHAUSTED`. Default: 4 s, less than the 5 s that a worker allows for a call, so
    /// that the worker receives the reason. Calls of workers that do not use our kit wait until
    /// there is room, because an error as the answer ends such a worker.
    pub mailbox_wait: Duration,
    /// How many calls may wait for room in one job's mailbox; further calls are answered
    /// `RESOURCE_EXHAUSTED` at once. Default: 1024. The reports of one job therefore hold at most
    /// the sum of this and [`Limits::mailbox_capacity`](crate::limits::Limits::mailbox_capacity),
    /// times `max_message`. Calls of workers that do not use our kit queue for a place to wait;
    /// they are bounded by the number of connections and `calls_per_connection`.
    pub waiting_per_job: u32,
    /// How long a worker that does not use our kit waits for a job that is no longer registered, or
    /// for a run that is not registered yet, before the call is refused: an error as the answer
    /// ends such a worker. It waits for jobs that were registered here within this time. While the
    /// server is younger than this, it waits for any job, because the server's predecessor may have
    /// known it. Default: 30 s.
    pub registration_wait: Duration,
    /// How many calls of one connection are handled at a time; more wait in that connection.
    /// Default: 64.
    pub calls_per_connection: u32,
    /// The largest message, in bytes. Keep a task's state in a durable store, and send only its
    /// location in the message. Default: 4 MiB.
    pub max_message: usize,
    /// How many bytes all large messages (above 4 KiB) that are being received may hold in memory,
    /// and how many the unanswered large messages of one job may hold. Beyond this limit, a message
    /// is read when there is room, and its sender waits. At least `max_message`. Default: 64 MiB.
    pub arriving: usize,
    /// How long a message may take to arrive once there is room for it; then the call is answered
    /// `DEADLINE_EXCEEDED`. Default: 10 s.
    pub body: Duration,
    /// Which connections are accepted.
    pub admission: Admission,
    /// Which addresses workers may register.
    pub addresses: WorkerAddresses,
    /// How a silent worker's connection is detected and closed.
    pub keep_alive: KeepAlive,
    /// How long calls in progress may take to end after the server is told to shut down. Default:
    /// 2 s.
    pub drain: Duration,
}

impl Default for ControllerOptions {
    fn default() -> Self {
        Self {
            mailbox_wait: Duration::from_secs(4),
            waiting_per_job: 1024,
            registration_wait: Duration::from_secs(30),
            calls_per_connection: 64,
            max_message: 4 << 20,
            arriving: 64 << 20,
            body: Duration::from_secs(10),
            admission: Admission::default(),
            addresses: WorkerAddresses::default(),
            keep_alive: KeepAlive::default(),
            drain: Duration::from_secs(2),
        }
    }
}

/// The time limits of a [`GrpcWorker`](super::GrpcWorker).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcWorkerOptions {
    /// The interval between heartbeats. Default: 5 s, a sixth of the silence after which
    /// [`Limits::heartbeat`](crate::limits::Limits::heartbeat) treats the worker as lost.
    pub heartbeat: Duration,
    /// How long tasks may take to end by themselves when the worker has to leave, before they are
    /// aborted. Default: 5 s.
    pub grace: Duration,
    /// How long the worker goes on while no controller accepts anything from it; then it stops by
    /// itself. Default: 30 s. A controller that does not hear from a worker for
    /// [`Limits::heartbeat`](crate::limits::Limits::heartbeat) treats it as lost, so after that
    /// time its work is useless.
    pub orphan: Duration,
    /// Time limits for calls to the controller.
    pub calls: CallOptions,
    /// The wait before a report is sent again. It doubles up to `backoff_max`, and a random share
    /// is added. Default: 100 ms.
    pub backoff_min: Duration,
    /// The longest wait before a report is sent again, without the random share. Default: 2 s.
    pub backoff_max: Duration,
    /// The largest order, in bytes. A commit order holds all commit data of the worker's tasks.
    /// Orders that are being received hold at most twice that, and may take `calls.call` to arrive.
    /// Default: 16 MiB.
    pub max_message: usize,
    /// Which connections the worker's own server accepts.
    pub admission: Admission,
}

impl Default for GrpcWorkerOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(5),
            grace: Duration::from_secs(5),
            orphan: Duration::from_secs(30),
            calls: CallOptions::default(),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(2),
            max_message: 16 << 20,
            admission: Admission { connections: 256, per_peer: 64, ..Admission::default() },
        }
    }
}

impl GrpcWorkerOptions {
    /// The longest time for which the worker's tasks go on after the last message that a controller
    /// accepted from it: `orphan`, or the next heartbeat and its call if that is longer, plus
    /// `grace`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use winddown::grpc::GrpcWorkerOptions;
    ///
    /// assert_eq!(GrpcWorkerOptions::default().worst_orphan(), Duration::from_secs(30 + 5));
    /// ```
    pub fn worst_orphan(&self) -> Duration {
        self.orphan.max(self.heartbeat.saturating_add(self.calls.call)).saturating_add(self.grace)
    }
}
