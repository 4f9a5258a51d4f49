//! The endpoints that a backend stands for, and which of them gets the next request.
//!
//! [`EndpointSet::pick`] looks at two endpoints, however many there are; who is left out is decided when that changes, and kept as a
//! [`View`] that picks read without a lock. [`EndpointSet::record`] is told what came of each request.
//!
//! # Guarantees
//!
//! - Never more endpoints are ejected than `max_ejected` allows of those that there are; if endpoints go, ejected ones return.
//! - An ejected endpoint returns after one good answer on trial, and is tried as soon as its time is over.
//! - Where none is left, all are used: an endpoint that may fail is better than none.

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

use arc_swap::ArcSwap;
use http::uri::PathAndQuery;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    Endpoint,
    health::{Cause, Outliers},
    key::KeySource,
    ring::{Ring, mix},
};
use crate::telemetry::Requests;

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

/// How a set behaves.
#[derive(Debug, Default)]
pub struct Behaviour {
    /// How an endpoint is chosen.
    pub algorithm: Algorithm,
    /// For how long one that comes, or comes back, gets less than its share.
    pub slow_start: Duration,
    /// `None`: nobody is left out.
    pub outliers: Option<Outliers>,
}

/// What the versions of a set share.
#[derive(Debug)]
pub struct Shared {
    epoch: Instant,
    /// Grows whenever somebody is left out or returns.
    generation: AtomicU64,
    cursor: AtomicUsize,
    change: Mutex<()>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            generation: AtomicU64::new(1),
            cursor: AtomicUsize::new(0),
            change: Mutex::new(()),
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

/// Who takes part, as of one generation.
#[derive(Debug, Default)]
struct View {
    generation: u64,
    /// Into the set's endpoints.
    usable: Vec<u32>,
    /// By endpoint.
    is_usable: Vec<bool>,
    out: Vec<u32>,
    /// When the first of those may be tried; microseconds of the shared epoch.
    due: AtomicU64,
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
}

impl EndpointSet {
    /// `shared` is that of the version before, if there is one.
    pub fn new(name: String, endpoints: Vec<Arc<Endpoint>>, behaviour: Behaviour, shared: Arc<Shared>) -> Self {
        // Of generation 0, so that the first pick looks.
        Self { name, endpoints, behaviour, shared, view: ArcSwap::default() }
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
    /// keys decide and it has one.
    pub fn pick(&self, avoid: &[SocketAddr], key: Option<u64>, random: u64, now: Instant) -> Option<Picked<'_>> {
        let mut view = self.view.load();
        if view.generation != self.shared.generation.load(Acquire) {
            self.refresh(now);
            view = self.view.load();
        }
        // A request that failed already is not put on trial again.
        if !view.out.is_empty()
            && avoid.is_empty()
            && self.tries_with_requests()
            && let Some(endpoint) = self.trial(&view, now)
        {
            return Some(Picked { endpoint, trial: true });
        }
        let draw = Draw { set: self, view: &view, avoid, now, random: std::cell::Cell::new(random) };
        draw.endpoint(key).map(|endpoint| Picked { endpoint, trial: false })
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
        if self.shared.micros(now) < view.due.load(Relaxed) {
            return None;
        }
        let claimed = view.out.iter().map(|index| &self.endpoints[*index as usize]).find(|e| e.health.claim(now));
        view.due.store(self.due(&view.out), Relaxed);
        claimed
    }

    fn due(&self, out: &[u32]) -> u64 {
        let due = out.iter().filter_map(|index| self.endpoints[*index as usize].health.due());
        due.min().map_or(u64::MAX, |due| self.shared.micros(due))
    }

