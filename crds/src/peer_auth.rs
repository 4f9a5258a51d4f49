//! `PeerAuth`: who may talk to a workload, and how that is proved.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema;

/// Whether callers must prove who they are, for some pods, a namespace, or (in the operator's namespace) the whole mesh.
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
    doc = "Whether callers must prove who they are, for some pods, a namespace, or (in the operator's namespace) the whole mesh.",
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mtls.mode",
        description = "What it asks of callers."
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
pub struct PeerAuthSpec {
    /// The pods that this holds for. Absent: all of the namespace; in the operator's namespace: all of the mesh. A selected
    /// pod's mode wins over its namespace's, and that over the mesh's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "schema::label_selector")]
    pub selector: Option<LabelSelector>,

    /// Mutual TLS between callers and these pods. A mode that is absent is the namespace's, or else the mesh's; where nobody says
    /// anything it is Permissive, so that joining the mesh breaks no caller.
    pub mtls: Mtls,
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
}
