//! TLS that callers' proxies begin with endpoints outside the mesh.

use std::sync::Arc;

/// TLS that callers' proxies begin with endpoints outside the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origination {
    /// What the server must prove to be, a name of DNS.
    pub server_name: String,
    /// Who may vouch for it, in DER, at least one; or why there is nobody, and so nothing is sent.
    pub roots: Result<Arc<[Vec<u8>]>, String>,
}
