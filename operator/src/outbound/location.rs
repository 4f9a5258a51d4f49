//! A URL as users write it, taken apart.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use rustls::pki_types::ServerName;

/// Longer ones are no places.
const MAX_URL: usize = 2048;
const HTTP: u16 = 80;
const HTTPS: u16 = 443;
/// Below this are ports of services that speak other protocols and take odd bytes for commands; those of HTTP aside.
const FIRST_FREE_PORT: u16 = 1024;

/// A URL that may be asked, as far as a URL can say that.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    /// Whether TLS must prove the host.
    pub(super) secure: bool,
    /// Without brackets.
    pub(super) host: String,
    /// That of the scheme, or from 1024 on.
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
    /// Host and port as a request states them.
    pub(super) authority: String,
}

/// The path may be a secret, as those of Slack and Teams are.
impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Location").field("host", &self.host).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Location {
    /// `https` alone, without user information or fragment. The error is a clause about the URL.
    pub fn https(url: &str) -> Result<Self, &'static str> {
        Self::parse(url, |scheme| if scheme == "https" { Ok(true) } else { Err("is not an https URL") })
    }

    /// The same, or `http`: nobody proves then who answers.
    pub fn http_or_https(url: &str) -> Result<Self, &'static str> {
        Self::parse(url, |scheme| match scheme {
            "http" => Ok(false),
            "https" => Ok(true),
            _ => Err("is neither an http nor an https URL"),
        })
    }

    /// For logs.
    pub fn host(&self) -> &str {
        &self.host
    }

    fn parse(url: &str, secure: impl FnOnce(&str) -> Result<bool, &'static str>) -> Result<Self, &'static str> {
        if url.len() > MAX_URL {
            return Err("is longer than 2048 bytes");
        }
        if url.contains('#') {
            return Err("has a fragment, which no server sees");
        }
        let uri: Uri = url.parse().map_err(|_| "is malformed")?;
        let secure = secure(uri.scheme_str().unwrap_or_default())?;
        let authority = uri.authority().ok_or("has no host")?;
        if authority.as_str().contains('@') {
            return Err("has user information, which nobody would be sent");
        }
        // The library takes a port that is none for no port.
        let port = match authority.as_str().strip_prefix(authority.host()).unwrap_or_default() {
            "" if secure => HTTPS,
            "" => HTTP,
            written => port(written).ok_or("has a port that is none")?,
        };
        if secure && port != HTTPS && port < FIRST_FREE_PORT {
            return Err("has a port that is neither 443 nor 1024 or higher");
        }
        if !secure && port != HTTP && port < FIRST_FREE_PORT {
            return Err("has a port that is neither 80 nor 1024 or higher");
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
        Ok(Self { secure, host: host.to_owned(), port, path, authority: authority.as_str().to_owned() })
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
            let location = Location::https(url).unwrap_or_else(|why| panic!("{url} {why}"));
            assert_eq!((&*location.host, location.port, &*location.path), (host, port, path), "{url}");
            assert!(location.server_name().is_ok());
        }
        assert_eq!(Location::https("https://[fd00::1]:8443/").unwrap().authority, "[fd00::1]:8443");
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
            assert_eq!(Location::https(url).unwrap_err(), expected, "{url}");
        }
        assert_eq!(
            Location::https(&format!("https://a/{}", "a".repeat(2048))).unwrap_err(),
            "is longer than 2048 bytes"
        );
    }

    #[test]
    fn without_tls_it_is_another_port() {
        for (url, secure, port) in [
            ("http://gate.shop", false, 80),
            ("HTTP://gate.shop:80/a?b", false, 80),
            ("http://prometheus.monitoring:9090", false, 9090),
            ("https://gate.shop", true, 443),
        ] {
            let location = Location::http_or_https(url).unwrap_or_else(|why| panic!("{url} {why}"));
            assert_eq!((location.secure, location.port), (secure, port), "{url}");
        }
        for (url, expected) in [
            ("ftp://gate.shop/", "is neither an http nor an https URL"),
            ("http://gate.shop:25/", "has a port that is neither 80 nor 1024 or higher"),
            ("http://gate.shop:443/", "has a port that is neither 80 nor 1024 or higher"),
            ("https://gate.shop:80/", "has a port that is neither 443 nor 1024 or higher"),
            ("http://user@gate.shop/", "has user information, which nobody would be sent"),
            ("http://metadata.google.internal/", "names a metadata service"),
        ] {
            assert_eq!(Location::http_or_https(url).unwrap_err(), expected, "{url}");
        }
        let shown = format!("{:?}", Location::http_or_https("https://hooks.example/s3cr3t").unwrap());
        assert!(shown.contains("hooks.example") && !shown.contains("s3cr3t"), "{shown}");
    }

    proptest! {
        #[test]
        fn nothing_makes_it_fail(url in r"(https?://)?[a-z0-9.:@\[\]%#?/ -]{0,40}") {
            if let Ok(location) = Location::https(&url) {
                prop_assert!(location.secure);
                prop_assert!(location.port == 443 || location.port >= 1024);
            }
            if let Ok(location) = Location::http_or_https(&url) {
                let usual = if location.secure { 443 } else { 80 };
                prop_assert!(location.port == usual || location.port >= 1024);
                prop_assert!(!location.authority.contains('@') && location.path.starts_with(['/', '?']));
            }
        }
    }
}
