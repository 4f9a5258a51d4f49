//! Why there is no authority: each error names the object, and what to do about it.

use super::{ABORT_ROTATION, ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, ROOTS_MAP, USER_SECRET};
use crate::ca::material::{MaterialError, Root};

/// Why the Secrets gave no authority.
#[derive(Debug, thiserror::Error)]
pub(in crate::ca) enum KeeperError {
    #[error("cannot {action} Secret {namespace}/{name}: {source}")]
    Api { action: &'static str, namespace: String, name: &'static str, source: Box<kube::Error> },
    #[error("cannot {what} in {namespace}: {source}")]
    Maps { what: &'static str, namespace: String, source: Box<kube::Error> },
    #[error(
        "ConfigMap {namespace}/{ROOTS_MAP}: {problem}; it must hold the root of the issuer that certificateRequests in the settings name, under ca.crt"
    )]
    Roots { namespace: String, problem: String },
    #[error(
        "nothing signs under the root in Secret {namespace}/{ROOT_SECRET}, whose key is not here{}: bring back Secret {USER_SECRET}, or certificateRequests in the settings, whichever there was",
        if *left { " (what Secret fairlead-issuer holds is of another root)" } else { "" }
    )]
    NoSigner { namespace: String, left: bool },
    #[error("Secret {namespace}/{name}: {problem}; {fix}")]
    Secret { namespace: String, name: &'static str, problem: MaterialError, fix: &'static str },
    #[error(
        "Secret {namespace}/{name}: annotation {annotation} is damaged; remove it: what it says is then told from the Secrets"
    )]
    Record { namespace: String, name: &'static str, annotation: &'static str },
    #[error(
        "Secret {namespace}/{ROOT_SECRET} is missing while {ISSUER_SECRET} exists; restore it from a backup, or delete {ISSUER_SECRET} too: then a new mesh identity is made, and every pod must be restarted"
    )]
    RootMissing { namespace: String },
    #[error(
        "Secret {namespace}/{NEXT_ROOT_SECRET} is missing in the middle of a rotation; restore it from a backup, or abort the rotation (annotation {ABORT_ROTATION} on {ROOT_SECRET})"
    )]
    NextMissing { namespace: String },
    #[error("cannot make a certificate authority: {0}")]
    Make(#[from] MaterialError),
    #[error("the Secrets of the certificate authority in {namespace} keep changing: is something else writing them?")]
    Contended { namespace: String },
}

const RESTORE_ROOT: &str = "restore it from a backup, or delete it and fairlead-issuer: then a new mesh identity is made, and every pod must be restarted";
const RESTORE_NEXT: &str =
    "restore it from a backup, or abort the rotation (annotation fairlead.dev/abort-rotation on fairlead-root)";
const DELETE_ISSUER: &str = "restore it from a backup, or delete it: the operator then makes a new one from the root";
const OFFER_ISSUER: &str = "restore it from a backup, or put an intermediate below the same root, whose key is not here, into Secret fairlead-ca, and delete this one";

impl KeeperError {
    /// Of a root.
    pub(super) fn secret(namespace: &str, name: &'static str, problem: MaterialError) -> Self {
        let fix = if name == NEXT_ROOT_SECRET { RESTORE_NEXT } else { RESTORE_ROOT };
        Self::Secret { namespace: namespace.to_owned(), name, problem, fix }
    }

    /// Of the intermediate, which is to be below `above`.
    pub(super) fn issuer(namespace: &str, above: &Root, problem: MaterialError) -> Self {
        let fix = if above.has_key() { DELETE_ISSUER } else { OFFER_ISSUER };
        Self::Secret { namespace: namespace.to_owned(), name: ISSUER_SECRET, problem, fix }
    }

    /// Of what an annotation keeps.
    pub(super) fn record(namespace: &str, name: &'static str, annotation: &'static str) -> Self {
        Self::Record { namespace: namespace.to_owned(), name, annotation }
    }
}
