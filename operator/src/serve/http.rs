//! A router on connections: HTTP/1.1 and HTTP/2, gRPC among it.

use std::time::Duration;

use axum::Router;
use hyper::service::Service as _;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::ca::PeerAddress;

/// For the head of a request, counted from the one before.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A peer that vanished is noticed after these two.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// Of one HTTP/2 connection: the API server sends webhooks over one.
const MAX_STREAMS: u32 = 256;
const MAX_HEADERS: u32 = 16 * 1024;

/// Serves until stopped, then lets requests that are under way end: for at most `patience`, since a configuration stream never ends by itself.
///
/// Each request carries [`PeerAddress`] and, where the connection proved one, [`crate::ca::PeerIdentity`] among its extensions.
pub async fn run(
    mut connections: mpsc::Receiver<Connection>,
    router: Router,
    stop: CancellationToken,
    patience: Duration,
) {
    let graceful = GracefulShutdown::new();
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS);
    loop {
        let connection = tokio::select! {
            () = stop.cancelled() => break,
            connection = connections.recv() => match connection {
                Some(connection) => connection,
                None => break,
            },
        };
        let (address, identity) = (connection.address(), connection.identity().cloned());
        let router = TowerToHyperService::new(router.clone());
        let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(PeerAddress(address));
            if let Some(identity) = &identity {
                request.extensions_mut().insert(identity.clone());
            }
            router.call(request)
        });
        let served = graceful.watch(builder.serve_connection(TokioIo::new(connection), service).into_owned());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::debug!(%address, error, "connection ended");
            }
        });
    }
    if tokio::time::timeout(patience, graceful.shutdown()).await.is_err() {
        tracing::debug!("connections were still open at the end of the grace period");
    }
}
