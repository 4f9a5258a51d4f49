//! `Canary`: release by evidence.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::percent::Percent;
use crate::schema::{self, DNS_LABEL};

/// Releases every new template of a Deployment step by step, each step judged by how the new version does against the running one.
/// Deleted in the middle of a release, it lets its Deployment go as it is: a new template is rolled out without further judgement,
/// unless it was proved bad; then the Deployment stays paused.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "Canary",
    plural = "canaries",
    namespaced,
    status = "CanaryStatus",
    derive = "PartialEq",
    category = "fairlead",
    doc = "Releases every new template of a Deployment step by step, each step judged by how the new version does against the running one. Deleted in the middle of a release, it lets its Deployment go as it is: a new template is rolled out without further judgement, unless it was proved bad; then the Deployment stays paused.",
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("metadata.name: at most 63 characters, because the Deployment is labelled with it"),
    printcolumn(name = "Workload", type_ = "string", json_path = ".spec.workloadRef.name", description = "The Deployment."),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "Where the release stands."),
    printcolumn(name = "Weight", type_ = "number", json_path = ".status.step.weight", description = "Percent of traffic on the canary."),
    printcolumn(name = "Verdict", type_ = "string", json_path = ".status.verdict.result"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.verdict.reason"),
    printcolumn(name = "Programmed", type_ = "string", json_path = r#".status.conditions[?(@.type=="Programmed")].message"#, priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct CanarySpec {
    /// What is released. Nothing more is needed.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("workloadRef: cannot change; delete this Canary and create one for the other Deployment"))]
    pub workload_ref: WorkloadRef,

    /// The share of traffic that the new version gets, step by step. The next step comes when the evidence shows that the new
    /// version is not worse; after the last the Deployment is rolled out. The default starts small, so that a bad version hurts few.
    #[serde(default = "default_steps")]
    #[schemars(length(min = 1, max = 20), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("self.map(s, s.weight).isSorted()")
        .message("steps: weights must not go back; order them from small to large"))]
    pub steps: Vec<CanaryStep>,

    /// What the new version is measured by.
    #[serde(default)]
    pub analysis: Analysis,

    /// Holds the release where it is, with the traffic split as it is, until this is false again. A promotion or rollback that
    /// has begun is finished.
    #[serde(default)]
    pub suspend: bool,
}

/// 1, 5, 10, 25, 50 %.
fn default_steps() -> Vec<CanaryStep> {
    [1, 5, 10, 25, 50].map(|weight| CanaryStep { weight: Percent::whole(weight), hold: Duration::default() }).into()
}

/// The workload that is released.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRef {
    /// Deployment.
    pub kind: WorkloadKind,
    /// Of the Deployment, in the Canary's own namespace. At most 56 characters, because the new version runs as <name>-canary.
    #[schemars(length(min = 1, max = 56), regex(pattern = DNS_LABEL))]
    pub name: String,
}

/// Kinds of workload that can be released.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `apps/v1`.
    Deployment,
}

/// A stage of a release.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStep {
    /// Percent of the Deployment's traffic that goes to the new version; decimals are allowed. At most 99, because the new
    /// version is judged against the traffic of the running one.
    #[schemars(range(min = 0.01, max = 99))]
    pub weight: Percent,
    /// How long the step lasts at least, even if the evidence is there sooner.
    #[serde(default)]
    #[schemars(extend("default" = "0s"))]
    pub hold: Duration,
}

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
}

impl Default for Analysis {
    fn default() -> Self {
        Self { confidence: default_confidence(), errors: ErrorLimits::default(), latency: None }
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
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
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

/// Where a release stands. The whole state of it is here: an operator that starts anew goes on from it.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// The metadata.generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the release stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// How traffic is split at present.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<CanaryStepStatus>,
    /// The running version, counted since the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<VersionStatus>,
    /// The new version, counted since the step began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<VersionStatus>,
    /// What the evidence says at present, or said last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// What the evidence weighs so far, for an operator that goes on from it: JSON in a form of its own, not for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub judgement: Option<String>,
    /// The last ten releases, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub history: Vec<Release>,
    /// Accepted, ResolvedRefs and Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}

/// Initialized: nothing to release. Progressing: the new version starts or gathers evidence. Holding: the evidence is there, the
/// step's hold is not over. Promoting: the Deployment is being rolled out. Succeeded: it is. RollingBack: the new version is being
/// taken away. Failed: it is, the Deployment stays paused on the running version until its template changes. Suspended: held as asked.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing to release.
    Initialized,
    /// The new version starts, or gets traffic and gathers evidence.
    Progressing,
    /// The evidence is there, the step's hold is not over.
    Holding,
    /// The Deployment is being rolled out.
    Promoting,
    /// The new version is the running one.
    Succeeded,
    /// The new version is being taken away.
    RollingBack,
    /// The new version is gone, the Deployment paused.
    Failed,
    /// Held where it is, as asked.
    Suspended,
}

/// How traffic is split.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStepStatus {
    /// Into spec.steps, from 0.
    #[schemars(range(min = 0, max = 19))]
    pub index: i32,
    /// Percent of the Deployment's traffic that goes to the new version.
    pub weight: Percent,
    /// When this split was decided. Each later split has a later time, to the second, so that it numbers them: the counters of a
    /// step and the acknowledgement of a split by proxies are told from earlier ones by it.
    pub since: Time,
}

/// One side of the comparison.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct VersionStatus {
    /// Of the pod template: what names it in counters and in the history.
    #[schemars(length(min = 1, max = 63))]
    pub revision: String,
    /// Requests that it got.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub requests: i64,
    /// How many of them failed.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub errors: i64,
    /// Half of the answers took at most this many milliseconds, as callers measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p50: Option<f64>,
    /// Of a hundred answers, 99 took at most this many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p99: Option<f64>,
}

/// What the evidence says.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// NonInferior: not worse by more than the margin, the next step follows. Regressed: worse, it is rolled back. Inconclusive:
    /// too little is known, the step goes on; low traffic is not a failure.
    pub result: VerdictResult,
    /// The intervals within which the shares of failed requests of this step lie, with the confidence of the analysis, however often they are looked at, if
    /// the shares stay as they are.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub evidence: String,
    /// One sentence.
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// What the evidence allows to conclude.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum VerdictResult {
    /// Not worse by more than the margin.
    NonInferior,
    /// Worse by more than the margin, or than the absolute limit allows.
    Regressed,
    /// Neither can be said yet.
    Inconclusive,
}

/// A release that ended.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Of the pod template.
    #[schemars(length(max = 63))]
    pub revision: String,
    /// How it ended.
    pub outcome: Outcome,
    /// One sentence.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// When it ended.
    pub finished: Time,
}

/// How a release ended.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum Outcome {
    /// The new version became the running one.
    Succeeded,
    /// It was rolled back.
    Failed,
    /// The template changed again, or back, before the end.
    Superseded,
}
