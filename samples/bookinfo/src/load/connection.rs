//! One kept HTTP/1 connection of the load generator.
//!
//! A kept connection may be closed by the peer in the moment that a request is written to it. As every HTTP client does
//! for GET, the request is then sent once more on a fresh connection; the report tells how often.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::report::Outcome;
use crate::client::with_sources;

/// Header by which a proxy of the mesh marks answers of its own.
const FAIRLEAD_PROXY: HeaderName = HeaderName::from_static("fairlead-proxy");

/// What every request of a run looks like.
#[derive(Clone, Debug)]
pub struct Target {
    /// `host:port` to dial.
    pub authority: String,
    /// Path and query.
    pub path: Uri,
    /// Headers, with `host`.
    pub headers: HeaderMap,
    /// Header of the answer that names the version.
    pub version_header: HeaderName,
}

/// A connection that has answered, and is ready for the next request.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
}

/// How a request went.
#[derive(Debug)]
pub struct Sent {
    /// How it ended.
    pub outcome: Outcome,
    /// The connection, if it can be used again.
    pub connection: Option<Connection>,
    /// Whether it was sent again because a kept connection had closed.
    pub retried_stale: bool,
}

/// Sends one request, on the kept connection if there is one.
pub async fn send(target: &Target, kept: Option<Connection>) -> Sent {
    let mut retried_stale = false;
    if let Some(mut kept) = kept
        && kept.sender.ready().await.is_ok()
    {
        match exchange(target, kept).await {
            Ok((outcome, connection)) => {
                return Sent { outcome, connection, retried_stale };
            }
            // The connection ended without a byte of an answer.
            Err(error) if error.is_canceled() || error.is_incomplete_message() || error.is_closed() => {
                retried_stale = true;
            }
            Err(error) => {
                return Sent { outcome: Outcome::Failure(with_sources(&error)), connection: None, retried_stale };
            }
        }
    }
    let (outcome, connection) = match fresh(target).await {
        Err(reason) => (Outcome::Failure(reason), None),
        Ok(connection) => match exchange(target, connection).await {
            Ok(done) => done,
            Err(error) => (Outcome::Failure(with_sources(&error)), None),
        },
    };
    Sent { outcome, connection, retried_stale }
}

async fn fresh(target: &Target) -> Result<Connection, String> {
    let stream = TcpStream::connect(&target.authority)
        .await
        .map_err(|error| format!("connect to {}: {error}", target.authority))?;
    stream.set_nodelay(true).map_err(|error| format!("set TCP_NODELAY: {error}"))?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| with_sources(&error))?;
    // Its errors come back through the sender.
    tokio::spawn(connection);
    Ok(Connection { sender })
}

/// An error means that no head of an answer came; what breaks later is an outcome.
async fn exchange(target: &Target, mut connection: Connection) -> hyper::Result<(Outcome, Option<Connection>)> {
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target.path.clone();
    *request.headers_mut() = target.headers.clone();
    let (head, mut body) = connection.sender.send_request(request).await?.into_parts();
    while let Some(frame) = body.frame().await {
        if let Err(error) = frame {
            let reason = format!("status {}, but the body broke off: {}", head.status, with_sources(&error));
            return Ok((Outcome::Failure(reason), None));
        }
    }
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let outcome = Outcome::Answer {
        status: head.status.as_u16(),
        version: head.headers.get(&target.version_header).map(text),
        proxy: head.headers.get(FAIRLEAD_PROXY).map(text),
    };
    Ok((outcome, Some(connection)))
}
