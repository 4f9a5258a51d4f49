//! Under which roots another authority signs, and which of its roots the mesh is to go to: decided from the user's list and from what signs here.
//!
//! The authority's roots go through the phases of every rotation ([`super::rotation`]): it signs under a root only when everybody trusts it, and the former one goes only
//! when nobody shows a leaf under it.

use std::sync::Arc;

use time::OffsetDateTime;

use super::material::{Intermediate, Root, RootId};
use super::requests::Requests;
use super::rotation::Phase;
use super::secrets;

/// See the head of this file.
pub(super) struct Delegation {
    pub(super) requests: Arc<Requests>,
    listed: Vec<RootId>,
    /// What the mesh is to trust, or why that is not known.
    pub(super) wanted: Result<Root, String>,
}

impl Delegation {
    /// Of what `ConfigMap` `fairlead-roots` lists, where `present` is the root in use.
    pub(super) fn new(
        requests: &Arc<Requests>,
        listed: Result<Vec<Root>, String>,
        present: Option<RootId>,
        now: OffsetDateTime,
    ) -> Self {
        let ids = listed.iter().flatten().map(Root::id).collect();
        let wanted = listed.and_then(|listed| {
            let wanted = secrets::wanted(listed, present).ok_or("it lists no root")?;
            let valid = wanted.validity.check(now).is_ok();
            if valid { Ok(wanted) } else { Err(format!("its root {} is not valid now", wanted.id())) }
        });
        Self { requests: Arc::clone(requests), listed: ids, wanted }
    }

    /// Whether the user lists it.
    pub(super) fn lists(&self, root: RootId) -> bool {
        self.listed.contains(&root)
    }

    /// Whether the authority signs under `root`: it is one of those listed, or at least nobody can sign under it here. `intermediate` is what could.
    pub(super) fn covers(&self, root: &Root, intermediate: Option<&Intermediate>) -> bool {
        let signs_here =
            || root.has_key() || intermediate.is_some_and(|intermediate| intermediate.check_under(root).is_ok());
        self.lists(root.id()) || !signs_here()
    }

    /// Under which its answers may be: the one that is to sign, and where everybody trusts two of its roots, the other. Of the authority's change from one to the
    /// other the operator hears nothing.
    pub(super) fn accepted<'a>(
        &self,
        phase: Phase,
        root: &'a Root,
        next: Option<&'a Root>,
        intermediate: Option<&Intermediate>,
    ) -> Vec<&'a Root> {
        match (phase, next) {
            (Phase::Signing, Some(next)) => [next, root],
            (Phase::Aborting, Some(next)) => [root, next],
            _ => return vec![root],
        }
        .into_iter()
        .filter(|root| self.covers(root, intermediate))
        .collect()
    }
}
