//! SPIFFE IDs of the one form that Fairlead gives out, read strictly.

use std::fmt;
use std::str::FromStr;

/// The longest ID that the SPIFFE specification allows, in bytes.
const MAX_LENGTH: usize = 2048;
/// A namespace is a DNS label, a service account a DNS subdomain, a trust domain a DNS name.
const MAX_LABEL: usize = 63;
const MAX_NAME: usize = 253;

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; equal IDs are equal byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: String,
    namespace: String,
    service_account: String,
}

/// A string that is no SPIFFE ID of this mesh.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SPIFFE ID of the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>: {0}")]
pub struct ParseSpiffeIdError(&'static str);

impl SpiffeId {
    /// Names are checked as Kubernetes checks them, so that nothing escapes into another element of the path.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, ParseSpiffeIdError> {
        if !is_dns_name(trust_domain, MAX_NAME) {
            return Err(ParseSpiffeIdError("the trust domain is not a lower-case DNS name"));
        }
        if !is_dns_label(namespace) {
            return Err(ParseSpiffeIdError("the namespace is not a DNS label"));
        }
        if !is_dns_name(service_account, MAX_NAME) {
            return Err(ParseSpiffeIdError("the service account is not a DNS name"));
        }
        Ok(Self {
            trust_domain: trust_domain.to_owned(),
            namespace: namespace.to_owned(),
            service_account: service_account.to_owned(),
        })
    }

    /// The mesh that vouches for it.
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }

    /// Where the workload runs.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the workload runs as.
    pub fn service_account(&self) -> &str {
        &self.service_account
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

impl FromStr for SpiffeId {
    type Err = ParseSpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LENGTH {
            return Err(ParseSpiffeIdError("longer than 2,048 bytes"));
        }
        let rest = text.strip_prefix("spiffe://").ok_or(ParseSpiffeIdError("the scheme is not spiffe"))?;
        let mut elements = rest.split('/');
        let mut next = || elements.next().ok_or(ParseSpiffeIdError("too few path elements"));
        let trust_domain = next()?;
        if next()? != "ns" {
            return Err(ParseSpiffeIdError("the path does not begin with /ns/"));
        }
        let namespace = next()?;
        if next()? != "sa" {
            return Err(ParseSpiffeIdError("the namespace is not followed by /sa/"));
        }
        let service_account = next()?;
        if elements.next().is_some() {
            return Err(ParseSpiffeIdError("too many path elements"));
        }
        Self::new(trust_domain, namespace, service_account)
    }
}

fn is_dns_name(text: &str, max: usize) -> bool {
    text.len() <= max && text.split('.').all(is_dns_label)
}

fn is_dns_label(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= MAX_LABEL
        && bytes.first().is_some_and(alphanumeric)
        && bytes.last().is_some_and(alphanumeric)
        && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        let id = SpiffeId::new("cluster.local", "bookinfo", "reviews.v1").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/bookinfo/sa/reviews.v1");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn refuses_what_an_auditor_would_try() {
        let long = format!("spiffe://cluster.local/ns/a/sa/{}", "a".repeat(2018));
        assert_eq!(long.len(), 2049);
        for text in [
            "",
            "spiffe://",
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa/b/",
            "spiffe://cluster.local//ns/a/sa/b",
            "spiffe://cluster.local/ns//sa/b",
            "spiffe://cluster.local/ns/a/sa/",
            "spiffe://cluster.local/ns/../sa/b",
            "spiffe://cluster.local/ns/%2e%2e/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/../c",
            "spiffe://cluster.local/ns/a/sa/b?x",
            "spiffe://cluster.local/ns/a/sa/b#x",
            "spiffe://cluster.local/ns/a/sa/b;x",
            "spiffe://user@cluster.local/ns/a/sa/b",
            "spiffe://cluster.local:443/ns/a/sa/b",
            "spiffe://Cluster.local/ns/a/sa/b",
            "spiffe://*.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/a\0/sa/b",
            "spiffe://cluster.local/ns/а/sa/b",
            "spiffe://cluster.local/ns/a.b/sa/b",
            "SPIFFE://cluster.local/ns/a/sa/b",
            "https://cluster.local/ns/a/sa/b",
            " spiffe://cluster.local/ns/a/sa/b",
            long.as_str(),
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was taken for a SPIFFE ID");
        }
    }
}
