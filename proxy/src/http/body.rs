//! Bodies that pass through the proxy, frame by frame and never gathered.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::{
    grpc,
    h1::{Conn, H1Body, client::Early},
    http2::H2Body,
    upgrade::Switch,
};
use crate::{
    balance::{InFlight, pool::Lease},
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
            Self::Http2(_) => SizeHint::default(),
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
    Request(Arc<Held>),
    /// A response's.
    Response(Box<Observed>),
    /// The end of HTTP: both sides agreed to carry something else.
    Switched(Box<Switch>),
}

/// A request's body that can be taken back as long as nobody has read from it.
#[derive(Debug)]
pub struct Held {
    touched: AtomicBool,
    // Never contended: an attempt ends before the next one begins.
    body: Mutex<Incoming>,
    /// Bytes that may be kept; 0: none.
    limit: AtomicUsize,
    kept: Mutex<Kept>,
}

/// What was read of a body.
#[derive(Debug, Default)]
struct Kept {
    data: BytesMut,
    /// Something was read and not kept.
    lost: bool,
    ended: bool,
}

impl Held {
    /// Not read from yet.
    pub fn new(body: Incoming) -> Self {
        Self {
            touched: AtomicBool::new(false),
            body: Mutex::new(body),
            limit: AtomicUsize::new(0),
            kept: Mutex::default(),
        }
    }

    /// Keeps what is read from now on, up to `limit` bytes.
    pub fn keep(&self, limit: usize) {
        self.limit.store(limit, Relaxed);
    }

    /// All of it, if it has ended and was kept; without trailers.
    pub fn whole(&self) -> Option<Bytes> {
        let mut kept = self.kept.lock();
        let ended = self.touched() && (kept.ended || self.body.lock().is_end_stream());
        (ended && !kept.lost && self.limit.load(Relaxed) > 0).then(|| kept.data.split().freeze())
    }

    fn note(&self, frame: Option<&io::Result<Frame<Bytes>>>) {
        let limit = self.limit.load(Relaxed);
        if limit == 0 {
            return;
        }
        let mut kept = self.kept.lock();
        match frame {
            None => kept.ended = true,
            // The caller broke off: nobody can have it whole.
            Some(Err(_)) => kept.lost = true,
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| data);
                if kept.lost || kept.data.len() + data.len() > limit {
                    *kept = Kept { lost: true, ..Kept::default() };
                } else {
                    kept.data.extend_from_slice(data);
                }
            }
        }
    }

    /// Whether something was read: then only who read it has it whole.
    pub fn touched(&self) -> bool {
        self.touched.load(Relaxed)
    }
}

/// A response's body; knows what to do when it ends.
#[derive(Debug)]
pub struct Observed {
    inner: Incoming,
    ending: Ending,
}

/// What lasts until a response has been forwarded whole.
#[derive(Debug, Default)]
pub struct Ending {
    /// Goes back to the pool at the end; dropped before, the connection is not used again.
    pub lease: Option<Lease>,
    /// The endpoint is busy until then.
    pub in_flight: Option<InFlight>,
    /// Counts the attempt.
    pub verdict: Option<Verdict>,
}

/// How an attempt of a release went; counted when dropped.
#[derive(Debug)]
pub struct Verdict {
    /// Where it is counted.
    pub group: Arc<Group>,
    /// Until the response head.
    pub latency: Duration,
    /// What is known so far.
    pub failed: bool,
    /// The trailers have the last word.
    pub awaits_grpc_status: bool,
}

impl Verdict {
    fn ended(&mut self, trailers: Option<&HeaderMap>) {
        if std::mem::take(&mut self.awaits_grpc_status) {
            // A stream that ends without a status is UNKNOWN to its caller.
            let status = trailers.and_then(grpc::status_of_trailers).unwrap_or(2);
            self.failed |= grpc::failed_status(status);
        }
    }
}

impl Drop for Verdict {
    fn drop(&mut self) {
        self.group.count(self.failed, Some(self.latency));
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
        }
        self.verdict = None;
        self.lease = None;
        self.in_flight = None;
    }
}

impl Body {
    /// Forwards what follows the head of an answer: its body, or what both sides agreed to carry instead.
    pub fn forwarded(inner: Incoming, mut ending: Ending, telemetry: &Arc<Telemetry>, direction: Direction) -> Self {
        let Incoming::Switched(endpoint) = inner else { return Self::observed(inner, ending) };
        // It carries no other request.
        ending.lease = None;
        Self::Switched(Box::new(Switch { endpoint, telemetry: telemetry.clone(), direction, held: ending }))
    }

    /// Forwards a response's body, with `ending` at its end.
    pub fn observed(inner: Incoming, mut ending: Ending) -> Self {
        if inner.is_end_stream() {
            // The server will not poll it.
            ending.ended(None);
            return Self::Empty;
        }
        Self::Response(Box::new(Observed { inner, ending }))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.get_mut() {
            Self::Empty | Self::Switched(_) => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Request(held) => {
                held.touched.store(true, Relaxed);
                let frame = ready!(Pin::new(&mut *held.body.lock()).poll_frame(cx));
                held.note(frame.as_ref());
                Poll::Ready(frame)
            }
            Self::Response(observed) => {
                let Observed { inner, ending } = &mut **observed;
                let frame = ready!(Pin::new(&mut *inner).poll_frame(cx));
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
            Self::Request(held) => held.body.lock().is_end_stream(),
            Self::Response(observed) => observed.inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Switched(_) => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Self::Request(held) => held.body.lock().size_hint(),
            Self::Response(observed) => observed.inner.size_hint(),
        }
    }
}
