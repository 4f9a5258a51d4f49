//! HTTP of the echo role. Any path answers with what was received; a few have a behaviour of their own:
//!
//! | path | answer |
//! | --- | --- |
//! | `/status/{code}` | that status |
//! | `/delay/{ms}` | 200 after that many milliseconds, at most a minute |
//! | `/bytes/{n}` | that many bytes, at most 64 MiB |
//! | `/trailers` | a chunked body followed by the trailer `x-checksum` |
//! | `/ws` | a WebSocket that sends every message back |
//! | `/crash` | none: the process ends at once, with whatever it was answering |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};

use super::grpc;
use crate::server::{Stop, problem};

const MAX_DELAY: Duration = Duration::from_mins(1);
const MAX_BYTES: usize = 64 * 1024 * 1024;
/// What is repeated in the answer; the rest of a body is only counted.
const MAX_REPEATED: usize = 4 * 1024;
const MAX_WS_MESSAGE: usize = 1024 * 1024;
static FILL: [u8; 16 * 1024] = [b'x'; 16 * 1024];

/// Trailer that `/trailers` sends.
pub const X_CHECKSUM: HeaderName = HeaderName::from_static("x-checksum");

/// What was received, as the echo role answers it.
#[derive(Debug, Deserialize, Serialize)]
pub struct Received {
    /// The method.
    pub method: String,
    /// The path without the query.
    pub path: String,
    /// The query, if there was one.
    pub query: Option<String>,
    /// `HTTP/1.1` or `HTTP/2.0`, as it arrived here.
    pub protocol: String,
    /// The authority that was asked for.
    pub host: Option<String>,
    /// All values of all headers.
    pub headers: BTreeMap<String, Vec<String>>,
    /// The first 4 KiB of the body.
    pub body: String,
    /// Length of the whole body.
    pub body_bytes: usize,
    /// The pod that answers.
    pub pod: String,
}

#[derive(Clone, Debug)]
struct Service {
    pod: String,
    stop: Stop,
}

/// The routes of the role's HTTP port.
pub fn routes(pod: &str, stop: Stop) -> Router {
    Router::new()
        .route("/status/{code}", any(status))
        .route("/delay/{ms}", any(delay))
        .route("/bytes/{n}", get(bytes))
        .route("/trailers", any(trailers))
        .route("/ws", any(websocket))
        .route("/crash", any(crash))
        .merge(grpc::routes())
        .fallback(echo)
        .with_state(Service { pod: pod.to_owned(), stop })
}

async fn echo(State(service): State<Service>, request: Request) -> Response {
    let (head, mut body) = request.into_parts();
    let mut repeated = Vec::new();
    let mut body_bytes = 0;
    while let Some(frame) = body.frame().await {
        let data = match frame.map(Frame::into_data) {
            Ok(Ok(data)) => data,
            Ok(Err(_trailers)) => continue,
            Err(error) => {
                return problem(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"));
            }
        };
        body_bytes += data.len();
        repeated.extend_from_slice(&data[..data.len().min(MAX_REPEATED - repeated.len())]);
    }
    let host = head.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    Json(Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        protocol: format!("{:?}", head.version),
        host: head.uri.authority().map(ToString::to_string).or_else(|| host.map(str::to_owned)),
        headers: received_headers(&head.headers),
        body: String::from_utf8_lossy(&repeated).into_owned(),
        body_bytes,
        pod: service.pod,
    })
    .into_response()
}

fn received_headers(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in headers {
        all.entry(name.to_string()).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    all
}

async fn status(Path(code): Path<u16>) -> Response {
    match StatusCode::from_u16(code) {
        // Below 200 is not an answer of its own.
        Ok(status) if code >= 200 => (status, format!("{status}\n")).into_response(),
        _ => problem(StatusCode::BAD_REQUEST, format!("{code} is not a status from 200 to 999")),
    }
}

async fn delay(Path(ms): Path<u64>) -> Response {
    let delay = Duration::from_millis(ms);
    if delay > MAX_DELAY {
        return problem(StatusCode::BAD_REQUEST, format!("{ms} ms is more than a minute"));
    }
    tokio::time::sleep(delay).await;
    format!("answered after {ms} ms\n").into_response()
}

/// As a bug would end it: nothing is closed properly, nobody is told.
async fn crash() -> StatusCode {
    std::process::abort()
}

async fn bytes(Path(n): Path<usize>) -> Response {
    if n > MAX_BYTES {
        return problem(StatusCode::BAD_REQUEST, format!("{n} is more than {MAX_BYTES} bytes"));
    }
    let chunks = stream::unfold(n, async |left| {
        let size = left.min(FILL.len());
        (size > 0).then(|| (Ok::<_, Infallible>(Bytes::from_static(&FILL[..size])), left - size))
    });
    ([(header::CONTENT_LENGTH, HeaderValue::from(n))], Body::from_stream(chunks)).into_response()
}

async fn trailers() -> Response {
    let checksum = HeaderMap::from_iter([(X_CHECKSUM, HeaderValue::from_static("8"))]);
    let frames = [Frame::data(Bytes::from_static(b"trailers")), Frame::trailers(checksum)];
    let body = StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)));
    // HTTP/1 sends only trailers that were announced.
    ([(header::TRAILER, X_CHECKSUM.as_str())], Body::new(body)).into_response()
}

async fn websocket(State(service): State<Service>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(MAX_WS_MESSAGE).on_upgrade(async move |socket| {
        let stop = service.stop.clone();
        service.stop.spawn(echo_messages(socket, stop));
    })
}

async fn echo_messages(mut socket: WebSocket, stop: Stop) {
    loop {
        let message = tokio::select! {
            message = socket.recv() => message,
            () = stop.closing() => {
                let frame = CloseFrame { code: close_code::AWAY, reason: "this pod ends".into() };
                // If the peer is gone already, there is nobody to tell.
                let _ = socket.send(Message::Close(Some(frame))).await;
                return;
            }
        };
        let sent = match message {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => socket.send(message).await,
            // Pings are answered and closing is confirmed by the library.
            Some(Ok(_)) => Ok(()),
            Some(Err(_)) | None => return,
        };
        if sent.is_err() {
            return;
        }
    }
}
