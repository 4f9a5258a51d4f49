//! Where a captured connection was meant to go.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

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
    Ok(original.filter(|original| *original != local && can_be_meant(original.ip())))
}

/// Whether a connection to this address can honestly have been captured. What goes to loopback never is; but destinations are rewritten
/// before the kernel drops such packets from the wire, so a neighbour with raw sockets could name 127.0.0.1 and have the proxy dial what
/// the application keeps to itself.
fn can_be_meant(ip: IpAddr) -> bool {
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

/// Without the v4-mapped form of a dual-stack listener, and without a scope.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_from_outside_can_mean_the_loopback_of_the_pod() {
        for ip in ["127.0.0.1", "127.9.9.9", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "224.0.0.1", "ff02::1"] {
            let address = canonical(SocketAddr::new(ip.parse().unwrap(), 80));
            assert!(!can_be_meant(address.ip()), "{ip}");
        }
        for ip in ["10.1.0.7", "fd00::7", "::ffff:10.1.0.7", "169.254.1.1", "fe80::1"] {
            let address = canonical(SocketAddr::new(ip.parse().unwrap(), 80));
            assert!(can_be_meant(address.ip()), "{ip}");
        }
    }
}
