//! Who may do what.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::DNS_LABEL;
use crate::traffic_policy::{GrpcMatch, HeaderMatch, HttpMethod};

/// What becomes of that for which no rule holds.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum DefaultAction {
    /// It is let in.
    Allow,
    /// It is refused.
    Deny,
}

/// One rule. It holds where the caller is any of from, the request any of to, and its token says all of when.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AuthRule {
    /// Names the rule in logs and metrics.
    #[schemars(length(min = 1, max = 63), regex(pattern = DNS_LABEL))]
    pub name: String,
    /// What it does where it holds.
    pub action: AuthAction,
    /// Callers, any of these. Absent: every caller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub from: Vec<Peer>,
    /// What is asked for, any of these. Absent: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 16), extend("x-kubernetes-list-type" = "atomic"))]
    pub to: Vec<Operation>,
    /// Claims of the request's token, all of them. A request without a token makes no claim.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub when: Vec<ClaimMatch>,
}

/// What a rule does where it holds.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum AuthAction {
    /// Lets in what no Deny refuses. Where servers may read a request in several ways, it holds only if it does for all of them.
    Allow,
    /// Refuses, whatever else holds. It holds if it does for any way to read the request.
    Deny,
    /// Changes nothing; that it holds is counted and logged.
    Audit,
}

/// Callers: everything that is set must hold.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespaces) || has(self.serviceAccounts) || has(self.identities) || has(self.cidrs) || (has(self.unauthenticated) && self.unauthenticated)")
    .message("from: an entry needs namespaces, serviceAccounts, identities, cidrs or unauthenticated: true; leave from out for every caller"))]
#[x_kube(validation = Rule::new("!(has(self.unauthenticated) && self.unauthenticated && (has(self.namespaces) || has(self.serviceAccounts) || has(self.identities)))")
    .message("from: who is unauthenticated has no namespace, account or identity; make two entries of it"))]
pub struct Peer {
    /// The caller proved to be of one of these namespaces of this mesh.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 63), regex(pattern = DNS_LABEL)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
    /// The caller proved to run under one of these accounts of this mesh, each written namespace/name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 3, max = 317), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub service_accounts: Vec<String>,
    /// The caller proved to be one of these, of whatever mesh is trusted: spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, where namespace and
    /// account may be *.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(
            length(min = 16, max = 638),
            regex(pattern = r"^spiffe://[a-z0-9]([-a-z0-9_.]*[a-z0-9])?/ns/([a-z0-9]([-a-z0-9]*[a-z0-9])?|\*)/sa/([a-z0-9]([-a-z0-9.]*[a-z0-9])?|\*)$")
        ),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub identities: Vec<String>,
    /// The connection comes from an address in one of these blocks, such as 10.0.0.0/8 or fd00::/8. Behind a load balancer or another
    /// proxy that is the proxy's address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 4, max = 43), regex(pattern = "^[0-9a-fA-F:.]+/[0-9]{1,3}$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub cidrs: Vec<String>,
    /// The caller proved nothing: it came in plain.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unauthenticated: bool,
}

/// What is asked for: everything that is set must hold. All but ports needs HTTP: of other traffic an Allow that asks for it allows
/// nothing, and a Deny that asks for it denies.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.ports) || has(self.methods) || has(self.paths) || has(self.hosts) || has(self.headers) || has(self.grpc)")
    .message("to: an entry needs ports, methods, paths, hosts, headers or grpc; leave to out for everything"))]
pub struct Operation {
    /// Of the pods (not of Services), any of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 32), inner(range(min = 1, max = 65_535)), extend("x-kubernetes-list-type" = "set"))]
    pub ports: Vec<i32>,
    /// Any of these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 9), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<HttpMethod>,
    /// The path without the query is any of these; a * in front or at the end stands for anything: /ratings, /ratings/*, */health. Escapes
    /// are decoded before it is compared; a path that servers read in different ways meets every Deny and no Allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 64),
        inner(length(min = 1, max = 1024), regex(pattern = r"^(/[^*?#]*\*?|\*[^*?#]*)$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub paths: Vec<String>,
    /// The host is any of these, whatever its case and port; *.example.com stands for all below example.com.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 253), regex(pattern = r"^(\*\.)?([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?|\[[0-9a-fA-F:.]+\])$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub hosts: Vec<String>,
    /// Headers, all of which must match. Of several lines, or a list in one, a Deny looks at each and at the whole, an Allow takes only one line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub headers: Vec<HeaderMatch>,
    /// Calls of gRPC: those of a service, of a method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
}

/// What a token must say.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ClaimMatch {
    /// At the top of the token, such as groups, scope or sub.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// It is any of these, a list that has one of them, or (scope) has one of them between its spaces.
    #[schemars(
        length(min = 1, max = 32),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub values: Vec<String>,
}
