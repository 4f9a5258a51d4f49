//! Opaque connections between two proxies, one after the other over one authenticated connection.
//!
//! A handshake costs several times what a short connection costs otherwise, so the connection is kept. What it carries is in pieces, each
//! behind four bytes that say how long it is; three lengths that no piece has mean something else: [`END`], [`OPEN`], [`LEAVING`]. One
//! connection at a time: there is no interleaving, and whatever is not in order closes the tunnel.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;
use tokio_util::sync::CancellationToken;

use super::Prefixed;

/// This direction has ended; the other may go on.
const END: u32 = 0;

/// A connection begins. Said by the side that made the tunnel.
const OPEN: u32 = u32::MAX;

/// There will be no other connection than one that begins at this moment. Said by the side that was called, between two.
const LEAVING: u32 = u32::MAX - 1;

/// The longest piece.
const MAX_PIECE: u32 = 64 * 1024;

const WORD: usize = 4;

/// One side of a tunnel.
#[derive(Debug)]
pub struct Tunnel<S = TlsStream<Prefixed>> {
    inner: Box<S>,
    incoming: Half,
    /// The other side said that this is the last connection.
    last: bool,
    /// A word that is being read.
    word: [u8; WORD],
    read: usize,
    outgoing: Half,
    /// Words that go before what is written next.
    lead: Lead,
}

/// One direction.
#[derive(Debug, PartialEq, Eq)]
enum Half {
    /// Of the current piece so many bytes are left.
    Open {
        left: u32,
    },
    /// The end is being written.
    Ending,
    Ended,
}

#[derive(Debug, Default)]
struct Lead {
    bytes: [u8; 2 * WORD],
    from: usize,
    to: usize,
}

impl Lead {
    fn push(&mut self, word: u32) {
        if self.to + WORD > self.bytes.len() {
            // What was written already makes room.
            self.bytes.copy_within(self.from..self.to, 0);
            self.to -= self.from;
            self.from = 0;
        }
        if let Some(place) = self.bytes.get_mut(self.to..self.to + WORD) {
            place.copy_from_slice(&word.to_be_bytes());
            self.to += WORD;
        }
    }

    fn rest(&self) -> &[u8] {
        &self.bytes[self.from..self.to]
    }

    fn wrote(&mut self, len: usize) {
        self.from += len;
        if self.from == self.to {
            (self.from, self.to) = (0, 0);
        }
    }
}

