//! What a request must look like, and who must send it.

use std::collections::BTreeMap;

pub use fairlead_authz::{Grpc as GrpcMatch, Header as HeaderMatch, ValuePattern as StringMatch};

use super::{ObjectName, Place};

/// A kind of request: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// On the path without its query.
    pub path: Option<PathMatch>,
    /// On headers, all of them.
    pub headers: Vec<HeaderMatch>,
    /// On parameters of the query, all of them; names as they read decoded.
    pub query_params: Vec<HeaderMatch>,
    /// On cookies, all of them.
    pub cookies: Vec<HeaderMatch>,
    /// Upper case, any of them; none: every method.
    pub methods: Vec<String>,
    /// On calls of gRPC.
    pub grpc: Option<GrpcMatch>,
    /// On who calls. Decided when a proxy is told, and never sent.
    pub source: Option<SourceMatch>,
}

impl Match {
    /// Whether every request of a caller whose source matches is one of this kind.
    pub fn asks_nothing_of_the_request(&self) -> bool {
        *self == Self { source: self.source.clone(), ..Self::default() }
    }
}

/// What a path must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// This path and no other.
    Exact(String),
    /// By whole path elements: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path matches; Rust regex syntax, known to compile.
    Regex(String),
    /// Each of these, at least one. If the first is a prefix, that is the one which a rewrite replaces.
    All(Vec<PathMatch>),
}

/// Who a caller must be: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceMatch {
    /// Any of them; none: every namespace.
    pub namespaces: Vec<String>,
    /// Any of them; none: every account.
    pub service_accounts: Vec<ObjectName>,
    /// All of them.
    pub labels: BTreeMap<String, String>,
}

/// Who a proxy calls for: the pod that its certificate speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Of the pod, and so of its account.
    pub namespace: String,
    /// Under which it runs.
    pub service_account: String,
    /// Of the pod.
    pub labels: BTreeMap<String, String>,
    /// Of its node.
    pub place: Place,
}

impl SourceMatch {
    /// Whether this is who is meant.
    pub fn holds(&self, caller: &Caller) -> bool {
        let is = |account: &ObjectName| account.namespace == caller.namespace && account.name == caller.service_account;
        (self.namespaces.is_empty() || self.namespaces.contains(&caller.namespace))
            && (self.service_accounts.is_empty() || self.service_accounts.iter().any(is))
            && self.labels.iter().all(|(key, value)| caller.labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_a_source_names_must_hold() {
        let caller = Caller {
            namespace: "web".into(),
            service_account: "front".into(),
            labels: BTreeMap::from([("env".into(), "staging".into()), ("app".into(), "front".into())]),
            place: Place::default(),
        };
        let namespaces = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let account = |namespace: &str| vec![ObjectName::new(namespace, "front")];
        let env = |value: &str| BTreeMap::from([("env".to_owned(), value.to_owned())]);
        for (source, expected) in [
            (SourceMatch::default(), true),
            (SourceMatch { namespaces: namespaces(&["shop", "web"]), ..SourceMatch::default() }, true),
            (SourceMatch { namespaces: namespaces(&["shop"]), ..SourceMatch::default() }, false),
            (SourceMatch { service_accounts: account("web"), ..SourceMatch::default() }, true),
            // An account of this name elsewhere is somebody else.
            (SourceMatch { service_accounts: account("shop"), ..SourceMatch::default() }, false),
            (SourceMatch { labels: env("staging"), ..SourceMatch::default() }, true),
            (SourceMatch { labels: env("live"), ..SourceMatch::default() }, false),
            (
                SourceMatch { namespaces: namespaces(&["web"]), service_accounts: account("web"), labels: env("live") },
                false,
            ),
            (
                SourceMatch {
                    namespaces: namespaces(&["web"]),
                    service_accounts: account("web"),
                    labels: env("staging"),
                },
                true,
            ),
        ] {
            assert_eq!(source.holds(&caller), expected, "{source:?}");
        }
    }
}
