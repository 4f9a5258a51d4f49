//! Connections in use: for one request, or for bytes.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Key, MAX_IDLE, Multiplexed, Pool, Resting, RestingTunnel};
use crate::{
    balance::limits::Place,
    http::{
        Failed, Head, Response,
        body::{Body, Incoming},
        h1::{self, Conn},
        http2,
        interim::Interim,
    },
    tcp::Stream,
};

/// A connection for one request.
pub struct Lease {
    pub(super) sender: Sender,
    pub(super) reused: bool,
}

pub(super) enum Sender {
    Http1 { conn: Arc<Mutex<Conn>>, place: Option<Place>, retire: Instant, key: Key, pool: Arc<Pool> },
    Http2 { sender: http2::Sender, https: bool, _stream: StreamCount },
}

/// One stream of a shared connection; ends on drop.
pub(super) struct StreamCount {
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
            Sender::Http2 { sender, https, .. } => http2::send(sender, *https, head, body, interim).await,
        }
    }

    /// The response was read whole: the connection can carry the next request.
    pub fn release(self) {
        let Sender::Http1 { conn, place, retire, key, pool } = self.sender else {
            return;
        };
        if !conn.lock().reusable() {
            return;
        }
        if place.as_ref().is_some_and(|place| place.limits().is_waited_for()) {
            if !super::is_fit(&conn, retire, Instant::now()) {
                return;
            }
            let sender = Sender::Http1 { conn, place, retire, key: key.clone(), pool: pool.clone() };
            return pool.hand_over(&key, Self { sender, reused: true });
        }
        let mut table = pool.0.lock();
        let idle = &mut table.entry(key).or_default().idle;
        if idle.len() < MAX_IDLE {
            idle.push(Resting { conn, place, since: Instant::now(), retire });
        }
    }

    /// The connection carries no other request; its place is taken for as long as it lasts.
    pub fn into_place(self) -> Option<Place> {
        match self.sender {
            Sender::Http1 { place, .. } => place,
            Sender::Http2 { .. } => None,
        }
    }
}

/// A stream of a connection that others use as well.
pub(super) fn shared_lease(shared: &Multiplexed, reused: bool) -> Lease {
    shared.streams.fetch_add(1, Relaxed);
    Lease {
        sender: Sender::Http2 {
            sender: shared.sender.clone(),
            https: shared.https,
            _stream: StreamCount { streams: shared.streams.clone(), used: shared.used.clone() },
        },
        reused,
    }
}

/// A connection for bytes.
#[derive(Debug)]
pub struct Opaque {
    /// Its bytes.
    pub stream: Stream,
    /// Among the connections of its set.
    place: Option<Place>,
    /// Where it rests afterwards, if it is one that can.
    home: Option<(Key, Arc<Pool>, Instant)>,
}

impl Opaque {
    /// One that carries nothing else afterwards.
    pub fn direct(stream: Stream) -> Self {
        Self { stream, place: None, home: None }
    }

    /// One that has this place.
    pub(super) fn within(self, place: Option<Place>) -> Self {
        Self { place, ..self }
    }

    /// One that can carry the next afterwards.
    pub(super) fn tunnel(resting: RestingTunnel, key: Key, pool: Arc<Pool>) -> Self {
        let RestingTunnel { mut tunnel, place, retire, .. } = resting;
        tunnel.open();
        Self { stream: Stream::Tunnel(tunnel), place, home: Some((key, pool, retire)) }
    }

    /// What was carried has ended, in order, both ways: a tunnel can carry the next.
    pub fn release(self) {
        let (Stream::Tunnel(tunnel), Some((key, pool, retire))) = (self.stream, self.home) else { return };
        let waited_for = self.place.as_ref().is_some_and(|place| place.limits().is_waited_for());
        if tunnel.rests() && !waited_for {
            let mut table = pool.0.lock();
            let tunnels = &mut table.entry(key).or_default().tunnels;
            if tunnels.len() < MAX_IDLE {
                tunnels.push(RestingTunnel { tunnel, place: self.place, since: Instant::now(), retire });
            }
        }
    }
}
