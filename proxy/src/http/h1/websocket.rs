//! How HTTP/1 asks for a WebSocket (RFC 6455), for a caller that asked over HTTP/2 (RFC 8441).
//!
//! There the handshake has no key: the tunnel is known by its status. Towards the endpoint the proxy is the client, so the key is its own, and
//! so is the check that the endpoint read it.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::header;
use ring::digest;

use crate::http::fields::Fields;

/// What the endpoint adds to the key before it answers with the digest (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// One request for a WebSocket.
#[derive(Debug)]
pub(super) struct Handshake {
    key: String,
}

impl Handshake {
    /// With a key of its own, so that no answer to another request fits.
    pub(super) fn new() -> Self {
        Self { key: BASE64_STANDARD.encode(rand::random::<[u8; 16]>()) }
    }

    /// The lines that make a GET the request for it.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for piece in ["connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-key: ", &self.key, "\r\n"] {
            out.extend_from_slice(piece.as_bytes());
        }
    }

    /// Whether the answer is to this request; takes away what HTTP/2 does not say.
    pub(super) fn agrees(&self, headers: &mut Fields) -> bool {
        let one = |name| {
            let mut lines = headers.get_all(name);
            lines.next().filter(|_| lines.next().is_none())
        };
        let websocket = one(&header::UPGRADE).is_some_and(|protocol| protocol.eq_ignore_ascii_case(b"websocket"));
        let agrees = websocket && one(&header::SEC_WEBSOCKET_ACCEPT) == Some(self.accept().as_bytes());
        for name in [header::CONNECTION, header::UPGRADE, header::SEC_WEBSOCKET_ACCEPT] {
            headers.remove(&name);
        }
        agrees
    }

    fn accept(&self) -> String {
        let digest = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, &[self.key.as_bytes(), GUID].concat());
        BASE64_STANDARD.encode(digest)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn an_answer_must_be_to_this_very_request() {
        // The example of RFC 6455.
        let handshake = Handshake { key: "dGhlIHNhbXBsZSBub25jZQ==".into() };
        let agrees = |protocol: &'static str, accept: &[&'static str]| {
            let mut map = HeaderMap::new();
            map.insert(header::UPGRADE, protocol.parse().unwrap());
            for line in accept {
                map.append(header::SEC_WEBSOCKET_ACCEPT, line.parse().unwrap());
            }
            let mut fields = Fields::from(map);
            let agrees = handshake.agrees(&mut fields);
            assert!(fields.iter().next().is_none(), "{fields:?}");
            agrees
        };
        let accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        assert!(agrees("WebSocket", &[accept]));
        assert!(!agrees("other", &[accept]));
        assert!(!agrees("websocket", &[accept, accept]));
        assert!(!agrees("websocket", &["c3pPLMBiTxaQ9kYGzzhZRbK+xOo="]));
        assert!(!agrees("websocket", &[]));
    }

    #[test]
    fn keys_differ() {
        assert_ne!(Handshake::new().key, Handshake::new().key);
        assert_eq!(Handshake::new().key.len(), 24);
    }
}
