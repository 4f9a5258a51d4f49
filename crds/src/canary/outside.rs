//! What a release asks and tells programs outside the mesh.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::schema::DNS_LABEL;

/// `http` or `https`, a host, and anything that stands in a URL; no name and password.
const URL: &str = "^https?://[^/?#@\\s]+([/?][!-\"$-;=?-_a-z|~]*)?$";

/// A key of a Secret in the Canary's namespace. The Secret has the label fairlead.dev/outbound: "true", with which its owner agrees that what it holds is
/// sent where a Canary says.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SecretKey {
    /// Of the Secret.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// In its data.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// A number that another system measures, looked at every ten seconds while a step runs.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.min) || has(self.max)").message("metrics: an entry needs min or max"))]
pub struct Metric {
    /// For the status and for events.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// Where it is asked for.
    pub prometheus: Prometheus,
    /// What it must not be below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// What it must not be above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// A query to Prometheus, or to what answers like it.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('1m')")
    .message("metrics.prometheus.timeout: from 100ms to 1m"))]
pub struct Prometheus {
    /// Where its API begins: http://prometheus.monitoring:9090.
    #[schemars(length(min = 1, max = 2048), regex(pattern = URL))]
    pub url: String,
    /// In PromQL, with one number as its answer. {{namespace}}, {{workload}} (the Deployment), {{canary}} (the Deployment of the new version) and
    /// {{revision}} stand for those of the release.
    #[schemars(length(min = 1, max = 4096))]
    pub query: String,
    /// How long an answer may take.
    #[serde(default = "metric_timeout")]
    pub timeout: Duration,
    /// A bearer token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<SecretKey>,
}

/// Queries of dashboards take less.
fn metric_timeout() -> Duration {
    Duration::from_millis(5_000)
}

/// A gate by HTTP: a POST of what the release is about, as JSON. 2xx lets it go on; 4xx does not; after anything else, or no answer, it is asked again.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.timeout) >= duration('100ms') && duration(self.timeout) <= duration('5m')")
    .message("checks.timeout: from 100ms to 5m"))]
pub struct Check {
    /// When it is asked.
    pub phase: CheckPhase,
    /// Whom.
    #[schemars(length(min = 1, max = 2048), regex(pattern = URL))]
    pub url: String,
    /// How long an answer may take.
    #[serde(default = "check_timeout")]
    pub timeout: Duration,
}

/// A smoke test takes a while; whoever needs longer says so.
fn check_timeout() -> Duration {
    Duration::from_millis(10_000)
}

/// When a check is asked.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum CheckPhase {
    /// Before the new version is started. Refused: it is not.
    BeforeStart,
    /// Before each step is passed. Refused: rolled back.
    Step,
    /// After the last step, before the Deployment is rolled out. Refused: rolled back.
    BeforePromote,
    /// When the Deployment is rolled out. What it answers is told, and changes nothing.
    AfterPromote,
    /// When the new version is gone. What it answers is told, and changes nothing.
    AfterRollback,
}

/// Somebody who is told what becomes of a release: that it started, waits for approval, was promoted or rolled back, and why.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.url) != has(self.urlFrom)").message("notify: an entry needs either url or urlFrom, not both"))]
pub struct Notify {
    /// Whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = URL))]
    pub url: Option<String>,
    /// The same, where the URL is a secret, as those of Slack and Teams are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<SecretKey>,
    /// In which form.
    #[serde(default)]
    #[schemars(extend("default" = "Json"))]
    pub format: NotifyFormat,
}

/// Forms of a notification.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum NotifyFormat {
    /// Fields for programs, as docs/canary.md lists them.
    #[default]
    Json,
    /// An incoming webhook of Slack.
    Slack,
    /// A workflow of Teams that posts adaptive cards.
    Teams,
}
