//! What the proxy knows of gRPC: how it fails.

pub use fairlead_authz::is_grpc_type;
use http::{HeaderMap, HeaderName, StatusCode, header};

use super::Fields;

pub(super) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub(super) const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Whether a message with these headers is gRPC's.
pub fn is_grpc(headers: &Fields) -> bool {
    headers.get(&header::CONTENT_TYPE).is_some_and(is_grpc_type)
}

/// The status that the head of a response carries.
pub fn status_of(headers: &Fields) -> Option<u8> {
    number(headers.get(&STATUS)?)
}

/// The status that trailers carry.
pub(super) fn status_of_trailers(trailers: &HeaderMap) -> Option<u8> {
    number(trailers.get(STATUS)?.as_bytes())
}

fn number(status: &[u8]) -> Option<u8> {
    std::str::from_utf8(status).ok()?.parse().ok()
}

/// The gRPC status that stands for an HTTP status, by the gRPC specification.
pub fn status_for(status: StatusCode) -> u8 {
    match status.as_u16() {
        200..300 => 0,
        // INTERNAL
        400 => 13,
        // UNAUTHENTICATED
        401 => 16,
        // PERMISSION_DENIED
        403 => 7,
        // UNIMPLEMENTED
        404 => 12,
        // UNAVAILABLE
        429 | 502..=504 => 14,
        // UNKNOWN
        _ => 2,
    }
}

/// Whether a status speaks against the server: `UNKNOWN`, `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `UNIMPLEMENTED`, `INTERNAL`, `UNAVAILABLE`,
/// `DATA_LOSS`. The others say that the caller asked for something that it cannot have.
pub fn failed_status(status: u8) -> bool {
    matches!(status, 2 | 4 | 8 | 12 | 13 | 14 | 15)
}

/// Whether a status says that the endpoint is not well. Of those that [`failed_status`] counts, `RESOURCE_EXHAUSTED` says that it protects
/// itself, and `UNIMPLEMENTED` that it is asked for something that none of its kind can do.
pub fn speaks_against(status: u8) -> bool {
    failed_status(status) && !matches!(status, 8 | 12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc; charset=x", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
            assert_eq!(is_grpc(&headers.into()), expected, "{value}");
        }
        assert!(!is_grpc(&Fields::default()));
    }
}
