//! What a request must look like for a route to be its own.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a request must look like: everything that is set must hold.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.path) || has(self.headers) || has(self.methods)")
    .message("matches: an entry needs path, headers or methods; leave matches out to match every request"))]
pub struct RouteMatch {
    /// The path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// Headers, all of which must match.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "atomic"))]
    pub headers: Vec<HeaderMatch>,
    /// Any of these methods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(min = 1, max = 9), extend("x-kubernetes-list-type" = "set"))]
    pub methods: Vec<HttpMethod>,
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
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[A-Za-z0-9!#$%&'*+\\-.^_\\x60|~]+$"))]
    pub name: String,
    /// Exact: the whole value. Prefix: its start. RegularExpression: the whole value, in the syntax of Rust's regex crate.
    /// Present: the header is there, whatever its value.
    #[serde(default, rename = "type")]
    #[schemars(extend("default" = "Exact"))]
    pub type_: HeaderMatchType,
    /// What the value is compared with; case counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024))]
    pub value: Option<String>,
    /// Turns it round: the entry holds where the header is absent or its value does not match.
    #[serde(default)]
    pub not: bool,
}

/// How a header is compared.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum HeaderMatchType {
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
