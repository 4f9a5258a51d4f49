//! The endpoints that a backend stands for, and which of them gets the next request.
//!
//! [`EndpointSet::pick`] chooses ([`choice`]) among those who take part; who does is decided when that changes, and published ([`view`]) for
//! picks to read without a lock. [`EndpointSet::record`] is told what came of each request.
//!
//! # Guarantees
//!
//! - Never more endpoints are ejected than `max_ejected` allows of those that there are; if endpoints go, ejected ones return.
//! - An ejected endpoint returns after one good answer on trial, and is tried as soon as its time is over.
//! - Where none is left, all are used, near or far: an endpoint that may fail is better than none.

mod choice;
mod settle;
#[cfg(test)]
mod tests;
mod view;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::time::Instant;

pub use self::{choice::Algorithm, settle::Settle};
use self::{choice::Draw, view::View};
use super::{
    Endpoint,
    health::{Cause, Check, Outliers},
    key::KeySource,
    limits::Used,
};

/// How a set behaves.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// For how long one that comes, or comes back, gets less than its share.
    pub slow_start: Duration,
    /// `None`: those that are near get no more than others.
    pub spill: Option<Spill>,
    /// `None`: nobody is left out.
    pub outliers: Option<Outliers>,
    /// `None`: nobody is asked.
    pub check: Option<Check>,
}

/// When requests go farther than to the nearest endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spill {
    /// A level takes all that comes to it while this share of it is well; millionths.
    pub min_healthy: u32,
    /// Endpoints that are not ready, by level.
    pub unready: Vec<u32>,
}

/// What the versions of a set share.
#[derive(Debug)]
pub struct Shared {
    epoch: Instant,
    /// Grows whenever somebody is left out or returns.
    generation: AtomicU64,
    cursor: AtomicUsize,
    change: Mutex<()>,
    /// Of its limits.
    pub used: Arc<Used>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            generation: AtomicU64::new(1),
            cursor: AtomicUsize::new(0),
            change: Mutex::new(()),
            used: Arc::default(),
        }
    }
}

impl Shared {
    fn changed(&self) {
        self.generation.fetch_add(1, Release);
    }

    fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.epoch).as_micros() as u64
    }
}

/// Endpoints that a backend stands for.
#[derive(Debug)]
pub struct EndpointSet {
    /// For people: `bookinfo/reviews:9080/v2`.
    pub name: String,
    /// Without any the set's share of requests gets 503.
    pub endpoints: Vec<Arc<Endpoint>>,
    behaviour: Behaviour,
    shared: Arc<Shared>,
    view: ArcSwap<View>,
}

/// The endpoint for a request.
#[derive(Debug)]
pub struct Picked<'a> {
    /// Where it goes.
    pub endpoint: &'a Arc<Endpoint>,
    /// The request decides whether the endpoint, which was left out, returns.
    pub trial: bool,
}

/// What came of a request, for the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The endpoint is left out from now on.
    Ejected(Cause),
    /// It is an outlier, but too many are left out already.
    Kept,
    /// It is back.
    Returned,
    /// Checks found it unhealthy.
    Unhealthy,
    /// Checks found it healthy again.
    Healthy,
}

impl EndpointSet {
    /// `shared` is that of the version before, if there is one.
    pub fn new(name: String, endpoints: Vec<Arc<Endpoint>>, behaviour: Behaviour, shared: Arc<Shared>) -> Self {
        // Of generation 0, so that the first pick looks again: the bound on ejections may be another than before.
        let view = ArcSwap::from_pointee(View::of(0, &endpoints, &behaviour, &shared));
        Self { name, endpoints, behaviour, shared, view }
    }

    /// For the version after.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Where the key of a request is, if keys decide.
    pub fn key(&self) -> Option<&KeySource> {
        match &self.behaviour.algorithm {
            Algorithm::Hash(source, _) => Some(source),
            _ => None,
        }
    }

