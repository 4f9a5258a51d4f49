//! Endpoints that are left out because they fail.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::url::PATH_AND_QUERY;
use crate::duration::Duration;
use crate::percent::Percent;

/// Endpoints that are left out for a while because they fail, as each caller's proxy finds for itself. A failure is an answer of 5xx, a
/// gRPC status that speaks against the server (such as UNAVAILABLE or INTERNAL), a connection that is refused or breaks, and an answer that
/// does not come in time.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct OutlierDetection {
    /// So many failures one after the other; 0: not looked at. 5: chance alone makes that of an endpoint which fails now and then once
    /// in millions of requests.
    #[serde(default = "consecutive")]
    #[schemars(range(min = 0, max = 1000))]
    pub consecutive_errors: i32,
    /// Or such a share of the requests of ten seconds.
    #[serde(default)]
    pub error_rate: ErrorRate,
    /// For how long.
    #[serde(default)]
    pub ejection: Ejection,
    /// Never more than this share of the endpoints, rounded down, so that a fault of all, or of the caller itself, does not leave the
    /// load to a few; a lone endpoint is never left out. 0 turns outlier detection off.
    #[serde(default = "max_ejected")]
    pub max_ejected: Percent,
    /// What an endpoint is asked before it returns. Absent: it gets one request of a caller as its trial, and returns if that goes well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
}

const fn consecutive() -> i32 {
    5
}

const fn max_ejected() -> Percent {
    Percent::whole(50)
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_errors: consecutive(),
            error_rate: ErrorRate::default(),
            ejection: Ejection::default(),
            max_ejected: max_ejected(),
            probe: None,
        }
    }
}

/// A share of failures.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ErrorRate {
    /// Of the requests; 0: not looked at. 50: an endpoint that fails every second request is worse than none.
    #[serde(default = "percent")]
    pub percent: Percent,
    /// With fewer requests in ten seconds the share says nothing. 20.
    #[serde(default = "min_requests")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: i32,
}

const fn percent() -> Percent {
    Percent::whole(50)
}

const fn min_requests() -> i32 {
    20
}

impl Default for ErrorRate {
    fn default() -> Self {
        Self { percent: percent(), min_requests: min_requests() }
    }
}

/// For how long an endpoint is left out.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.base) <= duration(self.max)")
    .message("ejection: base cannot be longer than max"))]
pub struct Ejection {
    /// The first time; doubled each time in a row. 10s: a container that crashed is back by then.
    #[serde(default = "base")]
    pub base: Duration,
    /// At most. 5m: one request in five minutes is what an endpoint that stays broken costs.
    #[serde(default = "max")]
    pub max: Duration,
}

const fn base() -> Duration {
    Duration::from_millis(10_000)
}

const fn max() -> Duration {
    Duration::from_millis(300_000)
}

impl Default for Ejection {
    fn default() -> Self {
        Self { base: base(), max: max() }
    }
}

/// A request of the proxy's own.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// GET on this path, over HTTP/1 and to the port of the endpoint; 200 to 399 says that it is well.
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH_AND_QUERY))]
    pub path: String,
}
