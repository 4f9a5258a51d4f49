//! Routes: which requests, and where they go.

use super::{Match, Rules, Tries};

/// Requests of a kind and where they go.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// For people: in logs, metrics and `/config`.
    pub name: String,
    /// Any of these; none: every request.
    pub matches: Vec<Match>,
    /// Bytes that are no HTTP never follow it, even where it takes every request.
    pub requests_only: bool,
    /// Chosen by weight.
    pub backends: Vec<Backend>,
    /// From the first byte of the request to the last of the response head, milliseconds; 0: none.
    pub request_timeout_ms: u64,
    /// Of each try.
    pub tries: Tries,
    /// Where copies of them go.
    pub mirrors: Vec<Mirror>,
    /// What happens to them on their way.
    pub rules: Rules,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Relative to its siblings, whose sum fits 32 bits; 0: never chosen.
    pub weight: u32,
    /// What a cookie says of it, if one does, or else empty: the same for all parts of what a user wrote as one backend, or for all that are no
    /// canary.
    pub sticky: String,
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

/// A share of requests of which copies are sent besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Index into [`Service::endpoint_sets`](super::Service::endpoint_sets).
    pub endpoint_set: u32,
    /// Millionths.
    pub share: u32,
    /// Of each, at least 1.
    pub copies: u32,
    /// Whether how they are answered is evidence of a release.
    pub counted: bool,
}
