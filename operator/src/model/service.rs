//! A port of a Service: routes, and the endpoints they lead to.

use std::net::SocketAddr;

use super::{Behaviour, Place, RetryBudget, Route};

/// How requests to a port of a Service are treated.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
    /// The Service's port, not the pods'.
    pub port: u16,
    /// What its bytes are.
    pub protocol: Protocol,
    /// First match wins. The last has no matches, so that every request has a route.
    pub routes: Vec<Route>,
    /// What backends refer to by index.
    pub endpoint_sets: Vec<EndpointSet>,
    /// Over all routes.
    pub retry_budget: RetryBudget,
}

/// What the bytes of a port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// To be told from the first bytes.
    Detect,
    /// HTTP of the version that the caller speaks.
    Http1,
    /// HTTP/1 and nothing else.
    Http1Only,
    /// HTTP/2 with prior knowledge, gRPC.
    Http2,
    /// Forwarded as bytes.
    Opaque,
}

/// Endpoints among which a proxy balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet {
    /// For people: `bookinfo/reviews:9080/v2`.
    pub name: String,
    /// Ordered by address; none: the set's share gets 503.
    pub endpoints: Vec<Endpoint>,
    /// Where those are that will be ready, or were: they count for how many are well. Empty where nearness plays no part.
    pub unready: Vec<Place>,
    /// As the Service's policy says.
    pub behaviour: Behaviour,
}

/// An address that serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's address and its own port.
    pub address: SocketAddr,
    /// The SPIFFE ID that it must prove; empty: reached in plain.
    pub identity: String,
    /// Where it runs.
    pub place: Place,
    /// Not empty: answers are counted under this name.
    pub group: String,
}
