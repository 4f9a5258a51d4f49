//! Answers that the proxy makes itself.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use super::{Reason, Response, body::Body, grpc};

/// The header that marks an answer of the proxy, with the reason as its value. Applications cannot set it: the inbound proxy removes it
/// from what they send.
pub const MARK: HeaderName = HeaderName::from_static("fairlead-proxy");

/// The answer for `reason`; `detail` is one sentence for whoever reads it, and a gRPC caller gets it as the message of a status.
pub fn respond(reason: Reason, detail: &str, grpc: bool) -> Response<Body> {
    let grpc = grpc.then(|| (reason.grpc_status(), detail));
    let text = format!("fairlead: {}: {detail}\n", reason.as_str());
    let mut response = answer(reason, reason.status(), Bytes::from(text), grpc);
    if reason.ends_connection() {
        // Where a malformed request ends, and the next begins, nobody knows; and a caller that is refused has no use for its connection.
        // (HTTP/2 has no such header, and it is left out there.)
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// An answer of this status and text, for a gRPC caller of this status and message.
pub fn answer(reason: Reason, status: StatusCode, text: Bytes, grpc: Option<(u8, &str)>) -> Response<Body> {
    let mut headers = HeaderMap::new();
    headers.insert(MARK, HeaderValue::from_static(reason.as_str()));
    if let Some((status, message)) = grpc {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(grpc::STATUS, HeaderValue::from(u16::from(status)));
        if let Ok(message) = HeaderValue::from_str(&percent_encode(message)) {
            headers.insert(grpc::MESSAGE, message);
        }
        return Response::new(StatusCode::OK, headers, Body::Empty);
    }
    if text.is_empty() {
        return Response::new(status, headers, Body::Empty);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Response::new(status, headers, Body::Full(Some(text)))
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
