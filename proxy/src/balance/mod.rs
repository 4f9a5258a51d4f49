//! Which endpoint gets the next request, and over which connection.
//!
//! [`set::EndpointSet::pick`] chooses among the endpoints of a backend, as its policy says; [`pool`] keeps upstream connections of one
//! worker.

pub mod budget;
pub mod health;
pub mod key;
pub mod limits;
mod load;
pub mod locality;
pub mod pool;
pub mod probe;
pub mod ring;
pub mod set;

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
    time::Duration,
};

pub use self::load::{InFlight, Load};
use self::{
    health::Health,
    limits::{Full, Limits},
};
use crate::{
    identity::{Origination, SpiffeId},
    tcp::connect,
    telemetry::groups::{Group, Groups},
};

/// One address that traffic can be sent to, as one version of a destination describes it.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// Who must answer there; `None`: it is not in the mesh.
    pub identity: Option<SpiffeId>,
    /// How it is reached if it is not in the mesh; `None`: in plain.
    pub origination: Option<Arc<Origination>>,
    /// Its zone, as the node's label says; empty: unknown.
    pub zone: Arc<str>,
    /// How far it is, 0 the nearest.
    pub level: u32,
    /// What is known about its speed; shared by the versions of a destination.
    pub load: Arc<Load>,
    /// How well it does in its set; shared by the versions of that.
    pub health: Arc<Health>,
    /// Of its set; `None`: it belongs to none, and has no limits.
    pub limits: Option<Arc<Limits>>,
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
            origination: None,
            zone: zone.into(),
            level: 0,
            load,
            health: Arc::default(),
            limits: None,
            group: (!group.is_empty()).then(|| GroupRef { name: group.into(), counters: OnceLock::new() }),
        }
    }

    /// With what was learned before about how it does.
    #[must_use]
    pub fn with_health(self, health: Arc<Health>) -> Self {
        Self { health, ..self }
    }

    /// So far away.
    #[must_use]
    pub fn at_level(self, level: u32) -> Self {
        Self { level, ..self }
    }

    /// Under the limits of its set.
    #[must_use]
    pub fn with_limits(self, limits: Arc<Limits>) -> Self {
        Self { limits: Some(limits), ..self }
    }

    /// Reached so, if it is not in the mesh.
    #[must_use]
    pub fn with_origination(self, origination: Option<Arc<Origination>>) -> Self {
        Self { origination: origination.filter(|_| self.identity.is_none()), ..self }
    }

    /// A request begins, if the set has room for it.
    pub fn begin(&self) -> Result<InFlight, Full> {
        let in_set = self.limits.as_ref().map(|limits| limits.request()).transpose()?;
        Ok(self.load.begin().within(in_set))
    }

    /// How long it may take to accept a connection.
    pub fn connect_timeout(&self) -> Duration {
        self.limits.as_ref().map_or(connect::CONNECT, |limits| limits.connect_timeout)
    }

    /// How it is reached from a pod with these addresses if not as it is: the pod itself not through its own proxy.
    pub fn seen_from(&self, own: &[IpAddr]) -> Option<Self> {
        let own = self.identity.is_some() && own.contains(&self.address.ip());
        own.then(|| Self {
            address: self.address,
            identity: None,
            origination: None,
            zone: self.zone.clone(),
            level: self.level,
            load: self.load.clone(),
            health: self.health.clone(),
            limits: self.limits.clone(),
            group: None,
        })
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
