//! Which endpoint gets the next request, and over which connection.
//!
//! [`set::EndpointSet::pick`] chooses among the endpoints of a backend, as its policy says; [`pick`] does among endpoints without one;
//! [`pool`] keeps upstream connections of one worker.

pub mod budget;
pub mod health;
pub mod key;
mod load;
pub mod pool;
pub mod probe;
pub mod ring;
pub mod set;

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use self::health::Health;
pub use self::load::{InFlight, Load};
use crate::{
    identity::SpiffeId,
    telemetry::groups::{Group, Groups},
};

/// One address that traffic can be sent to, as one version of a destination describes it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who must answer there; `None`: it is not in the mesh and reached in plain.
    pub identity: Option<SpiffeId>,
    /// Its zone, as the node's label says; empty: unknown.
    pub zone: Arc<str>,
    /// What is known about its speed; shared by the versions of a destination.
    pub load: Arc<Load>,
    /// How well it does in its set; shared by the versions of that.
    pub health: Arc<Health>,
    group: Option<GroupRef>,
}

/// A group's name, and its counters once something was counted.
struct GroupRef {
    name: Arc<str>,
    counters: OnceLock<Option<Arc<Group>>>,
}

impl fmt::Debug for GroupRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl Endpoint {
    /// `group` is what its answers are counted under; empty: they are not.
    pub fn new(address: SocketAddr, identity: Option<SpiffeId>, zone: &str, group: &str, load: Arc<Load>) -> Self {
        Self {
            address,
            identity,
            zone: zone.into(),
            load,
            health: Arc::default(),
            group: (!group.is_empty()).then(|| GroupRef { name: group.into(), counters: OnceLock::new() }),
        }
    }

    /// With what was learned before about how it does.
    #[must_use]
    pub fn with_health(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// The same endpoint without a proxy in between: for the pod itself.
    #[must_use]
    pub fn in_plain(&self) -> Self {
        Self {
            address: self.address,
            identity: None,
            zone: self.zone.clone(),
            load: self.load.clone(),
            health: self.health.clone(),
            group: None,
        }
    }

    /// Where attempts on this endpoint are counted during a release; `None`: nowhere.
    pub fn group(&self, groups: &Groups) -> Option<&Arc<Group>> {
        let group = self.group.as_ref()?;
        group.counters.get_or_init(|| groups.get(&group.name)).as_ref()
    }
}

/// A number for one random decision.
pub fn random() -> u64 {
    rand::random()
}

/// Chooses between two endpoints drawn by `random`, by their cost at `now`; one that is in `avoid` (it failed a moment ago) only if there
/// is no other.
///
/// Two choices instead of the best of all: several proxies that see the same figures would otherwise all run to the same endpoint.
pub fn pick<'a>(
    endpoints: &'a [Arc<Endpoint>],
    avoid: &[SocketAddr],
    random: u64,
    now: tokio::time::Instant,
) -> Option<&'a Arc<Endpoint>> {
    if avoid.is_empty() {
        return pick_of(endpoints.len(), |index| &endpoints[index], random, now);
    }
    let fresh: Vec<_> = endpoints.iter().filter(|endpoint| !avoid.contains(&endpoint.address)).collect();
    if fresh.is_empty() {
        pick_of(endpoints.len(), |index| &endpoints[index], random, now)
    } else {
        pick_of(fresh.len(), |index| fresh[index], random, now)
    }
}

fn pick_of<'a>(
    len: usize,
    get: impl Fn(usize) -> &'a Arc<Endpoint>,
    random: u64,
    now: tokio::time::Instant,
) -> Option<&'a Arc<Endpoint>> {
    match len {
        0 => None,
        1 => Some(get(0)),
        _ => {
            // The low half draws the first, the high half the second among the others.
            let first = (random & 0xffff_ffff) as usize % len;
            let offset = 1 + (random >> 32) as usize % (len - 1);
            let (a, b) = (get(first), get((first + offset) % len));
            Some(if a.load.cost(now) <= b.load.cost(now) { a } else { b })
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rand::{RngExt, SeedableRng, rngs::SmallRng};
    use tokio::time::Instant;

    use super::*;

    fn endpoints(count: u8) -> Vec<Arc<Endpoint>> {
        (0..count)
            .map(|host| {
                let address = SocketAddr::from(([10, 0, 0, host], 80));
                Arc::new(Endpoint::new(address, None, "", "", Arc::default()))
            })
            .collect()
    }

    fn shares(endpoints: &[Arc<Endpoint>], avoid: &[SocketAddr]) -> Vec<u32> {
        let mut rng = SmallRng::seed_from_u64(1);
        let now = Instant::now();
        let mut counts = vec![0; endpoints.len()];
        for _ in 0..1000 {
            let picked = pick(endpoints, avoid, rng.random(), now).unwrap();
            counts[endpoints.iter().position(|e| Arc::ptr_eq(e, picked)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn nothing_is_picked_from_nothing() {
        assert!(pick(&[], &[], 5, Instant::now()).is_none());
    }

    #[test]
    fn equals_share_evenly() {
        let shares = shares(&endpoints(4), &[]);
        assert!(shares.iter().all(|n| (190..310).contains(n)), "{shares:?}");
    }

    #[test]
    fn a_slow_endpoint_gets_only_draws_against_itself_which_do_not_exist() {
        let endpoints = endpoints(4);
        let now = Instant::now();
        for (index, endpoint) in endpoints.iter().enumerate() {
            let latency = if index == 2 { 200 } else { 2 };
            endpoint.load.observe(Duration::from_millis(latency), now);
        }
        let shares = shares(&endpoints, &[]);
        assert_eq!(shares[2], 0, "{shares:?}");
    }

    #[test]
    fn requests_in_flight_count() {
        let endpoints = endpoints(2);
        let now = Instant::now();
        for endpoint in &endpoints {
            endpoint.load.observe(Duration::from_millis(2), now);
        }
        let _busy: Vec<_> = (0..3).map(|_| endpoints[0].load.begin()).collect();
        assert_eq!(shares(&endpoints, &[]), [0, 1000]);
    }

    #[test]
    fn who_just_failed_is_avoided_while_there_is_another() {
        let endpoints = endpoints(2);
        let failed = [endpoints[1].address];
        assert_eq!(shares(&endpoints, &failed), [1000, 0]);
        let all: Vec<_> = endpoints.iter().map(|e| e.address).collect();
        assert!(shares(&endpoints, &all).iter().all(|n| *n > 0));
    }
}
