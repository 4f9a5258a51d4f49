//! How many requests a Service's pods take.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::RouteMatch;
use crate::duration::Duration;
use crate::schema::{DNS_LABEL, TOKEN};

/// How many requests each pod takes, by caller, by header, or of all together. What is more is answered with 429 and retry-after
/// (gRPC: RESOURCE_EXHAUSTED) before the application sees it.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.matches) || self.matches.all(m, !has(m.source))")
    .message("rateLimits: matches has no source here; use key with identity, which counts each caller by itself"))]
pub struct RateLimit {
    /// For logs and for the answer to whoever is over it.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// How many per `per`, spread evenly.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i32,
    /// The time that `requests` is about, from 1ms to 1h.
    #[serde(default = "second")]
    #[schemars(extend("default" = "1s"))]
    pub per: Duration,
    /// How many may come at once after a pause. Absent: as many as `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<i32>,
    /// What counts together. Endpoint: each pod by itself, so n pods take n times as many.
    #[serde(default)]
    #[schemars(extend("default" = "Endpoint"))]
    pub scope: RateLimitScope,
    /// What is counted by itself: each combination of these has a limit of its own. None: all requests share one. A pod keeps 16,384
    /// combinations, of which one caller may make a quarter; what goes beyond shares a few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub key: Vec<RateLimitKey>,
    /// Requests that it is about, where any one of these matches. None: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<RouteMatch>,
}

fn second() -> Duration {
    Duration::from_millis(1000)
}

/// What counts together.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum RateLimitScope {
    /// Each pod by itself.
    #[default]
    Endpoint,
}

/// A part of what tells requests apart.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.identity != has(self.header)")
    .message("rateLimits: an entry of key is either identity: true or a header, not both"))]
pub struct RateLimitKey {
    /// The caller as its certificate proves it. Callers without one count together.
    #[serde(default)]
    pub identity: bool,
    /// The value of this header; requests without it count together. Callers choose what they write: use it together with identity
    /// where they are not trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub header: Option<String>,
}
