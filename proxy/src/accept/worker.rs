//! A thread that serves connections, with a runtime and a pool of its own: nothing on the path of a request is shared with another
//! thread but counters and configuration.

use std::{
    net::{TcpListener, TcpStream as StdStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    net::TcpStream,
    runtime::Builder,
    sync::{Semaphore, mpsc},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{Mesh, Open, OriginalDestination, callers::Place, listener::Listener};
use crate::{
    balance::{
        pool::{Dialler, Pool},
        probe::Prober,
    },
    inbound, outbound, tcp,
    telemetry::{Direction, Refusal},
};

/// News of sockets that the kernel is asked for at once. As many as tasks fit into the runtime's queue when it is new: one that grew because
/// thousands of connections closed together would lie above all that they leave, and the allocator could give nothing of it back.
const EVENTS: usize = 64;

/// What connections of one worker share.
#[derive(Debug)]
pub struct Worker {
    /// The rest of the proxy.
    pub mesh: Arc<Mesh>,
    /// Upstream connections.
    pub pool: Arc<Pool>,
    /// Makes them.
    pub dialler: Dialler,
    /// One permit for each copy of a request that may be on its way.
    pub copies: Arc<Semaphore>,
    /// Cancelled when the proxy is asked to end: inbound connections then close after what is in flight.
    pub draining: CancellationToken,
    /// Never cancelled: outbound connections go on until the process ends, because the application may still need them.
    pub forever: CancellationToken,
}

impl Worker {
    /// With an empty pool.
    pub fn new(mesh: Arc<Mesh>, draining: CancellationToken) -> Self {
        let dialler = Dialler { identity: mesh.identity.clone(), telemetry: mesh.telemetry.clone() };
        Self {
            mesh,
            pool: Arc::default(),
            dialler,
            copies: Arc::new(Semaphore::new(outbound::MAX_COPIES)),
            draining,
            forever: CancellationToken::new(),
        }
    }
}

/// A connection on its way to a worker.
pub(super) struct Accepted {
    pub(super) direction: Direction,
    pub(super) socket: Socket,
    pub(super) original_destination: OriginalDestination,
    pub(super) counted: Counted,
}

/// A socket that the accepting thread's runtime watches, or that none does.
pub(super) enum Socket {
    Here(TcpStream),
    Elsewhere(StdStream),
}

/// Counts a connection as open, for the proxy, for its worker and for its caller.
pub(super) struct Counted {
    open: Arc<Open>,
    direction: Direction,
    worker: Arc<AtomicUsize>,
    _place: Place,
}

impl Counted {
    pub(super) fn new(open: Arc<Open>, direction: Direction, worker: &Handle, place: Place) -> Self {
        open.of(direction).fetch_add(1, Relaxed);
        worker.load.fetch_add(1, Relaxed);
        Self { open, direction, worker: worker.load.clone(), _place: place }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.of(self.direction).fetch_sub(1, Relaxed);
        self.worker.fetch_sub(1, Relaxed);
    }
}

/// How listeners reach a worker.
pub(super) struct Handle {
    pub(super) load: Arc<AtomicUsize>,
    // Bounded by the connections that listeners let in.
    pub(super) sender: mpsc::UnboundedSender<Accepted>,
}

impl Handle {
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Accepted>) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let handle = Self { load: Arc::default(), sender };
        (handle, inbox)
    }
}

/// A worker before it runs.
pub(super) struct Start {
    pub(super) mesh: Arc<Mesh>,
    pub(super) inbox: mpsc::UnboundedReceiver<Accepted>,
    pub(super) listeners: Vec<(Listener, TcpListener)>,
    pub(super) draining: CancellationToken,
    pub(super) stop: CancellationToken,
    /// Whether this worker asks endpoints that were left out; one does.
    pub(super) probes: bool,
}

impl Start {
    /// Runs until the proxy stops.
    pub(super) fn run(self) {
        let runtime = Builder::new_current_thread().enable_all().max_io_events_per_tick(EVENTS).build();
        match runtime {
            Ok(runtime) => runtime.block_on(self.serve()),
            Err(error) => tracing::error!(%error, "a worker cannot start"),
        }
    }

    async fn serve(mut self) {
        for (listener, socket) in self.listeners.drain(..) {
            // Outbound goes on while the proxy drains: the application may still need it to finish.
            let until = match listener.direction {
                Direction::Inbound => self.draining.clone(),
                Direction::Outbound => self.stop.clone(),
            };
            tokio::spawn(listener.run(socket, until));
        }
        if self.probes {
            let mesh = &self.mesh;
            let (destinations, identity) = (mesh.destinations.clone(), mesh.identity.clone());
            let (telemetry, own_addresses) = (mesh.telemetry.clone(), mesh.own_addresses.clone());
            tokio::spawn(Prober { destinations, identity, telemetry, own_addresses }.run());
        }
        let worker = Arc::new(Worker::new(self.mesh, self.draining));
        tokio::spawn(keep_pool(worker.clone()));
        loop {
            let accepted = tokio::select! {
                accepted = self.inbox.recv() => accepted,
                () = self.stop.cancelled() => return,
            };
            let Some(accepted) = accepted else { return };
            tokio::spawn(serve(worker.clone(), accepted));
        }
    }
}

async fn serve(worker: Arc<Worker>, accepted: Accepted) {
    let _counted = accepted.counted;
    let socket = match accepted.socket {
        Socket::Here(socket) => socket,
        Socket::Elsewhere(socket) => match TcpStream::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::warn!(%error, "cannot watch a connection");
                return;
            }
        },
    };
    let direction = accepted.direction;
    let Ok(Some(original)) = (accepted.original_destination)(&socket) else {
        tracing::debug!("a connection came that was not captured");
        worker.mesh.telemetry.refused(direction, Refusal::Loop);
        return tcp::reset(&socket);
    };
    match direction {
        Direction::Outbound => outbound::serve(&worker, socket, original).await,
        Direction::Inbound => inbound::serve(&worker, socket, original).await,
    }
}

/// Closes connections that rested for too long, and all after a change of certificates or of whom to trust.
async fn keep_pool(worker: Arc<Worker>) {
    let mut changes = worker.mesh.identity.changes();
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => worker.pool.sweep(Instant::now()),
            changed = changes.changed() => match changed {
                Ok(()) => worker.pool.retire_all(),
                // Nobody can change it any more.
                Err(_) => return,
            },
        }
    }
}
