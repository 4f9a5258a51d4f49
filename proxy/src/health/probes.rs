//! What a pod declared: `FAIRLEAD_PROBES`, written by the injector.
//!
//! JSON, keyed by `<container>/<startup|readiness|liveness|poststart|prestop>`. The text comes from a pod's author by way of the operator,
//! so whatever is not understood is an error that names the entry, never a guess.

use std::{collections::HashMap, time::Duration};

use http::{HeaderName, HeaderValue, uri::PathAndQuery};
use serde::Deserialize;

/// More than the API server accepts in one pod's probes; a bound all the same.
const MAX_PROBES: usize = 512;
/// Nothing waits longer: the longest legitimate wait is a preStop hook within the pod's grace period.
const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
const KINDS: [&str; 5] = ["startup", "readiness", "liveness", "poststart", "prestop"];

/// Why the declaration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ProbesError {
    /// Not the JSON that the injector writes.
    #[error("FAIRLEAD_PROBES is not what this proxy understands: {0}")]
    Json(#[from] serde_json::Error),
    /// Over the bound.
    #[error("FAIRLEAD_PROBES declares {0} probes, more than {MAX_PROBES}")]
    TooMany(usize),
    /// An entry makes no sense.
    #[error("FAIRLEAD_PROBES: {name:?}: {reason}")]
    Entry {
        /// Its key.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// All probes of the pod.
#[derive(Debug, Default)]
pub struct Probes(HashMap<String, Probe>);

/// One probe.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) port: u16,
    pub(super) timeout: Duration,
    pub(super) check: Check,
}

/// What is asked.
#[derive(Debug)]
pub(super) enum Check {
    Http(Http),
    Tcp { host: Option<String> },
    Grpc { service: String },
}

/// An HTTP request as the kubelet would make it.
#[derive(Debug)]
pub(super) struct Http {
    pub(super) tls: bool,
    pub(super) path: PathAndQuery,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) host: Option<String>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", rename_all_fields = "camelCase", deny_unknown_fields)]
enum Declared {
    Http {
        port: u16,
        path: String,
        scheme: Scheme,
        #[serde(default)]
        headers: Vec<(String, String)>,
        host: Option<String>,
        timeout_ms: u64,
    },
    Tcp {
        port: u16,
        host: Option<String>,
        timeout_ms: u64,
    },
    Grpc {
        port: u16,
        #[serde(default)]
        service: String,
        timeout_ms: u64,
    },
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    Http,
    Https,
}

impl Probes {
    /// Reads the injector's text; an empty one declares nothing.
    pub fn parse(text: &str) -> Result<Self, ProbesError> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let declared: HashMap<String, Declared> = serde_json::from_str(text)?;
        if declared.len() > MAX_PROBES {
            return Err(ProbesError::TooMany(declared.len()));
        }
        declared
            .into_iter()
            .map(|(name, declared)| match probe(&name, declared) {
                Ok(probe) => Ok((name, probe)),
                Err(reason) => Err(ProbesError::Entry { name, reason }),
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// By `<container>/<kind>`.
    pub(super) fn get(&self, name: &str) -> Option<&Probe> {
        self.0.get(name)
    }

    pub(super) fn longest(&self) -> Duration {
        self.0.values().map(|probe| probe.timeout).max().unwrap_or_default()
    }
}

fn probe(name: &str, declared: Declared) -> Result<Probe, String> {
    let known = name.split_once('/').is_some_and(|(container, kind)| !container.is_empty() && KINDS.contains(&kind));
    if !known {
        return Err(format!("the name must be <container>/ and one of {KINDS:?}"));
    }
    let (port, timeout_ms, check) = match declared {
        Declared::Http { port, path, scheme, headers, host, timeout_ms } => {
            let http = Http {
                tls: scheme == Scheme::Https,
                path: path_and_query(&path)?,
                headers: headers.into_iter().map(header).collect::<Result<_, _>>()?,
                host,
            };
            (port, timeout_ms, Check::Http(http))
        }
        Declared::Tcp { port, host, timeout_ms } => (port, timeout_ms, Check::Tcp { host }),
        Declared::Grpc { port, service, timeout_ms } => (port, timeout_ms, Check::Grpc { service }),
    };
    if port == 0 {
        return Err("port 0 cannot be probed".into());
    }
    if timeout_ms == 0 {
        return Err("timeoutMs must be above 0".into());
    }
    Ok(Probe { port, timeout: Duration::from_millis(timeout_ms).min(MAX_TIMEOUT), check })
}

/// As the kubelet does: what cannot stand in a request line is percent-encoded, and a path begins with a slash.
pub(super) fn path_and_query(path: &str) -> Result<PathAndQuery, String> {
    let mut encoded = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        encoded.push('/');
    }
    // A fragment is for the client alone.
    let path = path.split('#').next().unwrap_or_default();
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            for nibble in [byte >> 4, byte & 15] {
                encoded.push(char::from(b"0123456789ABCDEF"[usize::from(nibble)]));
            }
        }
    }
    encoded.parse().map_err(|error| format!("the path {path:?} is not one: {error}"))
}

