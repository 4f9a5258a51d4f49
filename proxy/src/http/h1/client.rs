//! One request and its answer over a connection.

use std::{
    future::poll_fn,
    io,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{Method, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;

use super::{
    Answered, Asked, Conn, Framing, H1Body,
    conn::malformed,
    head,
    websocket::Handshake,
    write::{self, Broken, Writer},
};
use crate::http::{
    Failed,
    body::{Body, Incoming},
    interim::{Interim, MAX_INTERIM},
    message::{Head, Response},
};

/// Sends a request and waits for the head of the answer. A body that is longer than the endpoint wants to read before it answers is sent on
/// while the answer is read.
pub(crate) async fn send(
    conn: &Arc<Mutex<Conn>>,
    head: &Head,
    body: Body,
    interim: &Interim,
) -> Result<Response<Incoming>, Failed> {
    let handshake = head.protocol.is_some().then(Handshake::new);
    let asked = Asked {
        head: head.method == Method::HEAD,
        connect: head.method == Method::CONNECT && handshake.is_none(),
        upgrade: head.headers.contains_key(&header::UPGRADE) || handshake.is_some(),
    };
    // What a tunnel carries comes as the body over HTTP/2; over HTTP/1 CONNECT has none.
    let tunnel = handshake.is_some() || (asked.connect && !body.is_end_stream());
    let (body, carried) = if tunnel { (Body::Empty, Some(body)) } else { (body, None) };
    let size = body.size_hint();
    let framing = match size.exact() {
        _ if body.is_end_stream() => Framing::None,
        Some(length) => Framing::Length(length),
        None => Framing::Chunked,
    };
    {
        let mut conn = conn.lock();
        conn.taken = 0;
        conn.reusable = false;
        write::request(conn.out(), head, framing, handshake.as_ref());
    }
    let mut exchange = Exchange {
        upload: Some(Upload { writer: Writer::new(framing), body }),
        interims: 0,
        looked: 0,
        broken: None,
        caller: false,
    };
    let answered = poll_fn(|cx| exchange.poll(cx, conn, asked, interim)).await.map_err(|error| Failed {
        error,
        nothing_sent: conn.lock().taken == 0,
        caller: exchange.caller,
    })?;
    let Answered { mut status, reason, mut headers, framing, keep_alive } = answered;
    let keep = keep_alive && exchange.broken.is_none();
    let switching = status == StatusCode::SWITCHING_PROTOCOLS || (asked.connect && status.is_success());
    if let Some(handshake) = &handshake {
        let agreed = switching && handshake.agrees(&mut headers);
        if !agreed && (switching || status.is_success()) {
            // Over HTTP/2 this would say that the tunnel is there.
            let error = io::Error::new(io::ErrorKind::InvalidData, "the endpoint did not become a WebSocket");
            return Err(Failed { error, nothing_sent: false, caller: false });
        }
        if agreed {
            status = StatusCode::OK;
        }
    }
    let incoming = if let (true, Some(body)) = (switching, carried) {
        Incoming::Early(Box::new(Early::tunnel(conn, body)))
    } else if switching {
        Incoming::Switched(conn.clone())
    } else {
        match (H1Body::new(conn, framing, keep), exchange.upload) {
            (None, upload) => {
                conn.lock().reusable = keep && upload.is_none();
                Incoming::Empty
            }
            (Some(body), None) => Incoming::Http1(body),
            (Some(body), Some(upload)) => {
                let upload = Some(upload);
                Incoming::Early(Box::new(Early { conn: conn.clone(), body, upload, tunnel: Tunnel::No }))
            }
        }
    };
    let mut response = Response::new(status, headers, incoming);
    response.reason = reason;
    Ok(response)
}

struct Exchange {
    /// `None`: all was sent, or nobody wants it any more.
    upload: Option<Upload>,
    interims: u32,
    /// So much of the answer's head was looked at without finding its end.
    looked: usize,
    broken: Option<io::Error>,
    /// The caller did not send what it had announced.
    caller: bool,
}

/// A request's body that is still being sent.
#[derive(Debug)]
struct Upload {
    writer: Writer,
    body: Body,
}

impl Upload {
    fn poll(&mut self, cx: &mut Context<'_>, conn: &Mutex<Conn>) -> Poll<Result<(), Broken>> {
        self.writer.poll(cx, conn, &mut self.body)
    }
}

impl Exchange {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &Mutex<Conn>,
        asked: Asked,
        interim: &Interim,
    ) -> Poll<io::Result<Answered>> {
        if let Some(upload) = &mut self.upload {
            match upload.poll(cx, conn) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.upload = None,
                Poll::Ready(Err(Broken::Source(error))) => {
                    self.caller = true;
                    return Poll::Ready(Err(error));
                }
                // The endpoint may have answered before it stopped to listen.
                Poll::Ready(Err(Broken::Sink(error))) => {
                    self.upload = None;
                    self.broken = Some(error);
                }
            }
        }
        let mut conn = conn.lock();
        loop {
            if !conn.rest.is_empty()
                && head::may_end(&conn.rest, self.looked)
                && let Some((answered, len)) = head::response(&conn.rest, asked).map_err(malformed)?
            {
                conn.rest.advance(len);
                self.looked = 0;
                if !answered.status.is_informational() || answered.status == StatusCode::SWITCHING_PROTOCOLS {
                    return Poll::Ready(Ok(answered));
                }
                self.interims += 1;
                if self.interims > MAX_INTERIM {
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "too many interim answers")));
                }
                interim.send(cx, answered.status, &answered.headers);
                continue;
            }
            self.looked = conn.rest.len();
            let filled = if conn.ended { Poll::Ready(Ok(0)) } else { conn.poll_fill(cx) };
            match filled {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.broken.take().unwrap_or(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(self.broken.take().unwrap_or(error))),
                Poll::Pending => {
                    return match self.broken.take() {
                        Some(error) => Poll::Ready(Err(error)),
                        None => Poll::Pending,
                    };
                }
            }
        }
    }
}

