//! What a connection speaks, told from its first bytes.
//!
//! [`Kind::of`] decides on bytes; [`first`] reads them, with a limit to how long a silent client is waited for. Nothing is lost by a wrong
//! guess of silence: [`speaks_first`] then watches both sides, and a client that speaks HTTP after all is still served as such.

use std::{future::poll_fn, io, pin::Pin, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

use super::Parsed;
use crate::{
    http::Version,
    tcp::{Stream, buffers},
};

/// How long a client may be silent before the server is asked to speak first. Clients that speak first do so with the first packet after
/// the handshake; a fiftieth of a second more is what a server-first connection pays, once.
pub const SILENCE: Duration = Duration::from_millis(50);

/// How long a client that has begun to speak may take until it can be told what it speaks.
const HESITATION: Duration = Duration::from_secs(2);

/// How much is read to tell. A request line longer than this is served as HTTP by its method alone.
const ENOUGH: usize = 4 * 1024;

/// How long a method may be: the longest that is registered has 17 bytes; some room for those that people make up.
pub(super) const MAX_METHOD: usize = 24;

/// So many bytes tell in any case: empty lines, a method, and [`ENOUGH`] behind it.
#[cfg(any(test, feature = "fuzz"))]
pub(super) const MOST: usize = 4 + MAX_METHOD + 1 + ENOUGH;

/// How large a TLS hello may be: post-quantum key shares make two kilobytes, tickets and extensions as much again.
const MAX_HELLO: usize = 32 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol that a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Requests.
    Http(Version),
    /// TLS: whose, its hello tells.
    Tls,
    /// None of these.
    Opaque,
}

/// How far detection came.
#[derive(Debug, PartialEq, Eq)]
pub enum First {
    /// The client spoke; what was read is in the buffer.
    Spoke(Kind),
    /// It has not said anything.
    Silence,
    /// It closed without a word.
    Closed,
}

impl Kind {
    /// Decides as soon as it can; `None`: more bytes are needed.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        match bytes {
            [] | [0x16] | [0x16, 3] => None,
            [0x16, 3, minor, rest @ ..] if *minor <= 4 => match rest {
                [_, _, 1, ..] => Some(Self::Tls),
                [_, _, _, ..] => Some(Self::Opaque),
                _ => None,
            },
            _ if bytes.starts_with(PREFACE) => Some(Self::Http(Version::Http2)),
            _ if PREFACE.starts_with(bytes) => None,
            _ => http1(bytes),
        }
    }
}

/// By the shape of the request line: a method, a space and what a target begins with, or a whole line that ends in a version.
fn http1(bytes: &[u8]) -> Option<Kind> {
    const HTTP: Option<Kind> = Some(Kind::Http(Version::Http1));
    const OPAQUE: Option<Kind> = Some(Kind::Opaque);
    // Servers are asked to ignore empty lines before a request.
    let start = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    if start > 4 {
        return OPAQUE;
    }
    let bytes = &bytes[start..];
    let is_method = |byte: &u8| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_');
    let Some(end) = bytes.iter().position(|byte| !is_method(byte)) else {
        return if bytes.len() > MAX_METHOD { OPAQUE } else { None };
    };
    if end == 0 || end > MAX_METHOD || bytes[end] != b' ' {
        return OPAQUE;
    }
    let (method, target) = (&bytes[..end], &bytes[end + 1..]);
    let upper = method.iter().all(|byte| !byte.is_ascii_lowercase());
    match target.first() {
        None => return None,
        Some(b'/') if upper => return HTTP,
        Some(byte) if !byte.is_ascii_graphic() => return OPAQUE,
        Some(_) => {}
    }
    // "OPTIONS *", "CONNECT host:port", absolute targets: other protocols have lines like these, so the version must be seen.
    match target.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = target[..end].strip_suffix(b"\r").unwrap_or(&target[..end]);
            let version = line.rsplit(|byte| *byte == b' ').next().unwrap_or_default();
            if version.starts_with(b"HTTP/1.") { HTTP } else { OPAQUE }
        }
        None if target.len() < ENOUGH => None,
        None if upper => HTTP,
        None => OPAQUE,
    }
}

