//! A second look at how HTTP/1 requests are framed.
//!
//! The HTTP library resolves a request that carries both `Content-Length` and `Transfer-Encoding` as RFC 9112 allows: it follows the latter
//! and closes the connection. But no honest client sends both, so this proxy refuses them, and the library does not say that it saw them.
//! [`Framing`] therefore follows heads and bodies through the bytes that are read; it decides nothing but that refusal. [`Watched`] feeds it, and
//! ends connections that are too slow with a head.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// How long a head may take from its first byte to its last. A head is one packet or a few; this is what slow networks may need, and far
/// less than an attacker who holds connections open would like.
const HEAD_TIME: Duration = Duration::from_secs(30);

/// How much of a line is looked at: enough for the framing headers and their values.
const LINE: usize = 128;

/// Which requests of a connection are ambiguous; shared by who reads the bytes and who gets the requests.
#[derive(Debug)]
pub(super) struct Ambiguous(AtomicU64);

/// No request is, and bytes are looked at.
const NONE: u64 = u64::MAX;

/// The connection carries something else than requests from now on.
const STOPPED: u64 = u64::MAX - 1;

impl Default for Ambiguous {
    fn default() -> Self {
        Self(AtomicU64::new(NONE))
    }
}

impl Ambiguous {
    /// Whether the `n`th request (from 0) is. It is the last one that counts: the connection ends with it.
    pub(super) fn is(&self, n: u64) -> bool {
        self.0.load(Relaxed) == n
    }

    /// The connection was upgraded.
    pub(super) fn stop(&self) {
        self.0.store(STOPPED, Relaxed);
    }
}

/// Where in a request the bytes are.
#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    /// Between requests, or in a head.
    #[default]
    Head,
    /// In a body, or a chunk, of which so many bytes are left.
    Data { left: u64, chunked: bool },
    /// Before the length of a chunk.
    ChunkSize,
    /// Before the empty line that ends a chunk.
    ChunkEnd,
    /// After the last chunk.
    Trailers,
    /// Not understood: the library refuses it, or has it end the connection.
    Lost,
}

/// Follows the requests of one connection.
#[derive(Debug, Default)]
struct Framing {
    state: State,
    line: Vec<u8>,
    /// Something of the head was there.
    begun: bool,
    length: Option<u64>,
    chunked: bool,
    heads: u64,
}

impl Framing {
    /// Whether a head has begun and not ended.
    fn in_head(&self) -> bool {
        self.state == State::Head && (self.begun || !self.line.is_empty())
    }

    /// Takes what was read; returns the number of a head that carries both headers.
    fn feed(&mut self, mut bytes: &[u8]) -> Option<u64> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Lost => return None,
                State::Data { left, chunked } => {
                    let taken = (*left).min(bytes.len() as u64);
                    bytes = &bytes[taken as usize..];
                    *left -= taken;
                    if *left == 0 {
                        self.state = if *chunked { State::ChunkEnd } else { State::Head };
                    }
                }
                State::Head | State::ChunkSize | State::ChunkEnd | State::Trailers => {
                    let end = bytes.iter().position(|byte| *byte == b'\n');
                    let piece = &bytes[..end.unwrap_or(bytes.len())];
                    let room = LINE - self.line.len();
                    self.line.extend_from_slice(&piece[..piece.len().min(room)]);
                    let end = end?;
                    bytes = &bytes[end + 1..];
                    let mut line = std::mem::take(&mut self.line);
                    if line.last() == Some(&b'\r') {
                        line.pop();
                    }
                    let ambiguous = self.line(&line);
                    line.clear();
                    self.line = line;
                    if ambiguous {
                        return Some(self.heads);
                    }
                }
            }
        }
        if self.state != State::Head {
            self.line = Vec::new();
        }
        None
    }

    /// Takes a whole line; says whether a head ended that carries both headers.
    fn line(&mut self, line: &[u8]) -> bool {
        match self.state {
            State::Head if line.is_empty() && self.begun => return self.head_ended(),
            // Empty lines before a request are ignored.
            State::Head if line.is_empty() => {}
            State::Head => {
                self.begun = true;
                if let Some(value) = value_of(line, b"content-length") {
                    self.length = Some(number(value, 10).unwrap_or_else(|| {
                        // Refused by the library, unless the number is behind more spaces than are looked at: refused as well.
                        self.chunked = true;
                        0
                    }));
                } else if value_of(line, b"transfer-encoding").is_some() {
                    self.chunked = true;
                }
            }
            State::ChunkSize => {
                let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
                self.state = match number(&line[..digits], 16) {
                    Some(0) => State::Trailers,
                    Some(left) => State::Data { left, chunked: true },
                    None => State::Lost,
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => self.state = State::Lost,
            State::Trailers if line.is_empty() => self.state = State::Head,
            State::Trailers | State::Data { .. } | State::Lost => {}
        }
        false
    }

    fn head_ended(&mut self) -> bool {
        self.begun = false;
        let (length, chunked) = (self.length.take(), std::mem::take(&mut self.chunked));
        if length.is_some() && chunked {
            self.state = State::Lost;
            return true;
        }
        self.heads += 1;
        self.state = match length {
            _ if chunked => State::ChunkSize,
            None | Some(0) => State::Head,
            Some(left) => State::Data { left, chunked: false },
        };
        false
    }
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    line[..colon].trim_ascii().eq_ignore_ascii_case(name).then(|| line[colon + 1..].trim_ascii())
}

fn number(digits: &[u8], radix: u32) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, radix).ok()
}

