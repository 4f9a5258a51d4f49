//! The API of Fairlead: three namespaced kinds of the group `fairlead.dev/v1alpha1`.
//!
//! Users write [`TrafficPolicy`], [`PeerAuth`] and [`Canary`]; the operator writes their status. Validation that needs no cluster
//! sits in the schema, so that the API server refuses a mistake with the field and the fix; what only the cluster can tell is a
//! condition. The YAML in `manifests/crds.yaml` is printed by this crate's binary: `cargo run -p fairlead-crds`.

#![allow(clippy::doc_markdown, reason = "comments become the schema's descriptions, which people read in a terminal")]
#![allow(clippy::duplicated_attributes, reason = "each printer column has a type of its own")]
#![allow(
    unreachable_pub,
    reason = "the derive of KubeSchema repeats each struct, with its visibility, inside a function"
)]

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

mod canary;
mod condition;
mod duration;
mod peer_auth;
mod percent;
mod schema;
mod traffic_policy;

pub use canary::{
    Analysis, Approval, Canary, CanarySpec, CanaryStatus, CanaryStep, CanaryStepStatus, Check, CheckPhase, Dark,
    ErrorLimits, LatencyLimits, Metric, Notify, NotifyFormat, OnInconclusive, Outcome, Phase, Prometheus,
    QuantileLimit, Release, Replicas, Request, Rollout, SecretKey, UnknownRequest, Verdict, VerdictResult,
    VersionStatus, WorkloadKind, WorkloadRef,
};
pub use condition::{ConditionType, Fact, set_condition};
pub use duration::{Duration, ParseDurationError};
pub use peer_auth::{
    AuthAction, AuthRule, ClaimMatch, DefaultAction, Jwks, Jwt, Mtls, MtlsMode, Operation, Peer, PeerAuth,
    PeerAuthSpec, PeerAuthStatus, PortMtls, WorkloadReadiness,
};
pub use percent::{OutOfRange, Percent};
pub use traffic_policy::{
    Algorithm, Backend, Backoff, CaRef, ConsistentHash, CookieMatch, Cors, Ejection, ErrorRate, Failover, Fault,
    FaultAbort, FaultDelay, GrpcMatch, GrpcStatus, HeaderChanges, HeaderField, HeaderMatch, HeaderRules, HealthCheck,
    HttpMethod, Limits, LoadBalancing, Locality, LocalityPreference, Mirror, OutlierDetection, PathChange, PathMatch,
    PathMatchType, PolicyProtocol, Probe, QueryParamMatch, RateLimit, RateLimitKey, RateLimitScope, Redirect,
    RedirectScheme, Respond, Retry, RetryBudget, RetryOn, Rewrite, Route, RouteMatch, ServiceRef, SourceIp,
    SourceMatch, Stickiness, StickyCookie, Subset, TargetKind, TargetRef, Timeouts, Tls, TlsMode, TrafficPolicy,
    TrafficPolicySpec, TrafficPolicyStatus, ValueMatchType,
};

/// The group of the three kinds, and the prefix of every label and annotation.
pub const GROUP: &str = "fairlead.dev";

/// On a Deployment: the name of the Canary (same namespace) that manages it. The admission webhook that holds template changes
/// selects by this label.
pub const CANARY_LABEL: &str = "fairlead.dev/canary";

/// On the clone of a Deployment and on the clone's pods: the name of the Deployment that it was made from.
pub const CLONE_OF_LABEL: &str = "fairlead.dev/clone-of";

/// On a Deployment: the webhook paused it, so that a pause of the user's own is not ended when the template changes back.
pub const HELD_ANNOTATION: &str = "fairlead.dev/held";

/// On a Deployment: the revision that was proved bad, so that it is not rolled out when its Canary goes and its status with it.
pub const REFUSED_ANNOTATION: &str = "fairlead.dev/refused";

/// On a Canary: a [`Request`] of the user. The operator takes it away before it does what it says.
pub const REQUEST_ANNOTATION: &str = "fairlead.dev/request";

/// On a Secret: `true` where its owner agrees that what it holds is sent where a Canary of its namespace says.
pub const OUTBOUND_LABEL: &str = "fairlead.dev/outbound";

/// On a pod template: a digest of the ConfigMaps and Secrets that it names, written when a change of theirs is promoted.
pub const CONFIG_ANNOTATION: &str = "fairlead.dev/config";

/// On a namespace or pod: `enabled` asks for a sidecar, `disabled` opts out; the pod's wins.
pub const INJECT_LABEL: &str = "fairlead.dev/inject";

/// On a ConfigMap: `true` where its key [`CA_KEY`] has authorities that a policy's `tls` may name. The operator watches no others.
pub const CA_LABEL: &str = "fairlead.dev/ca";

/// In such a ConfigMap: certificates in PEM.
pub const CA_KEY: &str = "ca.crt";

/// The three definitions, as they are installed.
///
/// Unlike `Kind::crd()` they say nowhere that a field may be null: the API server then drops a null before it applies defaults and
/// rules, so that null and absent mean the same.
///
/// # Errors
///
/// Where a schema does not survive JSON, which the tests of this crate rule out.
pub fn definitions() -> serde_json::Result<Vec<CustomResourceDefinition>> {
    [TrafficPolicy::crd(), PeerAuth::crd(), Canary::crd()]
        .into_iter()
        .map(|crd| {
            let mut json = serde_json::to_value(crd)?;
            schema::remove_nullable(&mut json["spec"]["versions"]);
            serde_json::from_value(json)
        })
        .collect()
}

/// The three definitions as one YAML stream, as kept in `manifests/crds.yaml`.
///
/// # Errors
///
/// As [`definitions`].
pub fn to_yaml() -> Result<String, Box<dyn std::error::Error + Send + Sync>> {
    let mut yaml = String::from(
        "# Printed by `cargo run -p fairlead-crds > manifests/crds.yaml`. Edit the types in crds/src instead.\n",
    );
    for crd in definitions()? {
        yaml.push_str("---\n");
        yaml.push_str(&serde_yaml::to_string(&crd)?);
    }
    Ok(yaml)
}

#[cfg(test)]
mod tests;