fn header((name, value): (String, String)) -> Result<(HeaderName, HeaderValue), String> {
    let bad = |error: &dyn std::fmt::Display| format!("the header {name:?} is malformed: {error}");
    let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|error| bad(&error))?;
    let value = HeaderValue::from_str(&value).map_err(|error| bad(&error))?;
    Ok((parsed, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_injector_writes_is_understood() {
        let probes = Probes::parse(
            r#"{
                "app/readiness": {"kind": "http", "port": 9080, "path": "health?full=1", "scheme": "HTTPS",
                    "headers": [["Host", "a.example"], ["X-A", "b"]], "host": null, "timeoutMs": 1500},
                "redis/liveness": {"kind": "tcp", "port": 6379, "host": null, "timeoutMs": 1000},
                "app/startup": {"kind": "grpc", "port": 9090, "service": "", "timeoutMs": 1000}
            }"#,
        )
        .unwrap();
        let readiness = probes.get("app/readiness").unwrap();
        assert_eq!(readiness.timeout, Duration::from_millis(1500));
        let Check::Http(http) = &readiness.check else { panic!("{readiness:?}") };
        assert!(http.tls);
        assert_eq!(http.path.as_str(), "/health?full=1");
        assert_eq!(http.headers.len(), 2);
        assert!(matches!(probes.get("redis/liveness").unwrap().check, Check::Tcp { .. }));
        assert!(matches!(probes.get("app/startup").unwrap().check, Check::Grpc { .. }));
        assert_eq!(probes.longest(), Duration::from_millis(1500));
        assert!(probes.get("app/liveness").is_none());
        assert!(Probes::parse("").unwrap().get("app/readiness").is_none());
    }

    #[test]
    fn whatever_else_is_refused_by_name() {
        let tcp = r#"{"kind": "tcp", "port": 80, "timeoutMs": 1000}"#;
        for (text, reason) in [
            ("[]".to_owned(), "invalid type"),
            ("{".to_owned(), "EOF"),
            (format!(r#"{{"app/ready": {tcp}}}"#), "app/ready"),
            (format!(r#"{{"app": {tcp}}}"#), "app"),
            (format!(r#"{{"/liveness": {tcp}}}"#), "/liveness"),
            (r#"{"a/liveness": {"kind": "exec", "command": "sh"}}"#.into(), "exec"),
            (r#"{"a/liveness": {"kind": "tcp", "port": 0, "timeoutMs": 1}}"#.into(), "port 0"),
            (r#"{"a/liveness": {"kind": "tcp", "port": 65536, "timeoutMs": 1}}"#.into(), "65536"),
            (r#"{"a/liveness": {"kind": "tcp", "port": 80, "timeoutMs": 0}}"#.into(), "timeoutMs"),
            (r#"{"a/liveness": {"kind": "tcp", "port": 80}}"#.into(), "timeoutMs"),
            (
                r#"{"a/liveness": {"kind": "tcp", "port": 80, "timeoutMs": 1, "url": "x"}}"#.into(),
                "url",
            ),
            (
                r#"{"a/liveness": {"kind": "http", "port": 80, "path": "/", "scheme": "FTP", "timeoutMs": 1}}"#.into(),
                "FTP",
            ),
            (
                r#"{"a/liveness": {"kind": "http", "port": 80, "path": "/", "scheme": "HTTP", "headers": [["a b", "c"]], "timeoutMs": 1}}"#.into(),
                "a b",
            ),
            (
                r#"{"a/liveness": {"kind": "http", "port": 80, "path": "/", "scheme": "HTTP", "headers": [["a", "b\nc"]], "timeoutMs": 1}}"#.into(),
                "malformed",
            ),
        ] {
            let error = Probes::parse(&text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn paths_are_written_as_the_kubelet_writes_them() {
        for (path, expected) in [
            ("/", "/"),
            ("", "/"),
            ("healthz", "/healthz"),
            ("/a b", "/a%20b"),
            ("/a\r\nHost: x", "/a%0D%0AHost:%20x"),
            ("/a?b=c d#e", "/a?b=c%20d"),
            ("/%2e", "/%2e"),
            ("/\u{e9}", "/%C3%A9"),
        ] {
            assert_eq!(path_and_query(path).unwrap().as_str(), expected);
        }
    }
}
