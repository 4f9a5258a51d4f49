//! SPIFFE identities of this mesh: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, and nothing else.
//!
//! [`SpiffeId::parse`] is the one way in, for certificates, configuration and arguments alike. It accepts exactly one spelling of each
//! identity, so that comparing two identities is comparing bytes: no percent-encoding, no case folding, no normalisation.

use std::{fmt, str::FromStr, sync::Arc};

/// The longest identity that SPIFFE allows, in bytes.
const MAX_BYTES: usize = 2048;
/// The longest trust domain that SPIFFE allows, in bytes.
const MAX_TRUST_DOMAIN: usize = 255;
/// A Kubernetes namespace is a DNS label.
const MAX_NAMESPACE: usize = 63;
/// A Kubernetes service account is a DNS subdomain.
const MAX_SERVICE_ACCOUNT: usize = 253;

/// Why a string is not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Over 2,048 bytes.
    #[error("identity is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Another scheme, or none.
    #[error("identity does not begin with spiffe://")]
    Scheme,
    /// Empty, too long, or with characters that no trust domain has.
    #[error("trust domain must be dot-separated labels of a-z, 0-9, '-' and '_', at most {MAX_TRUST_DOMAIN} bytes")]
    TrustDomain,
    /// Not the path that this mesh gives.
    #[error("identity path must be /ns/<namespace>/sa/<service account>")]
    Path,
    /// Not a Kubernetes namespace.
    #[error("namespace must be a DNS label: a-z, 0-9 and '-', at most {MAX_NAMESPACE} bytes")]
    Namespace,
    /// Not a Kubernetes service account.
    #[error("service account must be a DNS subdomain: a-z, 0-9, '-' and '.', at most {MAX_SERVICE_ACCOUNT} bytes")]
    ServiceAccount,
}

/// The trust domain of a mesh, such as `cluster.local`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Accepts lower-case dot-separated labels.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        if is_trust_domain(text) { Ok(Self(text.into())) } else { Err(SpiffeError::TrustDomain) }
    }

    /// As written in an identity.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        Self::parse(text)
    }
}

/// Who a workload is. Cheap to clone; equal exactly when the bytes are equal.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SpiffeId {
    uri: Arc<str>,
    // Ends of the three names within `uri`; what lies between them is fixed.
    trust_domain_end: usize,
    namespace_end: usize,
}

const SCHEME: &str = "spiffe://";
const NAMESPACE: &str = "/ns/";
const SERVICE_ACCOUNT: &str = "/sa/";

impl SpiffeId {
    /// Accepts the one canonical spelling of an identity of the form that this mesh gives.
    pub fn parse(uri: &str) -> Result<Self, SpiffeError> {
        if uri.len() > MAX_BYTES {
            return Err(SpiffeError::TooLong);
        }
        let rest = uri.strip_prefix(SCHEME).ok_or(SpiffeError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').ok_or(SpiffeError::Path)?;
        if !is_trust_domain(trust_domain) {
            return Err(SpiffeError::TrustDomain);
        }
        let mut elements = path.split('/');
        let (Some("ns"), Some(namespace), Some("sa"), Some(service_account), None) =
            (elements.next(), elements.next(), elements.next(), elements.next(), elements.next())
        else {
            return Err(SpiffeError::Path);
        };
        if !(namespace.len() <= MAX_NAMESPACE && is_dns_label(namespace)) {
            return Err(SpiffeError::Namespace);
        }
        if !(service_account.len() <= MAX_SERVICE_ACCOUNT && service_account.split('.').all(is_dns_label)) {
            return Err(SpiffeError::ServiceAccount);
        }
        let trust_domain_end = SCHEME.len() + trust_domain.len();
        Ok(Self {
            uri: uri.into(),
            trust_domain_end,
            namespace_end: trust_domain_end + NAMESPACE.len() + namespace.len(),
        })
    }

    /// The identity of a service account.
    pub fn new(trust_domain: &str, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        Self::parse(&format!("{SCHEME}{trust_domain}{NAMESPACE}{namespace}{SERVICE_ACCOUNT}{service_account}"))
    }

    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.uri
    }

    /// The mesh that vouches for it.
    pub fn trust_domain(&self) -> &str {
        &self.uri[SCHEME.len()..self.trust_domain_end]
    }

    /// The Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.uri[self.trust_domain_end + NAMESPACE.len()..self.namespace_end]
    }

    /// The Kubernetes service account.
    pub fn service_account(&self) -> &str {
        &self.uri[self.namespace_end + SERVICE_ACCOUNT.len()..]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(uri: &str) -> Result<Self, SpiffeError> {
        Self::parse(uri)
    }
}

fn is_trust_domain(text: &str) -> bool {
    text.len() <= MAX_TRUST_DOMAIN
        && text.split('.').all(|label| {
            let edge = |byte: Option<&u8>| byte.is_some_and(|b| is_alphanumeric(*b));
            edge(label.as_bytes().first())
                && edge(label.as_bytes().last())
                && label.bytes().all(|b| is_alphanumeric(b) || b == b'-' || b == b'_')
        })
}

