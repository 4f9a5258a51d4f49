//! A port of a Service: routes, and the endpoints they lead to.

use std::net::SocketAddr;

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
    /// Where connections go that are not HTTP: no route can match them.
    pub opaque_backends: Vec<Backend>,
}

/// What the bytes of a port are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// To be told from the first bytes.
    Detect,
    /// HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge, gRPC.
    Http2,
    /// Forwarded as bytes.
    Opaque,
}

/// Requests of a kind and where they go.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// For people: in logs, metrics and `/config`.
    pub name: String,
    /// Any of these; none: every request.
    pub matches: Vec<Match>,
    /// Chosen by weight.
    pub backends: Vec<Backend>,
    /// From the first byte of the request to the last of the response head, milliseconds; 0: none.
    pub request_timeout_ms: u64,
}

/// A kind of request: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// On the path without its query.
    pub path: Option<PathMatch>,
    /// On headers, all of them.
    pub headers: Vec<HeaderMatch>,
    /// Upper case, any of them; none: every method.
    pub methods: Vec<String>,
}

/// What a path must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// By whole path elements: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path matches; Rust regex syntax, known to compile.
    Regex(String),
}

/// What a header must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// What its value must be.
    pub value: StringMatch,
    /// The entry holds where the value does not match.
    pub not: bool,
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StringMatch {
    /// This value.
    Exact(String),
    /// It begins so.
    Prefix(String),
    /// The whole value matches; Rust regex syntax, known to compile.
    Regex(String),
    /// Any value.
    Present,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Relative to its siblings, whose sum fits 32 bits; 0: never chosen.
    pub weight: u32,
    /// Where the share goes.
    pub target: Target,
}

/// Where a share of requests goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Index into [`Service::endpoint_sets`].
    EndpointSet(u32),
    /// Nowhere, for the reason given: its share gets 500.
    Unresolved(String),
}

/// Endpoints among which a proxy balances.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSet {
    /// For people: `bookinfo/reviews:9080/v2`.
    pub name: String,
    /// Ordered by address; none: the set's share gets 503.
    pub endpoints: Vec<Endpoint>,
}

/// An address that serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// The pod's address and its own port.
    pub address: SocketAddr,
    /// The SPIFFE ID that it must prove; empty: reached in plain.
    pub identity: String,
    /// The zone of its node; empty: unknown.
    pub zone: String,
    /// Not empty: answers are counted under this name.
    pub group: String,
}
