//! Upstream connections of one worker, for the next request.
//!
//! HTTP/1 connections are handed out one request at a time, the one used last first; HTTP/2 connections are shared. A worker has a pool of
//! its own, so that a request is answered on the thread that read it; the lock around the table is for the compiler and never waits.

mod dial;
mod lease;
mod room;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Waker},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use self::{
    dial::Dialler,
    lease::{Lease, Opaque},
};
use self::{
    dial::{dial_http1, dial_http2, dial_opaque},
    lease::{Sender, shared_lease},
    room::Room,
};
use super::{
    Endpoint,
    limits::{Limits, Place},
};
use crate::{
    http::{Version, h1::Conn, http2},
    identity::{SpiffeId, origination::OriginationId},
    tcp::{Stream, Tunnel, connect::ConnectError},
};

/// How long a connection to another proxy may rest in the pool, where no policy says it. Proxies keep resting connections for an hour, so it is never they who
/// close first; a minute covers the pauses of ordinary traffic and saves the handshake.
const IDLE_MESH: Duration = Duration::from_secs(60);

/// The most for a plain connection, to an application: below the 5 s after which the most impatient of common servers (Node, gunicorn
/// with keep-alive, uvicorn, Apache) close theirs.
const IDLE_PLAIN: Duration = Duration::from_secs(4);

/// How many HTTP/1 connections to one endpoint rest at most; what is released beyond is closed.
const MAX_IDLE: usize = 64;

/// Streams on one HTTP/2 connection before another is opened: what servers commonly allow.
const MAX_STREAMS: usize = 100;

/// HTTP/2 connections to one endpoint at most; beyond that streams queue.
const MAX_SHARED: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    identity: Option<SpiffeId>,
    /// One that was verified otherwise is another connection.
    origination: Option<OriginationId>,
    version: Version,
}

type Dial = Shared<BoxFuture<'static, Result<Multiplexed, Arc<ConnectError>>>>;

#[derive(Default)]
struct Entry {
    idle: Vec<Resting>,
    tunnels: Vec<RestingTunnel>,
    shared: Vec<Multiplexed>,
    // Requests that arrive while an HTTP/2 connection is being made wait for that one.
    dialling: Option<Dial>,
    // Tells those who wait for a place that somebody made a connection of HTTP/2, which they can share.
    made: Arc<Notify>,
    // Who waits for a connection of HTTP/1 that somebody is done with, because there may be no more of them.
    waiting: VecDeque<oneshot::Sender<Lease>>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.idle.is_empty()
            && self.tunnels.is_empty()
            && self.shared.is_empty()
            && self.dialling.is_none()
            && self.waiting.is_empty()
            && Arc::strong_count(&self.made) == 1
    }
}

struct Resting {
    conn: Arc<Mutex<Conn>>,
    place: Option<Place>,
    since: Instant,
    retire: Instant,
}

struct RestingTunnel {
    tunnel: Box<Tunnel>,
    place: Option<Place>,
    since: Instant,
    retire: Instant,
}

#[derive(Clone)]
struct Multiplexed {
    sender: http2::Sender,
    streams: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
    retire: Instant,
    /// It is over TLS that the endpoint itself ends.
    https: bool,
    /// Whose place it has.
    limits: Option<Arc<Limits>>,
}

impl Multiplexed {
    fn usable(&mut self, now: Instant) -> bool {
        now < self.retire && http2::is_open(&mut self.sender)
    }
}

/// The connections of one worker.
#[derive(Default)]
pub struct Pool(Mutex<HashMap<Key, Entry>>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pool")
    }
}

/// Whether a connection that rests may carry another request. Nobody is woken if it may not: it is looked at before it is used, and every second.
fn is_fit(conn: &Mutex<Conn>, retire: Instant, now: Instant) -> bool {
    now < retire && conn.lock().rests(&mut Context::from_waker(Waker::noop()))
}

