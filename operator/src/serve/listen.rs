//! From a listening socket to connections, with a bound on everything that a stranger can make us hold.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use fairlead_identity::leaf::{self, Claims};
use parking_lot::Mutex;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Connection;
use crate::telemetry::ListenerMetrics;

/// From the first byte to the end of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes are the most work that a stranger can ask for: so many at a time, the others wait their turn within the timeout.
const MAX_HANDSHAKES: usize = 64;
/// Connections that wait to be served.
const BACKLOG: usize = 64;
/// After an error of the socket itself (no file descriptors are left): time for connections to end.
const PAUSE: Duration = Duration::from_millis(100);

/// How many connections are open at most; further ones are closed at once.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub connections: usize,
    /// From one address.
    pub per_address: usize,
}

/// What to speak on a socket.
#[derive(Clone)]
pub enum Protocol {
    /// For health and metrics.
    Plain,
    /// The configuration may be swapped; a handshake takes what is there at its time.
    Tls(Arc<ArcSwap<ServerConfig>>),
}

/// Accepts until stopped; then the socket is closed. Connections arrive in the order in which their handshakes end.
pub fn accept(
    listener: TcpListener,
    protocol: Protocol,
    limits: Limits,
    metrics: ListenerMetrics,
    stop: CancellationToken,
) -> mpsc::Receiver<Connection> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let slots = Slots::new(limits);
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    tokio::spawn(async move {
        loop {
            let (stream, address) = tokio::select! {
                () = stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a connection");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
            };
            // A socket for both families shows IPv4 as IPv6.
            let address = SocketAddr::new(address.ip().to_canonical(), address.port());
            let Some(slot) = slots.take(address.ip()) else {
                metrics.refused.inc();
                continue;
            };
            // A connection without it is slower, not wrong.
            let _ = stream.set_nodelay(true);
            let (protocol, sender, handshakes, metrics) =
                (protocol.clone(), sender.clone(), Arc::clone(&handshakes), metrics.clone());
            tokio::spawn(async move {
                let connection = match protocol {
                    Protocol::Plain => Connection::plain(stream, address, slot),
                    Protocol::Tls(config) => {
                        let handshake = async {
                            let _turn = handshakes.acquire().await.map_err(|_| "stopping".to_owned())?;
                            shake_hands(stream, config.load_full()).await
                        };
                        match tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake)
                            .await
                            .unwrap_or_else(|_| Err("it took too long".to_owned()))
                        {
                            Ok((stream, proof)) => Connection::tls(stream, address, proof, SystemTime::now(), slot),
                            Err(error) => {
                                metrics.failed_handshakes.inc();
                                tracing::debug!(%address, error, "TLS handshake failed");
                                return;
                            }
                        }
                    }
                };
                // Fails when the server stopped; the connection is dropped then.
                let _ = sender.send(connection).await;
            });
        }
    });
    receiver
}

type Secured = (tokio_rustls::server::TlsStream<TcpStream>, Option<Claims>);

/// The handshake has verified the certificate; what it says is only read here.
async fn shake_hands(stream: TcpStream, config: Arc<ServerConfig>) -> Result<Secured, String> {
    let stream = TlsAcceptor::from(config).accept(stream).await.map_err(|error| error.to_string())?;
    let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let proof = leaf.map(leaf::claims).transpose().map_err(|error| error.to_string())?;
    Ok((stream, proof))
}

/// What is free of [`Limits`].
pub(super) struct Slots {
    free: Arc<Semaphore>,
    per_address: usize,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// The right to one connection.
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    address: IpAddr,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            free: Arc::new(Semaphore::new(limits.connections)),
            per_address: limits.per_address,
            open: Arc::default(),
        }
    }

    pub(super) fn take(&self, address: IpAddr) -> Option<Slot> {
        let permit = Arc::clone(&self.free).try_acquire_owned().ok()?;
        let mut open = self.open.lock();
        let count = open.entry(address).or_default();
        if *count >= self.per_address {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Slot { _permit: permit, address, open: Arc::clone(&self.open) })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_bounded_in_all_and_per_address_and_come_back() {
        let slots = Slots::new(Limits { connections: 3, per_address: 2 });
        let (a, b): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let first = slots.take(a).unwrap();
        let _second = slots.take(a).unwrap();
        assert!(slots.take(a).is_none());
        let third = slots.take(b).unwrap();
        assert!(slots.take(b).is_none());
        drop(first);
        assert!(slots.take(a).is_some());
        drop(third);
        assert_eq!(slots.open.lock().len(), 1, "an address without connections is forgotten");
    }
}