impl Tunnel {
    pub(super) fn tcp(&self) -> &TcpStream {
        self.inner.get_ref().0.tcp()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Tunnel<S> {
    /// Over a connection that carries nothing yet.
    pub(crate) fn new(inner: Box<S>) -> Self {
        Self {
            inner,
            incoming: Half::Ended,
            last: false,
            word: [0; WORD],
            read: 0,
            outgoing: Half::Ended,
            lead: Lead::default(),
        }
    }

    /// Begins a connection. The other side is told with the first piece, or as soon as an answer is waited for.
    pub(crate) fn open(&mut self) {
        self.begin();
        self.lead.push(OPEN);
    }

    fn begin(&mut self) {
        self.incoming = Half::Open { left: 0 };
        self.outgoing = Half::Open { left: 0 };
    }

    /// Whether both directions have ended, and the next connection can begin.
    pub(crate) fn rests(&self) -> bool {
        self.incoming == Half::Ended
            && self.outgoing == Half::Ended
            && self.lead.rest().is_empty()
            && self.read == 0
            && !self.last
    }

    /// Whether the other side is still there and has not said that it leaves.
    pub(crate) fn lives(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.rests() && self.poll_word(&mut cx).is_pending() && self.read == 0
    }

    /// Waits for the next connection; false: there is none. Once `leaving`, the other side is told, and whatever it began before it
    /// heard of that is still accepted.
    pub(crate) async fn accept(&mut self, leaving: &CancellationToken) -> io::Result<bool> {
        let word = tokio::select! {
            word = poll_fn(|cx| self.poll_word(cx)) => word?,
            () = leaving.cancelled() => {
                if self.lead.rest().is_empty() {
                    self.lead.push(LEAVING);
                }
                poll_fn(|cx| self.poll_lead(cx)).await?;
                poll_fn(|cx| self.poll_word(cx)).await?
            }
        };
        match word {
            None => Ok(false),
            Some(OPEN) => {
                self.begin();
                Ok(true)
            }
            Some(_) => Err(out_of_order()),
        }
    }

    /// Reads a word; `None`: the tunnel was closed before it.
    fn poll_word(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<u32>>> {
        while self.read < WORD {
            let mut place = ReadBuf::new(&mut self.word[self.read..]);
            ready!(Pin::new(&mut *self.inner).poll_read(cx, &mut place))?;
            match place.filled().len() {
                0 if self.read == 0 => return Poll::Ready(Ok(None)),
                0 => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                len => self.read += len,
            }
        }
        self.read = 0;
        Poll::Ready(Ok(Some(u32::from_be_bytes(self.word))))
    }

    fn poll_lead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.lead.rest().is_empty() {
            let written = ready!(Pin::new(&mut *self.inner).poll_write(cx, self.lead.rest()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.lead.wrote(written);
        }
        Pin::new(&mut *self.inner).poll_flush(cx)
    }
}

fn out_of_order() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a tunnel out of order")
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.lead.rest().is_empty() {
            // The server may be the one to speak first, and does not know yet that there is somebody to speak to.
            let _ = this.poll_lead(cx)?;
        }
        let left = loop {
            match this.incoming {
                Half::Ended | Half::Ending => return Poll::Ready(Ok(())),
                Half::Open { left: 0 } => match ready!(this.poll_word(cx))? {
                    Some(END) => this.incoming = Half::Ended,
                    // Said before it heard of this connection.
                    Some(LEAVING) if !this.last => this.last = true,
                    Some(left @ 1..=MAX_PIECE) => this.incoming = Half::Open { left },
                    Some(_) => return Poll::Ready(Err(out_of_order())),
                    None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                },
                Half::Open { left } => break left,
            }
        };
        let wanted = buf.remaining().min(left as usize);
        let mut piece = ReadBuf::new(buf.initialize_unfilled_to(wanted));
        ready!(Pin::new(&mut *this.inner).poll_read(cx, &mut piece))?;
        let len = piece.filled().len();
        if len == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buf.advance(len);
        this.incoming = Half::Open { left: left - len as u32 };
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let left = match this.outgoing {
            Half::Open { left: 0 } => {
                let len = (buf.len() as u64).min(u64::from(MAX_PIECE)) as u32;
                if len == 0 {
                    return Poll::Ready(Ok(0));
                }
                this.lead.push(len);
                this.outgoing = Half::Open { left: len };
                len
            }
            Half::Open { left } => left,
            Half::Ending | Half::Ended => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        };
        let data = &buf[..buf.len().min(left as usize)];
        loop {
            let lead = this.lead.rest();
            let inner = Pin::new(&mut *this.inner);
            let written = if lead.is_empty() {
                ready!(inner.poll_write(cx, data))?
            } else {
                ready!(inner.poll_write_vectored(cx, &[IoSlice::new(lead), IoSlice::new(data)]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_lead = written.min(lead.len());
            this.lead.wrote(of_lead);
            let of_data = written - of_lead;
            if of_data > 0 {
                this.outgoing = Half::Open { left: left - of_data as u32 };
                return Poll::Ready(Ok(of_data));
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_lead(cx)
    }

    /// Ends this direction; the tunnel stays.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.outgoing {
            Half::Open { left: 0 } => {
                self.lead.push(END);
                self.outgoing = Half::Ending;
            }
            // The piece was announced longer than it came: nobody can tell the rest from another.
            Half::Open { .. } => return Poll::Ready(Err(out_of_order())),
            Half::Ending => {}
            Half::Ended => return Poll::Ready(Ok(())),
        }
        ready!(self.poll_lead(cx))?;
        self.outgoing = Half::Ended;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    fn pair(room: usize) -> (Tunnel<DuplexStream>, Tunnel<DuplexStream>) {
        let (a, b) = duplex(room);
        (Tunnel::new(Box::new(a)), Tunnel::new(Box::new(b)))
    }

    async fn carry(client: &mut Tunnel<DuplexStream>, server: &mut Tunnel<DuplexStream>, question: &[u8]) {
        let staying = CancellationToken::new();
        let asking = async {
            client.open();
            client.write_all(question).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            assert!(answer == [question, b" bye"].concat());
        };
        let answering = async {
            assert!(server.accept(&staying).await.unwrap());
            let mut heard = Vec::new();
            server.read_to_end(&mut heard).await.unwrap();
            heard.extend_from_slice(b" bye");
            server.write_all(&heard).await.unwrap();
            server.shutdown().await.unwrap();
        };
        tokio::join!(asking, answering);
        assert!(client.rests() && server.rests());
    }

    #[tokio::test]
    async fn one_connection_after_the_other_whatever_the_reads() {
        for room in [1, 3, 5, 1000, 1 << 20] {
            let (mut client, mut server) = pair(room);
            for len in [0, 1, 4, 70_000] {
                carry(&mut client, &mut server, &vec![b'x'; len]).await;
            }
            assert!(client.lives());
            drop(server);
            assert!(!client.lives());
        }
    }

    #[tokio::test]
    async fn a_server_may_speak_first() {
        let (mut client, mut server) = pair(100);
        client.open();
        let speaking = async {
            assert!(server.accept(&CancellationToken::new()).await.unwrap());
            server.write_all(b"220 ready").await.unwrap();
            server.flush().await.unwrap();
        };
        let mut heard = [0; 9];
        let (heard_it, ()) = tokio::join!(client.read_exact(&mut heard), speaking);
        heard_it.unwrap();
        assert_eq!(&heard, b"220 ready");
        assert!(!client.rests() && !server.rests(), "it goes on");
    }

    #[tokio::test]
    async fn a_connection_that_crosses_the_news_of_the_end_is_carried_and_is_the_last() {
        let (mut client, mut server) = pair(1000);
        server.lead.push(LEAVING);
        server.flush().await.unwrap();
        client.open();
        client.write_all(b"x").await.unwrap();
        client.shutdown().await.unwrap();
        assert!(server.accept(&CancellationToken::new()).await.unwrap());
        server.write_all(b"y").await.unwrap();
        server.shutdown().await.unwrap();
        let mut heard = String::new();
        client.read_to_string(&mut heard).await.unwrap();
        assert_eq!(heard, "y");
        assert!(!client.rests(), "it is not used again");
    }

    #[tokio::test]
    async fn news_of_the_end_end_a_tunnel_that_rests() {
        let (mut client, mut server) = pair(1000);
        let leaving = CancellationToken::new();
        leaving.cancel();
        let (accepted, ()) = tokio::join!(server.accept(&leaving), async {
            while client.lives() {
                tokio::task::yield_now().await;
            }
            drop(client);
        });
        assert!(!accepted.unwrap());
    }

    #[tokio::test]
    async fn what_is_not_in_order_is_an_error() {
        for words in [&[MAX_PIECE + 1][..], &[OPEN], &[LEAVING, LEAVING]] {
            let (mut client, mut server) = pair(1000);
            client.open();
            for word in words {
                server.inner.write_all(&word.to_be_bytes()).await.unwrap();
            }
            let error = client.read(&mut [0; 9]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{words:?}");
        }
        for word in [END, 5, LEAVING] {
            let (mut client, mut server) = pair(1000);
            client.inner.write_all(&word.to_be_bytes()).await.unwrap();
            assert!(server.accept(&CancellationToken::new()).await.is_err(), "{word}");
        }
    }

    #[tokio::test]
    async fn a_connection_that_is_cut_off_does_not_look_whole() {
        let (mut client, mut server) = pair(1000);
        client.open();
        client.write_all(b"half").await.unwrap();
        assert!(server.accept(&CancellationToken::new()).await.unwrap());
        drop(client);
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn words_wait_in_their_order() {
        let mut lead = Lead::default();
        lead.push(OPEN);
        lead.push(7);
        assert_eq!(lead.rest(), [255, 255, 255, 255, 0, 0, 0, 7]);
        lead.wrote(5);
        lead.push(END);
        assert_eq!(lead.rest(), [0, 0, 7, 0, 0, 0, 0]);
        lead.wrote(7);
        assert!(lead.rest().is_empty());
    }
}