    /// Brings the view up to date with everybody's health. A pick that comes meanwhile uses the view of before.
    fn refresh(&self, now: Instant) {
        let Some(_one) = self.shared.change.try_lock() else { return };
        let generation = self.shared.generation.load(Acquire);
        let mut out: Vec<u32> =
            (0..self.endpoints.len() as u32).filter(|index| self.endpoints[*index as usize].health.is_out()).collect();
        let allowed = self.allowed();
        if out.len() > allowed {
            // Endpoints have gone since, or the bound was lowered. Those that were to return first do so now.
            out.sort_by_key(|index| std::cmp::Reverse(self.endpoints[*index as usize].health.due()));
            for index in out.drain(allowed..) {
                self.endpoints[index as usize].health.back(now);
            }
        }
        let healthy = |index: &u32| {
            let health = &self.endpoints[*index as usize].health;
            !health.is_out() && !health.is_unhealthy()
        };
        let all = 0..self.endpoints.len() as u32;
        let mut usable: Vec<u32> = all.clone().filter(healthy).collect();
        if usable.is_empty() {
            usable = all.collect();
        }
        let mut is_usable = vec![false; self.endpoints.len()];
        for index in &usable {
            is_usable[*index as usize] = true;
        }
        let due = AtomicU64::new(self.due(&out));
        self.view.store(Arc::new(View { generation, usable, is_usable, out, due }));
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

    /// Endpoints that are left out now.
    pub fn ejected(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.iter().filter(|endpoint| endpoint.health.is_out())
    }
}

/// Says of a request what came of it, once that is known.
#[derive(Debug)]
pub struct Settle {
    /// Where the endpoint was chosen from.
    pub set: Arc<EndpointSet>,
    /// Who got the request.
    pub endpoint: Arc<Endpoint>,
    /// As picked.
    pub trial: bool,
    /// Counts what becomes of it.
    pub requests: Arc<Requests>,
}

impl Settle {
    /// It is known now.
    pub fn settle(&self, failed: bool, now: Instant) {
        if let Some(event) = self.set.record(&self.endpoint, self.trial, failed, now) {
            tracing::debug!(set = self.set.name, address = %self.endpoint.address, ?event, "an endpoint that fails");
            self.requests.outliers.count(event);
        }
    }
}

/// One decision.
struct Draw<'a, 'b> {
    set: &'a EndpointSet,
    view: &'b View,
    avoid: &'b [SocketAddr],
    now: Instant,
    random: std::cell::Cell<u64>,
}

/// How often an endpoint that is not wanted is drawn again: with half of the endpoints unwanted one draw of 250 is in vain.
const REDRAWS: usize = 8;

/// What one endpoint may have in flight beside the others where keys decide, and what it may always have: moving a key costs more than that.
const OVER_MEAN: f64 = 1.25;
const ALWAYS: u32 = 8;

/// Points of the circle that are looked at for one key: most endpoints have room, so more than a handful is a sign that none has.
const STEPS: usize = 256;

impl<'a> Draw<'a, '_> {
    fn endpoint(&self, key: Option<u64>) -> Option<&'a Arc<Endpoint>> {
        if self.view.usable.is_empty() {
            return None;
        }
        let behaviour = &self.set.behaviour;
        Some(match (&behaviour.algorithm, key) {
            (Algorithm::PeakEwma, _) => self.better(|endpoint| endpoint.load.cost(self.now)),
            (Algorithm::LeastRequest, _) => self.better(|endpoint| f64::from(endpoint.load.in_flight())),
            (Algorithm::RoundRobin, _) => {
                let len = self.view.usable.len();
                self.wanted(|| self.set.shared.cursor.fetch_add(1, Relaxed) % len)
            }
            (Algorithm::Hash(_, ring), Some(key)) => self.hashed(ring, key),
            (Algorithm::Random | Algorithm::Hash(..), _) => self.wanted(|| self.any()),
        })
    }

    fn next(&self) -> u64 {
        let random = self.random.get();
        self.random.set(mix(random));
        random
    }

    fn any(&self) -> usize {
        (self.next() % self.view.usable.len() as u64) as usize
    }

    fn at(&self, index: usize) -> &'a Arc<Endpoint> {
        &self.set.endpoints[self.view.usable[index] as usize]
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
        let len = self.view.usable.len();
        let start = self.any();
        (0..len).map(|n| (start + n) % len).find(fresh).map(|index| self.at(index))
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
        let len = self.view.usable.len();
        let first = self.wanted(|| self.any());
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
        for index in ring.walk(key).filter(|index| self.view.is_usable[*index]).take(STEPS) {
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
        let len = self.view.usable.len();
        let sum: u32 = if len <= SAMPLE {
            (0..len).map(|index| self.at(index).load.in_flight()).sum()
        } else {
            (0..SAMPLE).map(|_| self.at(self.any()).load.in_flight()).sum()
        };
        (f64::from(sum) + 1.0) / len.min(SAMPLE) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::ring, *};

    const SECOND: Duration = Duration::from_secs(1);

    fn outliers(percent: u32) -> Outliers {
        Outliers {
            consecutive: 3,
            error_share: 500_000,
            min_requests: 20,
            base: 10 * SECOND,
            max: 60 * SECOND,
            max_ejected: percent * 10_000,
            probe: None,
        }
    }

