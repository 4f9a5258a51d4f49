//! What an address leads to, compiled from the operator's message into a form that decides without allocating.
//!
//! [`compile`] turns one `Destination` message into one immutable [`Destination`]; it is called once per version by the configuration
//! stream, and its error is what the proxy refuses the version with. Requests then call [`Service::route`] and [`Split::choose`]; nothing here
//! performs I/O, and randomness is an argument.

mod behaviour;
mod compile;
#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzz;
mod head;
mod index;
mod matcher;
pub mod params;
mod retry;
pub mod rules;
mod split;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;

pub use self::{
    compile::{compile, endpoint_set, header_from_wire, ip, match_of},
    head::RequestHead,
    index::Index,
    matcher::{GrpcMatch, HeaderMatch, Match, NamedMatch, PathMatch, ValueMatch},
    params::cookie,
    retry::{Retry, Tried},
    rules::Rules,
    split::{Split, Target},
};
use crate::{
    balance::{Endpoint, budget::Budget, set::EndpointSet},
    http::Version,
};

/// Where the newest version of one destination is read from: the configuration stream swaps it, the data path loads it once per attempt. A
/// connection holds it for as long as it routes, and that keeps the destination subscribed.
pub type Handle = Arc<ArcSwap<Destination>>;

/// What an address that the application connected to leads to.
#[derive(Debug)]
pub enum Destination {
    /// Unknown to the mesh: bytes go to the address itself, untouched and undetected.
    PassThrough,
    /// A port of a Service.
    Service(Service),
    /// A pod's own address.
    Pod(Arc<Endpoint>),
}

/// Which protocol a port speaks, as far as somebody stated it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Nobody did: the first bytes tell.
    #[default]
    Detect,
    /// HTTP of either version: the preface tells HTTP/2 from HTTP/1, because callers with prior knowledge are common on ports that
    /// say only "http".
    Http,
    /// Forwarded as bytes, so that protocols in which the server speaks first lose no time to detection.
    Opaque,
}

impl From<fairlead_proxy_api::v1::Protocol> for Protocol {
    fn from(protocol: fairlead_proxy_api::v1::Protocol) -> Self {
        use fairlead_proxy_api::v1::Protocol as P;
        match protocol {
            P::Detect => Self::Detect,
            P::Http1 | P::Http1Only | P::Http2 => Self::Http,
            P::Opaque => Self::Opaque,
        }
    }
}

/// A port of a Service with its routes.
#[derive(Debug)]
pub struct Service {
    /// `namespace/name:port`, for logs and as a metric's label.
    pub name: Arc<str>,
    /// What the port is stated to speak.
    pub protocol: Protocol,
    /// The one version that the endpoints are stated to speak, whatever callers do.
    pub version: Option<Version>,
    /// In the order they are tried. The last one matches every request ([`compile`] sees to that).
    pub routes: Vec<Route>,
    /// Which of them to ask.
    pub index: Box<Index>,
    /// Parts of the Service's endpoints; [`Target::Set`] points into this list.
    pub sets: Vec<Arc<EndpointSet>>,
    /// Whether a route has rules.
    pub has_rules: bool,
    /// Where connections that are not HTTP go.
    pub opaque: Split,
    /// How many tries after the first there may be, over all routes; `None`: no bound.
    pub budget: Option<Budget>,
}

/// One rule: which requests, and where they go.
#[derive(Debug)]
pub struct Route {
    /// For people; unique in no way.
    pub name: String,
    /// Any of these must hold; none: every request.
    pub matches: Vec<Match>,
    /// Where matching requests go.
    pub split: Split,
    /// From the first byte of the request to the last of the response head; `None`: no limit.
    pub timeout: Option<Duration>,
    /// The same of each try.
    pub try_timeout: Option<Duration>,
    /// How long nothing of request or response may move; `None`: for ever.
    pub idle: Option<Duration>,
    /// `None`: only what certainly did nothing is tried elsewhere.
    pub retry: Option<Retry>,
    /// What happens to requests on their way; `None`: they go as they came.
    pub rules: Option<Arc<Rules>>,
}

impl Route {
    /// Whether it takes the request, and by which prefix of the path: none where it looks at the path otherwise or not at all.
    pub fn takes(&self, head: &RequestHead<'_>) -> Option<&str> {
        if self.matches.is_empty() {
            return Some("");
        }
        let taken = |head: &RequestHead<'_>| {
            self.matches.iter().position(|entry| entry.matches(head)).map(|i| self.matches[i].prefix())
        };
        taken(head).or_else(|| {
            // A browser asks with OPTIONS whether it may send what the route is about.
            let cors = self.rules.as_ref().is_some_and(|rules| rules.cors.is_some());
            taken(&head.asked_about().filter(|_| cors)?)
        })
    }
}

impl Service {
    /// The first route that matches; `None` cannot happen for a compiled service.
    pub fn route(&self, head: &RequestHead<'_>) -> Option<&Route> {
        self.routes.get(self.index.first(&self.routes, head)?)
    }
}

impl Route {
    fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.takes(head).is_some()
    }
}

impl Destination {
    /// Every endpoint that this destination can lead to.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        let (sets, pod) = match self {
            Self::PassThrough => (&[][..], None),
            Self::Service(service) => (&service.sets[..], None),
            Self::Pod(endpoint) => (&[][..], Some(endpoint)),
        };
        sets.iter().flat_map(|set| set.endpoints.iter()).chain(pod)
    }
}
