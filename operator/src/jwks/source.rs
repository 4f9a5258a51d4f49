//! Which key set is wanted.

use std::sync::Arc;

/// A set that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// As the user wrote it.
    pub url: String,
    /// Who may vouch for the server, in DER; `None`: the public authorities that came with the operator.
    pub roots: Option<Arc<[Vec<u8>]>>,
}
