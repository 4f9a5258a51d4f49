//! What a new version is measured by.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::outside::Metric;
use crate::duration::Duration;
use crate::percent::Percent;

/// What the new version is measured by.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Percent. Of a hundred releases of versions that are good by every limit here at most 100 - confidence are rolled back by a verdict, and
    /// of a hundred that are bad by one of them at most as many are promoted: over the whole release, however often it is looked at. More takes
    /// more requests: half as many again for 99.9 instead of 99.
    #[serde(default = "default_confidence")]
    #[schemars(range(min = 50, max = 99.99))]
    pub confidence: Percent,
    /// Limits to the share of requests that fail: answered 5xx, with a failed gRPC status, or not at all.
    #[serde(default)]
    pub errors: ErrorLimits,
    /// Limits to how long answers take. Absent: latency is shown and not judged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<LatencyLimits>,
    /// Numbers of other systems that must lie within limits. Three looks in a row outside roll back; while the last look was outside, or had no answer, no
    /// step is passed. The confidence is not theirs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub metrics: Vec<Metric>,
    /// How long a step may go on without a verdict.
    #[serde(default = "default_step_deadline")]
    pub step_deadline: Duration,
    /// What happens then.
    #[serde(default)]
    #[schemars(extend("default" = "Hold"))]
    pub on_inconclusive: OnInconclusive,
}

/// What happens to a step that had no verdict by its deadline.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum OnInconclusive {
    /// It goes on, and an event says so: little traffic is no failure.
    #[default]
    Hold,
    /// It counts as passed.
    Advance,
    /// The new version is rolled back.
    Rollback,
}

/// Long enough for a thousand requests at one in two seconds.
const fn default_step_deadline() -> Duration {
    Duration::from_millis(30 * 60 * 1000)
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            confidence: default_confidence(),
            errors: ErrorLimits::default(),
            latency: None,
            metrics: Vec::new(),
            step_deadline: default_step_deadline(),
            on_inconclusive: OnInconclusive::Hold,
        }
    }
}

/// One release in a hundred judged wrongly: rarer than people judge wrongly, and proved with some thousand requests.
fn default_confidence() -> Percent {
    Percent::whole(99)
}

/// Limits to the share of requests that fail.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ErrorLimits {
    /// How many percentage points more than on the running version may fail. The evidence for a smaller margin takes more
    /// requests: where nothing fails about 5.5 / margin hundred on the canary, so 1,100 for the default of 0.5.
    #[serde(default = "default_margin")]
    #[schemars(range(min = 0.01, max = 100))]
    pub margin: Percent,
    /// The percentage that may fail at most, however the running version does. Absent: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub max: Option<Percent>,
}

impl Default for ErrorLimits {
    fn default() -> Self {
        Self { margin: default_margin(), max: None }
    }
}

/// Small enough to notice, large enough to be proved with some thousand requests.
fn default_margin() -> Percent {
    Percent::half()
}

/// Limits to how long answers take, as callers' proxies measure it, from the request to the head of its answer.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.threshold) >= duration('1ms') && duration(self.threshold) <= duration('2m')")
    .message("latency.threshold: from 1ms to 2m"))]
pub struct LatencyLimits {
    /// Answers that take longer are slow. Proxies count by a scale of 0.25 ms × √2ⁿ, so it is taken as the next value of that scale, which is at
    /// most 1.42 times this; the status says which.
    pub threshold: Duration,
    /// How many percentage points more of the answers than on the running version may be slow.
    #[serde(default = "default_latency_margin")]
    #[schemars(range(min = 0.01, max = 100))]
    pub margin: Percent,
    /// The percentage that may be slow at most, however the running version does. Absent: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub max: Option<Percent>,
    /// Quantiles that have a limit, however the running version does.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub quantiles: Vec<QuantileLimit>,
}

/// Of answers a tenth as precious as failures are.
fn default_latency_margin() -> Percent {
    Percent::whole(1)
}

/// A quantile of latency and what it may be.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.atMost) >= duration('1ms') && duration(self.atMost) <= duration('2m')")
    .message("latency.quantiles.atMost: from 1ms to 2m"))]
pub struct QuantileLimit {
    /// Percent: 99 is p99.
    #[schemars(range(min = 1, max = 99.99))]
    pub quantile: Percent,
    /// So many percent of the answers take at most this; taken as the threshold is.
    pub at_most: Duration,
}
