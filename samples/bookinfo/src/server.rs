//! What every serving role shares: listening, `/health`, the headers that say who answered, and a stop that loses nothing.
//!
//! A stop has three parts. SIGTERM starts the lameduck: the role goes on accepting, because callers learn of its end a
//! moment later, and tells HTTP/1 callers to close. Then it accepts no more and finishes what is in flight, for at most
//! [`DRAIN`]. Then the process ends with code 0.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderName, HeaderValue, StatusCode, Version, header};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bounded::Bounded;
use crate::units;

/// How long requests in flight may take to finish after the lameduck. Within the 30 s that Kubernetes grants.
pub const DRAIN: Duration = Duration::from_secs(10);

/// Connections that an HTTP port holds at once: more than the proxies of a large test keep open, and some ten MB.
const HTTP_CONNECTIONS: usize = 1024;
/// Connections that a TCP role holds at once; more wait in the listen queue.
const TCP_CONNECTIONS: usize = 1024;

/// Header that names the version that answered.
pub const X_VERSION: HeaderName = HeaderName::from_static("x-version");
/// Header that names the pod that answered.
pub const X_POD: HeaderName = HeaderName::from_static("x-pod");

/// Options of every serving role.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Address to serve HTTP on.
    #[arg(long, env = "BOOKINFO_LISTEN", default_value = "0.0.0.0:9080")]
    pub listen: SocketAddr,
    /// What every serving role shares.
    #[command(flatten)]
    pub common: Common,
}

/// Options of every serving role that are not about a port.
#[derive(Clone, Debug, clap::Args)]
pub struct Common {
    /// Name of the pod, told in the header x-pod.
    #[arg(long, env = "POD_NAME", default_value = "local")]
    pub pod: HeaderValue,
    /// How long to go on accepting after SIGTERM, while callers learn that this pod ends.
    #[arg(long, value_name = "DURATION", env = "BOOKINFO_LAMEDUCK", default_value = "2s", value_parser = units::duration)]
    pub lameduck: Duration,
}

/// Who answers: what the headers `x-version` and `x-pod` say.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The role, for logs.
    pub role: &'static str,
    /// The version, such as `v1`.
    pub version: HeaderValue,
    /// The pod's name.
    pub pod: HeaderValue,
}

impl Identity {
    /// The pod's name as text.
    pub fn pod_name(&self) -> &str {
        self.pod.to_str().unwrap_or("unnamed")
    }

    /// The version as text.
    pub fn version_name(&self) -> &str {
        self.version.to_str().unwrap_or("unnamed")
    }
}

/// The stop of a process, shared by everything that serves in it.
#[derive(Clone, Debug, Default)]
pub struct Stop {
    lameduck: CancellationToken,
    closing: CancellationToken,
    sessions: TaskTracker,
}

impl Stop {
    /// A stop that SIGTERM (or Ctrl-C) begins.
    ///
    /// # Errors
    /// The system's, if signals cannot be received.
    pub fn on_signal(lameduck: Duration) -> Result<Self> {
        let stop = Self::default();
        let mut terminate = signal(SignalKind::terminate()).context("receive SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("receive SIGINT")?;
        let begun = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(?lameduck, "stopping");
            begun.begin(lameduck).await;
        });
        Ok(stop)
    }

    /// Goes through the lameduck, then has everything close.
    pub async fn begin(&self, lameduck: Duration) {
        self.lameduck.cancel();
        tokio::time::sleep(lameduck).await;
        self.closing.cancel();
    }

    /// Resolves when no new connection is wanted and sessions without an end of their own should end.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Spawns a session (a TCP connection, a WebSocket) that the process waits for when it stops.
    pub fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.sessions.spawn(session);
    }

    /// Waits for the sessions, at most [`DRAIN`] after closing began.
    pub async fn drained(&self) {
        self.closing().await;
        self.sessions.close();
        // Whoever does not end within the drain is cut off; the process ends either way.
        let _ = tokio::time::timeout(DRAIN, self.sessions.wait()).await;
    }
}

/// Opens a listener.
///
/// # Errors
/// The system's, with the address.
pub async fn bind(address: SocketAddr) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))
}

/// Serves a role over HTTP/1 and h2c until the stop is complete. Adds `/health` and the identity headers.
///
/// # Errors
/// The listener's, when it can no longer accept.
pub async fn serve(listener: TcpListener, routes: Router, identity: Identity, stop: Stop) -> Result<()> {
    tracing::info!(
        role = identity.role,
        version = identity.version_name(),
        pod = identity.pod_name(),
        address = %listener.local_addr().context("read the address of the listener")?,
        "serving"
    );
    let app =
        routes.route("/health", get(health)).layer(middleware::from_fn_with_state((identity, stop.clone()), stamp));
    let listener = Bounded::new(listener, HTTP_CONNECTIONS);
    let closing = stop.closing.clone();
    let serving = axum::serve(listener, app).with_graceful_shutdown(closing.cancelled_owned());
    let cut_off = async {
        stop.closing().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.context("serve HTTP"),
        () = cut_off => Ok(()),
    }
}

/// Hands every connection of a TCP port to `session`, until the stop is complete.
///
/// # Errors
/// None that last: an accept that fails is logged and tried again.
pub async fn serve_tcp<S, F>(listener: TcpListener, role: &'static str, stop: Stop, session: S) -> Result<()>
where
    S: Fn(TcpStream) -> F,
    F: Future<Output = io::Result<()>> + Send + 'static,
{
    tracing::info!(role, address = %listener.local_addr().context("read the address of the listener")?, "serving");
    let free = Arc::new(Semaphore::new(TCP_CONNECTIONS));
    let accept = async {
        loop {
            let Ok(permit) = free.clone().acquire_owned().await else {
                return;
            };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "cannot set TCP_NODELAY");
                    }
                    let session = session(stream);
                    stop.spawn(async move {
                        if let Err(error) = session.await {
                            tracing::debug!(role, %peer, %error, "connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(role, %error, "cannot accept; trying again in a moment");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop.closing() => {}
    }
    drop(listener);
    stop.drained().await;
    Ok(())
}

/// A JSON answer that tells the caller what went wrong.
pub fn problem(status: StatusCode, message: impl Into<String>) -> Response {
    (status, Json(serde_json::json!({ "error": message.into() }))).into_response()
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "healthy" }))
}

async fn stamp(State((identity, stop)): State<(Identity, Stop)>, request: Request, next: Next) -> Response {
    let keeps_alive = request.version() < Version::HTTP_2;
    let mut response = next.run(request).await;
    let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(X_VERSION, identity.version);
    headers.insert(X_POD, identity.pod);
    // Otherwise a caller could reuse the connection in the very moment that it is closed.
    if keeps_alive && !upgraded && stop.lameduck.is_cancelled() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
