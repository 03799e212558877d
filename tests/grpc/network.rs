//! A job whose workers are on other hosts of a simulated network: time and faults are the
//! simulation's, and repeat with its seed.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, stream};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
};
use turmoil::net::{TcpListener, TcpStream};
use winddown::{
    JobId, RunId, Scheduler, WorkerId,
    contracts::SchedulerError,
    grpc::{
        Connect, ControllerServer,
        tonic::{codegen::http::Uri, transport::server::Connected},
    },
};

/// A connection that tonic takes.
pub struct Io(TcpStream);

impl Connected for Io {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Opens channels on the simulated network.
pub fn connect() -> Connect {
    Connect::new(|endpoint| {
        endpoint.connect_with_connector_lazy(tower::service_fn(|uri: Uri| async move {
            let (host, port) = (uri.host().unwrap_or_default().to_owned(), uri.port_u16().unwrap_or(80));
            TcpStream::connect((host, port)).await.map(|stream| TokioIo::new(Io(stream)))
        }))
    })
}

/// What comes in on a port of this host.
pub async fn incoming(port: u16) -> impl Stream<Item = io::Result<Io>> + Send {
    let listener = TcpListener::bind(("0.0.0.0", port)).await.unwrap();
    stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Io(stream));
        Some((accepted, listener))
    })
}

/// Serves a controller on this host.
pub fn serve(server: &ControllerServer, port: u16) {
    let server = server.clone();
    tokio::spawn(async move {
        server.serve_with_incoming(incoming(port).await, std::future::pending()).await.unwrap();
    });
}

/// A scheduler that reaches every host whatever the network does.
#[derive(Clone, Default)]
pub struct Hosts(Arc<Mutex<BTreeMap<WorkerId, watch::Sender<Life>>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Alive,
    ToBeKilled,
    Gone,
}

impl Hosts {
    /// Runs a worker until it ends or is killed.
    pub async fn run<T>(&self, worker: WorkerId, alive: impl Future<Output = T>) -> Option<T> {
        let life = watch::Sender::new(Life::Alive);
        let mut killed = life.subscribe();
        self.0.lock().unwrap().insert(worker, life);
        let end = tokio::select! {
            end = alive => Some(end),
            _ = killed.wait_for(|life| *life == Life::ToBeKilled) => None,
        };
        self.0.lock().unwrap()[&worker].send_replace(Life::Gone);
        end
    }
}

impl Scheduler for Hosts {
    async fn stop_workers(&self, _: &JobId, _: Option<RunId>, force: bool) -> Result<(), SchedulerError> {
        for life in self.0.lock().unwrap().values() {
            life.send_if_modified(|life| {
                let kill = force && *life == Life::Alive;
                if kill {
                    *life = Life::ToBeKilled;
                }
                kill
            });
        }
        Ok(())
    }

    async fn workers_for_job(&self, _: &JobId, _: Option<RunId>) -> Result<Vec<WorkerId>, SchedulerError> {
        let workers = self.0.lock().unwrap();
        Ok(workers.iter().filter(|(_, life)| *life.borrow() != Life::Gone).map(|(worker, _)| *worker).collect())
    }
}

/// Runs `test` with some seeds, and gives the longest that it took on the simulated clock, so that
/// a test can tell whether it has met its fault at all. A seed of the environment is run alone, and
/// is held to nothing of the kind.
pub fn with_seeds(count: u64, test: impl Fn(u64) -> Duration) -> Duration {
    let run = |seed| {
        println!("seed {seed}; to run it again: WINDDOWN_SEED={seed}");
        test(seed)
    };
    if let Ok(seed) = std::env::var("WINDDOWN_SEED") {
        run(seed.parse().unwrap());
        return Duration::MAX;
    }
    (1..=count).map(run).max().unwrap_or_default()
}

/// A simulation with this seed, that goes on in steps of `tick`, with latencies up to `latency`.
pub fn simulation<'a>(seed: u64, tick: Duration, latency: Duration) -> turmoil::Sim<'a> {
    turmoil::Builder::new()
        .rng_seed(seed)
        .enable_random_order()
        .tick_duration(tick)
        .simulation_duration(Duration::from_secs(600))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(latency)
        .tcp_capacity(1024)
        .build()
}
