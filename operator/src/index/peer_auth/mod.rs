//! What the index keeps of a `PeerAuth`, and how those of mesh, namespace and workload join.

mod credit;
mod keys;
mod merge;
mod opaque;
mod readiness;
mod terms;

use fairlead_crds::{PeerAuthSpec, PeerAuthStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::jiff::Timestamp;

pub use credit::{Credit, Part};
pub(super) use merge::Effective;
pub use merge::Scope;
use terms::{Keys, Terms};

/// What the index keeps of a `PeerAuth`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PeerAuth {
    pub uid: String,
    pub generation: i64,
    pub created: Option<Timestamp>,
    /// Why the newest generation cannot be used.
    pub invalid: Option<String>,
    /// The newest generation that could be used. Where there was none, all that it selects is closed: nobody knows what it was to refuse.
    pub in_force: Terms,
    /// As last written.
    pub status: PeerAuthStatus,
}

impl PeerAuth {
    /// `before` is what was kept of the same object, `name` its own.
    pub(super) fn parse(
        name: &str,
        metadata: ObjectMeta,
        spec: Result<PeerAuthSpec, String>,
        status: PeerAuthStatus,
        before: Option<&Self>,
    ) -> Self {
        let generation = metadata.generation.unwrap_or_default();
        let uid = metadata.uid.unwrap_or_default();
        let selector = spec.as_ref().ok().and_then(|spec| spec.selector.clone());
        let object = format!("{}/{name}", metadata.namespace.unwrap_or_default());
        let (in_force, invalid) = match spec.and_then(|spec| terms::parse(&object, generation, spec)) {
            Ok(terms) => (terms, None),
            Err(why) => {
                let kept = before.filter(|before| before.uid == uid).map(|before| before.in_force.clone());
                (kept.unwrap_or_else(|| Terms::closed(generation, selector)), Some(why))
            }
        };
        Self { uid, generation, created: metadata.creation_timestamp.map(|t| t.0), invalid, in_force, status }
    }

    /// Of its generations the one that is in force, if that is an older one than the newest.
    pub(super) fn kept(&self) -> Option<i64> {
        (self.in_force.generation != self.generation).then_some(self.in_force.generation)
    }
}
