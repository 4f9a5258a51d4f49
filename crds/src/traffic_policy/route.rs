//! Routes: which requests, where they go, and what happens to them on the way.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cors::Cors;
use super::fault::Fault;
use super::headers::HeaderRules;
use super::matches::RouteMatch;
use super::mirror::Mirror;
use super::respond::Respond;
use super::retry::Retry;
use super::stickiness::Stickiness;
use super::timeouts::Timeouts;
use super::url::{Redirect, Rewrite};
use crate::schema::DNS_LABEL;

/// Requests that match something, and where they go.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.redirect) && has(self.respond))")
    .message("routes: a route has either redirect or respond, not both"))]
#[x_kube(validation = Rule::new("!(has(self.redirect) || has(self.respond)) || !(has(self.backends) || has(self.rewrite) || has(self.mirror) || has(self.stickiness))")
    .message("routes: a route with redirect or respond sends nothing on; take its backends, rewrite, mirror and stickiness away"))]
#[x_kube(validation = Rule::new("!(has(self.rewrite) && has(self.rewrite.path) && has(self.rewrite.path.prefix)) || !has(self.matches) || self.matches.all(m, !has(m.path) || m.path.type == 'PathPrefix')")
    .message("rewrite.path.prefix: replaces what a PathPrefix matched; give every path of the route that type, or use rewrite.path.full"))]
#[x_kube(validation = Rule::new("!(has(self.redirect) && has(self.redirect.path) && has(self.redirect.path.prefix)) || !has(self.matches) || self.matches.all(m, !has(m.path) || m.path.type == 'PathPrefix')")
    .message("redirect.path.prefix: replaces what a PathPrefix matched; give every path of the route that type, or use redirect.path.full"))]
#[x_kube(validation = Rule::new("!has(self.stickiness) || (has(self.backends) && self.backends.size() > 1)")
    .message("stickiness: keeps users with one of several backends; the route needs at least two"))]
pub struct Route {
    /// For logs, metrics and conditions.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// The route applies where any one of these matches. None: it applies to every request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub matches: Vec<RouteMatch>,
    /// Where requests go, by weight. None: to the Service as it is. Where all weights are 0 requests get 503.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub backends: Vec<Backend>,
    /// How long a request may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// When a request is made again after it failed. Absent: only where it certainly did nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What the endpoint sees instead of the caller's path and host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewrite: Option<Rewrite>,
    /// Sends the caller elsewhere; nothing is sent on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Answers; nothing is sent on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,
    /// Headers that are set, added and removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub headers: Option<HeaderRules>,
    /// Dark traffic: where copies of requests go besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "atomic"))]
    pub mirror: Vec<Mirror>,
    /// Faults made on purpose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What pages of other origins may ask: their browsers are answered here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Keeps users with the backend that they came to first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stickiness: Option<Stickiness>,
}

/// Somewhere that requests go.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.subset) != has(self.service)")
    .message("backends: an entry needs either subset or service, not both"))]
#[x_kube(validation = Rule::new("!has(self.fallback) || (has(self.subset) && self.fallback != self.subset)")
    .message("backends.fallback: goes with subset, and names another one"))]
pub struct Backend {
    /// A subset of this policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub subset: Option<String>,
    /// Another Service, as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceRef>,
    /// The subset that stands in while this one has no ready endpoints: the base environment for one that does not run this Service.
    /// Absent: such requests get 503, because nobody asked for another version's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub fallback: Option<String>,
    /// Its share, relative to the sum over the route's backends. 0: none.
    #[serde(default = "one")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: i32,
}

/// Equal shares where nothing is said, as in the Gateway API.
const fn one() -> i32 {
    1
}

/// A port of a Service.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ServiceRef {
    /// Of the Service.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// Absent: the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub namespace: Option<String>,
    /// A port of the Service, by number.
    #[schemars(range(min = 1, max = 65_535))]
    pub port: i32,
}
