//! What a call may hold before anybody knows what it says: so many bytes, for so long.
//!
//! Each message is read to its end here, and only then handed to the service. A small one (4 KiB) may come from anybody. Of a large one the
//! beginning is read, which says who speaks; the [`Porter`] tells whether that may be, and the rest is read once there is room for it in the
//! server's budget. Until then it waits where it is, held back by HTTP/2's flow control: to a worker that knows no "later" back-pressure is waiting,
//! and no error.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Frame;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep, sleep_until, timeout_at},
};
use tonic::{
    Status,
    body::Body,
    codegen::{
        Body as _, Service,
        http::{HeaderMap, HeaderName, HeaderValue, Request, Response},
    },
};

use super::door::{Call, Guest};
use crate::{clock::after, contracts::BoxFuture};

/// The flag of compression, and the length.
const HEADER: usize = 5;
/// So much of a message may come from anybody, and has to be there before it is asked who speaks.
pub(super) const SMALL: usize = 4 << 10;
/// So much may be said to services that are not ours: the health check, reflection.
const SCANT: usize = 16 << 10;
/// Every answer of our own services bears it, refusals too: no other server's answer is taken for one of them.
const OURS: HeaderName = HeaderName::from_static(MARK);
pub(super) const MARK: &str = "winddown-answer";

/// Knows who may speak.
pub(super) trait Porter: Clone + Send + Sync + 'static {
    /// What is done with a message to this path.
    fn fate(&self, path: &str) -> Fate;

    /// Waits until a large message that begins like this may come in; what it gives is held until the call is answered.
    fn admit(
        &self,
        headers: &HeaderMap,
        beginning: &[u8],
        len: usize,
    ) -> impl Future<Output = Result<Option<OwnedSemaphorePermit>, Status>> + Send;
}

/// What is done with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is for one of our services, each call of which takes one message.
    Read,
    /// The same, and nobody looks at what it says.
    Dropped,
    /// It is for another service.
    Scant,
}

/// How much may come in, and for how long.
#[derive(Clone)]
pub(super) struct Gauge {
    pub(super) max_message: usize,
    pub(super) body: Duration,
    /// One permit for each byte of the large messages that are coming in.
    room: Arc<Semaphore>,
    permits: u32,
}

impl Gauge {
    pub(super) fn new(max_message: usize, arriving: usize, body: Duration) -> Self {
        let permits = permits(arriving.max(max_message));
        Self { max_message, body, room: Arc::new(Semaphore::new(permits as usize)), permits }
    }

    async fn room(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.room).acquire_many_owned(permits(len).min(self.permits)).await.ok()
    }
}

/// As many permits as bytes, as far as there are so many.
pub(super) fn permits(bytes: usize) -> u32 {
    u32::try_from(bytes.clamp(1, Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX)
}

/// Stands before a server's services.
#[derive(Clone)]
pub(super) struct Guard<S, P> {
    inner: S,
    porter: P,
    gauge: Gauge,
}

impl<S, P> Guard<S, P> {
    pub(super) const fn new(inner: S, porter: P, gauge: Gauge) -> Self {
        Self { inner, porter, gauge }
    }
}

impl<S, P> Service<Request<Body>> for Guard<S, P>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    P: Porter,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let another = self.inner.clone();
        // The one that is ready is the one to be called.
        let mut inner = std::mem::replace(&mut self.inner, another);
        let (porter, gauge) = (self.porter.clone(), self.gauge.clone());
        Box::pin(async move {
            let call = request.extensions().get::<Guest>().map(Guest::call);
            let fate = porter.fate(request.uri().path());
            let (request, body) = request.into_parts();
            let mut response = match receive(fate, body, &request.headers, &porter, &gauge).await {
                // What it holds of the job's room is given back with the answer.
                Ok((body, _room)) => inner.call(Request::from_parts(request, body)).await?,
                Err(status) => status.into_http(),
            };
            if fate != Fate::Scant {
                response.headers_mut().insert(OURS, HeaderValue::from_static("1"));
            }
            Ok(response.map(|body| Body::new(Answer { body, _call: call })))
        })
    }
}