/// Reads until it can be told what the client speaks; `silence` limits the wait for the first byte (`None`: as long as it takes). What was
/// read is in `buffer`. A TLS hello is read whole.
pub async fn first(client: &mut TcpStream, buffer: &mut BytesMut, silence: Option<Duration>) -> io::Result<First> {
    let mut deadline = silence.map(|limit| Instant::now() + limit);
    loop {
        match Kind::of(buffer) {
            Some(Kind::Tls) if Parsed::from_bytes(buffer) == Parsed::Partial && buffer.len() < MAX_HELLO => {}
            Some(kind) => return Ok(First::Spoke(kind)),
            None => {}
        }
        let read = poll_fn(|cx| buffers::read(Pin::new(&mut *client), cx));
        let read = match deadline {
            None => read.await?,
            Some(deadline) => match timeout_at(deadline, read).await {
                Ok(read) => read?,
                Err(_) if buffer.is_empty() => return Ok(First::Silence),
                // It began to speak and then waits for an answer: not HTTP.
                Err(_) => return Ok(First::Spoke(Kind::Opaque)),
            },
        };
        match (read.is_empty(), buffer.is_empty()) {
            (true, true) => return Ok(First::Closed),
            // Half of something: whoever reads on finds the end as well.
            (true, false) => return Ok(First::Spoke(Kind::of(buffer).unwrap_or(Kind::Opaque))),
            (false, true) => deadline = Some(Instant::now() + HESITATION),
            (false, false) => {}
        }
        // Of their own size: more may be waited for, or a connection to somebody else.
        buffer.extend_from_slice(&read);
    }
}

/// Who broke the silence.
#[derive(Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The client (or it closed); nothing was read from it.
    Client,
    /// The server; what it said is in the buffer. Empty: it closed.
    Server,
}

/// Waits for the first word of either side.
pub async fn speaks_first(client: &TcpStream, server: &mut Stream, said: &mut BytesMut) -> io::Result<Speaker> {
    let mut word = [0];
    tokio::select! {
        biased;
        // Not its readiness, which may be a false alarm.
        peeked = client.peek(&mut word) => peeked.map(|_| Speaker::Client),
        read = server.read_buf(said) => read.map(|_| Speaker::Server),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HTTP1: Kind = Kind::Http(Version::Http1);

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(HTTP1)),
            (b"GET /", Some(HTTP1)),
            (b"\r\nPOST /a", Some(HTTP1)),
            (b"GET / nonsense", Some(HTTP1)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(HTTP1)),
            (b"CONNECT db:5432 HTTP/1.1\r\n", Some(HTTP1)),
            (b"GET http://a/ HTTP/1.0\r\n", Some(HTTP1)),
            (b"get / HTTP/1.1\r\n", Some(HTTP1)),
            (b"BASELINE-CONTROL /x", Some(HTTP1)),
            (PREFACE, Some(Kind::Http(Version::Http2))),
            (&[0x16, 3, 1, 2, 0, 1], Some(Kind::Tls)),
            (&[0x16, 3, 1, 2, 0, 2], Some(Kind::Opaque)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Kind::Opaque)),
            (b"PING\r\n", Some(Kind::Opaque)),
            (b"GET key\r\n", Some(Kind::Opaque)),
            (b"get key\r\n", Some(Kind::Opaque)),
            (b"EHLO there\r\n", Some(Kind::Opaque)),
            (&[0, 0, 0, 8, 4, 0xd2], Some(Kind::Opaque)),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", Some(Kind::Opaque)),
            (b"", None),
            (b"GET", None),
            (b"GET ", None),
            (b"OPTIONS * HT", None),
            (b"PRI * HTTP/2.0\r\n", None),
            (&[0x16], None),
            (&[0x16, 3, 1, 2, 0], None),
        ] {
            assert_eq!(Kind::of(bytes), expected, "{}", bytes.escape_ascii());
        }
    }

    proptest::proptest! {
        #[test]
        fn verdicts_come_within_bounds_and_stay(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2 * MOST)) {
            crate::accept::fuzz::detection(&bytes);
        }
    }
}
