//! What people and tools ask Fairlead's operator, and its answers, as JSON. The operator and the `fairlead` command share these types, and so
//! never speak of different things.
//!
//! `POST` a [`Question`] to [`EXPLAIN_PATH`] at [`EXPLAIN_PORT`] of any replica: 200 has an [`Answer`], every other status a [`Refusal`].

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// Where an operator answers. It listens on the loopback of its pod alone, so the way there is a port-forward through the API server, which
/// asks for the right to make one (`create` on `pods/portforward` in the operator's namespace): what policies say is for those who run the mesh.
pub const EXPLAIN_PORT: u16 = 9091;

/// What to post a [`Question`] to.
pub const EXPLAIN_PATH: &str = "/v1/authz/explain";

/// May this caller do that, there?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Question {
    /// Who calls.
    pub from: Caller,
    /// From where; absent: it is not said, and an answer that depends on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Whom it calls.
    pub to: Target,
    /// What it asks for; absent: bytes that are not HTTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Caller {
    /// A pod in the mesh under this service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// Who proves this SPIFFE ID, of whatever trust domain.
    Identity(String),
    /// Who has no sidecar and proves nothing.
    Plain,
}

/// Whom it calls: a Service of this name, or else the pods of a Deployment, or else a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
    /// Of the Service, or of the pods where it is none; absent: the only one that there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// A request of HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Request {
    /// As it is sent: case counts.
    pub method: String,
    /// With or without a query, which no rule looks at.
    pub path: String,
    /// `Host` or `:authority`; absent: it is not said, and an answer that depends on it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The other headers, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Pair>,
    /// Of a token whose signature, audience and time are in order. The claim `iss` says whose it is; without it, that of anybody who is believed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<Pair>,
    /// Whether it says that it is a call of gRPC.
    #[serde(default)]
    pub grpc: bool,
}

/// A name and a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pair {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Answer {
    /// The kind and name of what was found: `Service bookinfo/ratings`.
    pub target: String,
    /// The port of it that was meant.
    pub port: u16,
    /// Pods where the same becomes of it for the same reason. At least one.
    pub groups: Vec<Group>,
    /// What one should know of the caller, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Answer {
    /// Whether every pod lets it in.
    pub fn is_allowed(&self) -> bool {
        self.groups.iter().all(|group| group.outcome.verdict == Verdict::Allowed)
    }
}

/// Pods that answer alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// The first of them by name, at most eight.
    pub pods: Vec<String>,
    /// How many there are.
    pub pod_count: usize,
    /// Their own port, which rules speak of.
    pub port: u16,
    /// What becomes of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The mode of mutual TLS of the port.
    pub mtls: Mtls,
    /// Every `PeerAuth` that concerns these pods, the widest first.
    pub policies: Vec<Policy>,
    /// The Audit rule (`namespace/PeerAuth/rule`) that records it, if it is let in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audited_by: Option<String>,
    /// What would become of it if what is only rehearsed held; absent: nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsed: Option<Rehearsal>,
    /// What else one should know, as sentences.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A verdict and its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// What becomes of it.
    pub verdict: Verdict,
    /// The rule that decided (`namespace/PeerAuth/rule`); absent: none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Why, as half a sentence: `rule bookinfo/ratings/readers allows it`.
    pub because: String,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It reaches the application.
    Allowed,
    /// It does not: 403 (401 for a token of nobody who is believed), or a reset of what is not HTTP.
    Denied,
    /// It does not: it came in plain where authentication is asked for.
    PlaintextRefused,
}

/// The mode of mutual TLS of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mtls {
    /// `Strict`, `Permissive` or `Disabled`.
    pub mode: String,
    /// The `PeerAuth` (`namespace/name`) that says so; absent: nobody does, and this is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
}

/// A `PeerAuth` that concerns some pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `namespace/name`.
    pub name: String,
    /// `Mesh`, `Namespace` or `Workload`: whom it is about.
    pub scope: String,
    /// Whether it is only rehearsed (`audit: true`).
    #[serde(default)]
    pub rehearsed: bool,
    /// Why its newest generation is not in force, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invalid: Option<String>,
}

/// What would become of it if what is only rehearsed held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rehearsal {
    /// What would become of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The mode that the port would have.
    pub mtls: Mtls,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A sentence that says what to do about it.
    pub error: String,
}
