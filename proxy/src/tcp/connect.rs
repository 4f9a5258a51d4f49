//! Opens connections.

use std::{io, net::SocketAddr, time::Duration};

use rustls::pki_types::ServerName;
use socket2::SockRef;
use thiserror::Error;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{Prefixed, Stream, keep_alive};
use crate::{
    balance::{Endpoint, limits::Full},
    identity::{self, Alpn, Identity, Origination, SpiffeId, origination::Client},
    telemetry::{Direction, Handshake, Telemetry},
};

/// How long the application, and an endpoint of no set, may take to accept. Inside one network that takes a millisecond; a lost first packet is sent again
/// after a second, and by then another endpoint is the better choice.
pub const CONNECT: Duration = Duration::from_secs(1);

/// How long a handshake may take. A busy peer on a small machine needs hundreds of milliseconds at worst.
pub const HANDSHAKE: Duration = Duration::from_secs(5);

/// How long an address outside the mesh may take: what applications that reach across the internet are used to.
pub const PASS_THROUGH: Duration = Duration::from_secs(30);

/// Why there is no connection. Nothing was sent on it in any case.
#[derive(Debug, Error)]
pub enum ConnectError {
    /// The kernel said so, or the time ran out.
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        /// What was dialled.
        address: SocketAddr,
        /// Why it failed.
        source: io::Error,
    },
    /// Somebody answered, but not as the one that was expected.
    #[error("{address} did not prove to be {expected}: {source}")]
    Tls {
        /// What was dialled.
        address: SocketAddr,
        /// Who should have answered.
        expected: SpiffeId,
        /// Why it failed.
        source: io::Error,
    },
    /// The same outside the mesh.
    #[error("{address} did not prove to be {server_name}: {source}")]
    Outside {
        /// What was dialled.
        address: SocketAddr,
        /// Who should have answered.
        server_name: Box<str>,
        /// Why it failed.
        source: io::Error,
    },
    /// Nobody was dialled, because nobody there could prove anything.
    #[error("{address} cannot prove to be {server_name}: {why}")]
    Unverifiable {
        /// What was not dialled.
        address: SocketAddr,
        /// Who should have answered.
        server_name: Box<str>,
        /// A clause.
        why: Box<str>,
    },
    /// Nobody was dialled.
    #[error(transparent)]
    Full(#[from] Full),
}

/// A connection to an endpoint.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub stream: Stream,
    /// When the peer's certificate ends, if it has one: new requests must not begin on the connection then.
    pub expires: Option<Instant>,
}

/// Opens a TCP connection to somebody who may vanish.
pub async fn tcp(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    let tcp = in_pod(address, limit).await?;
    keep_alive(&SockRef::from(&tcp)).map_err(|source| ConnectError::Tcp { address, source })?;
    Ok(tcp)
}

/// Opens a TCP connection within the pod, whose kernel knows when the other side is gone. Without Nagle's delay: the proxy writes whole
/// messages.
pub async fn in_pod(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    let connected = async {
        let tcp = TcpStream::connect(address).await?;
        tcp.set_nodelay(true)?;
        Ok(tcp)
    };
    timeout(limit, connected)
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| ConnectError::Tcp { address, source })
}

/// Opens a connection to an endpoint: authenticated if it has an identity, and with TLS if it has an origination, never in plain instead.
pub async fn endpoint(
    identity: &Identity,
    telemetry: &Telemetry,
    endpoint: &Endpoint,
    alpn: Alpn,
) -> Result<Connection, ConnectError> {
    let address = endpoint.address;
    if let Some(origination) = &endpoint.origination {
        return Box::pin(originate(telemetry, endpoint, origination, alpn)).await;
    }
    let tcp = tcp(address, endpoint.connect_timeout()).await?;
    let Some(expected) = &endpoint.identity else {
        return Ok(Connection { stream: tcp.into(), expires: None });
    };
    // In a box, which ends with it: whoever keeps the connection keeps a smaller future.
    match Box::pin(handshake(identity, tcp, address, expected, alpn)).await {
        Ok(connection) => Ok(connection),
        Err(source) => {
            telemetry.handshake_failed(Direction::Outbound, Handshake::from_error(&source));
            Err(ConnectError::Tls { address, expected: expected.clone(), source })
        }
    }
}

async fn handshake(
    identity: &Identity,
    tcp: TcpStream,
    address: SocketAddr,
    expected: &SpiffeId,
    alpn: Alpn,
) -> io::Result<Connection> {
    let config = identity.client_config(expected, alpn).map_err(io::Error::other)?;
    let connector = TlsConnector::from(config);
    // The verifier looks at the identity alone; the name is what rustls wants to have.
    let name = ServerName::IpAddress(address.ip().into());
    let stream = Prefixed::new(tcp, bytes::Bytes::new());
    let tls = timeout(HANDSHAKE, connector.connect(name, stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    let session = tls.get_ref().1;
    if session.alpn_protocol() != Some(alpn.name()) {
        return Err(io::Error::other(rustls::Error::NoApplicationProtocol));
    }
    let expires = identity::peer(session.peer_certificates()).map(|peer| expiry(&peer));
    Ok(Connection { stream: Stream::Tls(Box::new(tls.into())), expires })
}

/// Opens a connection to an endpoint outside the mesh, with TLS that the endpoint itself ends.
async fn originate(
    telemetry: &Telemetry,
    endpoint: &Endpoint,
    origination: &Origination,
    alpn: Alpn,
) -> Result<Connection, ConnectError> {
    let address = endpoint.address;
    let server_name = || origination.server_name().into();
    let client = origination.client().map_err(|why| ConnectError::Unverifiable {
        address,
        server_name: server_name(),
        why: why.into(),
    })?;
    let tcp = tcp(address, endpoint.connect_timeout()).await?;
    match handshake_outside(client, tcp, alpn).await {
        Ok(stream) => Ok(Connection { stream, expires: None }),
        Err(source) => {
            telemetry.handshake_failed(Direction::Outbound, Handshake::from_error(&source));
            Err(ConnectError::Outside { address, server_name: server_name(), source })
        }
    }
}

async fn handshake_outside(client: &Client, tcp: TcpStream, alpn: Alpn) -> io::Result<Stream> {
    let connector = TlsConnector::from(client.config(alpn));
    let stream = Prefixed::new(tcp, bytes::Bytes::new());
    let tls = timeout(HANDSHAKE, connector.connect(client.server_name(), stream))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    if !Client::carries(alpn, tls.get_ref().1.alpn_protocol()) {
        return Err(io::Error::other(rustls::Error::NoApplicationProtocol));
    }
    Ok(Stream::Tls(Box::new(tls.into())))
}

/// When a peer's certificate ends, on the clock that timers use.
pub fn expiry(peer: &identity::Peer) -> Instant {
    let left = peer.not_after.duration_since(std::time::SystemTime::now()).unwrap_or_default();
    Instant::now() + left
}
