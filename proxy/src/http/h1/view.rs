//! What messages say to this module and what the same bytes say to hyper: an oracle for tests and fuzzers.
//!
//! Nothing here may be read differently by somebody behind or before the proxy, so each message that this module takes must be one for hyper,
//! with the same lines and the same body.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Answered, Asked, Chunked, Framing, Item, Parsed, Refusal, request, response};
use crate::http::Fields;

/// Room for everything that is said at once.
const PIPE: usize = 1 << 20;

/// Names in lower case and values, sorted.
type Lines = Vec<(String, Vec<u8>)>;

/// A request as a parser understood it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asking {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) lines: Lines,
    pub(super) body: Vec<u8>,
}

/// An answer as a parser understood it, whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answering {
    pub(super) status: StatusCode,
    pub(super) lines: Lines,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Lines,
    /// Bytes that it takes, with what came before it; `None`: all, up to the end of the connection.
    pub(super) len: Option<usize>,
}

/// What `framing` makes of the bytes behind a head: the body, its trailers, and how long both are. `None`: it is not there whole.
pub(super) fn body(bytes: &[u8], framing: Framing) -> Option<(Vec<u8>, Lines, usize)> {
    match framing {
        Framing::None => Some((Vec::new(), Vec::new(), 0)),
        Framing::Close => Some((bytes.to_vec(), Vec::new(), bytes.len())),
        Framing::Length(length) => {
            let body = bytes.get(..usize::try_from(length).ok()?)?;
            Some((body.to_vec(), Vec::new(), body.len()))
        }
        Framing::Chunked => {
            let mut chunked = Chunked::default();
            let (mut body, mut at) = (Vec::new(), 0);
            loop {
                let (skip, item) = chunked.next(&bytes[at..]).ok()?;
                at += skip;
                match item {
                    Item::More => return None,
                    Item::Data(len) => {
                        body.extend_from_slice(&bytes[at..at + len]);
                        at += len;
                    }
                    Item::End(trailers) => return Some((body, trailers.as_ref().map(map).unwrap_or_default(), at)),
                }
            }
        }
    }
}

/// What was read of a body in chunks.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Unchunked {
    pub data: Vec<u8>,
    pub trailers: Option<HeaderMap>,
    /// Bytes behind its end; `None`: it does not end.
    pub behind: Option<usize>,
}

/// Feeds a body in chunks in pieces of `step` bytes.
pub(super) fn unchunked(bytes: &[u8], step: usize) -> Result<Unchunked, Refusal> {
    let (mut chunked, mut read) = (Chunked::default(), Unchunked::default());
    let (mut rest, mut unfed) = (Vec::new(), bytes.len());
    for piece in bytes.chunks(step) {
        rest.extend_from_slice(piece);
        unfed -= piece.len();
        loop {
            let (skip, item) = chunked.next(&rest)?;
            rest.drain(..skip);
            match item {
                Item::More => break,
                Item::Data(len) => read.data.extend(rest.drain(..len)),
                Item::End(trailers) => return Ok(Unchunked { trailers, behind: Some(rest.len() + unfed), ..read }),
            }
        }
        assert!(rest.is_empty(), "looked at and kept");
    }
    Ok(read)
}

/// All requests in `bytes`, as this module reads them, up to the first that it refuses.
pub(super) fn requests(mut bytes: &[u8]) -> Vec<Asking> {
    let mut views = Vec::new();
    while let Ok(Some((Parsed { head, framing, keep_alive, .. }, len))) = request(bytes) {
        let Some((body, _, taken)) = body(&bytes[len..], framing) else { break };
        bytes = &bytes[len + taken..];
        let target = match head.uri.authority() {
            // The other way to write that it is about the server as a whole.
            Some(authority) if head.uri.path() == "*" => {
                format!("{}://{authority}/", head.uri.scheme_str().unwrap_or_default())
            }
            _ => head.uri.to_string(),
        };
        let method = head.method.to_string();
        views.push(Asking { method, target, lines: lines(&head.headers), body });
        // What follows CONNECT is no request, whatever the answer.
        if !keep_alive || head.method == Method::CONNECT {
            break;
        }
    }
    views
}

