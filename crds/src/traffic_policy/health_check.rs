//! Requests of the callers' proxies that find out how endpoints are.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::url::PATH_AND_QUERY;
use crate::duration::Duration;

/// Each caller's proxy asks every endpoint of the target that it may send requests to, as long as it uses the target, over the way that requests
/// take. An endpoint that does not answer well gets no requests until it does again, however many others are in the same state; where
/// nobody answers well, all are used. Readiness probes of the pods make it unnecessary in most cases: they ask once for all callers.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.interval) >= duration('1s') && duration(self.interval) <= duration('1h')")
    .message("healthCheck: interval is 1s to 1h"))]
#[x_kube(validation = Rule::new("duration(self.timeout) >= duration('1ms') && duration(self.timeout) <= duration(self.interval)")
    .message("healthCheck: timeout is at least 1ms, and not longer than interval"))]
pub struct HealthCheck {
    /// GET on this path, over HTTP/1 and to the port of the endpoint; 200 to 399 says that it is well.
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH_AND_QUERY))]
    pub path: String,
    /// From one check of an endpoint to the next, give or take a tenth. 5s.
    #[serde(default = "interval")]
    pub interval: Duration,
    /// How long an answer may take, the connection included. 1s.
    #[serde(default = "timeout")]
    pub timeout: Duration,
    /// So many bad answers one after the other make an endpoint unhealthy. 3: one may be lost.
    #[serde(default = "unhealthy")]
    #[schemars(range(min = 1, max = 100))]
    pub unhealthy: i32,
    /// So many good ones make it healthy again. 2.
    #[serde(default = "healthy")]
    #[schemars(range(min = 1, max = 100))]
    pub healthy: i32,
}

const fn interval() -> Duration {
    Duration::from_millis(5000)
}

const fn timeout() -> Duration {
    Duration::from_millis(1000)
}

const fn unhealthy() -> i32 {
    3
}

const fn healthy() -> i32 {
    2
}
