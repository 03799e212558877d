//! The way in: who may connect, how many at a time, and for how long without saying anything (invariant I5).

use std::{
    any::Any,
    collections::HashMap,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until},
};
use tonic::transport::server::{Connected, TcpConnectInfo};

use super::{Admission, KeepAlive};
use crate::clock::{after, later};

/// What an HTTP/2 connection begins with: `PRI * HTTP/2.0` and so on.
const PREFACE: usize = 24;
/// The waits after an error of `accept`, or for descriptors.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// How often it is said that nobody can come in.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Lets in who may. It never fails and never spins: what `incoming` fails with (`EMFILE`, say) passes, and is waited for.
pub(super) fn admitted<I, IO, E>(
    incoming: I,
    admission: Admission,
    keep_alive: KeepAlive,
    needed: impl Fn() -> usize + Send + Sync,
) -> impl Stream<Item = Result<Visitor<IO>, Infallible>> + Send
where
    I: Stream<Item = Result<IO, E>> + Send,
    IO: Connected + Send,
    E: Into<crate::contracts::BoxError> + Send,
{
    let places = (admission.connections as usize).clamp(1, Semaphore::MAX_PERMITS);
    let door = Door {
        admission,
        // Pings find out who is cut off; this finds out who does not even read them.
        silence: keep_alive.every.saturating_add(keep_alive.timeout).saturating_mul(2),
        places: Arc::new(Semaphore::new(places)),
        peers: Arc::default(),
        trouble: Trouble::default(),
    };
    stream::unfold((Box::pin(incoming), door, needed), |(mut incoming, mut door, needed)| async move {
        let visitor = door.next(&mut incoming, &needed).await?;
        Some((Ok(visitor), (incoming, door, needed)))
    })
}

struct Door {
    admission: Admission,
    silence: Duration,
    places: Arc<Semaphore>,
    peers: Arc<Peers>,
    trouble: Trouble,
}

impl Door {
    async fn next<IO, E>(
        &mut self,
        incoming: &mut (impl Stream<Item = Result<IO, E>> + Unpin),
        needed: &impl Fn() -> usize,
    ) -> Option<Visitor<IO>>
    where
        IO: Connected,
        E: Into<crate::contracts::BoxError>,
    {
        // First, so that nobody is taken out of the listener's queue for whom there is no place.
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        loop {
            let io = match incoming.next().await? {
                Ok(io) => io,
                Err(error) => {
                    let error = error.into();
                    if !is_of_one_connection(&*error) {
                        self.trouble.pause(&*error).await;
                    }
                    continue;
                }
            };
            let peer = peer(&io);
            let Some(seat) = self.peers.seat(peer.map(|peer| peer.ip().to_canonical()), self.admission.per_peer) else {
                tracing::debug!(?peer, "a connection too many of this peer");
                continue;
            };
            while !has_room(needed().saturating_add(self.admission.reserve as usize)) {
                self.trouble.pause("too few file descriptors are left; raise the limit of the process").await;
            }
            self.trouble.wait = Duration::ZERO;
            return Some(self.visitor(io, peer, place, seat));
        }
    }

    fn visitor<IO>(&self, io: IO, peer: Option<SocketAddr>, place: OwnedSemaphorePermit, seat: Seat) -> Visitor<IO> {
        let by = after(self.admission.handshake);
        Visitor {
            io,
            guest: Guest { peer, pulse: Arc::default() },
            preface_left: PREFACE,
            by,
            heard: Instant::now(),
            alarm: Box::pin(sleep_until(by)),
            silence: self.silence,
            idle: self.admission.idle,
            _place: place,
            _seat: seat,
        }
    }
}

/// Errors that say nothing of the next connection.
fn is_of_one_connection(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, Interrupted};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    matches!(kind, Some(BrokenPipe | ConnectionAborted | ConnectionReset | Interrupted))
}

/// Nobody can come in at the moment.
#[derive(Default)]
struct Trouble {
    wait: Duration,
    said: Option<Instant>,
}

impl Trouble {
    async fn pause(&mut self, why: impl std::fmt::Display) {
        if self.said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            tracing::warn!(%why, "no connection can be accepted; trying again");
            self.said = Some(Instant::now());
        }
        self.wait = self.wait.saturating_mul(2).clamp(PAUSES.0, PAUSES.1);
        tokio::time::sleep(self.wait).await;
    }
}

/// Whether so many descriptors are left to others. The lowest free one is the next to be given out, so all below it are taken.
#[cfg(target_os = "linux")]
fn has_room(reserve: usize) -> bool {
    use std::os::fd::AsRawFd as _;
    let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current else { return true };
    let reserve = (reserve as u64).min(limit / 2);
    match std::fs::File::open("/dev/null") {
        Ok(probe) => u64::try_from(probe.as_raw_fd()).is_ok_and(|next| next < limit - reserve),
        Err(error) => !matches!(
            rustix::io::Errno::from_io_error(&error),
            Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE)
        ),
    }
}

#[cfg(not(target_os = "linux"))]
fn has_room(_reserve: usize) -> bool {
    true
}

fn peer(io: &impl Connected) -> Option<SocketAddr> {
    (&io.connect_info() as &dyn Any).downcast_ref::<TcpConnectInfo>()?.remote_addr()
}

/// How many connections each peer has.
#[derive(Default)]
struct Peers(Mutex<HashMap<IpAddr, u32>>);

/// One connection of a peer.
struct Seat(Option<(Arc<Peers>, IpAddr)>);