/// The same, as hyper reads them.
pub(super) fn requests_by_hyper(bytes: &[u8]) -> Vec<Asking> {
    let views = Arc::new(Mutex::new(Vec::new()));
    let seen = views.clone();
    let (mut client, server) = tokio::io::duplex(PIPE);
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let (method, target) = (head.method.to_string(), head.uri.to_string());
                let body = body.to_bytes().to_vec();
                seen.lock().push(Asking { method, target, lines: map(&head.headers), body });
            }
            Ok::<_, Infallible>(hyper::Response::new(Empty::<Bytes>::new()))
        }
    });
    let serving =
        hyper::server::conn::http1::Builder::new().half_close(true).serve_connection(TokioIo::new(server), service);
    let talking = async {
        let _ = client.write_all(bytes).await;
        let _ = client.shutdown().await;
        let _ = client.read_to_end(&mut Vec::new()).await;
    };
    settled(async { futures::join!(serving, talking) });
    std::mem::take(&mut *views.lock())
}

/// The answer in `bytes`, as this module reads it; `None`: it refuses it, it is not there whole, or what follows is no HTTP.
pub(super) fn answer(bytes: &[u8], asked: Asked) -> Option<Answering> {
    let mut at = 0;
    loop {
        let (Answered { status, headers, framing, .. }, len) = response(&bytes[at..], asked).ok()??;
        at += len;
        if status == StatusCode::SWITCHING_PROTOCOLS || (asked.connect && status.is_success()) {
            return None;
        }
        if status.is_informational() {
            continue;
        }
        let (body, trailers, taken) = body(&bytes[at..], framing)?;
        let len = (framing != Framing::Close).then_some(at + taken);
        return Some(Answering { status, lines: lines(&headers), body, trailers, len });
    }
}

/// The same, as hyper reads it. Where `ours` says that the answer ends, nothing more is said and the connection stays open; otherwise all is
/// said and the connection ends.
pub(super) fn answer_by_hyper(bytes: &[u8], asked: Asked, ours: Option<usize>) -> Option<Answering> {
    let (client, mut server) = tokio::io::duplex(PIPE);
    let (mut sender, connection) = settled(hyper::client::conn::http1::handshake(TokioIo::new(client)))?.ok()?;
    let method = match asked {
        Asked { head: true, .. } => Method::HEAD,
        Asked { connect: true, .. } => Method::CONNECT,
        Asked { .. } => Method::GET,
    };
    let target = if asked.connect { "a:80" } else { "/" };
    let request = hyper::Request::builder().method(method).uri(target).body(Empty::<Bytes>::new()).ok()?;
    let asking = async {
        let (head, body) = sender.send_request(request).await.ok()?.into_parts();
        let body = body.collect().await.ok()?;
        let trailers = body.trailers().map(map).unwrap_or_default();
        let body = body.to_bytes().to_vec();
        Some(Answering { status: head.status, lines: map(&head.headers), body, trailers, len: ours })
    };
    let answering = async {
        // It comes when it was asked for.
        let _ = server.read(&mut [0; 1024]).await;
        let _ = server.write_all(&bytes[..ours.unwrap_or(bytes.len())]).await;
        if ours.is_none() {
            let _ = server.shutdown().await;
        }
        futures::future::pending::<()>().await;
    };
    settled(async {
        let others = async { futures::join!(connection, answering) };
        match futures::future::select(pin!(asking), pin!(others)).await {
            futures::future::Either::Left((view, _)) => view,
            futures::future::Either::Right(_) => None,
        }
    })?
}

/// Without those that this module writes anew.
fn lines(fields: &Fields) -> Lines {
    let mut lines: Vec<_> = fields
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case(b"te") && !name.eq_ignore_ascii_case(b"connection"))
        .map(|(name, value)| (String::from_utf8_lossy(name).to_lowercase(), value.to_vec()))
        .collect();
    lines.sort();
    lines
}

fn map(map: &HeaderMap) -> Lines {
    let mut lines: Vec<_> =
        map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    lines.sort();
    lines
}

/// Polls what waits for nothing but itself; `None`: it will wait for ever.
fn settled<F: Future>(future: F) -> Option<F::Output> {
    struct Woken(AtomicBool);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Relaxed);
        }
    }
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut future = pin!(future);
    while woken.0.swap(false, Relaxed) {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return Some(output);
        }
    }
    None
}
