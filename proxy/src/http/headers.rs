//! Headers that concern one connection alone, and so are not forwarded. HTTP/1 leaves them out as it reads a head; HTTP/2 forbids most, but its
//! peers may not know.

use http::{HeaderMap, HeaderName, HeaderValue, header};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// What `Connection` may not take away: without these the message would mean something else.
const PROTECTED: [HeaderName; 4] = [header::HOST, header::CONTENT_LENGTH, header::CONTENT_TYPE, header::TE];

/// Removes what RFC 9110 section 7.6.1 calls connection-specific. `Proxy-Authorization` and its kin stay: they are for a proxy that the
/// application addressed, and this one is invisible. With `upgrade` an announced upgrade stays announced.
pub fn strip(headers: &mut HeaderMap, upgrade: bool) {
    let mut asks_upgrade = false;
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        headers.remove(header::CONNECTION);
        for name in listed {
            if name == header::UPGRADE {
                asks_upgrade = true;
            } else if !PROTECTED.contains(&name) {
                headers.remove(name);
            }
        }
    }
    if headers.contains_key(header::TRANSFER_ENCODING) {
        // It was not the length (RFC 9112 section 6.3).
        headers.remove(header::CONTENT_LENGTH);
    }
    for name in [KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    if let Some(te) = headers.remove(header::TE)
        && te.to_str().is_ok_and(|te| te.split(',').any(|coding| coding.trim().eq_ignore_ascii_case("trailers")))
    {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    let keep = upgrade && asks_upgrade && headers.get(header::UPGRADE).is_some_and(upgradable);
    if keep {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    } else {
        headers.remove(header::UPGRADE);
    }
}

/// An upgrade to HTTP/2 would carry requests past the proxy's rules as bytes; servers answer its request in HTTP/1 without complaint.
fn upgradable(protocol: &HeaderValue) -> bool {
    protocol.to_str().is_ok_and(|protocol| !protocol.to_ascii_lowercase().contains("h2c"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(lines: &[(&str, &str)], upgrade: bool) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        strip(&mut headers, upgrade);
        let mut lines: Vec<_> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        // The order of different names means nothing.
        lines.sort();
        lines
    }

    #[test]
    fn what_concerns_one_connection_is_not_forwarded() {
        let lines = [
            ("host", "a"),
            ("connection", "keep-alive, x-secret"),
            ("connection", "close"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("transfer-encoding", "chunked"),
            ("x-secret", "1"),
            ("x-kept", "2"),
            ("proxy-authorization", "Basic x"),
        ];
        assert_eq!(stripped(&lines, true), ["host: a", "proxy-authorization: Basic x", "x-kept: 2"]);
    }

    #[test]
    fn connection_cannot_take_away_what_gives_the_message_its_meaning() {
        let lines = [("connection", "host, content-length"), ("host", "a"), ("content-length", "3")];
        assert_eq!(stripped(&lines, true), ["content-length: 3", "host: a"]);
    }

    #[test]
    fn a_length_that_is_overridden_is_not_forwarded() {
        let lines = [("content-length", "3"), ("transfer-encoding", "chunked"), ("x", "1")];
        assert_eq!(stripped(&lines, false), ["x: 1"]);
    }

    #[test]
    fn only_trailers_survive_of_te() {
        assert_eq!(stripped(&[("te", "gzip, Trailers")], true), ["te: trailers"]);
        assert!(stripped(&[("te", "gzip")], true).is_empty());
    }

    #[test]
    fn an_upgrade_stays_announced_where_it_is_meant() {
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(stripped(&websocket, true), ["connection: upgrade", "upgrade: websocket"]);
        assert!(stripped(&websocket, false).is_empty());
        assert!(stripped(&[("upgrade", "websocket")], true).is_empty());
    }

    #[test]
    fn an_upgrade_to_http2_is_not_offered_to_the_server() {
        let h2c = [("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")];
        assert!(stripped(&h2c, true).is_empty());
    }
}
