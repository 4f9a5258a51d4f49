//! Whose tokens are believed.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An issuer of tokens.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Jwt {
    /// What its tokens say in iss.
    #[schemars(length(min = 1, max = 512))]
    pub issuer: String,
    /// One of these must be in aud. Absent: any will do, also tokens that were made for others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(min = 1, max = 16),
        inner(length(min = 1, max = 253)),
        extend("x-kubernetes-list-type" = "set")
    )]
    pub audiences: Vec<String>,
    /// The keys that it signs with.
    pub jwks: Jwks,
    /// Whether the application sees the token. false: the proxy takes it out of the request.
    #[serde(default)]
    pub forward: bool,
}

/// A JSON Web Key Set (RFC 7517).
#[derive(KubeSchema, Clone, Debug, Default, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.inline) != has(self.url)")
    .message("jwks: set inline or url, one of them"))]
pub struct Jwks {
    /// The set itself, as JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 65_536))]
    pub inline: Option<String>,
    /// Where the operator (never a proxy) fetches it: https, not on a loopback, link-local or metadata address. The last good set stays in
    /// use while it is away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 9, max = 1024), regex(pattern = r"^https://[^\s@#]+$"))]
    pub url: Option<String>,
}
