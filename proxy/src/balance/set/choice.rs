//! The choice among those who take part: it looks at two endpoints, however many there are.

use std::{
    cell::Cell,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::time::Instant;

use super::{EndpointSet, view::View};
use crate::balance::{
    Endpoint,
    key::KeySource,
    ring::{Ring, mix},
};

/// How an endpoint is chosen.
#[derive(Debug, Default)]
pub enum Algorithm {
    /// The one of two at random whose answers come sooner, counting what waits for it already.
    #[default]
    PeakEwma,
    /// The one of two at random with fewer requests in flight.
    LeastRequest,
    /// One after the other.
    RoundRobin,
    /// Any.
    Random,
    /// By a key of the request.
    Hash(KeySource, Ring),
}

/// One decision.
pub(super) struct Draw<'a, 'b> {
    set: &'a EndpointSet,
    view: &'b View,
    /// Among whom is drawn.
    level: Cell<usize>,
    avoid: &'b [SocketAddr],
    now: Instant,
    random: Cell<u64>,
}

/// How often an endpoint that is not wanted is drawn again: with half of the endpoints unwanted one draw of 250 is in vain.
const REDRAWS: usize = 8;

/// What one endpoint may have in flight beside the others where keys decide, and what it may always have: moving a key costs more than that.
pub(super) const OVER_MEAN: f64 = 1.25;
pub(super) const ALWAYS: u32 = 8;

/// Points of the circle that are looked at for one key: most endpoints have room, so more than a handful is a sign that none has.
const STEPS: usize = 256;

impl<'a, 'b> Draw<'a, 'b> {
    pub(super) fn new(
        set: &'a EndpointSet,
        view: &'b View,
        avoid: &'b [SocketAddr],
        random: u64,
        now: Instant,
    ) -> Self {
        Self { set, view, level: Cell::new(0), avoid, now, random: Cell::new(random) }
    }

    /// By the key, where keys decide and there is one.
    pub(super) fn endpoint(&self, key: Option<u64>) -> Option<&'a Arc<Endpoint>> {
        if self.view.levels.is_empty() {
            return None;
        }
        // A key goes to the same level as long as the shares stay.
        self.level.set(self.view.level(key.map_or_else(|| self.next_of_levels(), mix)));
        let behaviour = &self.set.behaviour;
        Some(match (&behaviour.algorithm, key) {
            (Algorithm::PeakEwma, _) => self.better(|endpoint| endpoint.load.cost(self.now)),
            (Algorithm::LeastRequest, _) => self.better(|endpoint| f64::from(endpoint.load.in_flight())),
            (Algorithm::RoundRobin, _) => {
                let len = self.usable().len();
                self.wanted(|| self.set.shared.cursor.fetch_add(1, Relaxed) % len)
            }
            (Algorithm::Hash(_, ring), Some(key)) => self.hashed(ring, key),
            (Algorithm::Random | Algorithm::Hash(..), _) => self.wanted(|| self.any()),
        })
    }

    /// Where there is a choice of levels; otherwise it costs nothing.
    fn next_of_levels(&self) -> u64 {
        if self.view.levels.len() > 1 { self.next() } else { 0 }
    }

    fn usable(&self) -> &'b [u32] {
        &self.view.levels[self.level.get()].usable
    }

    fn next(&self) -> u64 {
        let random = self.random.get();
        self.random.set(mix(random));
        random
    }

    fn any(&self) -> usize {
        (self.next() % self.usable().len() as u64) as usize
    }

    fn at(&self, index: usize) -> &'a Arc<Endpoint> {
        &self.set.endpoints[self.usable()[index] as usize]
    }

    /// The first of some draws that did not just fail and is not starting slowly.
    fn wanted(&self, draw: impl Fn() -> usize) -> &'a Arc<Endpoint> {
        let mut endpoint = self.at(draw());
        for _ in 0..REDRAWS {
            if self.is_wanted(endpoint) {
                return endpoint;
            }
            endpoint = self.at(draw());
        }
        self.fresh().unwrap_or(endpoint)
    }

    /// Draws were in vain: rare, and only after failures.
    fn fresh(&self) -> Option<&'a Arc<Endpoint>> {
        if self.avoid.is_empty() {
            return None;
        }
        let fresh = |index: &usize| !self.avoid.contains(&self.at(*index).address);
        let drawn = self.level.get();
        // Its own level first, then the nearest.
        for level in std::iter::once(drawn).chain((0..self.view.levels.len()).filter(|level| *level != drawn)) {
            self.level.set(level);
            let len = self.usable().len();
            let start = self.any();
            if let Some(index) = (0..len).map(|n| (start + n) % len).find(fresh) {
                return Some(self.at(index));
            }
        }
        None
    }

    fn is_wanted(&self, endpoint: &Endpoint) -> bool {
        if self.avoid.contains(&endpoint.address) {
            return false;
        }
        let slow_start = self.set.behaviour.slow_start;
        if slow_start.is_zero() {
            return true;
        }
        let age = endpoint.health.age(self.now);
        // From a tenth of its share to all of it.
        let part = 0.1 + 0.9 * age.as_secs_f64() / slow_start.as_secs_f64();
        age >= slow_start || (self.next() % 1000) as f64 / 1000.0 < part
    }

    /// Two choices instead of the best of all: several proxies that see the same figures would otherwise all run to the same endpoint.
    fn better(&self, cost: impl Fn(&Endpoint) -> f64) -> &'a Arc<Endpoint> {
        let first = self.wanted(|| self.any());
        let len = self.usable().len();
        if len == 1 {
            return first;
        }
        // Another one, if draws are so kind; the two may be the same where few are wanted.
        let second = self.wanted(|| {
            let index = self.any();
            if Arc::ptr_eq(self.at(index), first) { (index + 1) % len } else { index }
        });
        if cost(second) < cost(first) { second } else { first }
    }

    /// The first endpoint of the key's walk that has not more than its part of the load.
    fn hashed(&self, ring: &Ring, key: u64) -> &'a Arc<Endpoint> {
        let mut first = None;
        let mut bound = None;
        let level = Some(self.level.get() as u32);
        for index in ring.walk(key).filter(|index| self.view.level_of[*index] == level).take(STEPS) {
            let endpoint = &self.set.endpoints[index];
            let in_flight = endpoint.load.in_flight();
            let fits =
                in_flight < ALWAYS || f64::from(in_flight) < *bound.get_or_insert_with(|| self.mean() * OVER_MEAN);
            if fits && !self.avoid.contains(&endpoint.address) {
                return endpoint;
            }
            first.get_or_insert(endpoint);
        }
        first.unwrap_or_else(|| self.at(0))
    }

    /// Of requests in flight, estimated from a sample so that the cost does not grow with the endpoints.
    fn mean(&self) -> f64 {
        const SAMPLE: usize = 16;
        let len = self.usable().len();
        let sum: u32 = if len <= SAMPLE {
            (0..len).map(|index| self.at(index).load.in_flight()).sum()
        } else {
            (0..SAMPLE).map(|_| self.at(self.any()).load.in_flight()).sum()
        };
        (f64::from(sum) + 1.0) / len.min(SAMPLE) as f64
    }
}
