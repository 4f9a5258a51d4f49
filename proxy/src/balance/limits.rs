//! What one proxy may have under way at the endpoints of one set, counted over all of its workers.

use std::{
    sync::{
        Arc,
        atomic::{
            AtomicU32,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use thiserror::Error;
use tokio::sync::Notify;

use crate::{news, telemetry::Limit};

/// What there may be. The defaults are those of the API, for operators that say nothing of it.
#[derive(Debug)]
pub struct Limits {
    /// Connections that are open.
    pub connections: u32,
    /// Requests that wait for a connection.
    pub pending_requests: u32,
    /// Requests that are in flight, those that wait included.
    pub requests: u32,
    /// How long an endpoint may take to accept; also how long a request waits for a place among the connections.
    pub connect_timeout: Duration,
    /// How long a connection rests before it is closed.
    pub idle_timeout: Duration,
    /// What there is.
    pub used: Arc<Used>,
}

/// What there is; shared by the versions of a set.
#[derive(Debug, Default)]
pub struct Used {
    connections: AtomicU32,
    pending: AtomicU32,
    /// Who waits for a place, and not for a connection that is being made.
    waiting: AtomicU32,
    freed: Notify,
    /// One clone for each request in flight: counting is one step then.
    requests: Arc<()>,
}

/// A limit is reached.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{max} {}, as many as limits.{} allows", .limit.what(), .limit.as_str())]
pub struct Full {
    /// Which.
    pub limit: Limit,
    /// Where it is.
    pub max: u32,
}

impl Limit {
    fn what(self) -> &'static str {
        match self {
            Self::Connections => "connections are in use",
            Self::PendingRequests => "requests wait for a connection",
            Self::Requests => "requests are in flight",
        }
    }
}

/// A request in flight; ends on drop.
#[derive(Debug)]
pub struct InSet(Arc<()>);

/// A request that waits for a connection; ends on drop.
#[derive(Debug)]
pub struct Pending(Arc<Limits>);

/// The place of one connection; free again on drop.
#[derive(Debug)]
pub struct Place(Arc<Limits>);

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            pending_requests: 1024,
            requests: 1024,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(60),
            used: Arc::default(),
        }
    }
}

impl Limits {
    /// One more request.
    pub fn request(&self) -> Result<InSet, Full> {
        let request = InSet(self.used.requests.clone());
        // One of the clones is the one that is cloned.
        let fits = Arc::strong_count(&request.0) <= self.requests as usize + 1;
        if fits { Ok(request) } else { Err(Full { limit: Limit::Requests, max: self.requests }) }
    }

    /// One more that waits.
    pub fn pend(self: &Arc<Self>) -> Result<Pending, Full> {
        let pending = Pending(self.clone());
        let fits = self.used.pending.fetch_add(1, Relaxed) < self.pending_requests;
        if fits { Ok(pending) } else { Err(Full { limit: Limit::PendingRequests, max: self.pending_requests }) }
    }

    /// A place for one more connection, if there is one now.
    pub fn place(self: &Arc<Self>) -> Option<Place> {
        // Never counted above the bound, not even for a moment: a place that is freed then would be missed by who waits. In one order with
        // the news of it, for the same reason.
        let one_more = |open| (open < self.connections).then_some(open + 1);
        self.used.connections.fetch_update(SeqCst, SeqCst, one_more).ok()?;
        Some(Place(self.clone()))
    }

    /// A place, as soon as there is one.
    pub async fn free_place(self: &Arc<Self>) -> Place {
        let _waiting = Waiting::new(&self.used);
        news::until(&self.used.freed, || self.place()).await
    }

    /// Whether a request waits for a place.
    pub fn is_waited_for(&self) -> bool {
        self.used.waiting.load(Relaxed) > 0
    }

    /// There are as many connections as may be.
    pub fn no_place(&self) -> Full {
        Full { limit: Limit::Connections, max: self.connections }
    }
}

impl Place {
    /// Those that it counts for.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.0
    }

    /// Whether it is a place at the set that has used this much.
    pub fn is_of(&self, limits: &Limits) -> bool {
        Arc::ptr_eq(&self.0.used, &limits.used)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.used.pending.fetch_sub(1, Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let used = &self.0.used;
        used.connections.fetch_sub(1, SeqCst);
        used.freed.notify_one();
    }
}

struct Waiting<'a>(&'a Used);

impl<'a> Waiting<'a> {
    fn new(used: &'a Used) -> Self {
        used.waiting.fetch_add(1, Relaxed);
        Self(used)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep};

    use super::*;

    fn limits(all: u32) -> Arc<Limits> {
        Arc::new(Limits { connections: all, pending_requests: all, requests: all, ..Limits::default() })
    }

    #[test]
    fn each_limit_is_reached_and_what_ends_makes_room() {
        let limits = limits(2);
        let requests = [limits.request().unwrap(), limits.request().unwrap()];
        let full = limits.request().unwrap_err();
        assert_eq!(full.to_string(), "2 requests are in flight, as many as limits.requests allows");
        drop(requests);
        assert!(limits.request().is_ok());

        let pending = [limits.pend().unwrap(), limits.pend().unwrap()];
        assert_eq!(limits.pend().unwrap_err().limit, Limit::PendingRequests);
        drop(pending);
        assert!(limits.pend().is_ok());

        let places = [limits.place().unwrap(), limits.place().unwrap()];
        assert!(limits.place().is_none() && limits.place().is_none());
        drop(places);
        assert!(limits.place().is_some());
    }

    #[test]
    fn versions_of_a_set_count_together() {
        let before = limits(2);
        let _places = [before.place(), before.place()];
        let after = Arc::new(Limits { connections: 3, used: before.used.clone(), ..Limits::default() });
        let third = after.place().unwrap();
        assert!(after.place().is_none() && third.is_of(&before));
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_under_a_bound_that_was_raised_is_woken() {
        let before = limits(1);
        let after = Arc::new(Limits { connections: 2, used: before.used.clone(), ..Limits::default() });
        let (old, _new) = (before.place(), after.place());
        let waiting = tokio::spawn(async move { after.free_place().await });
        sleep(Duration::from_secs(1)).await;
        drop(old);
        assert!(tokio::time::timeout(Duration::from_secs(1), waiting).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_the_place_that_becomes_free() {
        let limits = limits(2);
        let places = [limits.place(), limits.place()];
        assert!(!limits.is_waited_for());
        let waiting: Vec<_> = (0..2)
            .map(|_| {
                let limits = limits.clone();
                tokio::spawn(async move { limits.free_place().await })
            })
            .collect();
        sleep(Duration::from_secs(1)).await;
        assert!(limits.is_waited_for());
        // At the same moment: neither may be missed.
        drop(places);
        let began = Instant::now();
        for waiting in waiting {
            // Kept until both have theirs.
            std::mem::forget(waiting.await.unwrap());
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(!limits.is_waited_for());
    }
}
