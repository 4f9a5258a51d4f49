//! Why there is no authority: each error names the object, and what to do about it.

use super::{ABORT_ROTATION, ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, ROOTS_MAP, USER_SECRET};
use crate::ca::material::MaterialError;

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
        "nothing signs under the root in Secret {namespace}/{ROOT_SECRET}, whose key is not here: bring back Secret {USER_SECRET}, or certificateRequests in the settings, whichever there was"
    )]
    NoSigner { namespace: String },
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

/// What to do about a Secret that is damaged.
pub(super) fn fix(name: &str) -> &'static str {
    match name {
        ROOT_SECRET => RESTORE_ROOT,
        NEXT_ROOT_SECRET => RESTORE_NEXT,
        _ => DELETE_ISSUER,
    }
}
