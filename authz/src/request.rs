//! What a decision is about.

use std::net::IpAddr;

use fairlead_identity::SpiffeId;
use http::HeaderName;

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// As its certificate proves it; `None`: it came in plain.
    pub identity: Option<SpiffeId>,
    /// From where.
    pub address: IpAddr,
}

/// What rules look at of a request, as the caller wrote it.
pub trait Request {
    /// Case counts.
    fn method(&self) -> &str;

    /// Without the query.
    fn path(&self) -> &str;

    /// Whether it says that it is a call of gRPC.
    fn is_grpc(&self) -> bool;

    /// Whom it asks for: all that a server might take for it, at least one where there is any.
    fn hosts(&self) -> impl Iterator<Item = &[u8]>;

    /// The lines of one header, in their order.
    fn header(&self, name: &HeaderName) -> impl Iterator<Item = &[u8]>;

    /// Whether a token that was verified says so.
    fn has_claim(&self, name: &str, value: &str) -> bool;
}

/// Whether a content type is gRPC's: `application/grpc+proto` is, `application/grpc-web` is not.
pub fn is_grpc_type(value: &[u8]) -> bool {
    value.strip_prefix(b"application/grpc").is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';' | b' ')))
}
