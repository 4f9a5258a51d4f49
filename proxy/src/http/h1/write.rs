//! Messages of HTTP/1 as they are written.

use std::{
    io::{self, Write as _},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, header};
use http_body::Body as _;
use parking_lot::Mutex;

use super::{Conn, Framing, decimal, websocket::Handshake};
use crate::http::{
    body::Body,
    fields::Fields,
    message::{Head, Response},
};

/// Writes a request's head; its body will be framed like this. With a `handshake` what HTTP/2 says in a CONNECT is asked for as an upgrade.
pub(super) fn request(out: &mut Vec<u8>, head: &Head, framing: Framing, handshake: Option<&Handshake>) {
    let method = if handshake.is_some() { &Method::GET } else { &head.method };
    out.extend_from_slice(method.as_str().as_bytes());
    out.push(b' ');
    match head.uri.authority() {
        Some(authority) if *method == Method::CONNECT => out.extend_from_slice(authority.as_str().as_bytes()),
        // A target in absolute form named the host, which its header does now.
        _ => out.extend_from_slice(head.uri.path_and_query().map_or("/", |path| path.as_str()).as_bytes()),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    let length = match framing {
        // Said or not: both mean that there is none.
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::Close => None,
    };
    let said = head.headers.write(out, length);
    frame(out, framing, said);
    if let Some(handshake) = handshake {
        handshake.write(out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a response's head. `bodiless`: whatever it says of a length, none follows.
pub(super) fn response(out: &mut Vec<u8>, head: &Response<()>, framing: Framing, bodiless: bool, connection: &[u8]) {
    status_line(out, head.status(), head.reason.as_deref());
    let headers = head.headers();
    let length = match framing {
        Framing::None if bodiless => headers.get(&header::CONTENT_LENGTH).and_then(decimal),
        Framing::None => Some(0),
        Framing::Length(length) => Some(length),
        Framing::Chunked | Framing::Close => None,
    };
    let said = headers.write(out, length);
    match framing {
        // Without it the client would wait for the end of the connection.
        Framing::None if !bodiless => frame(out, Framing::Length(0), said),
        framing => frame(out, framing, said),
    }
    out.extend_from_slice(connection);
    out.extend_from_slice(b"\r\n");
}

/// Writes an answer that comes before the answer.
pub(crate) fn interim(out: &mut Vec<u8>, status: StatusCode, headers: &Fields) {
    status_line(out, status, None);
    headers.write(out, None);
    out.extend_from_slice(b"\r\n");
}

fn status_line(out: &mut Vec<u8>, status: StatusCode, reason: Option<&[u8]>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason.unwrap_or(status.canonical_reason().unwrap_or_default().as_bytes()));
    out.extend_from_slice(b"\r\n");
}

fn frame(out: &mut Vec<u8>, framing: Framing, said: bool) {
    match framing {
        Framing::Length(length) if !said => {
            let _ = write!(out, "content-length: {length}\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::Length(_) | Framing::Close => {}
    }
}

/// Writes one body behind its head.
#[derive(Debug)]
pub(super) struct Writer {
    framing: Framing,
    left: u64,
    data: Bytes,
    /// The chunk that `data` is of was not ended yet.
    in_chunk: bool,
    ended: bool,
}

/// Why a body was not written whole.
#[derive(Debug)]
pub(super) enum Broken {
    /// It could not be read whole.
    Source(io::Error),
    /// It could not be written.
    Sink(io::Error),
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        let (Broken::Source(error) | Broken::Sink(error)) = broken;
        error
    }
}

impl Writer {
    pub(super) fn new(framing: Framing) -> Self {
        let left = if let Framing::Length(length) = framing { length } else { 0 };
        Self { framing, left, data: Bytes::new(), in_chunk: false, ended: framing == Framing::None }
    }

    /// Whether it is the one who reads that is waited for.
    pub(super) fn is_blocked(&self, conn: &Conn) -> bool {
        !self.data.is_empty() || conn.is_blocked()
    }

    /// Moves what it can; ready once all of it was written.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &Mutex<Conn>,
        body: &mut Body,
    ) -> Poll<Result<(), Broken>> {
        loop {
            {
                let mut conn = conn.lock();
                if !self.data.is_empty() {
                    ready!(conn.poll_add(cx, &mut self.data)).map_err(Broken::Sink)?;
                }
                if std::mem::take(&mut self.in_chunk) {
                    conn.out().extend_from_slice(b"\r\n");
                }
                if self.ended {
                    return conn.poll_flush(cx).map_err(Broken::Sink);
                }
                if conn.is_full() {
                    ready!(conn.poll_flush(cx)).map_err(Broken::Sink)?;
                }
            }
            // Not with the lock, as it may be about another connection of the same kind.
            let frame = Pin::new(&mut *body).poll_frame(cx);
            match frame {
                Poll::Pending => {
                    let _ = conn.lock().poll_flush(cx).map_err(Broken::Sink)?;
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(Broken::Source(error))),
                Poll::Ready(None) => self.end(&mut conn.lock(), None)?,
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.add(&mut conn.lock(), data)?,
                    Err(frame) => {
                        let trailers = frame.into_trailers().ok();
                        self.end(&mut conn.lock(), trailers.as_ref())?;
                    }
                },
            }
        }
    }

    fn add(&mut self, conn: &mut Conn, data: Bytes) -> Result<(), Broken> {
        match self.framing {
            // An empty chunk would be the last.
            _ if data.is_empty() => return Ok(()),
            Framing::Length(_) => {
                let len = data.len() as u64;
                if len > self.left {
                    return Err(Broken::Source(io::Error::new(io::ErrorKind::InvalidData, "longer than it said")));
                }
                self.left -= len;
                self.ended = self.left == 0;
            }
            Framing::Chunked => {
                let _ = write!(conn.out(), "{:x}\r\n", data.len());
                self.in_chunk = true;
            }
            Framing::Close | Framing::None => {}
        }
        self.data = data;
        Ok(())
    }

    fn end(&mut self, conn: &mut Conn, trailers: Option<&HeaderMap>) -> Result<(), Broken> {
        if self.left > 0 {
            return Err(Broken::Source(io::ErrorKind::UnexpectedEof.into()));
        }
        if self.framing == Framing::Chunked {
            let out = conn.out();
            out.extend_from_slice(b"0\r\n");
            for (name, value) in trailers.into_iter().flatten() {
                for piece in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                    out.extend_from_slice(piece);
                }
            }
            out.extend_from_slice(b"\r\n");
        }
        self.ended = true;
        Ok(())
    }
}
