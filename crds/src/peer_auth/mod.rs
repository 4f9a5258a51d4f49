//! `PeerAuth`: who may talk to a workload, and how that is proved.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod jwt;
mod rule;

pub use jwt::{Jwks, Jwt};
pub use rule::{AuthAction, AuthRule, ClaimMatch, DefaultAction, Operation, Peer};

use crate::schema;

/// Who may talk to some pods, to those of a namespace, or (in the operator's namespace) to the whole mesh, and how that is proved.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "PeerAuth",
    namespaced,
    status = "PeerAuthStatus",
    derive = "PartialEq",
    shortname = "pa",
    category = "fairlead",
    doc = "Who may talk to some pods, to those of a namespace, or (in the operator's namespace) to the whole mesh, and how that is proved.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mtls.mode",
        description = "What it asks of callers."
    ),
    printcolumn(
        name = "Rules",
        type_ = "string",
        json_path = ".spec.rules[*].name",
        description = "What it allows and denies."
    ),
    printcolumn(
        name = "Audit",
        type_ = "boolean",
        json_path = ".spec.audit",
        description = "Whether it is only rehearsed."
    ),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].message"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.mtls) || has(self.default) || has(self.rules) || has(self.jwt)")
    .message("spec: set mtls, default, rules or jwt"))]
pub struct PeerAuthSpec {
    /// The pods that this holds for. Absent: all of the namespace; in the operator's namespace: all of the mesh. A selected
    /// pod's mtls and default win over its namespace's, and those over the mesh's; rules of all of them add up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub selector: Option<LabelSelector>,

    /// Mutual TLS between callers and these pods. A mode that is absent is the namespace's, or else the mesh's; where nobody says
    /// anything it is Permissive, so that joining the mesh breaks no caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls: Option<Mtls>,

    /// What becomes of that for which no rule holds. Absent everywhere: Deny where an Allow rule holds for the pod, because somebody
    /// listed who may, otherwise Allow. Where two of one scope differ, Deny.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<DefaultAction>,

    /// Who may do what. A Deny that holds refuses, whatever else holds; otherwise an Allow that holds lets in; otherwise the default
    /// counts. Refused requests get 403 (gRPC 7), other connections are reset; the rule's name is in the log, never in the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub rules: Vec<AuthRule>,

    /// Whose tokens (JSON Web Tokens, RFC 7519) are believed. A request with a token that is not valid gets 401; one without goes on and
    /// makes no claims.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["issuer"])
    )]
    pub jwt: Vec<Jwt>,

    /// Rehearses mtls, default and rules: what they would refuse is let in, counted and logged, and status.readiness names plain callers.
    /// The way to Strict without an outage.
    #[serde(default)]
    pub audit: bool,
}

/// What is asked of callers.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.mode) || has(self.ports)")
    .message("mtls: set mode, ports or both"))]
pub struct Mtls {
    /// What holds for every port that is not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<MtlsMode>,
    /// Ports of the pods (not of Services) with a mode of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["port"])
    )]
    pub ports: Vec<PortMtls>,
}

/// A port with a mode of its own.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PortMtls {
    /// That the container listens on.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
    /// What holds for it.
    pub mode: MtlsMode,
}

/// Strict: authenticated callers alone, what comes in plain is refused. Permissive: plain ones as well. Disabled: authentication
/// is not offered, peers send plain.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum MtlsMode {
    /// Authenticated callers alone; what comes in plain is refused.
    Strict,
    /// Plain and authenticated callers.
    Permissive,
    /// Authentication is not offered: peers send plain.
    Disabled,
}

/// What became of it.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthStatus {
    /// The metadata.generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs and Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Who came in plain within the last hour, and would be cut off by Strict. Workloads without such callers are not listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 32),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["workload"])
    )]
    pub readiness: Vec<WorkloadReadiness>,
}

/// Who called one workload in plain within the last hour.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadReadiness {
    /// namespace/name of the Deployment, or of the pod where none made it.
    #[schemars(length(max = 317))]
    pub workload: String,
    /// How many callers there were.
    pub plaintext_callers: i32,
    /// Who they were, the first by name: namespace/name of a Deployment or pod, or an address that no pod has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 317)), extend("x-kubernetes-list-type" = "atomic"))]
    pub callers: Vec<String>,
}
