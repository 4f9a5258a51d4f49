//! When requests are made again.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::HttpMethod;
use crate::duration::Duration;
use crate::percent::Percent;

/// When a request is made again after it failed, and how often.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// How many times more at most, after the first. 2: two endpoints that fail at the same time are rare, three are an outage.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 10))]
    pub attempts: i32,
    /// After which failures. ConnectFailure (no connection) and Refused (the endpoint did not take the request: a refused stream, a
    /// connection that it was closing) certainly did nothing and are always tried elsewhere, with or without this list.
    /// GatewayError: an answer of 502, 503 or 504, none within backendRequest, or a connection that broke before the answer.
    /// ServerError: those, and any other answer of 5xx. RetriableGrpc: UNAVAILABLE or RESOURCE_EXHAUSTED as the whole answer.
    #[serde(default = "on")]
    #[schemars(length(min = 1, max = 5), extend("x-kubernetes-list-type" = "set"))]
    pub on: Vec<RetryOn>,
    /// Methods that may be made again although they are not idempotent, by name (POST, PATCH, CONNECT): what they do may then happen
    /// twice. Idempotent ones (GET, HEAD, OPTIONS, TRACE, PUT, DELETE) always may, and calls of gRPC where RetriableGrpc says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 9), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<HttpMethod>,
    /// How long to wait before each.
    #[serde(default)]
    pub backoff: Backoff,
}

const fn attempts() -> i32 {
    2
}

fn on() -> Vec<RetryOn> {
    vec![RetryOn::ConnectFailure, RetryOn::Refused, RetryOn::GatewayError, RetryOn::RetriableGrpc]
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: attempts(), on: on(), methods: Vec::new(), backoff: Backoff::default() }
    }
}

/// A failure after which a request may be made again.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum RetryOn {
    /// There was no connection.
    ConnectFailure,
    /// The endpoint did not take the request.
    Refused,
    /// 502, 503, 504, or no answer.
    GatewayError,
    /// Any 5xx, or no answer.
    ServerError,
    /// A gRPC status that says "try again".
    RetriableGrpc,
}

/// Pauses before further tries.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.base) <= duration(self.max)")
    .message("backoff: base cannot be longer than max"))]
pub struct Backoff {
    /// Before the second try; doubled for each further one. What is waited lies between half of it and all of it, at random, so that
    /// callers do not come back together. 25ms: long enough for a busy endpoint to finish what is in its queue.
    #[serde(default = "base")]
    pub base: Duration,
    /// Where doubling ends. 250ms: a caller waits no longer without noticing.
    #[serde(default = "max")]
    pub max: Duration,
}

const fn base() -> Duration {
    Duration::from_millis(25)
}

const fn max() -> Duration {
    Duration::from_millis(250)
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: base(), max: max() }
    }
}

/// How much of the traffic may be tries after the first.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RetryBudget {
    /// Of the requests of the last ten seconds, so that a target which fails altogether gets little more load by that. 20: enough
    /// for one endpoint of five to fail.
    #[serde(default = "percent")]
    pub percent: Percent,
    /// Besides, for every second, so that callers with few requests can try again at all. 10.
    #[serde(default = "min_per_second")]
    #[schemars(range(min = 0, max = 10_000))]
    pub min_per_second: i32,
}

const fn percent() -> Percent {
    Percent::whole(20)
}

const fn min_per_second() -> i32 {
    10
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: percent(), min_per_second: min_per_second() }
    }
}
