//! A TCP connection, plain or inside TLS, whose first bytes may have been read already.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use super::{Tunnel, buffers};

/// A TCP connection and what detection has read from it.
#[derive(Debug)]
pub struct Prefixed {
    tcp: TcpStream,
    prefix: Bytes,
}

/// One side of what the proxy joins.
#[derive(Debug)]
pub enum Stream {
    /// As it came.
    Plain(Prefixed),
    /// Between proxies, or to an endpoint outside the mesh. Boxed: a session is a kilobyte, and most connections of a pod in plain would carry it for nothing.
    Tls(Box<TlsStream<Prefixed>>),
    /// One of several connections, one after the other, over one of the latter.
    Tunnel(Box<Tunnel>),
}

impl Prefixed {
    /// `prefix` is read before anything else.
    pub fn new(tcp: TcpStream, prefix: Bytes) -> Self {
        Self { tcp, prefix }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.tcp
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::Plain(Prefixed::new(tcp, Bytes::new()))
    }
}

impl Stream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => &stream.tcp,
            Self::Tls(stream) => &stream.get_ref().0.tcp,
            Self::Tunnel(tunnel) => tunnel.tcp(),
        }
    }

    /// Closes so that the peer sees an error and not an orderly end: what it got may be incomplete.
    pub fn reset(self) {
        self.abort();
    }

    /// The same for when it will be closed.
    pub(crate) fn abort(&self) {
        reset(self.tcp());
    }
}

/// Lets the kernel find out about peers that vanished while nothing is sent: their connections would stay for ever, and so would requests
/// that wait for their answers. Sockets that a listener accepts inherit it.
pub(crate) fn keep_alive(socket: &socket2::Socket) -> io::Result<()> {
    let probes = socket2::TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&probes)
}

/// Makes the close of `tcp` abortive.
pub(crate) fn reset(tcp: &TcpStream) {
    // Without it the close is merely orderly.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// Something to read and write of which some was read already.
#[derive(Debug)]
pub struct Ahead<S> {
    ahead: Bytes,
    inner: S,
}

impl<S> Ahead<S> {
    /// `ahead` is read before anything else.
    pub fn new(inner: S, ahead: Bytes) -> Self {
        Self { ahead, inner }
    }

    /// What is read from and written to.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Ahead<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        read_from(&mut self.ahead, buf);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Ahead<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Moves as much as fits.
fn read_from(ahead: &mut Bytes, buf: &mut ReadBuf<'_>) {
    let len = ahead.len().min(buf.remaining());
    buf.put_slice(&ahead[..len]);
    ahead.advance(len);
    if ahead.is_empty() {
        // Frees what it was a part of.
        *ahead = Bytes::new();
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { tcp, prefix } = &mut *self;
        if prefix.is_empty() {
            if buf.remaining() >= buffers::READ {
                return Pin::new(tcp).poll_read(cx, buf);
            }
            // TLS asks for little at a time. One system call fetches what there is.
            *prefix = ready!(buffers::read_sealed(Pin::new(tcp), cx))?.freeze();
        }
        read_from(prefix, buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tunnel(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tunnel(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
            Self::Tunnel(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tunnel(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
