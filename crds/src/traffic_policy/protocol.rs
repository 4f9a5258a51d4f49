//! What the bytes of a port are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the bytes of a port are, where a policy says so.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub enum PolicyProtocol {
    /// HTTP of the version that the caller speaks.
    #[serde(rename = "HTTP")]
    Http,
    /// HTTP/1: callers that speak HTTP/2 are translated, WebSocket included.
    #[serde(rename = "HTTP1")]
    Http1,
    /// HTTP/2: callers that speak HTTP/1 are translated, but for upgrades such as WebSocket.
    #[serde(rename = "HTTP2")]
    Http2,
    /// gRPC, and so HTTP/2.
    #[serde(rename = "GRPC")]
    Grpc,
    /// Bytes that nobody looks into: no route matches, and a server may speak first without a wait.
    #[serde(rename = "TCP")]
    Tcp,
}
