//! HTTP/2, on streams of the `h2` crate.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, RecvStream, SendStream, client, ext::Protocol, server};
use http::{HeaderMap, Uri, header, uri::Scheme};
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Failed, MAX_HEAD,
    body::{Body, Incoming},
    headers,
    interim::{Interim, MAX_INTERIM},
    message::{Head, Request, Response},
    patience::Taking,
    server::Service,
};
use crate::{
    balance::limits::Place,
    tcp::{Gathered, Paced, Stream},
};

/// Streams that one connection may have open: what gRPC clients expect of a server.
const MAX_STREAMS: u32 = 256;

/// Bytes that one stream may send ahead of its reader; ten times that for a connection.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Frames of reset streams that may wait to be looked at: beyond it the peer is doing rapid resets.
const MAX_PENDING_RESETS: usize = 20;

/// Errors of the peer's that are answered by resets of streams, before the connection ends: otherwise they could be had for nothing.
const MAX_ERROR_RESETS: usize = 1024;

/// How long a peer may take until its preface was read and ours was written.
const PREFACE: Duration = Duration::from_secs(10);

/// How long a peer with streams may be left alone before it is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(30);

/// How long it may take to say so.
const PING_WAIT: Duration = Duration::from_secs(20);

/// Serves requests until the peer closes or `draining` is cancelled; then what is in flight is still answered.
pub(super) async fn serve<S: Service>(
    stream: Stream,
    draining: &CancellationToken,
    service: Arc<S>,
) -> Result<(), h2::Error> {
    let stream = Gathered::new(Paced::new(stream));
    let turn = stream.clone();
    let handshake = server::Builder::new()
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(10 * STREAM_WINDOW)
        .enable_connect_protocol()
        .handshake::<_, Bytes>(stream);
    let Ok(handshake) = timeout(PREFACE, turn.over(handshake)).await else { return Ok(()) };
    let mut connection = handshake?;
    let mut alive = Alive::new(connection.ping_pong());
    let mut drained = pin!(draining.cancelled());
    let mut leaving = false;
    loop {
        let turns = turn.over(poll_fn(|cx| {
            if !leaving && drained.as_mut().poll(cx).is_ready() {
                leaving = true;
                connection.graceful_shutdown();
            }
            if let Poll::Ready(accepted) = connection.poll_accept(cx) {
                return Poll::Ready(Ok(accepted));
            }
            let busy = connection.has_streams();
            alive.poll_lost(cx, busy).map(Err)
        }));
        match turns.await {
            Ok(Some(accepted)) => {
                let (request, respond) = accepted?;
                tokio::spawn(exchange(service.clone(), request, respond));
            }
            Ok(None) => return Ok(()),
            Err(lost) => return Err(lost),
        }
    }
}

/// Answers one request.
async fn exchange<S: Service>(
    service: Arc<S>,
    request: http::Request<RecvStream>,
    respond: server::SendResponse<Bytes>,
) {
    let (mut parts, stream) = request.into_parts();
    let bodiless = parts.method == http::Method::HEAD;
    let body = if stream.is_end_stream() {
        Incoming::Empty
    } else {
        Incoming::Http2(Box::new(H2Body::new(stream, &parts.headers)))
    };
    let protocol = parts.extensions.remove::<Protocol>();
    let respond = Arc::new(Mutex::new(respond));
    let head = Head { method: parts.method, uri: parts.uri, headers: parts.headers.into(), protocol };
    let request = Request { head, body, interim: Interim::Http2(respond.clone()) };
    let answered = {
        let mut handling = pin!(service.handle(request));
        poll_fn(|cx| {
            if let Poll::Ready(answered) = handling.as_mut().poll(cx) {
                return Poll::Ready(Some(answered));
            }
            respond.lock().poll_reset(cx).map(|_| None)
        })
        .await
    };
    let Some(answered) = answered else { return };
    let (head, body) = answered.into_parts();
    let mut response = http::Response::new(());
    *response.status_mut() = head.status();
    *response.headers_mut() = head.into_headers().into_map();
    // Of the proxy's own answers; HTTP/2 has no such header.
    response.headers_mut().remove(header::CONNECTION);
    let ended = bodiless || body.is_end_stream();
    let Ok(stream) = respond.lock().send_response(response, ended) else { return };
    if !ended {
        let mut upload = Upload::new(stream, body);
        if let Err(error) = poll_fn(|cx| upload.poll(cx)).await {
            tracing::trace!(%error, "a stream broke");
        }
    }
}

/// A body on its way to the peer.
#[derive(Debug)]
pub(super) struct Upload {
    stream: SendStream<Bytes>,
    body: Body,
    taking: Taking,
}

