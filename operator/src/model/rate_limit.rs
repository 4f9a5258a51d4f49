//! How many requests a pod takes.

use super::Match;

/// How many requests arrive at a port of a pod, at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// The pod's own port.
    pub port: u16,
    /// For people: `shop/web/per-caller`. Tells it from the others of the port.
    pub name: String,
    /// So many in `per_ms`, spread evenly; at least 1.
    pub requests: u32,
    /// Milliseconds, 1 to an hour.
    pub per_ms: u64,
    /// So many at once after a pause; at least 1.
    pub burst: u32,
    /// What tells requests apart; none: all count together.
    pub key: Vec<RateLimitKey>,
    /// Any of these; none: every request.
    pub matches: Vec<Match>,
}

/// A part of what tells requests apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RateLimitKey {
    /// The caller's SPIFFE ID.
    Identity,
    /// The value of a header; lower case.
    Header(String),
}
