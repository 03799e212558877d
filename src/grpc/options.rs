//! The bounds of the gRPC part, in one place (invariant I5).

use std::time::Duration;

use tonic::transport::Endpoint;

use crate::clock::bearable;

/// How a peer that has gone silent is noticed: HTTP/2 pings, also while nothing else is under way.
///
/// Without them a connection whose other end was cut off is never found out: calls on it time out, but none opens a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// How often a ping is sent. 5 s.
    pub every: Duration,
    /// How long its answer may take before the connection is given up. 5 s.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self { every: Duration::from_secs(5), timeout: Duration::from_secs(5) }
    }
}

/// How calls to one peer are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallOptions {
    /// How long a connection may take to open. 2 s.
    pub connect: Duration,
    /// How long one call may take, the opening of the connection included. It is sent along (`grpc-timeout`), so that the
    /// other side can give up too. 5 s, as [`Limits::order`](crate::limits::Limits::order).
    pub call: Duration,
    /// How a silent peer is noticed.
    pub keep_alive: KeepAlive,
}

impl Default for CallOptions {
    fn default() -> Self {
        Self { connect: Duration::from_secs(2), call: Duration::from_secs(5), keep_alive: KeepAlive::default() }
    }
}

impl CallOptions {
    /// How many calls to one peer may wait for its connection. Each kind of order is sent to a worker once at a time.
    const WAITING: usize = 16;
    /// So much of its answers may wait in a connection. None of them says anything but that it is one.
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

/// Who may connect to a server, and for how long without saying anything.
///
/// At the cap of a peer a new connection of it is closed at once; at the cap of all, and where descriptors run short, new ones wait in the
/// listener's queue until one goes. So does what a peer wants that holds on to what it has: within `handshake` or `idle`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Connections in all. 4096; of a worker's server 256. A worker needs one.
    pub connections: u32,
    /// Connections from one IP address, where that is known. 512; of a worker's server 64. Raise it where more workers than that share a host.
    pub per_peer: u32,
    /// How long a connection may take to say that it speaks HTTP/2. 5 s.
    pub handshake: Duration,
    /// How long a connection may stay without a call. 2 min: longer than any worker is silent that is not lost.
    pub idle: Duration,
    /// File descriptors of the process that are left to others (its journal, its scheduler), beside one for each worker of a registered run, which
    /// a stop may need to reach it; at most half of all that the process may have. 64. On Linux; elsewhere nothing is known of them.
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

/// Which addresses a worker may [register](super::ControllerServer): the controller connects to them, from where it stands in the network.
///
/// Whatever is chosen, it is `http` or `https`, with a host and a port and no more; and no address of the controller's own host, unless
/// the worker speaks from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkerAddresses {
    /// An IP address and a port.
    #[default]
    Sockets,
    /// The same, and it is the address that the worker speaks from: for networks that translate no addresses.
    PeerOnly,
    /// Names too. Who can make a worker's report can have the controller resolve and connect to any name that it can resolve.
    Names,
}

/// How a [`ControllerServer`](super::ControllerServer) treats those who call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControllerOptions {
    /// How long a call waits for room in its job's mailbox before it is answered `RESOURCE_EXHAUSTED`. 4 s, less than the 5 s
    /// that a worker gives a call, so that the worker hears the reason. A call of a worker that is not of our kit waits until there is
    /// room: an error for an answer ends such a worker.
    pub mailbox_wait: Duration,
    /// How many calls may wait for room in one job's mailbox; more are answered `RESOURCE_EXHAUSTED` at once. 1024. So what one job's
    /// reports hold in memory is at most this and [`Limits::mailbox_capacity`](crate::limits::Limits::mailbox_capacity) together, times
    /// `max_message`. Calls of workers that are not of our kit wait for their turn to wait; what bounds those is the number of connections,
    /// and `calls_per_connection`.
    pub waiting_per_job: u32,
    /// How long a worker that is not of our kit waits for a job whose registration is gone, or for a run that is not registered yet,
    /// before it is told so: an error for an answer ends such a worker. It waits for jobs that were registered here no longer ago than
    /// this; for any job while the server is no older than this, since its predecessor may have known it. 30 s.
    pub registration_wait: Duration,
    /// How many calls of one connection are handled at a time; more wait in that connection. 64.
    pub calls_per_connection: u32,
    /// The largest message, in bytes. A task's state belongs into a durable store, and only its place into the message.
    /// 4 MiB.
    pub max_message: usize,
    /// What the large messages (above 4 KiB) that are on their way in may hold in memory, in bytes, all together; and what those of one job may hold
    /// that are not answered yet. 64 MiB. Beyond it a message is read when there is room: its sender waits. `max_message` at least.
    pub arriving: usize,
    /// How long a message may take to arrive, once there is room for it; the call is answered `DEADLINE_EXCEEDED` then. 10 s.
    pub body: Duration,
    /// Who may connect.
    pub admission: Admission,
    /// Which addresses a worker may give for its own.
    pub addresses: WorkerAddresses,
    /// How a silent worker's connection is noticed and freed.
    pub keep_alive: KeepAlive,
    /// How long calls under way may take to end once the server is told to shut down. 2 s.
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

/// How a [`GrpcWorker`](super::GrpcWorker) behaves in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrpcWorkerOptions {
    /// How often it says that it is alive. 5 s, a sixth of the silence after which
    /// [`Limits::heartbeat`](crate::limits::Limits::heartbeat) takes it for lost.
    pub heartbeat: Duration,
    /// How long tasks may take to end by themselves when the worker has to leave, before they are aborted. 5 s.
    pub grace: Duration,
    /// How long the worker goes on while no controller accepts anything from it; then it stops by itself. 30 s: a controller
    /// that does not hear of a worker for [`Limits::heartbeat`](crate::limits::Limits::heartbeat) has given it up for lost, so from
    /// then on it works for nobody.
    pub orphan: Duration,
    /// How calls to the controller are made.
    pub calls: CallOptions,
    /// The wait before a report is tried again; it doubles up to `backoff_max`, and is lengthened by a random share. 100 ms.
    pub backoff_min: Duration,
    /// The longest wait before a report is tried again, without the random share. 2 s.
    pub backoff_max: Duration,
    /// The largest order, in bytes: that of a commit holds what the worker's tasks gave as commit data. 16 MiB. Orders on their way in hold twice
    /// that at most, and may take `calls.call` to arrive.
    pub max_message: usize,
    /// Who may connect to the worker's own server.
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
    /// The longest that the worker's tasks go on after the last message that a controller accepted from it: `orphan`, or the
    /// next heartbeat and its call where that is longer, and then `grace`.
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
