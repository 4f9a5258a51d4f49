//! A stream that lets others on its thread have their turn.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one turn may read. The smallest frames of HTTP/2 take 9 bytes, so this is some thousand of them, a few milliseconds; an ordinary
/// turn finds less.
const TURN: usize = 64 * 1024;

/// Reads [`TURN`] and a buffer at most before its task yields, however much there is.
///
/// The runtime counts reads, 128 of them a turn. That bounds what a task does per byte, but who parses as long as there are bytes does
/// thousands of times as much when a peer sends frames of nothing without end.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    inner: S,
    read: usize,
}

impl<S> Paced<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self { inner, read: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { inner, read } = &mut *self;
        if *read >= TURN {
            *read = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = Pin::new(inner).poll_read(cx, buf);
        if polled.is_pending() {
            *read = 0;
        }
        ready!(polled)?;
        *read += buf.filled().len() - before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
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
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    };

    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn others_have_their_turn_while_a_stream_has_no_end() {
        let turns = Arc::new(AtomicUsize::new(0));
        let others = turns.clone();
        let other = tokio::spawn(async move {
            loop {
                others.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
            }
        });
        let mut endless = Paced::new(tokio::io::repeat(7));
        let mut buffer = vec![0; 1024];
        for _ in 0..16 * TURN / buffer.len() {
            endless.read_exact(&mut buffer).await.unwrap();
        }
        other.abort();
        assert!(turns.load(Relaxed) >= 15, "{turns:?}");
    }
}