/// The body of an answer that came before all of the request was sent.
#[derive(Debug)]
pub struct Early {
    conn: Arc<Mutex<Conn>>,
    body: H1Body,
    upload: Option<Upload>,
    tunnel: Tunnel,
}

/// Whether the connection carries bytes of something else, and what is left to do once the caller has said all of its own.
#[derive(Debug, PartialEq, Eq)]
enum Tunnel {
    No,
    Open,
    /// The endpoint has to hear that nothing more comes.
    HangUp,
}

impl Early {
    /// Bytes both ways, from now on.
    fn tunnel(conn: &Arc<Mutex<Conn>>, body: Body) -> Self {
        let upload = Some(Upload { writer: Writer::new(Framing::Close), body });
        Self { conn: conn.clone(), body: H1Body::until_close(conn), upload, tunnel: Tunnel::Open }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let mut whole = true;
        if let Some(upload) = &mut self.upload {
            match upload.poll(cx, &self.conn) {
                Poll::Pending => whole = false,
                Poll::Ready(Ok(())) => {
                    self.upload = None;
                    if self.tunnel == Tunnel::Open {
                        self.tunnel = Tunnel::HangUp;
                    }
                }
                Poll::Ready(Err(broken)) => {
                    self.upload = None;
                    if self.tunnel == Tunnel::Open {
                        // Neither side may take what it got for all.
                        self.conn.lock().reset();
                        return Poll::Ready(Some(Err(broken.into())));
                    }
                    // The answer may still be read; the connection carries no other request.
                    self.body.close();
                    whole = false;
                }
            }
        }
        if self.tunnel == Tunnel::HangUp && self.conn.lock().poll_shutdown(cx).is_ready() {
            self.tunnel = Tunnel::Open;
        }
        let frame = self.body.poll_frame(cx);
        if self.body.is_end_stream() && !whole {
            self.conn.lock().reusable = false;
        }
        frame
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
