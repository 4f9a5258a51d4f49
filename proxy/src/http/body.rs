//! Bodies that pass through the proxy, frame by frame and never gathered.

use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Response, grpc,
    h1::{Conn, H1Body, client::Early},
    http2::H2Body,
    idle::Idle,
    patience::Waits,
    replay::Reader,
    upgrade::Switch,
};
use crate::{
    balance::{InFlight, limits::Place, pool::Lease, set::Settle},
    telemetry::{CutOff, Direction, Requests, Telemetry, groups::Group},
};

/// What comes in, from either side.
#[derive(Debug)]
pub enum Incoming {
    /// Nothing.
    Empty,
    /// Over a connection that it has for itself.
    Http1(H1Body),
    /// The same, while the request is still being sent.
    Early(Box<Early>),
    /// Over a stream.
    Http2(Box<H2Body>),
    /// Bytes of something else, both ways.
    Switched(Arc<Mutex<Conn>>),
}

impl Incoming {
    /// Whether there is more to come than a head.
    pub fn lasts(&self) -> bool {
        matches!(self, Self::Switched(_)) || !self.is_end_stream()
    }
}

impl http_body::Body for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty | Self::Switched(_) => Poll::Ready(None),
            Self::Http1(body) => body.poll_frame(cx),
            Self::Early(body) => body.poll_frame(cx),
            Self::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Switched(_) => true,
            Self::Http1(body) => body.is_end_stream(),
            Self::Early(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Switched(_) => SizeHint::with_exact(0),
            Self::Http1(body) => body.size_hint(),
            Self::Early(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// What the proxy sends, either way.
#[derive(Debug)]
pub enum Body {
    /// Nothing.
    Empty,
    /// A few words of the proxy's own; taken once.
    Full(Option<Bytes>),
    /// A request's.
    Request(Reader),
    /// A response's.
    Response(Box<Observed>),
    /// The end of HTTP: both sides agreed to carry something else.
    Switched(Box<Switch>),
}

/// A response's body; knows what to do when it ends.
#[derive(Debug)]
pub struct Observed {
    inner: Incoming,
    bounds: Option<Bounds>,
    ending: Ending,
}

/// How long a response may keep somebody waiting, and where it is counted that it did.
#[derive(Debug)]
pub struct Bounds {
    /// For anything of request or response.
    pub idle: Option<Idle>,
    /// Until the caller takes some of what there is.
    pub unread: Option<Duration>,
    /// Until policy does not allow it any more; `None`: there is none that could change its mind.
    pub denied: Option<Denied>,
    /// Of the Service or port.
    pub requests: Arc<Requests>,
}

/// Ready when policy does not allow a request any more.
pub struct Denied(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Denied {
    /// As soon as `denied` is.
    pub fn new(denied: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Box::pin(denied))
    }

    /// Waits for it.
    pub(super) async fn wait(self) {
        self.0.await;
    }
}

impl fmt::Debug for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Denied")
    }
}

impl Bounds {
    /// Ready with what is wrong when the response may keep nobody waiting any longer.
    fn poll_exceeded(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(Denied(denied)) = &mut self.denied
            && denied.as_mut().poll(cx).is_ready()
        {
            self.requests.cut_off.count(CutOff::Policy);
            return Poll::Ready(io::Error::new(io::ErrorKind::PermissionDenied, "policy does not allow it any more"));
        }
        let Some(idle) = &mut self.idle else { return Poll::Pending };
        ready!(Pin::new(idle).poll(cx));
        self.requests.cut_off.count(CutOff::Silence);
        Poll::Ready(timed_out("nothing moved within the route's idle timeout"))
    }
}

/// What lasts until a response has been forwarded whole.
#[derive(Debug, Default)]
pub struct Ending {
    /// Goes back to the pool at the end; dropped before, the connection is not used again.
    pub lease: Option<Lease>,
    /// The connection counts until then, where there is no lease any more.
    pub place: Option<Place>,
    /// The endpoint is busy until then.
    pub in_flight: Option<InFlight>,
    /// Counts the attempt.
    pub verdict: Option<Verdict>,
}

/// How an attempt of a release went; counted when dropped.
#[derive(Debug)]
pub struct Verdict {
    /// Where it is counted.
    pub group: Option<Arc<Group>>,
    /// What the balancer is told.
    pub settle: Option<Settle>,
    /// Until the response head.
    pub latency: Duration,
    /// What is known so far.
    pub failed: bool,
    /// Whether that speaks against the endpoint.
    pub against: bool,
    /// The trailers have the last word.
    pub awaits_grpc_status: bool,
}

