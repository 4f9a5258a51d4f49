//! `Canary`: release by evidence.

mod analysis;
mod outside;
mod status;
mod step;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::analysis::{Analysis, ErrorLimits, LatencyLimits, OnInconclusive, QuantileLimit};
pub use self::outside::{Check, CheckPhase, Metric, Notify, NotifyFormat, Prometheus, SecretKey};
pub use self::status::{
    CanaryStatus, CanaryStepStatus, Outcome, Phase, Release, Verdict, VerdictResult, VersionStatus,
};
pub use self::step::{Approval, CanaryStep, Dark, Request, UnknownRequest};
use crate::duration::Duration;
use crate::percent::Percent;
use crate::schema::DNS_LABEL;
use crate::traffic_policy::Stickiness;

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
    validation = Rule::new("self.spec.skipAnalysis || self.spec.steps.all(s, !(has(s.mirror) || has(s.matches) || (has(s.weight) && double(s.weight) == 100.0)) || has(s.approval) || duration(s.hold) > duration('0s') || has(self.spec.analysis.errors.max) || (has(self.spec.analysis.latency) && (has(self.spec.analysis.latency.max) || has(self.spec.analysis.latency.quantiles))))")
        .message("steps: mirror, matches and weight 100 have nothing that they are compared with; set analysis.errors.max, or give the step hold or approval"),
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
    #[x_kube(validation = Rule::new("self.filter(s, has(s.weight) || has(s.mirror) || has(s.matches)).map(s, has(s.weight) ? double(s.weight) : 0.0).isSorted()")
        .message("steps: the share of the new version must not go back; mirror and matches come first, then weights from small to large"))]
    pub steps: Vec<CanaryStep>,

    /// Keeps a user on the version that answered first, by a cookie, as long as traffic is split by weight. Routes that a TrafficPolicy keeps sticky by a
    /// cookie of its own are left to that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stickiness: Option<Stickiness>,

    /// What the new version is measured by.
    #[serde(default)]
    pub analysis: Analysis,

    /// Gates by HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub checks: Vec<Check>,

    /// Who is told what becomes of releases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 5), extend("x-kubernetes-list-type" = "atomic"))]
    pub notify: Vec<Notify>,

    /// How the new version runs.
    #[serde(default)]
    pub rollout: Rollout,

    /// Takes each step as passed when its hold is over and it is approved where it asks for that: for a fix that is needed now. Pods that
    /// cannot run, and checks that refuse, still roll back.
    #[serde(default)]
    pub skip_analysis: bool,

    /// Holds the release where it is, with the traffic split as it is, until this is false again. A promotion or rollback that
    /// has begun is finished.
    #[serde(default)]
    pub suspend: bool,
}

/// 1, 5, 10, 25, 50 %.
fn default_steps() -> Vec<CanaryStep> {
    [1, 5, 10, 25, 50].map(|weight| CanaryStep { weight: Some(Percent::whole(weight)), ..CanaryStep::default() }).into()
}

/// How the new version runs.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Rollout {
    /// How long its pods may take to become ready; then it is rolled back with what they say. Absent: as long as the Deployment says
    /// (progressDeadlineSeconds, ten minutes by default).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline: Option<Duration>,
    /// How many there are.
    #[serde(default)]
    #[schemars(extend("default" = "Match"))]
    pub replicas: Replicas,
}

/// How many pods of the new version run.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Replicas {
    /// As many as of the running one, so that neither is at a disadvantage in the comparison and none is short of capacity at any weight.
    #[default]
    Match,
    /// Its share of the traffic, rounded up: 2 of 10 at 15 %. Copies and matched requests count as all of it.
    ByWeight,
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
