//! Upstream connections of one worker, for the next request.
//!
//! HTTP/1 connections are handed out one request at a time, the one used last first; HTTP/2 connections are shared. A worker has a pool of
//! its own, so that a request is answered on the thread that read it; the lock around the table is for the compiler and never waits.

use std::{
    collections::HashMap,
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
use tokio::time::Instant;

use super::Endpoint;
use crate::{
    http::{
        Failed, Head, Response, Version,
        body::{Body, Incoming},
        h1::{self, Conn},
        http2,
        interim::Interim,
    },
    identity::{Alpn, Identity, SpiffeId},
    tcp::{
        Stream, Tunnel,
        connect::{self, ConnectError, Connection},
    },
    telemetry::Telemetry,
};

/// How long a connection to another proxy may rest in the pool. Proxies keep resting connections for an hour, so it is never they who
/// close first; a minute covers the pauses of ordinary traffic and saves the handshake.
const IDLE_MESH: Duration = Duration::from_secs(60);

/// The same for a plain connection, to an application: below the 5 s after which the most impatient of common servers (Node, gunicorn
/// with keep-alive, uvicorn, Apache) close theirs.
const IDLE_PLAIN: Duration = Duration::from_secs(4);

/// How many HTTP/1 connections to one endpoint rest at most; what is released beyond is closed.
const MAX_IDLE: usize = 64;

/// How long a connection is given new requests: after that a new one is made, so that long-lived HTTP/2 connections follow endpoints that
/// were added behind one address, and no peer's certificate is believed for ever.
const MAX_AGE: Duration = Duration::from_secs(10 * 60);

/// Streams on one HTTP/2 connection before another is opened: what servers commonly allow.
const MAX_STREAMS: usize = 100;

/// HTTP/2 connections to one endpoint at most; beyond that streams queue.
const MAX_SHARED: usize = 8;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    address: SocketAddr,
    identity: Option<SpiffeId>,
    version: Version,
}

/// Makes the pool's connections.
#[derive(Clone)]
pub struct Dialler {
    /// Proves who calls.
    pub identity: Arc<Identity>,
    /// Counts failed handshakes.
    pub telemetry: Arc<Telemetry>,
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialler")
    }
}

type Dial = Shared<BoxFuture<'static, Result<Multiplexed, Arc<ConnectError>>>>;

#[derive(Default)]
struct Entry {
    idle: Vec<Resting>,
    tunnels: Vec<RestingTunnel>,
    shared: Vec<Multiplexed>,
    // Requests that arrive while an HTTP/2 connection is being made wait for that one.
    dialling: Option<Dial>,
}

struct Resting {
    conn: Arc<Mutex<Conn>>,
    since: Instant,
    retire: Instant,
}

struct RestingTunnel {
    tunnel: Box<Tunnel>,
    since: Instant,
    retire: Instant,
}

/// A connection for bytes.
#[derive(Debug)]
pub struct Opaque {
    /// Its bytes.
    pub stream: Stream,
    /// Where it rests afterwards, if it is one that can.
    place: Option<(Key, Arc<Pool>, Instant)>,
}

impl Opaque {
    /// One that carries nothing else afterwards.
    pub fn direct(stream: Stream) -> Self {
        Self { stream, place: None }
    }

    /// What was carried has ended, in order, both ways: a tunnel can carry the next.
    pub fn release(self) {
        let (Stream::Tunnel(tunnel), Some((key, pool, retire))) = (self.stream, self.place) else { return };
        if tunnel.rests() {
            let mut table = pool.0.lock();
            let tunnels = &mut table.entry(key).or_default().tunnels;
            if tunnels.len() < MAX_IDLE {
                tunnels.push(RestingTunnel { tunnel, since: Instant::now(), retire });
            }
        }
    }
}

#[derive(Clone)]
struct Multiplexed {
    sender: http2::Sender,
    streams: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
    retire: Instant,
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

/// A connection for one request.
pub struct Lease {
    sender: Sender,
    reused: bool,
}

enum Sender {
    Http1 { conn: Arc<Mutex<Conn>>, retire: Instant, key: Key, pool: Arc<Pool> },
    Http2 { sender: http2::Sender, _stream: StreamCount },
}

/// One stream of a shared connection; ends on drop.
struct StreamCount {
    streams: Arc<AtomicUsize>,
    used: Arc<Mutex<Instant>>,
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.streams.fetch_sub(1, Relaxed);
        *self.used.lock() = Instant::now();
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("reused", &self.reused).finish_non_exhaustive()
    }
}

impl Lease {
    /// Whether the connection has carried requests before: then the endpoint may just be closing it.
    pub fn reused(&self) -> bool {
        self.reused
    }

    /// Sends one request and waits for the head of its answer.
    pub(crate) async fn send(
        &mut self,
        head: &Head,
        body: Body,
        interim: &Interim,
    ) -> Result<Response<Incoming>, Failed> {
        match &mut self.sender {
            Sender::Http1 { conn, .. } => h1::client::send(conn, head, body, interim).await,
            Sender::Http2 { sender, .. } => http2::send(sender, head, body, interim).await,
        }
    }

    /// The response was read whole: the connection can carry the next request.
    pub fn release(self) {
        let Sender::Http1 { conn, retire, key, pool } = self.sender else {
            return;
        };
        if !conn.lock().reusable() {
            return;
        }
        let mut table = pool.0.lock();
        let idle = &mut table.entry(key).or_default().idle;
        if idle.len() < MAX_IDLE {
            idle.push(Resting { conn, since: Instant::now(), retire });
        }
    }
}