    fn endpoints(count: usize) -> Vec<Arc<Endpoint>> {
        (0..count as u16)
            .map(|n| {
                let address = SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
                Arc::new(Endpoint::new(address, None, "", "", Arc::default()))
            })
            .collect()
    }

    fn set(count: usize, algorithm: Algorithm, outliers: Option<Outliers>) -> EndpointSet {
        let behaviour = Behaviour { algorithm, outliers, slow_start: Duration::ZERO };
        EndpointSet::new("set".into(), endpoints(count), behaviour, Arc::default())
    }

    fn shares(set: &EndpointSet, now: Instant) -> Vec<u32> {
        let mut counts = vec![0; set.endpoints.len()];
        for n in 0..1000 {
            let picked = set.pick(&[], None, mix(n), now).unwrap().endpoint;
            counts[set.endpoints.iter().position(|e| Arc::ptr_eq(e, picked)).unwrap()] += 1;
        }
        counts
    }

    fn fail(set: &EndpointSet, index: usize, times: usize, now: Instant) -> Option<Event> {
        (0..times).filter_map(|_| set.record(&set.endpoints[index], false, true, now)).last()
    }

    #[test]
    fn without_a_preference_all_get_the_same() {
        let now = Instant::now();
        for algorithm in [Algorithm::PeakEwma, Algorithm::LeastRequest, Algorithm::RoundRobin, Algorithm::Random] {
            let name = format!("{algorithm:?}");
            let shares = shares(&set(4, algorithm, None), now);
            assert!(shares.iter().all(|n| (190..310).contains(n)), "{name} {shares:?}");
        }
        assert_eq!(shares(&set(4, Algorithm::RoundRobin, None), now), [250; 4]);
        assert!(set(0, Algorithm::Random, None).pick(&[], None, 1, now).is_none());
    }

    #[test]
    fn fewer_requests_in_flight_win() {
        let set = set(2, Algorithm::LeastRequest, None);
        let _busy = set.endpoints[0].load.begin();
        assert_eq!(shares(&set, Instant::now()), [0, 1000]);
    }

    #[test]
    fn who_just_failed_is_avoided_while_there_is_another() {
        let now = Instant::now();
        for algorithm in
            [Algorithm::PeakEwma, Algorithm::RoundRobin, Algorithm::Hash(KeySource::SourceIp, Ring::default())]
        {
            let set = set(3, algorithm, None);
            let failed: Vec<_> = set.endpoints[..2].iter().map(|e| e.address).collect();
            for n in 0..200 {
                assert_eq!(set.pick(&failed, None, mix(n), now).unwrap().endpoint.address, set.endpoints[2].address);
            }
            let all: Vec<_> = set.endpoints.iter().map(|e| e.address).collect();
            assert!(set.pick(&all, None, 1, now).is_some());
        }
    }

    #[test]
    fn one_that_comes_gets_its_share_slowly() {
        let now = Instant::now();
        let behaviour = Behaviour { algorithm: Algorithm::Random, slow_start: 30 * SECOND, outliers: None };
        let set = EndpointSet::new("set".into(), endpoints(4), behaviour, Arc::default());
        let at = now + 100 * SECOND;
        set.endpoints[1].health.back(at);
        let begun = shares(&set, at)[1];
        assert!((5..80).contains(&begun), "{begun}");
        let half = shares(&set, at + 15 * SECOND)[1];
        assert!(half > begun && half < 220, "{half}");
        assert!(shares(&set, at + 30 * SECOND)[1] > 190);
    }

    #[test]
    fn an_outlier_is_left_out_until_it_answers_on_trial() {
        let set = set(4, Algorithm::PeakEwma, Some(outliers(50)));
        let mut now = Instant::now();
        assert_eq!(fail(&set, 1, 3, now), Some(Event::Ejected(Cause::Consecutive)));
        assert_eq!(shares(&set, now)[1], 0);
        now += 10 * SECOND;
        let picked = set.pick(&[], None, 1, now).unwrap();
        assert!(picked.trial && picked.endpoint.address == set.endpoints[1].address);
        assert_eq!(shares(&set, now)[1], 0, "one at a time");
        assert_eq!(set.record(&set.endpoints[1], false, false, now), None, "one that was under way means nothing");
        assert_eq!(set.record(&set.endpoints[1], true, true, now), Some(Event::Ejected(Cause::Trial)));
        now += 10 * SECOND;
        assert_eq!(shares(&set, now)[1], 0, "twice as long");
        now += 10 * SECOND;
        assert!(set.pick(&[], None, 1, now).unwrap().trial);
        assert_eq!(set.record(&set.endpoints[1], true, false, now), Some(Event::Returned));
        assert!(shares(&set, now)[1] > 0);
    }

