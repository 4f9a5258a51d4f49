//! What must hold of the first bytes of every connection.

use super::{
    Hello, Parsed,
    detect::{self, Kind},
};
use crate::http::{Version, h1};

/// Bytes as they come from a client.
///
/// # Panics
/// If a verdict changes when more bytes come or never comes, or if bytes that are a request are not taken for one, so that no rule would see
/// it.
pub(crate) fn detection(bytes: &[u8]) {
    let verdict = Kind::of(bytes);
    let hello = Parsed::from_bytes(bytes);
    assert!(verdict.is_some() || bytes.len() < detect::MOST, "no verdict on {} bytes", bytes.len());
    // All places where a packet may end would take too long.
    for end in (0..bytes.len().min(32)).chain((0..bytes.len()).step_by(1 + bytes.len() / 16)) {
        let early = Kind::of(&bytes[..end]);
        assert!(early.is_none() || early == verdict, "{early:?} after {end} bytes, {verdict:?} in the end");
        let early = Parsed::from_bytes(&bytes[..end]);
        assert!(early == Parsed::Partial || early == hello, "{early:?} after {end} bytes, {hello:?} in the end");
    }
    if let Ok(Some((parsed, _))) = h1::request(bytes) {
        let method = parsed.head.method.as_str();
        if method.len() <= detect::MAX_METHOD && method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            assert_eq!(verdict, Some(Kind::Http(Version::Http1)), "{}", bytes.escape_ascii());
        }
    }
    if hello == Parsed::Complete(Hello::Mesh) {
        assert_eq!(verdict, Some(Kind::Tls));
    }
}