fn is_dns_label(text: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(|b| is_alphanumeric(*b));
    text.len() <= 63
        && edge(text.as_bytes().first())
        && edge(text.as_bytes().last())
        && text.bytes().all(|b| is_alphanumeric(b) || b == b'-')
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_identities_parse_into_their_parts() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/bookinfo/sa/reviews.v2").unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "bookinfo");
        assert_eq!(id.service_account(), "reviews.v2");
        assert_eq!(SpiffeId::new("cluster.local", "bookinfo", "reviews.v2").unwrap(), id);
        assert_eq!(SpiffeId::new("cluster.local/ns/a", "bookinfo", "reviews"), Err(SpiffeError::Path));
        assert_eq!(SpiffeId::new("cluster.local", "a/sa/b", "reviews"), Err(SpiffeError::Path));
    }

    #[test]
    fn every_other_spelling_is_refused() {
        use SpiffeError::{Namespace, Path, Scheme, ServiceAccount, TooLong, TrustDomain};
        let cases = [
            ("", Scheme),
            ("https://cluster.local/ns/a/sa/b", Scheme),
            ("SPIFFE://cluster.local/ns/a/sa/b", Scheme),
            (" spiffe://cluster.local/ns/a/sa/b", Scheme),
            ("spiffe:/cluster.local/ns/a/sa/b", Scheme),
            ("spiffe://", Path),
            ("spiffe://cluster.local", Path),
            ("spiffe://cluster.local/", Path),
            ("spiffe:///ns/a/sa/b", TrustDomain),
            ("spiffe://Cluster.local/ns/a/sa/b", TrustDomain),
            ("spiffe://*.local/ns/a/sa/b", TrustDomain),
            ("spiffe://*/ns/a/sa/b", TrustDomain),
            ("spiffe://cluster..local/ns/a/sa/b", TrustDomain),
            ("spiffe://.cluster.local/ns/a/sa/b", TrustDomain),
            ("spiffe://cluster.local./ns/a/sa/b", TrustDomain),
            ("spiffe://cluster.local:443/ns/a/sa/b", TrustDomain),
            ("spiffe://user@cluster.local/ns/a/sa/b", TrustDomain),
            ("spiffe://clu\u{455}ter.local/ns/a/sa/b", TrustDomain),
            ("spiffe://cluster%2elocal/ns/a/sa/b", TrustDomain),
            ("spiffe://cluster.local//ns/a/sa/b", Path),
            ("spiffe://cluster.local/ns/a/sa/b/", Path),
            ("spiffe://cluster.local/ns/a//sa/b", Path),
            ("spiffe://cluster.local/ns/a/sa", Path),
            ("spiffe://cluster.local/ns/a/sa/b/c", Path),
            ("spiffe://cluster.local/NS/a/sa/b", Path),
            ("spiffe://cluster.local/sa/b/ns/a", Path),
            ("spiffe://cluster.local/x/../ns/a/sa/b", Path),
            ("spiffe://cluster.local/ns/../sa/b", Namespace),
            ("spiffe://cluster.local/ns/./sa/b", Namespace),
            ("spiffe://cluster.local/ns//sa/b", Namespace),
            ("spiffe://cluster.local/ns/%2e%2e/sa/b", Namespace),
            ("spiffe://cluster.local/ns/a%2f/sa/b", Namespace),
            ("spiffe://cluster.local/ns/A/sa/b", Namespace),
            ("spiffe://cluster.local/ns/a.b/sa/b", Namespace),
            ("spiffe://cluster.local/ns/*/sa/b", Namespace),
            ("spiffe://cluster.local/ns/a\0/sa/b", Namespace),
            ("spiffe://cluster.local/ns/-a/sa/b", Namespace),
            ("spiffe://cluster.local/ns/\u{430}/sa/b", Namespace),
            ("spiffe://cluster.local/ns/a/sa/", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/..", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/%2e%2e", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b;x", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b?x", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b#x", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b@x", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b:8080", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b ", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b\n", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/B", ServiceAccount),
            ("spiffe://cluster.local/ns/a/sa/b\\c", ServiceAccount),
        ];
        for (text, expected) in cases {
            assert_eq!(SpiffeId::parse(text), Err(expected), "{text:?}");
        }
        let long =
            format!("spiffe://cluster.local/ns/a/sa/{}", "b".repeat(2049 - "spiffe://cluster.local/ns/a/sa/".len()));
        assert_eq!(long.len(), 2049);
        assert_eq!(SpiffeId::parse(&long), Err(TooLong));
        let namespace = format!("spiffe://cluster.local/ns/{}/sa/b", "a".repeat(64));
        assert_eq!(SpiffeId::parse(&namespace), Err(Namespace));
    }

    proptest::proptest! {
        #[test]
        fn whatever_parses_has_one_spelling(text in ".{0,80}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                proptest::prop_assert_eq!(id.as_str(), text.as_str());
                TrustDomain::parse(id.trust_domain()).unwrap();
                proptest::prop_assert_eq!(
                    SpiffeId::new(id.trust_domain(), id.namespace(), id.service_account()).unwrap(), id);
            }
        }
    }
}
