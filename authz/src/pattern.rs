//! Texts with a `*`: paths, hosts and identities.

use std::fmt;
use std::str::FromStr;

use fairlead_identity::{SpiffeId, TrustDomain};

use crate::host;

/// A text, or with a `*` in front or at the end all that end or begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextPattern {
    /// This text and no other.
    Exact(String),
    /// What begins so: `/ratings/*`.
    Prefix(String),
    /// What ends so: `*/health`.
    Suffix(String),
}

impl TextPattern {
    /// Whether `text` is one of those.
    pub fn matches(&self, text: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => text == exact.as_bytes(),
            Self::Prefix(prefix) => text.starts_with(prefix.as_bytes()),
            Self::Suffix(suffix) => text.ends_with(suffix.as_bytes()),
        }
    }
}

impl FromStr for TextPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (pattern, rest): (fn(String) -> Self, _) = match (text.strip_suffix('*'), text.strip_prefix('*')) {
            (Some(prefix), _) => (Self::Prefix, prefix),
            (None, Some(suffix)) => (Self::Suffix, suffix),
            (None, None) => (Self::Exact, text),
        };
        if text.is_empty() || rest.contains('*') {
            return Err(format!("{text:?}: write the whole, or one * in front or at the end"));
        }
        Ok(pattern(rest.to_owned()))
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "{exact}"),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A host, or with `*.` in front all below one. In lower case, without a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This host and no other.
    Exact(String),
    /// What lies below it; kept with its leading full stop.
    Below(String),
}

impl HostPattern {
    /// Whether `host` is one of those for any reader.
    pub(crate) fn may_match(&self, host: &[u8]) -> bool {
        host::any_reading(host, |reading| self.is(reading))
    }

    /// Whether the name that `host` stands for is one of those. Allocates where it is not in lower case.
    pub(crate) fn matches(&self, host: &[u8]) -> bool {
        self.is(&host::name(host))
    }

    fn is(&self, name: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => name == exact.as_bytes(),
            Self::Below(suffix) => name.len() > suffix.len() && name.ends_with(suffix.as_bytes()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let lower = text.to_ascii_lowercase();
        let pattern = match lower.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && suffix.len() > 1 => Self::Below(suffix.to_owned()),
            Some(_) => return Err(format!("{text:?}: a * stands for what is below a host, as in *.example.com")),
            None => Self::Exact(lower),
        };
        let (Self::Exact(name) | Self::Below(name)) = &pattern;
        if name.is_empty() || name.contains('*') || host::name(name.as_bytes()) != name.as_bytes() {
            return Err(format!("{text:?} is no host: write it without port and full stop at the end"));
        }
        Ok(pattern)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(exact) => write!(f, "{exact}"),
            Self::Below(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<account>`, where namespace and account may be `*`: any one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityPattern {
    trust_domain: TrustDomain,
    namespace: Option<String>,
    service_account: Option<String>,
}

impl IdentityPattern {
    /// Whether `identity` is one of those.
    pub fn matches(&self, identity: &SpiffeId) -> bool {
        identity.trust_domain() == self.trust_domain.as_str()
            && self.namespace.as_deref().is_none_or(|namespace| namespace == identity.namespace())
            && self.service_account.as_deref().is_none_or(|account| account == identity.service_account())
    }

    /// The namespace, if it is one.
    pub(crate) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The account, if it is one.
    pub(crate) fn service_account(&self) -> Option<&str> {
        self.service_account.as_deref()
    }
}

impl FromStr for IdentityPattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "{text:?}: write spiffe://<trust domain>/ns/<namespace>/sa/<account>, with * for any namespace or account"
            )
        };
        let elements: Vec<&str> = text.strip_prefix("spiffe://").ok_or_else(form)?.split('/').collect();
        let [trust_domain, "ns", namespace, "sa", account] = elements[..] else { return Err(form()) };
        let named = |name: &str| (name != "*").then(|| name.to_owned());
        let (namespace, service_account) = (named(namespace), named(account));
        // What an identity may be stands in one place.
        let some = |name: &Option<String>| name.clone().unwrap_or_else(|| "x".to_owned());
        SpiffeId::new(trust_domain, &some(&namespace), &some(&service_account))
            .map_err(|error| format!("{text:?}: {error}"))?;
        let trust_domain = TrustDomain::parse(trust_domain).map_err(|error| format!("{text:?}: {error}"))?;
        Ok(Self { trust_domain, namespace, service_account })
    }
}

impl fmt::Display for IdentityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, text(&self.namespace), text(&self.service_account))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_at_one_end() {
        let matches = |pattern: &str, text: &str| pattern.parse::<TextPattern>().unwrap().matches(text.as_bytes());
        for (pattern, text, expected) in [
            ("/ratings", "/ratings", true),
            ("/ratings", "/ratings/", false),
            ("/ratings/*", "/ratings/1", true),
            ("/ratings/*", "/ratings/", true),
            ("/ratings/*", "/ratings", false),
            ("/ratings*", "/ratings2", true),
            ("*/health", "/a/health", true),
            ("*/health", "/a/health/x", false),
            ("*", "/whatever", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
        for pattern in ["", "/a/*/b", "**", "*a*"] {
            pattern.parse::<TextPattern>().unwrap_err();
        }
    }

    #[test]
    fn a_host_is_compared_without_case_port_and_full_stop() {
        let matches = |pattern: &str, host: &str| pattern.parse::<HostPattern>().unwrap().matches(host.as_bytes());
        for host in ["login", "LOGIN", "login:80", "Login.:80"] {
            assert!(matches("login", host), "{host}");
            assert!(!matches("*.login", host), "{host}");
        }
        assert!(matches("*.Example.com", "a.b.EXAMPLE.com:80"));
        assert!(!matches("*.example.com", "example.com"));
        for pattern in ["", "*", "*.", "*example.com", "a.*.b", "login:80", "login."] {
            pattern.parse::<HostPattern>().unwrap_err();
        }
    }

    #[test]
    fn of_an_identity_namespace_and_account_may_be_any() {
        let matches = |pattern: &str, identity: &str| {
            pattern.parse::<IdentityPattern>().unwrap().matches(&identity.parse().unwrap())
        };
        let probe = "spiffe://cluster.local/ns/web/sa/probe";
        assert!(matches("spiffe://cluster.local/ns/*/sa/probe", probe));
        assert!(matches("spiffe://cluster.local/ns/web/sa/*", probe));
        assert!(matches(probe, probe));
        assert!(!matches("spiffe://cluster.local/ns/*/sa/front", probe));
        assert!(!matches("spiffe://other.example/ns/*/sa/*", probe));
        for pattern in [
            "*",
            "spiffe://*/ns/a/sa/b",
            "spiffe://cluster.local/ns/a*/sa/b",
            "spiffe://cluster.local/ns/a/sa/b/c",
            "spiffe://cluster.local/*",
            "cluster.local/ns/a/sa/b",
            "spiffe://cluster.local/ns/A/sa/b",
        ] {
            pattern.parse::<IdentityPattern>().unwrap_err();
        }
        assert_eq!(
            "spiffe://cluster.local/ns/*/sa/b".parse::<IdentityPattern>().unwrap().to_string(),
            "spiffe://cluster.local/ns/*/sa/b"
        );
    }
}