impl Pool {
    /// A connection to `endpoint`: one that rests or has room, or a new one.
    pub async fn lease(
        self: &Arc<Self>,
        dialler: &Dialler,
        endpoint: &Arc<Endpoint>,
        version: Version,
    ) -> Result<Lease, Arc<ConnectError>> {
        if let Some(lease) = self.reuse(&key(endpoint, version)) {
            return Ok(lease);
        }
        self.fresh(dialler, endpoint, version).await
    }

    fn reuse(self: &Arc<Self>, key: &Key) -> Option<Lease> {
        let now = Instant::now();
        let mut table = self.0.lock();
        let entry = table.get_mut(key)?;
        match key.version {
            Version::Http1 => {
                while let Some(resting) = entry.idle.pop() {
                    if is_fit(&resting.conn, resting.retire, now) {
                        return Some(Lease {
                            sender: Sender::Http1 {
                                conn: resting.conn,
                                place: resting.place,
                                retire: resting.retire,
                                key: key.clone(),
                                pool: self.clone(),
                            },
                            reused: true,
                        });
                    }
                }
                None
            }
            Version::Http2 => {
                entry.shared.retain_mut(|shared| shared.usable(now));
                let full = entry.shared.len() >= MAX_SHARED;
                entry
                    .shared
                    .iter()
                    .min_by_key(|shared| shared.streams.load(Relaxed))
                    .filter(|shared| full || shared.streams.load(Relaxed) < MAX_STREAMS)
                    .map(|shared| shared_lease(shared, true))
            }
        }
    }

    /// A connection to `endpoint` for bytes: to another proxy a tunnel that rests or a new one, else one of its own.
    pub async fn opaque(self: &Arc<Self>, dialler: &Dialler, endpoint: &Endpoint) -> Result<Opaque, ConnectError> {
        // Tunnels rest beside the connections of HTTP/1.
        let key = key(endpoint, Version::Http1);
        let resting = if let Some(resting) = self.tunnel(&key) {
            resting
        } else {
            let place = self.place(endpoint).await?;
            let (stream, retire) = dial_opaque(dialler, endpoint).await?;
            match stream {
                Stream::Tls(tls) if key.identity.is_some() => {
                    RestingTunnel { tunnel: Box::new(Tunnel::new(tls)), place, since: Instant::now(), retire }
                }
                // Who is not in the mesh knows of no tunnels.
                stream => return Ok(Opaque::direct(stream).within(place)),
            }
        };
        Ok(Opaque::tunnel(resting, key, self.clone()))
    }

    fn tunnel(&self, key: &Key) -> Option<RestingTunnel> {
        let now = Instant::now();
        let mut table = self.0.lock();
        let tunnels = &mut table.get_mut(key)?.tunnels;
        while let Some(mut resting) = tunnels.pop() {
            if now < resting.retire && resting.tunnel.lives() {
                return Some(resting);
            }
        }
        None
    }

    /// A connection that has carried nothing yet (HTTP/1), or one that is not older than this call (HTTP/2).
    pub async fn fresh(
        self: &Arc<Self>,
        dialler: &Dialler,
        endpoint: &Arc<Endpoint>,
        version: Version,
    ) -> Result<Lease, Arc<ConnectError>> {
        let key = key(endpoint, version);
        let pending = endpoint.limits.as_ref().map(Limits::pend).transpose();
        let _pending = pending.map_err(|full| Arc::new(full.into()))?;
        match version {
            Version::Http1 => {
                let place = match self.room(&key, endpoint).await.map_err(|full| Arc::new(full.into()))? {
                    Room::Place(place) => place,
                    Room::Handed(lease) => return Ok(lease),
                };
                let (conn, retire) = dial_http1(dialler, endpoint).await?;
                Ok(Lease { sender: Sender::Http1 { conn, place, retire, key, pool: self.clone() }, reused: false })
            }
            Version::Http2 => {
                let place = if self.dials(&key) {
                    None
                } else {
                    match self.room_to_share(&key, endpoint).await.map_err(|full| Arc::new(full.into()))? {
                        Room::Place(place) => place,
                        Room::Handed(lease) => return Ok(lease),
                    }
                };
                let dial = self.dialling(&key, dialler, endpoint, place);
                let dialled = dial.clone().await;
                let mut table = self.0.lock();
                let entry = table.entry(key).or_default();
                if entry.dialling.as_ref().is_some_and(|current| current.ptr_eq(&dial)) {
                    // The first of those who waited puts it where all find it.
                    entry.dialling = None;
                    if let Ok(connection) = &dialled {
                        entry.shared.push(connection.clone());
                        entry.made.notify_waiters();
                    }
                }
                dialled.map(|connection| shared_lease(&connection, false))
            }
        }
    }

