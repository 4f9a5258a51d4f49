//! Where a captured connection was meant to go.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::TcpStream;

/// The address that the client dialled, before the connection was redirected to the proxy. `None`: it was not redirected, somebody
/// dialled the proxy's own port.
pub fn original_dst(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = match original {
        Ok(original) => original.as_socket().map(canonical),
        // Nothing was ever translated in this namespace, or not this connection.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    Ok(original.filter(|original| *original != local))
}

/// Without the v4-mapped form of a dual-stack listener, and without a scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