/// A connection whose requests are followed.
pub(super) struct Watched<S> {
    inner: S,
    framing: Framing,
    ambiguous: Arc<Ambiguous>,
    // Runs while a head is incomplete.
    head: Option<Pin<Box<Sleep>>>,
}

impl<S> Watched<S> {
    pub(super) fn new(inner: S, ambiguous: Arc<Ambiguous>) -> Self {
        Self { inner, framing: Framing::default(), ambiguous, head: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.inner).poll_read(cx, buf);
        if this.ambiguous.is(STOPPED) {
            return read;
        }
        if read.is_pending() {
            if let Some(head) = &mut this.head {
                ready!(head.as_mut().poll(cx));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Pending;
        }
        if let Some(n) = this.framing.feed(&buf.filled()[before..]) {
            this.ambiguous.0.store(n, Relaxed);
        }
        if !this.framing.in_head() {
            this.head = None;
        } else if this.head.is_none() {
            this.head = Some(Box::pin(sleep(HEAD_TIME)));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `text` in pieces of `step` bytes; returns the ambiguous head, and how many heads there were otherwise.
    fn feed(text: &str, step: usize) -> (Option<u64>, u64) {
        let mut framing = Framing::default();
        for piece in text.as_bytes().chunks(step) {
            if let Some(n) = framing.feed(piece) {
                return (Some(n), framing.heads);
            }
        }
        (None, framing.heads)
    }

    const BOTH: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX: y\r\nTRANSFER-encoding : chunked\r\n\r\n";
    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const SIZED: &str =
        "POST / HTTP/1.1\r\ncontent-length: 47\r\n\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n";
    const CHUNKED: &str = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2F;x=1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\ncontent-length: 1\r\n\r\n";

    #[test]
    fn both_headers_in_one_head_are_found_wherever_reads_end() {
        for step in 1..=BOTH.len() {
            assert_eq!(feed(BOTH, step), (Some(0), 0), "{step}");
        }
    }

    #[test]
    fn bodies_are_not_mistaken_for_heads() {
        let text = [GET, SIZED, "\r\n", CHUNKED, GET].concat();
        for step in 1..=text.len() {
            assert_eq!(feed(&text, step), (None, 4), "{step}");
        }
    }

    #[test]
    fn a_length_that_hides_behind_spaces_is_not_overlooked() {
        let hidden = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length:{}99\r\n\r\n", " ".repeat(200));
        assert_eq!(feed(&hidden, 7), (Some(0), 0));
    }

    #[test]
    fn a_later_request_on_the_connection_is_found_by_its_number() {
        let text = [GET, CHUNKED, SIZED, BOTH].concat();
        for step in 1..=text.len() {
            assert_eq!(feed(&text, step), (Some(3), 3), "{step}");
        }
    }

    #[test]
    fn an_unfinished_head_is_told_from_silence() {
        let mut framing = Framing::default();
        assert!(!framing.in_head());
        framing.feed(b"GE");
        assert!(framing.in_head());
        framing.feed(b"T / HTTP/1.1\r\nhost: a\r\n");
        assert!(framing.in_head());
        framing.feed(b"\r\n");
        assert!(!framing.in_head());
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_does_not_end_ends_the_connection_but_a_pause_between_requests_does_not() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut client, server) = tokio::io::duplex(1024);
        let mut server = Watched::new(server, Arc::default());
        let mut read = [0; 1024];
        client.write_all(GET.as_bytes()).await.unwrap();
        assert_eq!(server.read(&mut read).await.unwrap(), GET.len());

        let pause = tokio::time::timeout(10 * HEAD_TIME, server.read(&mut read)).await;
        assert!(pause.is_err(), "still waiting for the next request");

        client.write_all(b"GET / HTTP/1.1\r\nx: ").await.unwrap();
        assert!(server.read(&mut read).await.unwrap() > 0);
        let error = server.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_grow_or_panic(bytes: Vec<Vec<u8>>) {
            let mut framing = Framing::default();
            for piece in bytes {
                framing.feed(&piece);
                proptest::prop_assert!(framing.line.len() <= LINE);
            }
        }
    }
}
