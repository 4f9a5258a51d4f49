//! Room for one more connection, where the set of an endpoint has a limit.
//!
//! Who finds none closes a connection of the same set that rests; where none does, it waits for a bounded time. A connection of HTTP/1 that
//! somebody is done with then goes to one who waits for just that endpoint on this worker; if nobody does it is closed, so that its place
//! goes to whoever waits, for whichever endpoint, on whichever worker.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use tokio::{
    sync::oneshot::{self, error::TryRecvError},
    time::timeout,
};

use super::{Key, Lease, Pool};
use crate::{
    balance::{
        Endpoint,
        limits::{Full, Limits, Place},
    },
    news,
};

/// What was found.
pub(super) enum Room {
    /// A place for a new connection; `None`: there is no limit.
    Place(Option<Place>),
    /// A connection that somebody else is done with.
    Handed(Lease),
}

impl Pool {
    /// A place for a connection to `endpoint`, or a connection.
    pub(super) async fn room(self: &Arc<Self>, key: &Key, endpoint: &Endpoint) -> Result<Room, Full> {
        if let Ok(place) = self.place_at_once(endpoint) {
            return Ok(Room::Place(place));
        }
        let Some(limits) = &endpoint.limits else { return Ok(Room::Place(None)) };
        let (sender, mut receiver) = oneshot::channel();
        {
            let mut table = self.0.lock();
            let waiting = &mut table.entry(key.clone()).or_default().waiting;
            // Those who found a place or gave up.
            waiting.retain(|waiting| !waiting.is_closed());
            waiting.push_back(sender);
        }
        let found = async {
            tokio::select! {
                biased;
                Ok(lease) = &mut receiver => Room::Handed(lease),
                place = limits.free_place() => match receiver.try_recv() {
                    Ok(lease) => Room::Handed(lease),
                    Err(TryRecvError::Empty | TryRecvError::Closed) => Room::Place(Some(place)),
                },
            }
        };
        timeout(limits.connect_timeout, found).await.map_err(|_| limits.no_place())
    }

    /// A place for a connection of HTTP/2, or a stream of one that there is, however many it has: better a stream too many than none.
    pub(super) async fn room_to_share(&self, key: &Key, endpoint: &Endpoint) -> Result<Room, Full> {
        if let Ok(place) = self.place_at_once(endpoint) {
            return Ok(Room::Place(place));
        }
        let Some(limits) = &endpoint.limits else { return Ok(Room::Place(None)) };
        let made = self.0.lock().entry(key.clone()).or_default().made.clone();
        let found = async {
            tokio::select! {
                biased;
                lease = news::until(&made, || self.crowded(key)) => Room::Handed(lease),
                place = limits.free_place() => Room::Place(Some(place)),
            }
        };
        timeout(limits.connect_timeout, found).await.map_err(|_| limits.no_place())
    }

    /// A place for a connection to `endpoint`.
    pub(super) async fn place(&self, endpoint: &Endpoint) -> Result<Option<Place>, Full> {
        let Some(limits) = &endpoint.limits else { return Ok(None) };
        if let Ok(place) = self.place_at_once(endpoint) {
            return Ok(place);
        }
        timeout(limits.connect_timeout, limits.free_place()).await.map(Some).map_err(|_| limits.no_place())
    }

    /// The same, without waiting.
    pub(super) fn place_at_once(&self, endpoint: &Endpoint) -> Result<Option<Place>, Full> {
        let Some(limits) = &endpoint.limits else { return Ok(None) };
        let place = limits.place().or_else(|| {
            self.close_one(limits);
            limits.place()
        });
        place.map(Some).ok_or_else(|| limits.no_place())
    }

    /// Closes a connection that rests and has a place of these limits.
    fn close_one(&self, limits: &Limits) {
        let is_of = |place: &Option<Place>| place.as_ref().is_some_and(|place| place.is_of(limits));
        for entry in self.0.lock().values_mut() {
            // The one that has rested for longest comes first.
            if let Some(index) = entry.idle.iter().position(|resting| is_of(&resting.place)) {
                entry.idle.remove(index);
                return;
            }
            if let Some(index) = entry.tunnels.iter().position(|resting| is_of(&resting.place)) {
                entry.tunnels.remove(index);
                return;
            }
            let rests = |limits: &Arc<Limits>, used: &Limits| Arc::ptr_eq(&limits.used, &used.used);
            let resting = entry.shared.iter().position(|shared| {
                shared.streams.load(Relaxed) == 0 && shared.limits.as_ref().is_some_and(|own| rests(own, limits))
            });
            if let Some(index) = resting {
                // Its place is free as soon as its task has seen it.
                entry.shared.remove(index);
                return;
            }
        }
    }

    /// Gives a connection to the first who waits for it; closes it if nobody does.
    pub(super) fn hand_over(&self, key: &Key, mut lease: Lease) {
        let mut table = self.0.lock();
        let Some(entry) = table.get_mut(key) else { return };
        while let Some(waiting) = entry.waiting.pop_front() {
            match waiting.send(lease) {
                Ok(()) => return,
                Err(back) => lease = back,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;
    use tokio::{net::TcpListener, task::yield_now};

    use super::*;
    use crate::{
        balance::pool::Dialler,
        http::Version,
        identity::{
            Identity,
            testing::{Authority, domain},
        },
    };

    #[tokio::test]
    async fn who_waits_for_a_place_shares_the_connection_that_another_makes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(tcp).await.unwrap();
            while connection.accept().await.is_some() {}
        });
        let authority = Authority::new();
        let leaf = authority.leaf("spiffe://cluster.local/ns/test/sa/client");
        let identity = Arc::new(Identity::new(domain(), leaf, authority.bundle(1)).unwrap());
        let dialler = Dialler { identity, telemetry: Arc::default() };
        let (all, connect_timeout) = (1, Duration::from_secs(60));
        let limits = Arc::new(Limits { connections: all, connect_timeout, ..Limits::default() });
        let endpoint = Arc::new(Endpoint::new(address, None, "", "", Arc::default()).with_limits(limits.clone()));
        let pool = Arc::new(Pool::default());

        let taken = limits.place().unwrap();
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                let (pool, dialler, endpoint) = (pool.clone(), dialler.clone(), endpoint.clone());
                tokio::spawn(async move { pool.lease(&dialler, &endpoint, Version::Http2).await.map(|_| ()) })
            })
            .collect();
        while !limits.is_waited_for() {
            yield_now().await;
        }
        pool.sweep(tokio::time::Instant::now());
        drop(taken);
        let leased =
            timeout(Duration::from_secs(10), join_all(waiting)).await.expect("nobody waits for a second place");
        assert!(leased.into_iter().all(|leased| leased.unwrap().is_ok()));
        peer.abort();
    }
}
