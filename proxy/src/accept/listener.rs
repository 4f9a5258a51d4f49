//! Accepts connections and hands each to the worker that has the fewest.
//!
//! `SO_REUSEPORT` would spare the handing over, but lets the kernel put all of a few long-lived HTTP/2 connections on one worker.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use socket2::{Domain, Protocol, Type};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{
    Open, OriginalDestination,
    callers::Callers,
    worker::{Accepted, Counted, Handle, Socket},
};
use crate::{
    tcp,
    telemetry::{Direction, Refusal, Telemetry},
};

/// Connections that the kernel keeps for us while we are busy; it caps this at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long to wait when the process has no file descriptor left: connections that end free some.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// Binds `port` on all addresses: one socket for IPv6 and IPv4, or one for IPv4 where the node has no IPv6.
pub fn bind(port: u16) -> io::Result<TcpListener> {
    let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    bound(Domain::IPV6, v6).or_else(|error| match error.raw_os_error() {
        Some(libc_eafnosupport) if libc_eafnosupport == EAFNOSUPPORT => bound(Domain::IPV4, v4),
        _ if error.kind() == io::ErrorKind::AddrNotAvailable => bound(Domain::IPV4, v4),
        _ => Err(error),
    })
}

/// "Address family not supported": the kernel was started without IPv6.
const EAFNOSUPPORT: i32 = 97;

fn bound(domain: Domain, address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    if domain == Domain::IPV6 {
        socket.set_only_v6(false)?;
    }
    // A restarted proxy must not wait for connections of its predecessor to be forgotten.
    socket.set_reuse_address(true)?;
    tcp::keep_alive(&socket)?;
    // The proxy writes whole messages. Connections inherit it, like the former.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

pub(super) struct Listener {
    pub(super) direction: Direction,
    pub(super) original_destination: OriginalDestination,
    pub(super) workers: Arc<[Handle]>,
    /// The worker that runs this; takes the connection if nobody has fewer, which spares waking another thread.
    pub(super) here: usize,
    pub(super) open: Arc<Open>,
    pub(super) callers: Arc<Callers>,
    pub(super) max_connections: usize,
    pub(super) telemetry: Arc<Telemetry>,
}

impl Listener {
    /// Accepts until `until` is cancelled; the socket is closed then.
    pub(super) async fn run(self, socket: TcpListener, until: CancellationToken) {
        let socket = match socket.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(socket)) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(%error, direction = self.direction.as_str(), "cannot watch a listener");
                return;
            }
        };
        let refused = AtomicU64::new(0);
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = until.cancelled() => return,
            };
            match accepted {
                Ok((connection, caller)) => self.hand_over(connection, caller.ip(), &refused),
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, direction = self.direction.as_str(), "cannot accept connections for now");
                    tokio::time::sleep(EXHAUSTED).await;
                }
            }
        }
    }

    fn hand_over(&self, connection: TcpStream, caller: IpAddr, refused: &AtomicU64) {
        let room = self.open.of(self.direction).load(Relaxed) < self.max_connections;
        // All of the application's connections come from the pod itself.
        let limit = match self.direction {
            Direction::Inbound => self.max_connections.div_ceil(2),
            Direction::Outbound => self.max_connections,
        };
        let Some(place) = room.then(|| self.callers.admit(caller, limit)).flatten() else {
            // The first and every thousandth: enough to be seen, too few to fill a disk.
            if refused.fetch_add(1, Relaxed).is_multiple_of(1000) {
                tracing::warn!(%caller, limit = self.max_connections, "too many connections: resetting new ones");
            }
            self.telemetry.refused(self.direction, Refusal::Limit);
            return tcp::reset(&connection);
        };
        let loads = self.workers.iter().map(|worker| worker.load.load(Relaxed));
        let index = least_loaded(loads, self.here);
        let worker = &self.workers[index];
        let socket = if index == self.here {
            Socket::Here(connection)
        } else {
            match connection.into_std() {
                Ok(connection) => Socket::Elsewhere(connection),
                Err(error) => {
                    tracing::warn!(%error, "cannot hand a connection to another thread");
                    return;
                }
            }
        };
        let counted = Counted::new(self.open.clone(), self.direction, worker, place);
        // Fails only when the worker has ended, and then so does the proxy.
        let _ = worker.sender.send(Accepted {
            direction: self.direction,
            socket,
            original_destination: self.original_destination.clone(),
            counted,
        });
    }
}

/// The index of the smallest; `preferred` among equals.
fn least_loaded(loads: impl Iterator<Item = usize>, preferred: usize) -> usize {
    loads.enumerate().min_by_key(|(index, load)| (*load, *index != preferred)).map_or(preferred, |(index, _)| index)
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_loaded_worker_gets_the_connection_and_the_own_one_among_equals() {
        assert_eq!(least_loaded([3, 1, 2].into_iter(), 0), 1);
        assert_eq!(least_loaded([1, 1].into_iter(), 1), 1);
        assert_eq!(least_loaded([1, 1].into_iter(), 0), 0);
    }

    #[test]
    fn a_port_is_bound_for_both_families_or_the_one_there_is() {
        let socket = bind(0).unwrap();
        let port = socket.local_addr().unwrap().port();
        std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    }

    #[test]
    fn connections_inherit_what_is_set_once() {
        let socket = bind(0).unwrap();
        let port = socket.local_addr().unwrap().port();
        let _caller = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let (accepted, _) = socket.accept().unwrap();
        let accepted = socket2::SockRef::from(&accepted);
        assert!(accepted.keepalive().unwrap(), "callers that vanish are noticed");
        assert!(accepted.tcp_nodelay().unwrap());
    }
}
