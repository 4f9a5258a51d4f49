//! TLS towards endpoints outside the mesh.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How endpoints without a sidecar are reached; those with one always are with mTLS. Callers speak plain to the Service, and their proxies
/// begin TLS. What cannot be verified is not sent: callers get 503 (connect-failure).
#[derive(KubeSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Originate: the caller's proxy is the client of a TLS server that proves to be sni. The proxy itself shows no certificate.
    #[serde(default)]
    #[schemars(extend("default" = "Originate"))]
    pub mode: TlsMode,
    /// The name that is asked for in the handshake, and that the server's certificate must bear, such as api.example.com. The Host header
    /// stays the caller's; where the server expects this name there as well, give the routes rewrite with host.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?[.])*[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
    )]
    pub sni: String,
    /// Who may vouch for the server. There is no default: the proxy trusts no public authority by itself.
    pub ca_ref: CaRef,
}

/// What becomes of a connection to an endpoint without a sidecar.
#[derive(JsonSchema, Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
pub enum TlsMode {
    /// TLS inside it.
    #[default]
    Originate,
}

/// A ConfigMap of the policy's own namespace with the label fairlead.dev/ca: "true", whose key ca.crt has certificates of authorities in
/// PEM: at most 256, and 256 KiB.
#[derive(JsonSchema, Clone, Debug, Deserialize, Serialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CaRef {
    /// Of the ConfigMap.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub name: String,
}
