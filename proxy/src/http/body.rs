//! Bodies that pass through the proxy, frame by frame and never gathered.

use std::{
    io,
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
    grpc,
    h1::{Conn, H1Body, client::Early},
    http2::H2Body,
    idle::Idle,
    replay::Reader,
    upgrade::Switch,
};
use crate::{
    balance::{InFlight, limits::Place, pool::Lease, set::Settle},
    telemetry::{Direction, Telemetry, groups::Group},
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
    idle: Option<Idle>,
    ending: Ending,
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
    /// Forwards what follows the head of an answer: its body, or what both sides agreed to carry instead.
    /// A body is cut off when `idle` ends.
    pub fn forwarded(
        inner: Incoming,
        idle: Option<Idle>,
        mut ending: Ending,
        telemetry: &Arc<Telemetry>,
        direction: Direction,
    ) -> Self {
        let Incoming::Switched(endpoint) = inner else { return Self::watched(inner, idle, ending) };
        // It carries no other request, but is a connection all the same.
        ending.place = ending.lease.take().and_then(Lease::into_place);
        Self::Switched(Box::new(Switch { endpoint, telemetry: telemetry.clone(), direction, held: ending }))
    }

    /// Forwards a response's body, with `ending` at its end.
    pub fn observed(inner: Incoming, ending: Ending) -> Self {
        Self::watched(inner, None, ending)
    }

    fn watched(inner: Incoming, idle: Option<Idle>, mut ending: Ending) -> Self {
        if inner.is_end_stream() {
            // The server will not poll it.
            ending.ended(None);
            return Self::Empty;
        }
        Self::Response(Box::new(Observed { inner, idle, ending }))
    }
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
                let Observed { inner, idle, ending } = &mut **observed;
                let frame = match (Pin::new(&mut *inner).poll_frame(cx), idle) {
                    (Poll::Ready(frame), None) => frame,
                    (Poll::Ready(frame), Some(idle)) => {
                        idle.moved();
                        frame
                    }
                    (Poll::Pending, None) => return Poll::Pending,
                    (Poll::Pending, Some(idle)) => {
                        ready!(Pin::new(idle).poll(cx));
                        Some(Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            "nothing moved within the route's idle timeout",
                        )))
                    }
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