    /// Where the next request goes; to one of `avoid` (it failed a moment ago) only if there is no other. `key` is the request's, where
    /// keys decide and it has one. What comes of the request is to be recorded: it may decide whether an endpoint returns.
    pub fn pick(&self, avoid: &[SocketAddr], key: Option<u64>, random: u64, now: Instant) -> Option<Picked<'_>> {
        let view = self.view(now);
        // A request that failed already is not put on trial again.
        if avoid.is_empty()
            && self.tries_with_requests()
            && let Some(endpoint) = self.trial(&view, now)
        {
            return Some(Picked { endpoint, trial: true });
        }
        let endpoint = Draw::new(self, &view, avoid, random, now).endpoint(key)?;
        Some(Picked { endpoint, trial: false })
    }

    /// Where a request goes of which nothing is recorded, such as a copy: nobody is tried with it.
    pub fn pick_unrecorded(&self, key: Option<u64>, random: u64, now: Instant) -> Option<&Arc<Endpoint>> {
        Draw::new(self, &self.view(now), &[], random, now).endpoint(key)
    }

    /// Who takes part now.
    fn view(&self, now: Instant) -> Guard<Arc<View>> {
        let view = self.view.load();
        if view.generation == self.shared.generation.load(Acquire) {
            return view;
        }
        self.refresh(now);
        self.view.load()
    }

    /// Brings the view up to date with everybody's health. A pick that comes meanwhile uses the view of before.
    fn refresh(&self, now: Instant) {
        let Some(_one) = self.shared.change.try_lock() else { return };
        let generation = self.shared.generation.load(Acquire);
        let mut out: Vec<_> = self.ejected().collect();
        let allowed = self.allowed();
        if out.len() > allowed {
            // Endpoints have gone since, or the bound was lowered. Those that were to return first do so now.
            out.sort_by_key(|endpoint| std::cmp::Reverse(endpoint.health.due()));
            out.drain(allowed..).for_each(|endpoint| endpoint.health.back(now));
        }
        self.view.store(Arc::new(View::of(generation, &self.endpoints, &self.behaviour, &self.shared)));
    }

    /// What an endpoint that was left out is asked; `None`: nothing.
    pub fn probe(&self) -> Option<&PathAndQuery> {
        self.behaviour.outliers.as_ref()?.probe.as_ref()
    }

    fn tries_with_requests(&self) -> bool {
        self.behaviour.outliers.as_ref().is_some_and(|outliers| outliers.probe.is_none())
    }

    /// An ejected endpoint whose time is over, if nobody else tries it.
    fn trial(&self, view: &View, now: Instant) -> Option<&Arc<Endpoint>> {
        if view.out.is_empty() || self.shared.micros(now) < view.due.load(Relaxed) {
            return None;
        }
        let claimed = view.out.iter().map(|index| &self.endpoints[*index as usize]).find(|e| e.health.claim(now));
        view.due.store(view::due(&view.out, &self.endpoints, &self.shared), Relaxed);
        claimed
    }

    fn allowed(&self) -> usize {
        let share = self.behaviour.outliers.as_ref().map_or(0, |outliers| u64::from(outliers.max_ejected));
        (self.endpoints.len() as u64 * share / 1_000_000) as usize
    }

    /// What came of a request that was sent to `endpoint`, one of this set.
    pub fn record(&self, endpoint: &Endpoint, trial: bool, failed: bool, now: Instant) -> Option<Event> {
        let outliers = self.behaviour.outliers.as_ref()?;
        let health = &endpoint.health;
        if !failed {
            health.succeeded(now);
            if trial && health.is_out() {
                health.back(now);
                self.shared.changed();
                return Some(Event::Returned);
            }
            return None;
        }
        let cause = health.failed(outliers, now);
        if trial && health.is_out() {
            health.eject(outliers, now);
            self.shared.changed();
            return Some(Event::Ejected(Cause::Trial));
        }
        let cause = cause?;
        // Decided by one at a time, or two could be the last one that is allowed.
        let _one = self.shared.change.lock();
        if health.is_out() {
            return None;
        }
        let out = self.endpoints.iter().filter(|endpoint| endpoint.health.is_out()).count();
        if out >= self.allowed() {
            health.forget();
            return Some(Event::Kept);
        }
        health.eject(outliers, now);
        self.shared.changed();
        Some(Event::Ejected(cause))
    }

    /// What endpoints are asked again and again; `None`: nothing.
    pub fn check(&self) -> Option<&Check> {
        self.behaviour.check.as_ref()
    }

    /// What came of a check of `endpoint`, one of this set. However many are unhealthy, none of them gets requests unless all are.
    pub fn record_check(&self, endpoint: &Endpoint, well: bool, now: Instant) -> Option<Event> {
        let healthy = endpoint.health.checked(self.check()?, well, now)?;
        self.shared.changed();
        Some(if healthy { Event::Healthy } else { Event::Unhealthy })
    }

    /// Endpoints that are left out now.
    pub fn ejected(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(|endpoint| endpoint.health.is_out())
    }
}