impl Upload {
    fn new(stream: SendStream<Bytes>, body: Body) -> Self {
        Self { stream, body, taking: Taking::default() }
    }

    /// Moves what the peer has room for; ready at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // A piece is taken only when there is room for some of it, so that the one who sends it feels the one who reads it.
            self.stream.reserve_capacity(1);
            if self.stream.capacity() == 0 {
                while match self.stream.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(capacity))) => capacity == 0,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                    Poll::Ready(None) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                    Poll::Pending => {
                        ready!(self.taking.poll_over(cx, self.body.wait()));
                        self.stream.send_reset(h2::Reason::CANCEL);
                        return Poll::Ready(Err(self.body.unread()));
                    }
                } {}
                self.taking.moved();
            } else if let Poll::Ready(reset) = self.stream.poll_reset(cx) {
                let error = reset.map_or_else(io::Error::other, |reason| io::Error::other(h2::Error::from(reason)));
                return Poll::Ready(Err(error));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let last = self.body.is_end_stream();
                        self.stream.send_data(data, last).map_err(io::Error::other)?;
                        if last {
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Err(frame) => {
                        self.stream.reserve_capacity(0);
                        let trailers = frame.into_trailers().unwrap_or_else(|_| HeaderMap::new());
                        return Poll::Ready(self.stream.send_trailers(trailers).map_err(io::Error::other));
                    }
                },
                Some(Err(error)) => {
                    self.stream.send_reset(reason_of(&error));
                    return Poll::Ready(Err(error));
                }
                None => {
                    self.stream.reserve_capacity(0);
                    return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(io::Error::other));
                }
            }
        }
    }
}

/// Why a stream ends, if the other side said so on its own.
fn reason_of(error: &io::Error) -> h2::Reason {
    if error.kind() == io::ErrorKind::TimedOut {
        return h2::Reason::CANCEL;
    }
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>());
    inner.filter(|error| error.is_reset()).and_then(h2::Error::reason).unwrap_or(h2::Reason::INTERNAL_ERROR)
}

/// A body that comes over a stream.
#[derive(Debug)]
pub struct H2Body {
    stream: RecvStream,
    /// What is left of the length that the head states.
    left: Option<u64>,
    data_ended: bool,
    ended: bool,
    /// The request's body, if the answer came before it was sent whole.
    upload: Option<Upload>,
}

impl H2Body {
    fn new(stream: RecvStream, head: &HeaderMap) -> Self {
        // HTTP/1 has trailers only behind chunks, so a length is no use where some are announced. That the length is right, and one, is what
        // the stream sees to.
        let length = head.get(header::CONTENT_LENGTH).filter(|_| !head.contains_key(header::TRAILER));
        let left = length.and_then(|length| super::h1::decimal(length.as_bytes()));
        Self { stream, left, data_ended: false, ended: false, upload: None }
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(upload) = &mut self.upload
            && upload.poll(cx).is_ready()
        {
            // If it broke, the answer says why.
            self.upload = None;
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                // Says nothing, and is not passed on.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    // Who reads it has room for it.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // All is said; the rest of the question is not wanted.
                Some(Err(error)) if error.reason() == Some(h2::Reason::NO_ERROR) => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                None => self.data_ended = true,
            }
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.ended = true;
        Poll::Ready(match trailers {
            Ok(trailers) => trailers.map(|trailers| Ok(Frame::trailers(trailers))),
            Err(error) => Some(Err(io::Error::other(error))),
        })
    }
}

/// Requests to one peer over one connection.
pub(crate) type Sender = client::SendRequest<Bytes>;

/// Begins a connection to a peer that speaks HTTP/2, and drives it until it ends.
///
/// `streams` counts who waits for it; `place` is that of the connection.
pub(crate) async fn connect(stream: Stream, streams: Arc<AtomicUsize>, place: Option<Place>) -> io::Result<Sender> {
    let stream = Gathered::new(Paced::new(stream));
    let turn = stream.clone();
    let handshake = client::Builder::new()
        .max_header_list_size(MAX_HEAD as u32)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(10 * STREAM_WINDOW)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .enable_push(false)
        .handshake::<_, Bytes>(stream);
    let (sender, mut connection) =
        timeout(PREFACE, turn.over(handshake)).await.map_err(io::Error::from)?.map_err(io::Error::other)?;
    let mut alive = Alive::new(connection.ping_pong());
    tokio::spawn(async move {
        let turns = turn.over(poll_fn(|cx| {
            if let Poll::Ready(ended) = Pin::new(&mut connection).poll(cx) {
                return Poll::Ready(ended);
            }
            alive.poll_lost(cx, streams.load(Relaxed) > 0).map(Err)
        }));
        let ended = turns.await;
        drop(place);
        if let Err(error) = ended {
            tracing::debug!(%error, "an upstream connection broke");
        }
    });
    Ok(sender)
}