/// Whether a connection still rests. Nobody is woken if it does not: it is looked at before it is used, and every second.
fn rests(conn: &Mutex<Conn>) -> bool {
    conn.lock().rests(&mut Context::from_waker(Waker::noop()))
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
                    if now < resting.retire && rests(&resting.conn) {
                        return Some(Lease {
                            sender: Sender::Http1 {
                                conn: resting.conn,
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
        let (mut tunnel, retire) = if let Some(resting) = self.tunnel(&key) {
            (resting.tunnel, resting.retire)
        } else {
            let connection = connect::endpoint(&dialler.identity, &dialler.telemetry, endpoint, Alpn::Tcp).await?;
            let retire = retirement(&connection, super::random());
            match connection.stream {
                Stream::Tls(tls) => (Box::new(Tunnel::new(tls)), retire),
                stream @ (Stream::Plain(_) | Stream::Tunnel(_)) => return Ok(Opaque::direct(stream)),
            }
        };
        tunnel.open();
        Ok(Opaque { stream: Stream::Tunnel(tunnel), place: Some((key, self.clone(), retire)) })
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
        match version {
            Version::Http1 => {
                let (conn, retire) = dial_http1(dialler, endpoint).await?;
                Ok(Lease { sender: Sender::Http1 { conn, retire, key, pool: self.clone() }, reused: false })
            }
            Version::Http2 => {
                let dial = self.dialling(&key, dialler, endpoint);
                let dialled = dial.clone().await;
                let mut table = self.0.lock();
                let entry = table.entry(key).or_default();
                if entry.dialling.as_ref().is_some_and(|current| current.ptr_eq(&dial)) {
                    // The first of those who waited puts it where all find it.
                    entry.dialling = None;
                    if let Ok(connection) = &dialled {
                        entry.shared.push(connection.clone());
                    }
                }
                dialled.map(|connection| shared_lease(&connection, false))
            }
        }
    }

    fn dialling(&self, key: &Key, dialler: &Dialler, endpoint: &Arc<Endpoint>) -> Dial {
        let mut table = self.0.lock();
        let entry = table.entry(key.clone()).or_default();
        entry
            .dialling
            .get_or_insert_with(|| {
                let (dialler, endpoint) = (dialler.clone(), endpoint.clone());
                async move { dial_http2(&dialler, &endpoint).await }.boxed().shared()
            })
            .clone()
    }

    /// Closes what rested for too long. Called every second by the worker.
    pub fn sweep(&self, now: Instant) {
        self.0.lock().retain(|key, entry| {
            let limit = match key.identity {
                Some(_) => IDLE_MESH,
                None => IDLE_PLAIN,
            };
            entry.idle.retain(|resting| {
                now.saturating_duration_since(resting.since) < limit && now < resting.retire && rests(&resting.conn)
            });
            entry.shared.retain_mut(|shared| {
                let resting = now.saturating_duration_since(*shared.used.lock());
                shared.usable(now) && (shared.streams.load(Relaxed) > 0 || resting < limit)
            });
            entry.tunnels.retain_mut(|resting| {
                now.saturating_duration_since(resting.since) < limit && now < resting.retire && resting.tunnel.lives()
            });
            !entry.idle.is_empty() || !entry.tunnels.is_empty() || !entry.shared.is_empty() || entry.dialling.is_some()
        });
    }

    /// Gives no new request to any connection there is: after a change of certificates or of whom to trust. Requests in flight finish.
    pub fn retire_all(&self) {
        self.0.lock().clear();
    }
}

fn key(endpoint: &Endpoint, version: Version) -> Key {
    Key { address: endpoint.address, identity: endpoint.identity.clone(), version }
}

fn shared_lease(shared: &Multiplexed, reused: bool) -> Lease {
    shared.streams.fetch_add(1, Relaxed);
    Lease {
        sender: Sender::Http2 {
            sender: shared.sender.clone(),
            _stream: StreamCount { streams: shared.streams.clone(), used: shared.used.clone() },
        },
        reused,
    }
}

/// When a new connection gets its last request. Ages differ by up to a tenth, so that connections made together do not end together.
fn retirement(connection: &Connection, random: u64) -> Instant {
    let spread = MAX_AGE.mul_f64((random % 1000) as f64 / 10_000.0);
    let aged = Instant::now() + MAX_AGE - spread;
    connection.expires.map_or(aged, |expires| aged.min(expires))
}

async fn dial_http1(dialler: &Dialler, endpoint: &Endpoint) -> Result<(Arc<Mutex<Conn>>, Instant), Arc<ConnectError>> {
    let alpn = Version::Http1.alpn();
    let connection = connect::endpoint(&dialler.identity, &dialler.telemetry, endpoint, alpn).await?;
    let retire = retirement(&connection, super::random());
    Ok((Arc::new(Mutex::new(Conn::new(connection.stream))), retire))
}

async fn dial_http2(dialler: &Dialler, endpoint: &Endpoint) -> Result<Multiplexed, Arc<ConnectError>> {
    let alpn = Version::Http2.alpn();
    let connection = connect::endpoint(&dialler.identity, &dialler.telemetry, endpoint, alpn).await?;
    let retire = retirement(&connection, super::random());
    let streams = Arc::<AtomicUsize>::default();
    let sender = http2::connect(connection.stream, streams.clone())
        .await
        .map_err(|source| Arc::new(ConnectError::Tcp { address: endpoint.address, source }))?;
    Ok(Multiplexed { sender, streams, used: Arc::new(Mutex::new(Instant::now())), retire })
}
