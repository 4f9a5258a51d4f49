//! How a set of endpoints is used.

use super::Origination;
use super::locality::Locality;

/// How a set of endpoints is used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// Which endpoint gets a request.
    pub balancing: Balancing,
    /// Who is left out.
    pub outliers: Outliers,
    /// What each proxy may have under way.
    pub limits: Limits,
    /// How those without an identity are reached; `None`: in plain.
    pub origination: Option<Origination>,
    /// What endpoints are asked; `None`: nothing.
    pub health_check: Option<HealthCheck>,
}

/// What endpoints are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// With GET.
    pub path: String,
    /// From one check of an endpoint to the next, milliseconds.
    pub interval_ms: u64,
    /// How long an answer may take, milliseconds.
    pub timeout_ms: u64,
    /// Bad answers in a row that make it unhealthy.
    pub unhealthy: u32,
    /// Good ones that make it healthy again.
    pub healthy: u32,
}

/// What each proxy may have under way at the endpoints of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections.
    pub connections: u32,
    /// Requests that wait for one.
    pub pending_requests: u32,
    /// Requests in flight.
    pub requests: u32,
    /// Until an endpoint accepts, milliseconds.
    pub connect_timeout_ms: u64,
    /// How long a connection rests, milliseconds.
    pub idle_timeout_ms: u64,
}

/// Which endpoint gets a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balancing {
    /// How it is chosen.
    pub algorithm: Algorithm,
    /// For how long an endpoint that comes gets less than its share, milliseconds.
    pub slow_start_ms: u64,
    /// Which endpoints are near; `None`: all are alike.
    pub locality: Option<Locality>,
}

/// Which endpoint gets a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// By latency and what waits.
    #[default]
    PeakEwma,
    /// By requests in flight.
    LeastRequest,
    /// In turn.
    RoundRobin,
    /// Any.
    Random,
    /// By a key.
    ConsistentHash(HashKey),
}

/// What the key of a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// A header's value; lower case.
    Header(String),
    /// A cookie's.
    Cookie(String),
    /// A query parameter's.
    QueryParam(String),
    /// The calling pod's address.
    SourceIp,
}

/// Endpoints that are left out because they fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// Failures in a row; 0: not looked at.
    pub consecutive: u32,
    /// A share of failures, millionths; 0: not looked at.
    pub error_share: u32,
    /// With fewer requests the share says nothing.
    pub min_requests: u32,
    /// The first time, milliseconds.
    pub base_ms: u64,
    /// At most, milliseconds.
    pub max_ms: u64,
    /// Of the endpoints, millionths.
    pub max_ejected: u32,
    /// What is asked before the endpoint returns; empty: one request of a caller is its trial.
    pub probe_path: String,
}