/// Whether new requests may go over it.
pub(crate) fn is_open(sender: &mut Sender) -> bool {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    !matches!(sender.poll_ready(&mut cx), Poll::Ready(Err(_)))
}

/// A target names the scheme by which the endpoint itself is reached; the caller could only know how it reaches its proxy.
fn over_tls(uri: &Uri) -> Uri {
    let mut parts = uri.clone().into_parts();
    // CONNECT has none.
    if parts.scheme.is_some() {
        parts.scheme = Some(Scheme::HTTPS);
    }
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

/// Sends a request and waits for the head of the answer. `https`: the connection is over TLS that the peer itself ends.
pub(crate) async fn send(
    sender: &mut Sender,
    https: bool,
    head: &Head,
    body: Body,
    interim: &Interim,
) -> Result<Response<Incoming>, Failed> {
    let failed = |error: h2::Error, unseen: bool| {
        let nothing_sent = unseen || refused(&error);
        Failed { error: io::Error::other(error), nothing_sent, caller: false }
    };
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(|error| failed(error, true))?;
    let mut request = http::Request::new(());
    *request.method_mut() = head.method.clone();
    *request.uri_mut() = if https { over_tls(&head.uri) } else { head.uri.clone() };
    *request.version_mut() = http::Version::HTTP_2;
    *request.headers_mut() = head.headers.to_map();
    if let Some(protocol) = &head.protocol {
        request.extensions_mut().insert(protocol.clone());
    }
    let ended = body.is_end_stream();
    let (mut response, stream) = sender.send_request(request, ended).map_err(|error| failed(error, true))?;
    let mut upload = (!ended).then(|| Upload::new(stream, body));
    let mut interims = 0;
    let response = poll_fn(|cx| {
        if let Some(sending) = &mut upload
            && let Poll::Ready(sent) = sending.poll(cx)
        {
            upload = None;
            if let Err(error) = sent
                && error.get_ref().and_then(|inner| inner.downcast_ref::<h2::Error>()).is_none()
            {
                // The caller's; the peer's own errors come with its answer.
                return Poll::Ready(Err(Failed { error, nothing_sent: false, caller: true }));
            }
        }
        while let Poll::Ready(Some(Ok(early))) = response.poll_informational(cx) {
            interims += 1;
            if interims > MAX_INTERIM {
                let error = io::Error::new(io::ErrorKind::InvalidData, "too many interim answers");
                return Poll::Ready(Err(Failed { error, nothing_sent: false, caller: false }));
            }
            interim.send(cx, early.status(), &early.headers().clone().into());
        }
        Pin::new(&mut response).poll(cx).map_err(|error| failed(error, false))
    })
    .await?;
    let (mut parts, stream) = response.into_parts();
    headers::strip(&mut parts.headers, false);
    let body = if stream.is_end_stream() {
        Incoming::Empty
    } else {
        Incoming::Http2(Box::new(H2Body { upload, ..H2Body::new(stream, &parts.headers) }))
    };
    Ok(Response::new(parts.status, parts.headers, body))
}

/// Whether a peer said that it has not looked at the request: its stream was refused, or was above the last one that a GOAWAY promises to
/// serve.
fn refused(error: &h2::Error) -> bool {
    error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
}

/// Notices a peer that vanished.
struct Alive {
    pings: Option<PingPong>,
    clock: Option<Pin<Box<Sleep>>>,
    asked: bool,
}

impl Alive {
    fn new(pings: Option<PingPong>) -> Self {
        Self { pings, clock: None, asked: false }
    }

    /// Asks a `busy` peer now and then; ready if it does not answer.
    fn poll_lost(&mut self, cx: &mut Context<'_>, busy: bool) -> Poll<h2::Error> {
        let Some(pings) = &mut self.pings else { return Poll::Pending };
        if self.asked
            && let Poll::Ready(answered) = pings.poll_pong(cx)
        {
            self.asked = false;
            self.clock = None;
            if let Err(error) = answered {
                return Poll::Ready(error);
            }
        }
        if !busy && !self.asked {
            // Nobody waits for it.
            self.clock = None;
            return Poll::Pending;
        }
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + PING_EVERY)));
        ready!(clock.as_mut().poll(cx));
        if self.asked || pings.send_ping(Ping::opaque()).is_err() {
            return Poll::Ready(h2::Reason::SETTINGS_TIMEOUT.into());
        }
        self.asked = true;
        clock.as_mut().reset(Instant::now() + PING_WAIT);
        // To be woken for both.
        let _ = clock.as_mut().poll(cx);
        let _ = pings.poll_pong(cx);
        Poll::Pending
    }
}
