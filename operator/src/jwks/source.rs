//! Where a key set is published, as users write it.

use std::net::IpAddr;
use std::sync::Arc;

use http::Uri;
use rustls::pki_types::ServerName;

/// Longer ones are no places.
const MAX_URL: usize = 2048;
const HTTPS: u16 = 443;
/// Below this are ports of services that speak other protocols and take odd bytes for commands; HTTPS aside.
const FIRST_FREE_PORT: u16 = 1024;

/// A set that is wanted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// As the user wrote it.
    pub url: String,
    /// Who may vouch for the server, in DER; `None`: the public authorities that came with the operator.
    pub roots: Option<Arc<[Vec<u8>]>>,
}

/// A URL that may be fetched, as far as a URL can say that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    /// Without brackets.
    pub(super) host: String,
    /// 443, or from 1024 on.
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
    /// Host and port as a request states them.
    pub(super) authority: String,
}

impl Location {
    /// `https` alone, without user information or fragment. The error is a clause about the URL.
    pub(super) fn parse(url: &str) -> Result<Self, &'static str> {
        if url.len() > MAX_URL {
            return Err("is longer than 2048 bytes");
        }
        if url.contains('#') {
            return Err("has a fragment, which no server sees");
        }
        let uri: Uri = url.parse().map_err(|_| "is malformed")?;
        if uri.scheme_str() != Some("https") {
            return Err("is not an https URL");
        }
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("has user information, which nobody would be sent");
        }
        // The library takes a port that is none for no port.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" => HTTPS,
            written => port(written).ok_or("has a port that is none")?,
        };
        if port != HTTPS && port < FIRST_FREE_PORT {
            return Err("has a port that is neither 443 nor 1024 or higher");
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if ServerName::try_from(host).is_err() {
            return Err("has a host that is neither a name of DNS nor an address");
        }
        if is_metadata(host) {
            return Err("names a metadata service");
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { host: host.to_owned(), port, path, authority: authority.as_str().to_owned() })
    }

    /// What the server must prove to be.
    pub(super) fn server_name(&self) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
        ServerName::try_from(self.host.clone())
    }

    /// Where the host is an address, not a name.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// With its colon.
fn port(written: &str) -> Option<u16> {
    let digits = written.strip_prefix(':')?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// By name as well as by address: some networks answer it from elsewhere.
fn is_metadata(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "metadata" || host == "metadata.goog" || host == "metadata.google.internal"
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_location_is_host_port_and_path() {
        for (url, host, port, path) in [
            ("https://issuer.example", "issuer.example", 443, "/"),
            ("https://issuer.example/.well-known/jwks.json", "issuer.example", 443, "/.well-known/jwks.json"),
            ("https://issuer.example:8443/keys?a=b", "issuer.example", 8443, "/keys?a=b"),
            ("HTTPS://issuer.example:443/", "issuer.example", 443, "/"),
            ("https://dex.auth.svc.cluster.local:5556/keys", "dex.auth.svc.cluster.local", 5556, "/keys"),
            ("https://10.0.0.1:6443/openid/v1/jwks", "10.0.0.1", 6443, "/openid/v1/jwks"),
            ("https://[fd00::1]/keys", "fd00::1", 443, "/keys"),
        ] {
            let location = Location::parse(url).unwrap_or_else(|why| panic!("{url} {why}"));
            assert_eq!((&*location.host, location.port, &*location.path), (host, port, path), "{url}");
            assert!(location.server_name().is_ok());
        }
        assert_eq!(Location::parse("https://[fd00::1]:8443/").unwrap().authority, "[fd00::1]:8443");
    }

    #[test]
    fn what_is_no_place_to_fetch_from_is_said() {
        for (url, expected) in [
            ("http://issuer.example/keys", "is not an https URL"),
            ("ftp://issuer.example", "is not an https URL"),
            ("file:///etc/passwd", "is malformed"),
            ("gopher://issuer.example:70/x", "is not an https URL"),
            ("/keys", "is not an https URL"),
            ("issuer.example", "is not an https URL"),
            ("", "is malformed"),
            ("https://", "is malformed"),
            ("https:///keys", "is malformed"),
            ("https://user@issuer.example/", "has user information, which nobody would be sent"),
            ("https://user:secret@issuer.example/", "has user information, which nobody would be sent"),
            ("https://issuer.example@169.254.169.254/", "has user information, which nobody would be sent"),
            ("https://issuer.example/#keys", "has a fragment, which no server sees"),
            ("https://issuer.example:22/", "has a port that is neither 443 nor 1024 or higher"),
            ("https://issuer.example:80/", "has a port that is neither 443 nor 1024 or higher"),
            ("https://issuer.example:0/", "has a port that is neither 443 nor 1024 or higher"),
            ("https://issuer.example:1023/", "has a port that is neither 443 nor 1024 or higher"),
            ("https://issuer.example:65536/", "has a port that is none"),
            ("https://issuer.example:+443/", "has a port that is none"),
            ("https://issuer.example:/", "has a port that is none"),
            ("https://iss uer.example/", "is malformed"),
            ("https://issuer.example/a b", "is malformed"),
            ("https://issuer.example/\r\nHost: x", "is malformed"),
            ("https://[fe80::1%25eth0]/", "has a host that is neither a name of DNS nor an address"),
            ("https://metadata.google.internal/computeMetadata/v1/", "names a metadata service"),
            ("https://METADATA.google.internal/", "names a metadata service"),
            ("https://metadata.google.internal./", "names a metadata service"),
        ] {
            assert_eq!(Location::parse(url).unwrap_err(), expected, "{url}");
        }
        assert_eq!(
            Location::parse(&format!("https://a/{}", "a".repeat(2048))).unwrap_err(),
            "is longer than 2048 bytes"
        );
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(url in r"(https?://)?[a-z0-9.:@\[\]%#?/ -]{0,40}") {
            if let Ok(location) = Location::parse(&url) {
                prop_assert!(location.port == 443 || location.port >= 1024);
                prop_assert!(!location.authority.contains('@') && location.path.starts_with(['/', '?']));
            }
        }
    }
}
