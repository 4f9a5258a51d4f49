//! Where a request is sent in the end: rewritten on its way, or redirected by the caller itself.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A path without query and fragment, of what may be in a target.
const PATH: &str = "^/[!-\"$-;=@-_a-~]*$";

/// The same with a query.
pub(super) const PATH_AND_QUERY: &str = "^/[!$-;=?-_a-~]*$";

/// Changes of what the endpoint sees of the request's target.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.path) || has(self.host)")
    .message("rewrite: needs path or host"))]
pub struct Rewrite {
    /// The path; the query stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// The Host header, with its port if there is to be one. Where the request goes does not change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 259), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?(:[0-9]{1,5})?$"))]
    pub host: Option<String>,
}

/// Another path.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.prefix) != has(self.full)")
    .message("path: needs either prefix or full, not both"))]
pub struct PathChange {
    /// In place of what the route's PathPrefix matched: with /v2 for /reviews, /reviews/1 becomes /v2/1. A match without a path
    /// matched /.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH))]
    pub prefix: Option<String>,
    /// In place of the whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = PATH))]
    pub full: Option<String>,
}

/// Where the caller is sent. What is absent stays as the caller wrote it, the query always.
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.scheme) || has(self.host) || has(self.port) || has(self.path)")
    .message("redirect: needs scheme, host, port or path, or it would lead back to where it came from"))]
pub struct Redirect {
    /// http or https.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<RedirectScheme>,
    /// Without a port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub host: Option<String>,
    /// Absent: that of the scheme if there is one here, and otherwise the caller's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65_535))]
    pub port: Option<i32>,
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathChange>,
    /// 301, 302, 303, 307 or 308. With 307 and 308 the method and the body stay.
    #[serde(default = "found")]
    #[schemars(extend("enum" = [301, 302, 303, 307, 308]))]
    pub status: i32,
}

/// What caches keep for no longer than they are told, as in the Gateway API.
const fn found() -> i32 {
    302
}

/// Schemes of HTTP.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum RedirectScheme {
    /// In plain.
    Http,
    /// Over TLS.
    Https,
}