    #[test]
    fn a_lone_endpoint_is_never_left_out() {
        let now = Instant::now();
        let set = set(1, Algorithm::PeakEwma, Some(outliers(50)));
        assert_eq!(fail(&set, 0, 3, now), Some(Event::Kept));
        assert_eq!(shares(&set, now), [1000]);
    }

    #[test]
    fn where_none_is_left_all_are_used() {
        let now = Instant::now();
        let set = set(2, Algorithm::PeakEwma, Some(outliers(100)));
        fail(&set, 0, 3, now);
        fail(&set, 1, 3, now);
        assert_eq!(set.ejected().count(), 2);
        assert!(shares(&set, now).iter().all(|n| *n > 0));
    }

    #[test]
    fn the_next_version_knows_who_is_left_out() {
        let now = Instant::now();
        let before = set(4, Algorithm::PeakEwma, Some(outliers(50)));
        let behaviour = Behaviour { outliers: Some(outliers(50)), ..Behaviour::default() };
        let after = EndpointSet::new("set".into(), before.endpoints[..3].to_vec(), behaviour, before.shared());
        shares(&after, now);
        // A request of before ends.
        fail(&before, 1, 3, now);
        assert_eq!(shares(&after, now)[1], 0);
    }

    #[test]
    fn the_same_key_goes_to_the_same_endpoint_until_that_has_more_than_its_part() {
        let now = Instant::now();
        let all = endpoints(8);
        let ring = Ring::new(all.iter().map(|e| e.address));
        let behaviour = Behaviour { algorithm: Algorithm::Hash(KeySource::SourceIp, ring), ..Behaviour::default() };
        let set = EndpointSet::new("set".into(), all, behaviour, Arc::default());
        let of = |key: &str, n| set.pick(&[], Some(ring::key(key.as_bytes())), n, now).unwrap().endpoint;
        let home = of("user-7", 1);
        assert!((0..50).all(|n| Arc::ptr_eq(of("user-7", n), home)));
        let mut busy = Vec::new();
        for n in 0..400 {
            let endpoint = of("user-7", n);
            busy.push(endpoint.load.begin());
            let bound = (f64::from(ALWAYS)).max((busy.len() as f64) / 8.0 * OVER_MEAN + 1.0);
            assert!(f64::from(endpoint.load.in_flight()) <= bound + 1.0, "{n}");
        }
        let used = set.endpoints.iter().filter(|e| e.load.in_flight() > 0).count();
        assert!(used >= 6, "the rest went on along the circle, not to {used}");
        drop(busy);
        assert!(Arc::ptr_eq(of("user-7", 1), home));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Whatever fails, and whoever goes: no more are left out than may be; and all return once they are well.
        #[test]
        fn never_more_than_may_be_and_never_for_ever(
            count in 1_usize..12,
            percent in 0_u32..=100,
            steps in prop::collection::vec((0_u64..4000, any::<u16>(), any::<u64>(), 0_u8..40), 1..300),
        ) {
            let mut now = Instant::now();
            let mut set = set(count, Algorithm::PeakEwma, Some(outliers(percent)));
            for (millis, broken, random, change) in steps {
                now += Duration::from_millis(millis);
                if change == 0 && set.endpoints.len() > 1 {
                    let rest = set.endpoints[1..].to_vec();
                    let behaviour = Behaviour { outliers: Some(outliers(percent)), ..Behaviour::default() };
                    set = EndpointSet::new("set".into(), rest, behaviour, set.shared());
                }
                let picked = set.pick(&[], None, random, now).unwrap();
                let place = set.endpoints.iter().position(|e| Arc::ptr_eq(e, picked.endpoint)).unwrap();
                let (endpoint, trial) = (picked.endpoint.clone(), picked.trial);
                set.record(&endpoint, trial, broken >> place & 1 == 1, now);
                set.pick(&[], None, random, now);
                prop_assert!(set.ejected().count() * 100 <= set.endpoints.len() * percent as usize);
            }
            for n in 0..1400 {
                now += SECOND / 10;
                let picked = set.pick(&[], None, mix(n), now).unwrap();
                let (endpoint, trial) = (picked.endpoint.clone(), picked.trial);
                set.record(&endpoint, trial, false, now);
            }
            prop_assert_eq!(set.ejected().count(), 0);
        }
    }
}
