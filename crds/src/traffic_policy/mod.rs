//! `TrafficPolicy`: how traffic to a Service behaves.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, DNS_LABEL};

mod balancing;
mod cors;
mod fault;
mod headers;
mod health_check;
mod limits;
mod matches;
mod mirror;
mod outliers;
mod protocol;
mod rate_limit;
mod respond;
mod retry;
mod route;
mod stickiness;
mod target;
mod timeouts;
mod tls;
mod url;

pub use balancing::{Algorithm, ConsistentHash, Failover, LoadBalancing, Locality, LocalityPreference, SourceIp};
pub use cors::Cors;
pub use fault::{Fault, FaultAbort, FaultDelay, GrpcStatus};
pub use headers::{HeaderChanges, HeaderField, HeaderRules};
pub use health_check::HealthCheck;
pub use limits::Limits;
pub use matches::{
    CookieMatch, GrpcMatch, HeaderMatch, HttpMethod, PathMatch, PathMatchType, QueryParamMatch, RouteMatch,
    SourceMatch, ValueMatchType,
};
pub use mirror::Mirror;
pub use outliers::{Ejection, ErrorRate, OutlierDetection, Probe};
pub use protocol::PolicyProtocol;
pub use rate_limit::{RateLimit, RateLimitKey, RateLimitScope};
pub use respond::Respond;
pub use retry::{Backoff, Retry, RetryBudget, RetryOn};
pub use route::{Backend, Route, ServiceRef};
pub use stickiness::{Stickiness, StickyCookie};
pub use target::{TargetKind, TargetRef};
pub use timeouts::Timeouts;
pub use tls::{CaRef, Tls, TlsMode};
pub use url::{PathChange, Redirect, RedirectScheme, Rewrite};

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
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".spec.targetRef.name",
        description = "The Service or namespace."
    ),
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
#[x_kube(validation = Rule::new("self.targetRef.kind == 'Service' || ((!has(self.routes) || size(self.routes) == 0) && (!has(self.subsets) || size(self.subsets) == 0))")
    .message("targetRef: routes and subsets are of one Service; a policy for a Namespace has none"))]
#[x_kube(validation = Rule::new("self.targetRef.kind == 'Service' || !has(self.tls)")
    .message("tls: sni is the name of one Service's servers; write it into a policy for that Service"))]
pub struct TrafficPolicySpec {
    /// The Service whose traffic this is about. Up to six policies hold for one caller and port: those of the caller's namespace
    /// for the port and for the Service, those of the Service's namespace for the port and for the Service, then the defaults of
    /// either for the namespace. Each field comes from the first of them that sets it. Where two policies of one namespace name
    /// the same the older one holds, then the first by name; the other says Accepted=False, Conflicted.
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

    /// How much of the traffic to the target may be tries after the first, over all routes: of each caller's proxy for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_budget: Option<RetryBudget>,

    /// Which endpoint of the target gets a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub load_balancing: Option<LoadBalancing>,

    /// Endpoints of the target that are left out because they fail. On by default, with the defaults of each field; maxEjected: 0 turns
    /// it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,

    /// Requests of the callers' proxies that find out how endpoints are. Absent: none; what requests meet tells (outlierDetection).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,

    /// What each caller's proxy may have under way at the target. On by default, with the defaults of each field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,

    /// How many requests each pod takes; every limit that a request meets must have room for it, of all Services that lead to the
    /// pod, at most 64. They hold where the pods are, so a policy for another namespace's Service has none. A port with limits whose
    /// protocol nobody states is HTTP.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 8),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"])
    )]
    pub rate_limits: Vec<RateLimit>,

    /// What the port's bytes are, whatever its appProtocol says. Absent: what appProtocol says, or what the first bytes tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<PolicyProtocol>,

    /// TLS that callers' proxies begin with those endpoints that have no sidecar: for Services that lead out of the mesh, which have an
    /// address in the cluster and EndpointSlices of their own. An ExternalName has no address, so what it leads to is reached as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
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