async fn receive(
    fate: Fate,
    body: Body,
    headers: &HeaderMap,
    porter: &impl Porter,
    gauge: &Gauge,
) -> Result<(Body, Option<OwnedSemaphorePermit>), Status> {
    if fate == Fate::Scant {
        let late = Box::pin(sleep_until(after(gauge.body)));
        return Ok((Body::new(Scant { body, left: SCANT, late }), None));
    }
    let mut arrival =
        Arrival { body, got: BytesMut::new(), has_ended: false, by: after(gauge.body), within: gauge.body };
    arrival.until(HEADER).await?;
    let Some(len) = arrival.len().filter(|len| *len <= gauge.max_message) else {
        // What is wrong with it is said by the service, which keeps nothing of it.
        return Ok((arrival.whole(None), None));
    };
    if fate == Fate::Dropped {
        arrival.drop_all(len).await?;
        return Ok((arrival.whole(None), None));
    }
    if len <= SMALL {
        arrival.all(len).await?;
        return Ok((arrival.whole(None), None));
    }
    arrival.until(HEADER + SMALL).await?;
    let beginning = arrival.got.get(HEADER..).unwrap_or_default();
    let beginning = beginning.get(..SMALL).unwrap_or(beginning);
    let held = porter.admit(headers, beginning, len).await?;
    let room = gauge.room(len).await;
    // It is not the sender's fault that there was none before.
    arrival.by = after(gauge.body);
    arrival.got.reserve((HEADER + len).saturating_sub(arrival.got.len()));
    arrival.all(len).await?;
    Ok((arrival.whole(room), held))
}

/// A message that comes in.
struct Arrival {
    body: Body,
    got: BytesMut,
    has_ended: bool,
    by: Instant,
    within: Duration,
}

impl Arrival {
    /// The next part; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        while !self.has_ended {
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
            let Ok(frame) = timeout_at(self.by, frame).await else { return Err(late(self.within)) };
            match frame.transpose()? {
                None => self.has_ended = true,
                // Anything else are trailers, in which nobody looks.
                Some(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
        Ok(None)
    }

    /// Reads until so much is there, or all.
    async fn until(&mut self, count: usize) -> Result<(), Status> {
        while self.got.len() < count {
            let Some(data) = self.next().await? else { break };
            self.got.extend_from_slice(&data);
        }
        Ok(())
    }

    /// The length that the message is said to have.
    fn len(&self) -> Option<usize> {
        let mut length = self.got.get(1..HEADER)?;
        usize::try_from(length.get_u32()).ok()
    }

    /// Reads one message of this length, and the end.
    async fn all(&mut self, len: usize) -> Result<(), Status> {
        while self.got.len() <= HEADER + len {
            let Some(data) = self.next().await? else { return Ok(()) };
            self.got.extend_from_slice(&data);
        }
        Err(several())
    }

    /// The same, and keeps nothing: an empty message takes its place.
    async fn drop_all(&mut self, len: usize) -> Result<(), Status> {
        let mut count = self.got.len();
        while count <= HEADER + len {
            let Some(data) = self.next().await? else {
                self.got = BytesMut::zeroed(HEADER);
                return Ok(());
            };
            count += data.len();
        }
        Err(several())
    }

    /// What has come in, for the service.
    fn whole(self, room: Option<OwnedSemaphorePermit>) -> Body {
        Body::new(Whole { got: Some(self.got.freeze()), _room: room })
    }
}

fn late(within: Duration) -> Status {
    let within = crate::text::rounded(within);
    Status::deadline_exceeded(format!("expected the whole message within {within}; it has not come"))
}

fn several() -> Status {
    Status::invalid_argument("expected one message, got more")
}

/// A message that is there.
struct Whole {
    got: Option<Bytes>,
    /// Given back once it has been decoded.
    _room: Option<OwnedSemaphorePermit>,
}

impl http_body::Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.got.take().filter(|got| !got.is_empty()).map(|got| Ok(Frame::data(got))))
    }
}

/// A stream of messages to a service that is not ours.
struct Scant {
    body: Body,
    left: usize,
    late: Pin<Box<Sleep>>,
}

impl http_body::Body for Scant {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let expired = || Some(Err(Status::deadline_exceeded("expected the end of the call's messages")));
            return self.late.as_mut().poll(cx).map(|()| expired());
        };
        let size = frame.as_ref().and_then(|it| it.as_ref().ok()?.data_ref()).map_or(0, Bytes::len);
        if size > self.left {
            let expected = format!("expected {SCANT} bytes at most for this service, got more");
            return Poll::Ready(Some(Err(Status::resource_exhausted(expected))));
        }
        self.left -= size;
        Poll::Ready(frame)
    }
}

/// An answer; its call is under way until it has been given.
struct Answer {
    body: Body,
    _call: Option<Call>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