impl Verdict {
    /// What the head of an answer says; of calls of gRPC only the end tells. Counts nowhere yet.
    pub fn of(response: &Response<Incoming>, latency: Duration, is_call: bool) -> Self {
        let status = is_call.then(|| grpc::status_of(response.headers())).flatten();
        let broken = response.status().is_server_error();
        Self {
            group: None,
            settle: None,
            latency,
            failed: broken || status.is_some_and(grpc::failed_status),
            against: broken || status.is_some_and(grpc::speaks_against),
            awaits_grpc_status: is_call && status.is_none() && response.status().is_success(),
        }
    }

    fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if std::mem::take(&mut self.awaits_grpc_status) {
            // A stream that ends without a status is UNKNOWN to its caller.
            let status = trailers.and_then(grpc::status_of_trailers).unwrap_or(2);
            self.failed |= grpc::failed_status(status);
            self.against |= grpc::speaks_against(status);
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            group.count(self.failed, Some(self.latency));
        }
        if let Some(settle) = &self.settle {
            settle.settle(self.against, Instant::now());
        }
    }
}

impl Ending {
    fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(mut verdict) = self.verdict.take() {
            verdict.ended(trailers);
        }
        self.in_flight = None;
        if let Some(lease) = self.lease.take() {
            lease.release();
        }
    }

    fn broke(&mut self) {
        if let Some(verdict) = &mut self.verdict {
            verdict.failed = true;
            verdict.against = true;
        }
        self.verdict = None;
        self.lease = None;
        self.in_flight = None;
    }
}

impl Body {
    /// Forwards what follows the head of an answer: its body, within `bounds`, or what both sides agreed to carry instead.
    pub fn forwarded(
        inner: Incoming,
        bounds: Option<Bounds>,
        mut ending: Ending,
        telemetry: &Arc<Telemetry>,
        direction: Direction,
    ) -> Self {
        let Incoming::Switched(endpoint) = inner else { return Self::watched(inner, bounds, ending) };
        // It carries no other request, but is a connection all the same.
        ending.place = ending.lease.take().and_then(Lease::into_place);
        let denied = bounds.and_then(|bounds| bounds.denied);
        Self::Switched(Box::new(Switch { endpoint, telemetry: telemetry.clone(), direction, denied, held: ending }))
    }

    /// Forwards a response's body, with `ending` at its end.
    pub fn observed(inner: Incoming, ending: Ending) -> Self {
        Self::watched(inner, None, ending)
    }

    /// How long the one who is sent this may leave it where it is; `None`: for ever.
    pub(super) fn wait(&self) -> Option<Duration> {
        match self {
            Self::Response(observed) => observed.bounds.as_ref()?.unread,
            // What an endpoint takes is bounded by what holds for its answer.
            Self::Request(_) => None,
            Self::Empty | Self::Full(_) | Self::Switched(_) => Some(Waits::default().answer),
        }
    }

    /// It was left there for longer.
    pub(super) fn unread(&self) -> io::Error {
        if let Self::Response(observed) = self
            && let Some(bounds) = &observed.bounds
        {
            bounds.requests.cut_off.count(CutOff::Unread);
        }
        timed_out("the caller does not take the answer")
    }

    fn watched(inner: Incoming, bounds: Option<Bounds>, mut ending: Ending) -> Self {
        if inner.is_end_stream() {
            // The server will not poll it.
            ending.ended(None);
            return Self::Empty;
        }
        Self::Response(Box::new(Observed { inner, bounds, ending }))
    }
}

fn timed_out(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, what)
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty | Self::Switched(_) => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Request(reader) => reader.poll_frame(cx),
            Self::Response(observed) => {
                let Observed { inner, bounds, ending } = &mut **observed;
                let frame = match (Pin::new(&mut *inner).poll_frame(cx), bounds) {
                    (Poll::Ready(frame), Some(bounds)) => {
                        if let Some(idle) = &mut bounds.idle {
                            idle.moved();
                        }
                        frame
                    }
                    (Poll::Ready(frame), None) => frame,
                    (Poll::Pending, Some(bounds)) => Some(Err(ready!(bounds.poll_exceeded(cx)))),
                    (Poll::Pending, None) => return Poll::Pending,
                };
                match &frame {
                    None => ending.ended(None),
                    Some(Err(_)) => ending.broke(),
                    Some(Ok(frame)) => {
                        if let Some(trailers) = frame.trailers_ref() {
                            ending.ended(Some(trailers));
                        } else if inner.is_end_stream() {
                            ending.ended(None);
                        }
                    }
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Switched(_) => true,
            Self::Full(bytes) => bytes.is_none(),
            Self::Request(reader) => reader.is_end_stream(),
            Self::Response(observed) => observed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Switched(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Request(reader) => reader.size_hint(),
            Self::Response(observed) => observed.inner.size_hint(),
        }
    }
}
