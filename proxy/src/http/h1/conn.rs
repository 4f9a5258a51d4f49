//! A connection that carries HTTP/1, and the bodies on it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::io::AsyncWrite;

use super::{Chunked, Framing, Item, Refusal};
use crate::tcp::{Stream, buffers};

/// What is gathered before it is written.
const GATHER: usize = 16 * 1024;

/// What is read ahead of who should read it: the next request of a client that does not wait for answers.
const AHEAD: usize = 64 * 1024;

/// One connection. Who reads and who writes it share it within one task, so its lock never waits.
#[derive(Debug)]
pub struct Conn {
    stream: Stream,
    /// Read and not looked at.
    pub(super) rest: BytesMut,
    /// To be written, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Bytes that the kernel or TLS took; of the request alone, on the side that calls.
    pub(super) taken: u64,
    /// Something was written since the last flush that was done.
    unflushed: bool,
    pub(super) ended: bool,
    /// A body was begun with and not read to its end.
    pub(super) unread: bool,
    /// The last exchange left the connection ready for the next.
    pub(super) reusable: bool,
}

impl Conn {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            rest: BytesMut::new(),
            out: Vec::new(),
            written: 0,
            taken: 0,
            unflushed: false,
            ended: false,
            unread: false,
            reusable: true,
        }
    }

    /// Whether the next request can go over it: nothing was said that was not asked for, and it was not closed.
    pub(crate) fn rests(&mut self, cx: &mut Context<'_>) -> bool {
        self.reusable && self.rest.is_empty() && !self.ended && self.poll_fill(cx).is_pending()
    }

    /// Whether [`Conn::rests`] may hold once nobody uses it any more.
    pub(crate) fn reusable(&self) -> bool {
        self.reusable
    }

    /// What is left of it once it carries something else than messages.
    pub(crate) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream, self.rest.freeze())
    }

    /// Reads once; 0: the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let piece = ready!(buffers::read(Pin::new(&mut self.stream), cx))?;
        let len = piece.len();
        self.ended |= len == 0;
        if self.rest.is_empty() {
            self.rest = piece;
        } else {
            self.rest.extend_from_slice(&piece);
        }
        Poll::Ready(Ok(len))
    }

    /// Waits for the end of the connection while something else is under way; what is said meanwhile is kept for later.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.ended && !self.unread && self.rest.len() < AHEAD {
            match self.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => self.ended = true,
                Poll::Ready(Ok(_)) => buffers::settle(&mut self.rest),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.ended && !self.unread { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Where the next bytes to be written are gathered.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        if self.out.capacity() == 0 {
            self.out = buffers::take();
        }
        &mut self.out
    }

    pub(super) fn has_out(&self) -> bool {
        self.written < self.out.len()
    }

    /// Whether the peer has to take something before more can be written.
    pub(super) fn is_blocked(&self) -> bool {
        self.has_out() || self.unflushed
    }

    /// Whether enough was gathered.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() - self.written >= GATHER
    }

    /// Writes what was gathered.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_write(cx, &mut Bytes::new())
    }

    /// Writes what was gathered, and `data` behind it.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        while self.has_out() || !data.is_empty() {
            let gathered = &self.out[self.written..];
            let stream = Pin::new(&mut self.stream);
            let written = if data.is_empty() {
                ready!(stream.poll_write(cx, gathered))?
            } else if gathered.is_empty() {
                ready!(stream.poll_write(cx, data))?
            } else {
                ready!(stream.poll_write_vectored(cx, &[IoSlice::new(gathered), IoSlice::new(data)]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_gathered = written.min(gathered.len());
            self.written += of_gathered;
            data.advance(written - of_gathered);
            self.taken += written as u64;
            self.unflushed = true;
        }
        if !self.out.is_empty() {
            buffers::give(std::mem::take(&mut self.out));
            self.written = 0;
        }
        if self.unflushed {
            // TLS may hold back what the kernel did not take. That may take more than one call, and nobody else asks again.
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Adds a piece of a body: copied if it is small, else written at once behind what was gathered. `data` is empty once it was taken.
    pub(super) fn poll_add(&mut self, cx: &mut Context<'_>, data: &mut Bytes) -> Poll<io::Result<()>> {
        if self.out.len() - self.written + data.len() <= GATHER {
            let data = std::mem::take(data);
            self.out().extend_from_slice(&data);
            return Poll::Ready(Ok(()));
        }
        self.poll_write(cx, data)
    }

    /// Has the peer see that what it got may be incomplete.
    pub(super) fn reset(&mut self) {
        self.stream.abort();
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body that is read from a connection.
#[derive(Debug)]
pub struct H1Body {
    /// `None`: it was read to its end.
    conn: Option<Arc<Mutex<Conn>>>,
    decoder: Decoder,
    /// With the end the connection can carry another message, as far as the body's side is concerned.
    keep: bool,
}

#[derive(Debug)]
enum Decoder {
    Length(u64),
    Chunked(Box<Chunked>),
    Close,
}

impl H1Body {
    /// `None`: there is nothing to read.
    pub(super) fn new(conn: &Arc<Mutex<Conn>>, framing: Framing, keep: bool) -> Option<Self> {
        let decoder = match framing {
            Framing::None => return None,
            Framing::Length(length) => Decoder::Length(length),
            Framing::Chunked => Decoder::Chunked(Box::default()),
            Framing::Close => return Some(Self::until_close(conn)),
        };
        conn.lock().unread = true;
        Some(Self { conn: Some(conn.clone()), decoder, keep })
    }

    /// All that comes.
    pub(super) fn until_close(conn: &Arc<Mutex<Conn>>) -> Self {
        conn.lock().unread = true;
        Self { conn: Some(conn.clone()), decoder: Decoder::Close, keep: false }
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.conn.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        match (&self.conn, &self.decoder) {
            (None, _) => SizeHint::with_exact(0),
            (Some(_), Decoder::Length(left)) => SizeHint::with_exact(*left),
            (Some(_), Decoder::Chunked(_) | Decoder::Close) => SizeHint::default(),
        }
    }

    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(conn) = self.conn.clone() else { return Poll::Ready(None) };
        let mut conn = conn.lock();
        loop {
            if !conn.rest.is_empty() {
                match self.decode(&mut conn) {
                    Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                    Ok(None) if self.conn.is_none() => return Poll::Ready(None),
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(Some(Err(malformed(refusal)))),
                }
            }
            if conn.ended {
                return Poll::Ready(match self.decoder {
                    Decoder::Close => {
                        self.end(&mut conn);
                        None
                    }
                    Decoder::Length(_) | Decoder::Chunked(_) => Some(Err(io::ErrorKind::UnexpectedEof.into())),
                });
            }
            ready!(conn.poll_fill(cx))?;
        }
    }

    /// Takes what it can from what was read.
    fn decode(&mut self, conn: &mut Conn) -> Result<Option<Frame<Bytes>>, Refusal> {
        match &mut self.decoder {
            Decoder::Length(left) => {
                let here = (*left).min(conn.rest.len() as u64);
                *left -= here;
                let ends = *left == 0;
                let data = take(&mut conn.rest, here as usize);
                if ends {
                    self.end(conn);
                }
                Ok(Some(Frame::data(data)))
            }
            Decoder::Close => Ok(Some(Frame::data(std::mem::take(&mut conn.rest).freeze()))),
            Decoder::Chunked(chunked) => {
                let (skip, item) = chunked.next(&conn.rest)?;
                conn.rest.advance(skip);
                match item {
                    Item::More => {
                        // All of it was looked at.
                        conn.rest = BytesMut::new();
                        Ok(None)
                    }
                    Item::Data(len) => Ok(Some(Frame::data(take(&mut conn.rest, len)))),
                    Item::End(trailers) => {
                        self.end(conn);
                        Ok(trailers.map(Frame::trailers))
                    }
                }
            }
        }
    }

    /// The connection ends with this body.
    pub(super) fn close(&mut self) {
        self.keep = false;
    }

    fn end(&mut self, conn: &mut Conn) {
        conn.unread = false;
        conn.reusable = self.keep;
        self.conn = None;
        buffers::settle(&mut conn.rest);
    }
}

/// The first bytes of what was read; the place of what is used up is given back.
fn take(rest: &mut BytesMut, len: usize) -> Bytes {
    if len >= rest.len() { std::mem::take(rest).freeze() } else { rest.split_to(len).freeze() }
}

pub(super) fn malformed(refusal: Refusal) -> io::Error {
    let why = match refusal {
        Refusal::Malformed(why) => why,
        Refusal::HeadTooLarge => "a head that is too large",
        Refusal::TargetTooLong => "a target that is too long",
    };
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;
    use crate::{
        identity::{
            Alpn, Identity,
            testing::{Authority, domain, id},
        },
        tcp::Prefixed,
    };

    const WORKLOAD: &str = "spiffe://cluster.local/ns/test/sa/workload";

    #[tokio::test]
    async fn nothing_counts_as_written_while_tls_holds_it_back() {
        let authority = Authority::new();
        let identity = Identity::new(domain(), authority.leaf(WORKLOAD), authority.bundle(1)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().await.unwrap();
        let connector = TlsConnector::from(identity.client_config(&id(WORKLOAD), Alpn::Http1).unwrap());
        let name = "ignored.example".try_into().unwrap();
        let (ours, peer) = tokio::join!(
            connector.connect(name, Prefixed::new(tcp, Bytes::new())),
            TlsAcceptor::from(identity.server_config()).accept(peer)
        );
        let (mut conn, mut peer) = (Conn::new(Stream::Tls(Box::new(ours.unwrap().into()))), peer.unwrap());

        // More and more, until the kernel takes no more; TLS has taken the last piece by then.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut said = 0;
        loop {
            conn.out().extend_from_slice(&[b'x'; 1000]);
            said += 1000;
            if conn.poll_flush(&mut cx).is_pending() {
                break;
            }
            tokio::task::consume_budget().await;
        }
        assert!(!conn.has_out(), "TLS took it");
        assert!(conn.poll_flush(&mut cx).is_pending(), "nobody has read, so it cannot have left");

        let mut heard = vec![0; said];
        let (flushed, read) = tokio::join!(std::future::poll_fn(|cx| conn.poll_flush(cx)), peer.read_exact(&mut heard));
        flushed.unwrap();
        read.unwrap();
    }
}
