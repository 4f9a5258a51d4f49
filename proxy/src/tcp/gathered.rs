//! A stream that writes what is said in one turn at once.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::buffers;

/// What is gathered before it is written in any case: one record of TLS.
const GATHER: usize = 16 * 1024;

/// Gathers what is written until the end of a turn ([`Gathered::over`]), whatever is flushed meanwhile.
///
/// The `h2` crate writes and flushes each piece of a body alone, so ten answers that are ready at the same moment are ten system calls and
/// ten records. One clone is for `h2`; with another the task that drives the connection does so in turns. Both are of one task, so the
/// lock never waits.
#[derive(Debug)]
pub(crate) struct Gathered<S>(Arc<Mutex<Gathering<S>>>);

#[derive(Debug)]
struct Gathering<S> {
    inner: S,
    /// To be written, from `written` on.
    out: Vec<u8>,
    written: usize,
    /// Something was written since the last flush that was done.
    unflushed: bool,
    /// Why writing failed at the end of a turn; whoever reads next is told.
    broken: Option<io::Error>,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    pub(crate) fn new(inner: S) -> Self {
        let (out, written, unflushed, broken) = (Vec::new(), 0, false, None);
        Self(Arc::new(Mutex::new(Gathering { inner, out, written, unflushed, broken })))
    }

    /// Drives `future` and ends a turn whenever it has to wait; when it does not, whoever goes on with the connection does.
    pub(crate) async fn over<F: Future>(&self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let polled = future.as_mut().poll(cx);
            if polled.is_pending() {
                self.end_turn(cx);
            }
            polled
        })
        .await
    }

    /// Writes what was gathered, now or as soon as the peer takes it; then the task is woken and has to end another turn.
    fn end_turn(&self, cx: &mut Context<'_>) {
        let mut gathering = self.0.lock();
        if let Poll::Ready(Err(error)) = gathering.poll_flush(cx) {
            gathering.broken = Some(error);
            cx.waker().wake_by_ref();
        }
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.out.len() {
            match ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        buffers::give(std::mem::take(&mut self.out));
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unflushed {
            ready!(self.poll_out(cx))?;
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let len = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        self.unflushed = true;
        if self.out.len() + len > GATHER {
            ready!(self.poll_out(cx))?;
        }
        if len > GATHER {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, pieces);
        }
        if self.out.capacity() == 0 {
            self.out = buffers::take();
        }
        for piece in pieces {
            self.out.extend_from_slice(piece);
        }
        Poll::Ready(Ok(len))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        match gathering.broken.take() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut gathering.inner).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The end of the turn does it.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.lock();
        ready!(gathering.poll_flush(cx))?;
        Pin::new(&mut gathering.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    /// Remembers how long each write was.
    #[derive(Default)]
    struct Writes(Vec<usize>);

    impl AsyncWrite for Writes {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_a_turn_says_is_one_write_and_what_is_long_goes_on_at_once() {
        let mut stream = Gathered::new(Writes::default());
        let turn = stream.clone();
        for _ in 0..10 {
            stream.write_all(&[b'x'; 100]).await.unwrap();
            stream.flush().await.unwrap();
        }
        assert!(turn.0.lock().inner.0.is_empty(), "the turn goes on");
        let mut cx = Context::from_waker(Waker::noop());
        turn.end_turn(&mut cx);
        assert_eq!(turn.0.lock().inner.0, [1000]);

        stream.write_all(&[b'x'; 100]).await.unwrap();
        stream.write_all(&vec![b'x'; GATHER + 1]).await.unwrap();
        turn.end_turn(&mut cx);
        assert_eq!(turn.0.lock().inner.0, [1000, 100, GATHER + 1]);

        stream.write_all(b"bye").await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(turn.0.lock().inner.0.last(), Some(&3), "nobody ends a turn after the last");
    }

    #[tokio::test]
    async fn everything_arrives_in_order_at_a_peer_that_reads_slowly() {
        let (near, mut far) = duplex(7);
        let mut stream = Gathered::new(near);
        let turn = stream.clone();
        let said: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let saying = async {
            for (n, piece) in said.chunks(977).enumerate() {
                stream.write_all(piece).await.unwrap();
                if n % 3 == 0 {
                    poll_fn(|cx| {
                        turn.end_turn(cx);
                        if turn.0.lock().unflushed { Poll::Pending } else { Poll::Ready(()) }
                    })
                    .await;
                }
            }
            stream.shutdown().await.unwrap();
        };
        let mut heard = Vec::new();
        let ((), read) = tokio::join!(saying, far.read_to_end(&mut heard));
        read.unwrap();
        assert!(heard == said);
    }

    #[tokio::test]
    async fn a_peer_that_is_gone_is_told_to_who_reads() {
        let (near, far) = duplex(64);
        let mut stream = Gathered::new(near);
        let turn = stream.clone();
        drop(far);
        stream.write_all(b"hello").await.unwrap();
        turn.end_turn(&mut Context::from_waker(Waker::noop()));
        assert_eq!(stream.read_u8().await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
