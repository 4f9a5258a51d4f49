//! `TrafficPolicy`: how traffic to a Service behaves.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, DNS_LABEL};

mod matches;
mod route;
mod timeouts;

pub use matches::{
    CookieMatch, GrpcMatch, HeaderMatch, HttpMethod, PathMatch, PathMatchType, QueryParamMatch, RouteMatch,
    SourceMatch, ValueMatchType,
};
pub use route::{Backend, Route, ServiceRef};
pub use timeouts::Timeouts;

/// How traffic to a Service behaves: its parts (subsets), which requests go to which of them, and how long they may take.
#[derive(CustomResource, KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[kube(
    group = "fairlead.dev",
    version = "v1alpha1",
    kind = "TrafficPolicy",
    namespaced,
    status = "TrafficPolicyStatus",
    derive = "PartialEq",
    shortname = "tp",
    category = "fairlead",
    doc = "How traffic to a Service behaves: its parts (subsets), which requests go to which of them, and how long they may take.",
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.targetRef.name", description = "The Service."),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(
        name = "Refs",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="ResolvedRefs")].status"#
    ),
    printcolumn(
        name = "Programmed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Programmed")].message"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicySpec {
    /// The Service whose traffic this is about, in the policy's own namespace. Where two policies name one Service the older
    /// one holds; the other says Accepted=False, Conflicted.
    pub target_ref: TargetRef,

    /// Parts of the Service's endpoints, by the labels of their pods. Routes send requests to them by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub subsets: Vec<Subset>,

    /// Which requests go where. The first route that matches wins, in the order written here; a request that none matches goes
    /// to the Service as it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    #[x_kube(validation = Rule::new("self.all(a, self.exists_one(b, b.name == a.name))")
        .message("routes: two routes have the same name; give each its own"))]
    pub routes: Vec<Route>,
}

/// What a policy is about.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// Service.
    pub kind: TargetKind,
    /// Of the Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
}

/// What kinds of object a policy can be about.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum TargetKind {
    /// A Service of the core group.
    Service,
}

/// A part of a Service's endpoints.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Subset {
    /// What routes call it, such as v2.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// Labels that a pod must have to belong to it, each with this value. A subset without pods answers 503; its share never
    /// goes to another version.
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
}

/// What became of a policy.
#[derive(JsonSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TrafficPolicyStatus {
    /// The metadata.generation that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs and Programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Vec<Condition>,
}
