//! The stages of a release, and what a user asks of one that is under way.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::percent::Percent;
use crate::traffic_policy::RouteMatch;

/// A stage of a release. What it says of traffic and of pods holds until a later step says otherwise. It is passed when all of this is true: what is
/// judged of its traffic is well, its hold is over, and it is approved where it asks for that.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(has(self.weight) ? 1 : 0) + (has(self.mirror) ? 1 : 0) + (has(self.matches) ? 1 : 0) <= 1")
    .message("steps: a step has one of weight, mirror and matches; give each a step of its own"))]
#[x_kube(validation = Rule::new("has(self.weight) || has(self.mirror) || has(self.matches) || has(self.approval) || has(self.replicas) || duration(self.hold) > duration('0s')")
    .message("steps: a step needs weight, mirror, matches, hold, approval or replicas"))]
pub struct CanaryStep {
    /// Percent of the Deployment's traffic that goes to the new version; decimals are allowed. Judged against the traffic of the running version at the
    /// same time. With 100, all at once (blue-green), there is none: absolute limits alone judge it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 100))]
    pub weight: Option<Percent>,
    /// Dark traffic: the new version gets copies, whose answers nobody waits for. Absolute limits alone judge them, because a copy may fail only for
    /// being the second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Dark>,
    /// Requests that match any one of these go to the new version, and they alone (A/B). Whoever they are, they are like no others: absolute limits alone
    /// judge them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<RouteMatch>,
    /// How long the step lasts at least, even if the evidence is there sooner.
    #[serde(default)]
    #[schemars(extend("default" = "0s"))]
    pub hold: Duration,
    /// Waits for a person: fairlead canary approve, or the annotation fairlead.dev/request: approve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<Approval>,
    /// How many pods of the new version run from here on, instead of what spec.rollout.replicas says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub replicas: Option<i32>,
}

impl CanaryStep {
    /// Whether it says where traffic goes.
    pub fn steers(&self) -> bool {
        self.weight.is_some() || self.mirror.is_some() || !self.matches.is_empty()
    }
}

/// That a person is waited for.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[schemars(extend("maxProperties" = 0))]
pub struct Approval {}

/// Copies of requests.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Dark {
    /// Of how many of the Deployment's requests, in percent. Absent: all.
    #[serde(default = "all")]
    #[schemars(range(min = 0.01, max = 100))]
    pub percent: Percent,
    /// How many copies of each. More than one is a load drill.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 20))]
    pub copies: i32,
}

/// Whoever wants less says so.
const fn all() -> Percent {
    Percent::whole(100)
}

/// As many as there are requests.
const fn one() -> i32 {
    1
}

/// What a user asks of a release with the annotation fairlead.dev/request, or with the command fairlead canary. The operator takes the annotation away
/// before it does what it says, so that each is done once.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq, Hash)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Lets a step pass that waits for approval.
    Approve,
    /// Rolls back. The template counts as failed.
    Abort,
    /// Rolls the new version out without further evidence.
    Promote,
    /// Tries a template again that failed.
    Retry,
}

impl std::str::FromStr for Request {
    type Err = UnknownRequest;

    fn from_str(text: &str) -> Result<Self, UnknownRequest> {
        match text {
            "approve" => Ok(Self::Approve),
            "abort" => Ok(Self::Abort),
            "promote" => Ok(Self::Promote),
            "retry" => Ok(Self::Retry),
            _ => Err(UnknownRequest),
        }
    }
}

impl std::fmt::Display for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Approve => "approve",
            Self::Abort => "abort",
            Self::Promote => "promote",
            Self::Retry => "retry",
        })
    }
}

/// No [`Request`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request is approve, abort, promote or retry")]
pub struct UnknownRequest;
