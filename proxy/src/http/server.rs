//! Reads requests from a connection, within limits.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, Request, Response, StatusCode};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio_util::sync::CancellationToken;

use super::{
    MAX_HEAD, Version,
    body::Body,
    framing::{Ambiguous, Watched},
};
use crate::tcp::Stream;

/// What is read ahead of one connection at most. Twice the largest head; bulk transfers read this much at once.
const MAX_BUFFER: usize = 2 * MAX_HEAD;

/// Streams that one HTTP/2 connection may have open: what gRPC clients expect of a server.
const MAX_STREAMS: u32 = 256;

/// Bytes that one HTTP/2 stream may send ahead of its reader; ten times that for a connection.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Frames of reset streams that may wait to be looked at: beyond it the peer is doing rapid resets.
const MAX_PENDING_RESETS: usize = 20;

/// How long an HTTP/2 peer may be silent before it is asked whether it is still there.
pub const PING_EVERY: Duration = Duration::from_secs(30);

/// How long it may take to say so.
pub const PING_WAIT: Duration = Duration::from_secs(20);

/// Serves requests until the peer closes or `draining` is cancelled; then what is in flight is still answered. Malformed requests get 400,
/// heads over [`MAX_HEAD`] or of more than 100 fields 431, and the connection ends.
pub async fn serve<S>(stream: Stream, version: Version, draining: &CancellationToken, service: S) -> hyper::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    match version {
        Version::Http1 => {
            let ambiguous = Arc::new(Ambiguous::default());
            let stream = Watched::new(stream, ambiguous.clone());
            let service = marking(service, ambiguous);
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .preserve_header_case(true)
                .auto_date_header(false)
                .max_header_size(MAX_HEAD)
                .max_buf_size(MAX_BUFFER)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            tokio::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => return result,
                () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
        Version::Http2 => {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .max_header_list_size(MAX_HEAD as u32)
                .max_concurrent_streams(MAX_STREAMS)
                .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(10 * STREAM_WINDOW)
                .keep_alive_interval(PING_EVERY)
                .keep_alive_timeout(PING_WAIT)
                .serve_connection(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                result = connection.as_mut() => return result,
                () = draining.cancelled() => connection.as_mut().graceful_shutdown(),
            }
            connection.await
        }
    }
}

/// A request that says its length twice; carried by those that [`framing`](super::framing) found.
#[derive(Clone, Copy, Debug)]
pub(super) struct AmbiguousLength;

/// Marks ambiguous requests, and has the watch end with an upgrade.
fn marking<S>(
    service: S,
    ambiguous: Arc<Ambiguous>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<Body>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<Body>, Infallible>> + Send + 'static,
>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    let number = AtomicU64::new(0);
    service_fn(move |mut request: Request<Incoming>| {
        if ambiguous.is(number.fetch_add(1, Relaxed)) {
            request.extensions_mut().insert(AmbiguousLength);
        }
        let connect = request.method() == Method::CONNECT;
        let ambiguous = ambiguous.clone();
        let response = service.call(request);
        async move {
            let response = response.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS || (connect && response.status().is_success()) {
                ambiguous.stop();
            }
            Ok(response)
        }
    })
}

/// How long a connection may rest between two requests. Longer than any client keeps one, so that it is the client who ends it and no
/// request meets a closing connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(3600);
