//! How a `Host` may be read.
//!
//! Hosts are compared without regard to case (RFC 9110 section 4.2.3), a port that stands behind one says nothing about whose it is, and a
//! full stop at the end makes the name absolute (RFC 1034 section 3.1). Servers differ in what of that they heed, so a rule that protects
//! something holds for every reading.

use std::borrow::Cow;

/// The name that `host` stands for: in lower case, without port and full stop.
pub fn name(host: &[u8]) -> Cow<'_, [u8]> {
    let host = without_port(host);
    let host = host.strip_suffix(b".").unwrap_or(host);
    if host.iter().any(u8::is_ascii_uppercase) { host.to_ascii_lowercase().into() } else { host.into() }
}

/// Whether any reading of `host` is one that `matches`: as it is, in lower case, and without port and full stop.
pub fn any_reading(host: &[u8], matches: impl Fn(&[u8]) -> bool) -> bool {
    if matches(host) {
        return true;
    }
    let lower = host.to_ascii_lowercase();
    let name = without_port(&lower);
    matches(&lower) || matches(name) || name.strip_suffix(b".").is_some_and(matches)
}

/// Of an address of IPv6 the brackets tell what is a port.
fn without_port(host: &[u8]) -> &[u8] {
    let Some(colon) = host.iter().rposition(|byte| *byte == b':') else { return host };
    let (name, port) = (&host[..colon], &host[colon + 1..]);
    let is_one = port.iter().all(u8::is_ascii_digit) && (name.ends_with(b"]") || !name.contains(&b':'));
    if is_one { name } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_the_same_however_it_is_written() {
        for host in ["login", "LOGIN", "Login:80", "login:", "login.", "LOGIN.:8080"] {
            assert!(any_reading(host.as_bytes(), |reading| reading == b"login"), "{host}");
        }
        for host in ["[FD00::1]", "[fd00::1]:80"] {
            assert!(any_reading(host.as_bytes(), |reading| reading == b"[fd00::1]"), "{host}");
        }
        for host in ["logins", "login.example", "xlogin", "login:x", "", ":80"] {
            assert!(!any_reading(host.as_bytes(), |reading| reading == b"login"), "{host}");
        }
    }
}