impl Peers {
    fn seat(self: &Arc<Self>, peer: Option<IpAddr>, most: u32) -> Option<Seat> {
        let Some(peer) = peer else { return Some(Seat(None)) };
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = taken.entry(peer).or_default();
        if *count >= most.max(1) {
            return None;
        }
        *count += 1;
        Some(Seat(Some((Arc::clone(self), peer))))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some((peers, peer)) = self.0.take() else { return };
        let mut taken = peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&peer) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&peer);
            }
        }
    }
}

/// What a call knows of the connection that it came over.
#[derive(Clone)]
pub(super) struct Guest {
    pub(super) peer: Option<SocketAddr>,
    pulse: Arc<Pulse>,
}

impl Guest {
    /// A call is under way until the answer is dropped.
    pub(super) fn call(&self) -> Call {
        lock(&self.pulse.0).0 += 1;
        Call(Arc::clone(&self.pulse))
    }
}

/// Calls under way, and since when there are so many.
struct Pulse(Mutex<(usize, Instant)>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }
}

pub(super) struct Call(Arc<Pulse>);

impl Drop for Call {
    fn drop(&mut self) {
        let mut pulse = lock(&self.0.0);
        *pulse = (pulse.0.saturating_sub(1), Instant::now());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection that was let in. It ends with `TimedOut` when its time is over.
pub(super) struct Visitor<IO> {
    io: IO,
    guest: Guest,
    /// So many bytes of the preface are missing, which has to be there `by` then.
    preface_left: usize,
    by: Instant,
    /// When the peer was last heard of.
    heard: Instant,
    /// Rings when its time may be over; it is not set anew with every byte.
    alarm: Pin<Box<Sleep>>,
    silence: Duration,
    idle: Duration,
    _place: OwnedSemaphorePermit,
    _seat: Seat,
}

impl<IO> Visitor<IO> {
    fn deadline(&self) -> Instant {
        if self.preface_left > 0 {
            return self.by;
        }
        let (calls, since) = *lock(&self.guest.pulse.0);
        let silent = later(self.heard, self.silence);
        if calls == 0 { silent.min(later(since, self.idle)) } else { silent }
    }

    /// Whatever the connection waits for, it does not wait longer than its time.
    fn or_overdue<T>(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        while self.alarm.as_mut().poll(cx).is_ready() {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.alarm.as_mut().reset(deadline);
        }
        Poll::Pending
    }

    fn in_time<T>(&mut self, poll: Poll<io::Result<T>>, cx: &mut Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_ready() { poll } else { self.or_overdue(cx) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Visitor<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let Poll::Ready(read) = Pin::new(&mut self.io).poll_read(cx, buffer) else { return self.or_overdue(cx) };
        let count = buffer.filled().len() - before;
        if count > 0 {
            self.heard = Instant::now();
            self.preface_left = self.preface_left.saturating_sub(count);
        }
        Poll::Ready(read)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Visitor<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.in_time(poll, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.in_time(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_flush(cx);
        self.in_time(poll, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.io).poll_shutdown(cx);
        self.in_time(poll, cx)
    }
}

impl<IO> Connected for Visitor<IO> {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::DuplexStream;

    use super::*;

    async fn let_in(incoming: impl Stream<Item = io::Result<DuplexStream>> + Send, admission: Admission) -> usize {
        let visitors = admitted(incoming, admission, KeepAlive::default(), || 0).collect::<Vec<_>>();
        tokio::time::timeout(Duration::from_secs(60), visitors).await.map_or(0, |all| all.len())
    }

    /// `EMFILE` comes at once, again and again.
    #[tokio::test(start_paused = true)]
    async fn i5_b3_who_can_not_accept_waits_and_does_not_spin() {
        let asked = AtomicU32::new(0);
        let fails = stream::poll_fn(|_| {
            asked.fetch_add(1, Ordering::Relaxed);
            Poll::Ready(Some(Err(io::Error::from_raw_os_error(24))))
        });
        assert_eq!(let_in(fails, Admission::default()).await, 0);
        let asked = asked.load(Ordering::Relaxed);
        assert!((50..80).contains(&asked), "{asked} times in a minute");
    }

    /// An error of one connection says nothing of the next, and holds nobody up.
    #[tokio::test(start_paused = true)]
    async fn b3_a_connection_that_is_gone_before_it_is_accepted_holds_nobody_up() {
        let begun = Instant::now();
        let gone = (0..1000).map(|_| Err(io::ErrorKind::ConnectionAborted.into()));
        let (one, _other) = tokio::io::duplex(64);
        assert_eq!(let_in(stream::iter(gone.chain([Ok(one)])), Admission::default()).await, 1);
        assert!(begun.elapsed().is_zero());
    }

    #[tokio::test(start_paused = true)]
    async fn b3_the_next_one_comes_in_when_one_has_gone() {
        let all = stream::iter((0..3).map(|_| Ok::<_, io::Error>(tokio::io::duplex(64).0)));
        let admission = Admission { connections: 2, ..Admission::default() };
        let mut door = Box::pin(admitted(all, admission, KeepAlive::default(), || 0));
        let (first, second) = (door.next().await, door.next().await);
        assert!(first.is_some() && second.is_some());
        assert!(tokio::time::timeout(Duration::from_secs(60), door.next()).await.is_err(), "there is no place");
        drop(first);
        assert!(door.next().await.is_some());
    }
}
