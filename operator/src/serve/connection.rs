//! One accepted connection, and what is known of the other side.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use fairlead_identity::leaf::Claims;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::listen::Slot;
use crate::ca::PeerIdentity;

/// Plain or TLS. It ends with an error when the certificate that the other side showed ends: an identity is not proved for longer than that.
pub struct Connection {
    io: Io,
    address: SocketAddr,
    identity: Option<PeerIdentity>,
    /// When the proof of `identity` ends.
    end: Option<Pin<Box<Sleep>>>,
    /// Given back with the connection.
    _slot: Slot,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    pub(super) fn plain(stream: TcpStream, address: SocketAddr, slot: Slot) -> Self {
        Self { io: Io::Plain(stream), address, identity: None, end: None, _slot: slot }
    }

    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        address: SocketAddr,
        proof: Option<Claims>,
        now: SystemTime,
        slot: Slot,
    ) -> Self {
        let (identity, end) = match proof {
            Some(proof) => {
                let left = proof.not_after.duration_since(now).unwrap_or_default();
                (Some(PeerIdentity(proof.identity)), Some(Box::pin(tokio::time::sleep(left))))
            }
            None => (None, None),
        };
        Self { io: Io::Tls(Box::new(stream)), address, identity, end, _slot: slot }
    }

    /// Where it came from.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the other side proved with a certificate, if it showed one.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.identity.as_ref()
    }

    fn check_end(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(context).is_ready()
        {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client's certificate ended; connect again with its successor",
            ));
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_end(context)?;
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_read(context, buffer),
            Io::Tls(io) => Pin::new(io).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.check_end(context)?;
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_write(context, buffer),
            Io::Tls(io) => Pin::new(io).poll_write(context, buffer),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_flush(context),
            Io::Tls(io) => Pin::new(io).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Plain(io) => Pin::new(io).poll_shutdown(context),
            Io::Tls(io) => Pin::new(io).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::listen::{Limits, Slots};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_with_the_certificate_that_it_rests_on() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, address) = listener.accept().await.unwrap();
        let slot = Slots::new(Limits { connections: 1, per_address: 1 }).take(address.ip()).unwrap();
        let mut connection = Connection::plain(stream, address, slot);
        connection.end = Some(Box::pin(tokio::time::sleep(Duration::from_secs(3600))));
        connection.write_all(b"within its time").await.unwrap();
        let error = connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(connection.write_all(b"after").await.is_err());
    }
}
