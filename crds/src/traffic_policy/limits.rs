//! What each caller's proxy may have under way at the target.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// What each caller's proxy may have under way at the endpoints of the target (of each subset apart), so that a target that stalls does not
/// take its callers along. What is over a limit is answered 503 (overload) at once, and is no fault of an endpoint.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.connectTimeout) >= duration('1ms') && duration(self.connectTimeout) <= duration('1m')")
    .message("limits: connectTimeout is 1ms to 1m"))]
#[x_kube(validation = Rule::new("duration(self.idleTimeout) >= duration('1s') && duration(self.idleTimeout) <= duration('50m')")
    .message("limits: idleTimeout is 1s to 50m"))]
pub struct Limits {
    /// Connections that are open. A request that would need another one waits for at most connectTimeout. 1024: a proxy that needs more
    /// to one target has requests that pile up.
    #[serde(default = "many")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connections: i32,
    /// Requests that wait for a connection: one that is being made, or one that others use. 1024.
    #[serde(default = "many")]
    #[schemars(range(min = 1, max = 100_000))]
    pub pending_requests: i32,
    /// Requests that are in flight, from the first try until the last byte of the answer. 1024: at a tenth of a second each that is
    /// 10,000 a second from one pod.
    #[serde(default = "many")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: i32,
    /// How long an endpoint may take to accept a connection, before another is tried; the handshake of mTLS comes after it and has 5s. 1s:
    /// inside a cluster it takes a millisecond.
    #[serde(default = "connect_timeout")]
    pub connect_timeout: Duration,
    /// How long a connection that carries nothing stays open for the next request. 60s: the pauses of ordinary traffic. To an endpoint
    /// without a sidecar never more than 4s, before applications close theirs.
    #[serde(default = "idle_timeout")]
    pub idle_timeout: Duration,
}

const fn many() -> i32 {
    1024
}

const fn connect_timeout() -> Duration {
    Duration::from_millis(1000)
}

const fn idle_timeout() -> Duration {
    Duration::from_millis(60_000)
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: many(),
            pending_requests: many(),
            requests: many(),
            connect_timeout: connect_timeout(),
            idle_timeout: idle_timeout(),
        }
    }
}
