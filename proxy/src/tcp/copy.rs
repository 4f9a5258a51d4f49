//! Joins two connections.
//!
//! A direction that rests holds no buffer: bytes are read into a buffer of the thread and written from there at once. Only what the
//! receiver does not take is kept, at most one read, until it does; so memory is bounded by how many connections are stuck, not by how
//! many there are.

use std::{
    cell::RefCell,
    future::{pending, poll_fn},
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What one read takes at most. Large reads make bulk transfers cheaper by a fifth compared with 4 KiB; as there is one such buffer per
/// thread, its size costs nothing per connection. With the four bytes before a piece in a tunnel it fills four records of TLS.
const SCRATCH: usize = 64 * 1024 - 4;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH].into_boxed_slice());
}

/// How many bytes went each way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// From the first stream to the second.
    pub forth: u64,
    /// From the second to the first.
    pub back: u64,
}

/// Copies both ways until both sides have ended. The end of one direction is passed on at once (half-close), the other goes on.
///
/// An error of either side ends both; the caller then resets them, so that nobody takes a cut-off stream for a whole one. The counts are
/// right in any case.
pub async fn both_ways<A, B>(a: &mut A, b: &mut B) -> (Copied, io::Result<()>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    both_ways_until(a, b, pending()).await
}

/// The same, with an error as soon as `cut_off` is ready.
pub async fn both_ways_until<A, B>(a: &mut A, b: &mut B, cut_off: impl Future<Output = ()>) -> (Copied, io::Result<()>)
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let mut forth = Flow::default();
    let mut back = Flow::default();
    let mut cut_off = pin!(cut_off);
    let result = poll_fn(|cx| {
        if cut_off.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let first = forth.poll(cx, Pin::new(&mut *a), Pin::new(&mut *b))?;
        let second = back.poll(cx, Pin::new(&mut *b), Pin::new(&mut *a))?;
        if first.is_ready() && second.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await;
    let copied = Copied { forth: forth.copied, back: back.copied };
    (copied, result)
}

/// One direction.
#[derive(Default)]
struct Flow {
    // What the receiver has not taken yet, from `taken` on.
    left: Vec<u8>,
    taken: usize,
    copied: u64,
    unflushed: bool,
    state: State,
}

#[derive(Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    Ended,
    Done,
}

impl Flow {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, mut from: Pin<&mut R>, mut to: Pin<&mut W>) -> Poll<io::Result<()>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        loop {
            while self.taken < self.left.len() {
                let written = ready!(to.as_mut().poll_write(cx, &self.left[self.taken..]))?;
                self.took(written)?;
                self.taken += written;
            }
            if !self.left.is_empty() {
                (self.left, self.taken) = (Vec::new(), 0);
            }
            match self.state {
                State::Done => return Poll::Ready(Ok(())),
                State::Ended => {
                    ready!(to.as_mut().poll_shutdown(cx))?;
                    self.state = State::Done;
                    return Poll::Ready(Ok(()));
                }
                State::Open => {}
            }
            let read = BUFFER.with_borrow_mut(|scratch| self.read_and_write(cx, scratch, from.as_mut(), to.as_mut()));
            if read.is_pending() {
                if self.unflushed {
                    self.unflushed = to.as_mut().poll_flush(cx)?.is_pending();
                }
                return Poll::Pending;
            }
            ready!(read)?;
        }
    }

    /// One read, and one write of what came; `Pending` only for the read.
    fn read_and_write<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        scratch: &mut [u8],
        from: Pin<&mut R>,
        to: Pin<&mut W>,
    ) -> Poll<io::Result<()>>
    where
        R: AsyncRead,
        W: AsyncWrite,
    {
        let mut buffer = ReadBuf::new(scratch);
        ready!(from.poll_read(cx, &mut buffer))?;
        let bytes = buffer.filled();
        if bytes.is_empty() {
            self.state = State::Ended;
            return Poll::Ready(Ok(()));
        }
        let written = match to.poll_write(cx, bytes) {
            Poll::Ready(written) => {
                let written = written?;
                self.took(written)?;
                written
            }
            Poll::Pending => 0,
        };
        self.left = bytes[written..].to_vec();
        Poll::Ready(Ok(()))
    }

    fn took(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.copied += written as u64;
        self.unflushed = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn half_close_is_passed_on_while_the_other_direction_goes_on() {
        let (mut client, mut a) = duplex(64);
        let (mut b, mut server) = duplex(64);
        let joined = tokio::spawn(async move { both_ways(&mut a, &mut b).await });

        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = String::new();
        server.read_to_string(&mut question).await.unwrap();
        assert_eq!(question, "question");

        server.write_all(b"a longer answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "a longer answer");

        let (copied, result) = joined.await.unwrap();
        result.unwrap();
        assert_eq!(copied, Copied { forth: 8, back: 15 });
    }

    #[tokio::test]
    async fn a_slow_receiver_gets_every_byte_in_order() {
        let (mut client, mut a) = duplex(300_000);
        let (mut b, mut server) = duplex(7);
        tokio::spawn(async move { both_ways(&mut a, &mut b).await });
        let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
        client.write_all(&sent).await.unwrap();
        client.shutdown().await.unwrap();
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert!(sent == received);
    }

    #[tokio::test]
    async fn what_rests_is_small() {
        let (mut a, _client) = duplex(8);
        let (mut b, _server) = duplex(8);
        let joined = both_ways(&mut a, &mut b);
        assert!(size_of_val(&joined) < 512, "{} bytes", size_of_val(&joined));
    }
}
