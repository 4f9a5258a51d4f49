//! What a request must look like for a route to be its own.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, DNS_LABEL, TOKEN};

/// What a request must look like: everything that is set must hold.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.path) || has(self.headers) || has(self.queryParams) || has(self.cookies) || has(self.methods) || has(self.source) || has(self.grpc)")
    .message("matches: an entry needs path, headers, queryParams, cookies, methods, source or grpc; leave matches out to match every request"))]
pub struct RouteMatch {
    /// The path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Headers, all of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub headers: Vec<HeaderMatch>,
    /// Parameters of the query, all of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub query_params: Vec<QueryParamMatch>,
    /// Cookies, all of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub cookies: Vec<CookieMatch>,
    /// Any of these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 9), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<HttpMethod>,
    /// Who calls. A caller is what its certificate proves, never what a header says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceMatch>,
    /// Calls of gRPC alone: those of a service, of a method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcMatch>,
}

/// What a request's path must look like.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.type == 'RegularExpression' || self.value.startsWith('/')")
    .message("path.value: must start with / (only a RegularExpression need not)"))]
pub struct PathMatch {
    /// Exact: the whole path. PathPrefix: whole elements from its start, so /a matches /a and /a/b but not /ab.
    /// RegularExpression: the whole path, in the syntax of Rust's regex crate, which runs in linear time.
    #[serde(default, rename = "type")]
    #[schemars(extend("default" = "PathPrefix"))]
    pub type_: PathMatchType,
    /// What the path is compared with; case counts.
    #[schemars(length(min = 1, max = 1024))]
    pub value: String,
}

/// How a path is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum PathMatchType {
    /// The whole path.
    Exact,
    /// Whole elements from its start.
    #[default]
    PathPrefix,
    /// The whole path against an expression.
    RegularExpression,
}

/// What a header of a request must look like.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Present') != has(self.value)")
    .message("headers: type Present takes no value, every other type needs one"))]
pub struct HeaderMatch {
    /// Case does not count.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
    /// Exact: the whole value. Prefix: its start. RegularExpression: the whole value, in the syntax of Rust's regex crate.
    /// Present: the header is there, whatever its value.
    #[serde(default, rename = "type")]
    #[schemars(extend("default" = "Exact"))]
    pub type_: ValueMatchType,
    /// What the value is compared with; case counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: Option<String>,
    /// Turns it round: the entry holds where the header is absent or its value does not match.
    #[serde(default)]
    pub not: bool,
}

/// What a parameter of a request's query must look like.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Present') != has(self.value)")
    .message("queryParams: type Present takes no value, every other type needs one"))]
pub struct QueryParamMatch {
    /// As it reads once decoded; case counts. Of several parameters of one name the first counts.
    #[schemars(length(min = 1, max = 256))]
    pub name: String,
    /// Exact: the whole value, decoded. Prefix: its start. RegularExpression: the whole value, in the syntax of Rust's regex crate.
    /// Present: the parameter is there, whatever its value.
    #[serde(default, rename = "type")]
    #[schemars(extend("default" = "Exact"))]
    pub type_: ValueMatchType,
    /// What the value is compared with; case counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: Option<String>,
    /// Turns it round: the entry holds where the parameter is absent or its value does not match.
    #[serde(default)]
    pub not: bool,
}

/// What a cookie of a request must look like.
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Present') != has(self.value)")
    .message("cookies: type Present takes no value, every other type needs one"))]
pub struct CookieMatch {
    /// Case counts. Of several cookies of one name the first counts.
    #[schemars(length(min = 1, max = 256), regex(pattern = TOKEN))]
    pub name: String,
    /// Exact: the whole value. Prefix: its start. RegularExpression: the whole value, in the syntax of Rust's regex crate.
    /// Present: the cookie is there, whatever its value.
    #[serde(default, rename = "type")]
    #[schemars(extend("default" = "Exact"))]
    pub type_: ValueMatchType,
    /// What the value is compared with; case counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: Option<String>,
    /// Turns it round: the entry holds where the cookie is absent or its value does not match.
    #[serde(default)]
    pub not: bool,
}

/// Who a caller must be: everything that is set must hold.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.namespaces) || has(self.serviceAccounts) || has(self.labels)")
    .message("source: needs namespaces, serviceAccounts or labels; leave source out to match every caller"))]
pub struct SourceMatch {
    /// The caller's namespace is one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 63), regex(pattern = DNS_LABEL)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub namespaces: Vec<String>,
    /// The caller runs under one of these, each written namespace/name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 3, max = 317), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub service_accounts: Vec<String>,
    /// Labels that the caller's pod must have, each with this value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::labels")]
    pub labels: BTreeMap<String, String>,
}

/// Which calls of gRPC: everything that is set must hold.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.service) || has(self.method)")
    .message("grpc: needs service or method; leave grpc out to match other requests as well"))]
pub struct GrpcMatch {
    /// With its package, such as bookinfo.Reviews; case counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z_][A-Za-z0-9_.]*$"))]
    pub service: Option<String>,
    /// Such as Get; case counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z_][A-Za-z0-9_]*$"))]
    pub method: Option<String>,
}

/// How the value of a header, a parameter or a cookie is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum ValueMatchType {
    /// The whole value.
    #[default]
    Exact,
    /// Its start.
    Prefix,
    /// The whole value against an expression.
    RegularExpression,
    /// That it is there.
    Present,
}

/// Methods of HTTP, those of RFC 9110 and PATCH.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum HttpMethod {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Connect,
    Options,
    Trace,
    Patch,
}

impl HttpMethod {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
        }
    }
}
