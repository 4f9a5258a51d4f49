//! Where a release stands.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::step::{Dark, Request};
use crate::percent::Percent;
use crate::schema;
use crate::traffic_policy::RouteMatch;

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
    /// A request of the user that was heard and not answered yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// While the new version is taken away: how the release will have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Outcome>,
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
/// step's hold is not over. WaitingApproval: all that is missing is a person's word. Promoting: the Deployment is being rolled out. Succeeded: it is. RollingBack: the new version is being
/// taken away. Failed: it is, the Deployment stays paused on the running version until its template changes. Suspended: held as asked.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing to release.
    Initialized,
    /// The new version starts, or gets traffic and gathers evidence.
    Progressing,
    /// The evidence is there, the step's hold is not over.
    Holding,
    /// All that is missing is a person's word.
    WaitingApproval,
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
    /// Into spec.steps, from 0. Absent: no step runs, and the new version gets nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 19))]
    pub index: Option<i32>,
    /// Percent of the Deployment's traffic that goes to the new version.
    pub weight: Percent,
    /// Of these requests the new version gets copies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Dark>,
    /// These requests alone go to the new version.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<RouteMatch>,
    /// Somebody approved it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approved: bool,
    /// When it was first judged well, or approved after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub well: Option<Time>,
    /// A person was told that they are waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub announced: bool,
    /// It had no verdict by its deadline.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
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
    #[schemars(length(max = 512))]
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
    /// It was rolled back, for what the verdict said.
    Failed,
    /// It was rolled back because somebody asked for it.
    Aborted,
    /// The template changed again, or back, before the end.
    Superseded,
}
