//! From listening sockets to connections whose protocol is known.
//!
//! [`Proxy::start`] is what `main` calls: it starts the workers, gives each listener to one of them, and hands every accepted connection to
//! the worker with the fewest. What a worker does with it begins in [`crate::outbound::serve`] and [`crate::inbound::serve`].

mod callers;
pub mod detect;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod hello;
mod listener;
mod worker;

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use tokio::{net::TcpStream, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{
    hello::{Hello, Parsed},
    listener::bind,
    worker::Worker,
};
use crate::{
    config::Destinations,
    http::patience::Waits,
    identity::Identity,
    inbound::{limits::Limiter, policy, refusals::Refusals},
    telemetry::{Direction, Telemetry},
};

/// Reads where a captured connection was meant to go; `None`: it was not captured. [`crate::capture::original_dst`], but for tests that
/// run without capture.
pub type OriginalDestination = Arc<dyn Fn(&TcpStream) -> io::Result<Option<SocketAddr>> + Send + Sync>;

/// What the data path knows of the rest of the proxy.
pub struct Mesh {
    /// Who this proxy is.
    pub identity: Arc<Identity>,
    /// What addresses lead to.
    pub destinations: Arc<Destinations>,
    /// How arriving traffic is treated.
    pub workload: Arc<policy::Current>,
    /// What is counted.
    pub telemetry: Arc<Telemetry>,
    /// The pod's own addresses. A call of the application to its own pod stays within it, in plain: on the way to its own inbound side it
    /// would not be captured and the application would be met by a handshake.
    pub own_addresses: Vec<IpAddr>,
    /// Ports of the proxy itself: a connection that was meant for one of them would turn in a circle.
    pub own_ports: Vec<u16>,
    /// Which plain callers were refused, for the log.
    pub refusals: Refusals,
    /// What callers have used of their rate limits.
    pub limiter: Limiter,
    /// How long callers may keep it waiting.
    pub waits: Waits,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("own", self.identity.own()).finish_non_exhaustive()
    }
}

impl Mesh {
    /// Whether an address is this pod's.
    pub fn is_own(&self, ip: IpAddr) -> bool {
        ip.is_loopback() || ip.is_unspecified() || self.own_addresses.contains(&ip.to_canonical())
    }

    /// Whether a connection to `address` would come back to this proxy.
    pub fn is_loop(&self, address: SocketAddr) -> bool {
        self.own_ports.contains(&address.port()) && self.is_own(address.ip())
    }
}

/// One listening socket.
pub struct Listen {
    /// Bound and listening; see [`bind`].
    pub socket: TcpListener,
    /// Where its connections were meant to go.
    pub original_destination: OriginalDestination,
}

/// What [`Proxy::start`] needs.
pub struct Settings {
    /// Where the application's connections arrive.
    pub outbound: Listen,
    /// Where connections to the application arrive.
    pub inbound: Listen,
    /// Threads for traffic; see [`default_workers`].
    pub workers: usize,
    /// Connections that may be open at once in each direction, so that callers cannot take away what the application needs; those beyond
    /// are reset. One address from outside may hold half of them, so that it alone cannot shut out all others. [`MAX_CONNECTIONS`] unless
    /// there is a reason.
    pub max_connections: usize,
}

/// Connections that a proxy holds at most in one direction by default. At about 20 KiB each that is 200 MiB when everything is busy: far above what a pod
/// serves, and below what a node would miss.
pub const MAX_CONNECTIONS: usize = 10_000;

/// One thread per core, but two at most: a sidecar shares its node with the applications, two carry 40,000 requests a second, and each
/// thread has a pool of upstream connections of its own.
pub fn default_workers() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get().min(2))
}

/// How many connections are open, both directions.
#[derive(Debug, Default)]
struct Open([AtomicUsize; 2]);

impl Open {
    fn total(&self) -> usize {
        self.0.iter().map(|count| count.load(Relaxed)).sum()
    }

    fn of(&self, direction: Direction) -> &AtomicUsize {
        &self.0[direction as usize]
    }
}

/// The running data path.
pub struct Proxy {
    threads: Vec<thread::JoinHandle<()>>,
    draining: CancellationToken,
    stop: CancellationToken,
    open: Arc<Open>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("open", &self.open).finish_non_exhaustive()
    }
}

impl Proxy {
    /// Starts serving. Fails if threads cannot be had or a socket cannot be watched.
    pub fn start(settings: Settings, mesh: &Arc<Mesh>) -> io::Result<Self> {
        let draining = CancellationToken::new();
        let stop = CancellationToken::new();
        let open = Arc::new(Open::default());
        let (handles, inboxes): (Vec<_>, Vec<_>) = (0..settings.workers.max(1)).map(|_| worker::Handle::new()).unzip();
        let handles: Arc<[worker::Handle]> = handles.into();
        let last = inboxes.len() - 1;
        let mut outbound = Some(settings.outbound);
        let mut inbound = Some(settings.inbound);
        let mut threads = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let mut listeners = Vec::new();
            // The two listeners on two workers, if there are two.
            let mine = [
                (Direction::Outbound, outbound.take_if(|_| index == 0)),
                (Direction::Inbound, inbound.take_if(|_| index == last)),
            ];
            for (direction, listen) in mine {
                if let Some(listen) = listen {
                    let listener = listener::Listener {
                        direction,
                        original_destination: listen.original_destination,
                        workers: handles.clone(),
                        here: index,
                        open: open.clone(),
                        callers: Arc::default(),
                        max_connections: settings.max_connections,
                        telemetry: mesh.telemetry.clone(),
                    };
                    listeners.push((listener, listen.socket));
                }
            }
            let worker = worker::Start {
                mesh: mesh.clone(),
                inbox,
                listeners,
                draining: draining.clone(),
                stop: stop.clone(),
                probes: index == last,
            };
            threads.push(thread::Builder::new().name(format!("worker-{index}")).spawn(move || worker.run())?);
        }
        Ok(Self { threads, draining, stop, open })
    }

    /// Ends in order: no more connections from outside, what is in flight is finished, peers are told to go elsewhere; what the
    /// application calls goes on. Returns when nothing is open, or after `limit`; then everything is closed.
    pub async fn drain(self, limit: Duration) {
        let deadline = Instant::now() + limit;
        self.draining.cancel();
        while self.open.total() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let left = self.open.total();
        if left > 0 {
            tracing::warn!(connections = left, "closed what was still open after the drain timeout");
        }
        self.stop.cancel();
        let threads = self.threads;
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
        if !joined.await.unwrap_or(false) {
            tracing::error!("a worker ended by panic");
        }
    }
}