    fn dials(&self, key: &Key) -> bool {
        self.0.lock().get(key).is_some_and(|entry| entry.dialling.is_some())
    }

    /// The connection of HTTP/2 with the fewest streams, however many those are.
    fn crowded(&self, key: &Key) -> Option<Lease> {
        let now = Instant::now();
        let mut table = self.0.lock();
        let entry = table.get_mut(key)?;
        entry.shared.retain_mut(|shared| shared.usable(now));
        let fewest = entry.shared.iter().min_by_key(|shared| shared.streams.load(Relaxed))?;
        Some(shared_lease(fewest, true))
    }

    fn dialling(&self, key: &Key, dialler: &Dialler, endpoint: &Arc<Endpoint>, place: Option<Place>) -> Dial {
        let mut table = self.0.lock();
        let entry = table.entry(key.clone()).or_default();
        entry
            .dialling
            .get_or_insert_with(|| {
                let (dialler, endpoint) = (dialler.clone(), endpoint.clone());
                async move { dial_http2(&dialler, &endpoint, place).await }.boxed().shared()
            })
            .clone()
    }

    /// Closes what rested for too long, or in the way of those who wait for a place. Called every second by the worker.
    pub fn sweep(&self, now: Instant) {
        self.0.lock().retain(|key, entry| {
            let mesh = key.identity.is_some();
            let stays = |since: Instant, limits: Option<&Arc<Limits>>| {
                let idle = limits.map_or(IDLE_MESH, |limits| limits.idle_timeout);
                let limit = if mesh { idle } else { idle.min(IDLE_PLAIN) };
                now.saturating_duration_since(since) < limit && !limits.is_some_and(|limits| limits.is_waited_for())
            };
            entry.idle.retain(|resting| {
                let limits = resting.place.as_ref().map(Place::limits);
                stays(resting.since, limits) && is_fit(&resting.conn, resting.retire, now)
            });
            entry.shared.retain_mut(|shared| {
                let since = *shared.used.lock();
                shared.usable(now) && (shared.streams.load(Relaxed) > 0 || stays(since, shared.limits.as_ref()))
            });
            entry.tunnels.retain_mut(|resting| {
                let limits = resting.place.as_ref().map(Place::limits);
                stays(resting.since, limits) && now < resting.retire && resting.tunnel.lives()
            });
            entry.waiting.retain(|waiting| !waiting.is_closed());
            // Whoever wanted it has left, and nobody else makes it go on.
            entry.dialling.take_if(|dial| dial.strong_count() == Some(1));
            !entry.is_empty()
        });
    }

    /// Gives no new request to any connection there is: after a change of certificates or of whom to trust. Requests in flight finish.
    pub fn retire_all(&self) {
        self.0.lock().clear();
    }
}

fn key(endpoint: &Endpoint, version: Version) -> Key {
    let origination = endpoint.origination.as_ref().map(|tls| tls.id());
    Key { address: endpoint.address, identity: endpoint.identity.clone(), origination, version }
}
