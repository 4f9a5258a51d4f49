//! What a proxy must know, as plain data: no Kubernetes, no wire format.
//!
//! [`crate::index`] computes these values from what it watches, [`crate::config`] sends them. Values compare by content, so "has
//! anything changed for this proxy" is `==`.

mod balancing;
mod locality;
mod matches;
mod origination;
mod rate_limit;
mod retry;
mod route;
mod rules;
mod service;
mod workload;

use std::fmt;
use std::net::{IpAddr, SocketAddr};

pub use balancing::{Algorithm, Balancing, Behaviour, HashKey, HealthCheck, Limits, Outliers};
pub use locality::{Locality, Place};
pub use matches::{Caller, GrpcMatch, HeaderMatch, Match, PathMatch, SourceMatch, StringMatch};
pub use origination::Origination;
pub use rate_limit::{RateLimit, RateLimitKey};
pub use retry::{Retry, RetryBudget, Tries};
pub use route::{Backend, Mirror, Route, Target};
pub use rules::{Answer, Cors, Fault, HeaderChanges, PathChange, Redirect, Rewrite, Rules, Stickiness};
pub use service::{Endpoint, EndpointSet, Protocol, Service};
pub use workload::{Admission, FetchedKeys, HandoverPort, Issuer, MtlsMode, Workload};

/// The name of a namespaced object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its namespace.
    pub namespace: String,
    /// Its name in that namespace.
    pub name: String,
}

impl ObjectName {
    /// The object `name` of `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The kinds whose effect proxies acknowledge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SourceKind {
    /// A `TrafficPolicy`.
    TrafficPolicy,
    /// A `PeerAuth`.
    PeerAuth,
    /// A `Canary`.
    Canary,
}

impl SourceKind {
    /// The kind as Kubernetes writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TrafficPolicy => "TrafficPolicy",
            Self::PeerAuth => "PeerAuth",
            Self::Canary => "Canary",
        }
    }

    /// The kind that Kubernetes writes so, if it is one of ours.
    pub fn parse(kind: &str) -> Option<Self> {
        [Self::TrafficPolicy, Self::PeerAuth, Self::Canary].into_iter().find(|k| k.as_str() == kind)
    }
}

/// An object that took part in a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source {
    /// Its kind.
    pub kind: SourceKind,
    /// Its name.
    pub object: ObjectName,
}

/// An object that took part in a resource, as it was then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRef {
    /// Which object.
    pub source: Source,
    /// Its `metadata.generation`; of a Canary, whose effect is in its status, the number of its traffic state.
    pub generation: i64,
}

/// What a proxy subscribes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceName {
    /// How the pod of this name is to be treated by its own proxy.
    Workload(ObjectName),
    /// What lies behind an address.
    Destination {
        /// The namespace of those who are told: it may have policies of its own.
        caller: String,
        /// The address.
        address: SocketAddr,
    },
}

/// A resource and what it was made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// What the proxy is told.
    pub body: Body,
    /// The objects that took part, sorted, each once. They can change while the body stays, and then count as acknowledged
    /// with it.
    pub sources: Vec<SourceRef>,
}

/// The body of a [`Resource`].
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// There is no such pod (any more).
    NoWorkload,
    /// Of [`ResourceName::Workload`].
    Workload(Box<Workload>),
    /// Of [`ResourceName::Destination`].
    Destination(Destination),
}

/// What an address leads to.
#[derive(Clone, Debug, PartialEq)]
pub enum Destination {
    /// Not in the mesh's knowledge: bytes are forwarded to the address itself, untouched.
    PassThrough,
    /// A port of a Service.
    Service(Service),
    /// The own address of a pod in the mesh.
    Pod(Endpoint),
}

/// The SPIFFE ID of a service account.
///
/// Namespace and account names are DNS labels and subdomains, so nothing in them needs escaping.
pub fn identity(trust_domain: &str, namespace: &str, service_account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
}

/// `10.0.0.1` for `::ffff:10.0.0.1`, every other address as it is: a socket that serves both families reports IPv4 callers and
/// destinations in the mapped form.
pub fn canonical(ip: IpAddr) -> IpAddr {
    ip.to_canonical()
}
