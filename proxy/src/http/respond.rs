//! Answers that the proxy makes itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{Reason, Response, body::Body, grpc};

/// The header that marks an answer of the proxy, with the reason as its value. Applications cannot set it: the inbound proxy removes it
/// from what they send.
pub const MARK: HeaderName = HeaderName::from_static("fairlead-proxy");

/// The answer for `reason`; `detail` is one sentence for whoever reads it, and a gRPC caller gets it as the message of a status.
pub fn respond(reason: Reason, detail: &str, grpc: bool) -> Response<Body> {
    let mut headers = HeaderMap::new();
    let (status, body) = if grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(grpc::STATUS, HeaderValue::from(u16::from(reason.grpc_status())));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(detail)) {
            headers.insert(grpc::MESSAGE, message);
        }
        (StatusCode::OK, Body::Empty)
    } else {
        let text = format!("fairlead: {}: {detail}\n", reason.as_str());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        (reason.status(), Body::Full(Some(Bytes::from(text))))
    };
    headers.insert(MARK, HeaderValue::from_static(reason.as_str()));
    if reason.ends_connection() {
        // Where a malformed request ends, and the next begins, nobody knows; and a caller that is refused has no use for its connection.
        // (HTTP/2 has no such header, and it is left out there.)
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Response::new(status, headers, body)
}

/// As the gRPC specification encodes messages: printable ASCII without `%` stays.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_caller_gets_the_status_the_mark_and_a_sentence() {
        let response = respond(Reason::NoEndpoints, "none is ready", false);
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers().get(&MARK), Some(&b"no-endpoints"[..]));
    }

    #[test]
    fn a_grpc_caller_gets_a_status_of_its_own() {
        let response = respond(Reason::RequestTimeout, "5s passed\n", true);
        assert_eq!(response.status(), 200);
        let header = |name: HeaderName| response.headers().get(&name).map(<[u8]>::to_vec);
        assert_eq!(header(grpc::STATUS).unwrap(), b"4");
        assert_eq!(header(grpc::MESSAGE).unwrap(), b"5s passed%0A");
        assert_eq!(header(MARK).unwrap(), b"request-timeout");
    }
}
