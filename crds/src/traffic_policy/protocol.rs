//! What the bytes of a port are.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the bytes of a port are, where a policy says so.
#[derive(JsonSchema, Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "UPPERCASE")]
pub enum PolicyProtocol {
    /// HTTP of the version that the caller speaks.
    Http,
    /// Bytes that nobody looks into: no route matches, and a server may speak first without a wait.
    Tcp,
}
