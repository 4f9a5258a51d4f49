//! What the Secrets say at one moment, read and checked against each other: where a rotation is, and who signs.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use time::OffsetDateTime;

use super::offers::Offers;
use super::{KeeperError, Look, NEXT_ROOT_SECRET, ROOT_SECRET, ROTATION};
use crate::ca::delegation::Delegation;
use crate::ca::material::{Intermediate, Root, RootId};
use crate::ca::rotation::{Phase, Record};
use crate::ca::secrets;

/// See the head of this file.
pub(super) struct Scene {
    pub(super) root_secret: Secret,
    pub(super) next_secret: Option<Secret>,
    pub(super) issuer_secret: Option<Secret>,
    /// Where this replica leads.
    pub(super) trust_domains: Option<Vec<ConfigMap>>,
    pub(super) root: Root,
    pub(super) next: Option<Root>,
    /// Where the issuer signs, what is left of the time before.
    pub(super) intermediate: Option<Intermediate>,
    pub(super) record: Record,
    /// The record was there; otherwise it is deduced.
    pub(super) is_recorded: bool,
    pub(super) signs: Signs,
    /// The root that comes is away in a phase that cannot be without it.
    pub(super) is_next_lost: bool,
}

/// Who signs leaves, and under which root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signs {
    /// The issuer that is asked.
    Issuer(RootId),
    /// The intermediate.
    Here(RootId),
    /// The intermediate, if the root above it were there.
    UnderLost,
    /// There is nothing yet.
    Nobody,
}

impl Signs {
    pub(super) fn root(self) -> Option<RootId> {
        match self {
            Self::Issuer(root) | Self::Here(root) => Some(root),
            Self::UnderLost | Self::Nobody => None,
        }
    }
}

impl Scene {
    /// `root_secret` is the one in `look`, which is there.
    pub(super) fn read(
        namespace: &str,
        root_secret: Secret,
        look: Look,
        offers: &Offers,
        delegation: Option<&Delegation>,
        now: OffsetDateTime,
    ) -> Result<Self, KeeperError> {
        let root =
            secrets::root(&root_secret).map_err(|problem| KeeperError::secret(namespace, ROOT_SECRET, problem))?;
        let record: Option<Record> =
            secrets::kept(&root_secret, ROTATION).map_err(|_| KeeperError::record(namespace, ROOT_SECRET, ROTATION))?;
        let phase = record.as_ref().map(|record| record.phase);
        let next = match look.next.as_ref().map(secrets::root).transpose() {
            Ok(next) => next,
            // Before it signs anything it can be made anew.
            Err(_) if matches!(phase, None | Some(Phase::Settled | Phase::Publishing)) => None,
            Err(problem) => return Err(KeeperError::secret(namespace, NEXT_ROOT_SECRET, problem)),
        };
        let is_next_lost = matches!(phase, Some(Phase::Signing | Phase::Aborting)) && next.is_none();
        let found = look.issuer.as_ref().map(secrets::intermediate).transpose();
        let above = above(phase, &root, next.as_ref());
        let here = found.as_ref().ok().and_then(Option::as_ref);
        // What the user offers for it signs under it, and the issuer does not.
        let is_asked = delegation.is_some_and(|delegation| !offers.sign_under(above) && delegation.covers(above, here));
        let (intermediate, signs) = if is_asked {
            (found.ok().flatten(), Signs::Issuer(above.id()))
        } else {
            let found = found.map_err(|problem| KeeperError::issuer(namespace, above, problem))?;
            let is_left = found.as_ref().is_some_and(|found| {
                [Some(&root), next.as_ref()].into_iter().flatten().all(|root| found.check_under(root).is_err())
            });
            let replaceable = delegation.is_some() || (!above.has_key() && offers.sign_under(above));
            match found {
                // One that is left from before another authority signed is of no use to anybody.
                Some(_) if is_left && replaceable => (None, Signs::Nobody),
                Some(_) if is_left && is_next_lost => (found, Signs::UnderLost),
                Some(_) if is_left && !above.has_key() => {
                    return Err(KeeperError::NoSigner { namespace: namespace.to_owned(), left: true });
                }
                Some(found) => match root_above(namespace, &found, &root, next.as_ref(), phase) {
                    Ok(root) => (Some(found), Signs::Here(root)),
                    Err(_) if is_next_lost => (Some(found), Signs::UnderLost),
                    Err(error) => return Err(error),
                },
                None => (None, Signs::Nobody),
            }
        };
        let is_recorded = record.is_some();
        let record = record.unwrap_or_else(|| deduced(&root, next.as_ref(), signs.root(), now));
        Ok(Self {
            root_secret,
            next_secret: look.next,
            issuer_secret: look.issuer,
            trust_domains: look.trust_domains,
            root,
            next,
            intermediate,
            record,
            is_recorded,
            signs,
            is_next_lost,
        })
    }

    /// The root that is to sign in this phase.
    pub(super) fn above(&self) -> &Root {
        above(Some(self.record.phase), &self.root, self.next.as_ref())
    }

    /// The root under which leaves are signed; where nobody signs, the one that is to.
    pub(super) fn signing(&self) -> &Root {
        match self.signs.root() {
            Some(id) => self.next.as_ref().filter(|next| next.id() == id).unwrap_or(&self.root),
            None => self.above(),
        }
    }

    /// One that was not numbered yet is not.
    pub(super) fn is_next_published(&self) -> bool {
        let Record { phase, next: recorded, .. } = &self.record;
        let is_recorded = |next: &Root| recorded.as_deref() == Some(&next.id().to_string());
        phase.trusts_both() && self.next.as_ref().is_some_and(is_recorded)
    }

    pub(super) fn is_issuer_asked(&self) -> bool {
        matches!(self.signs, Signs::Issuer(_))
    }
}

fn above<'a>(phase: Option<Phase>, root: &'a Root, next: Option<&'a Root>) -> &'a Root {
    next.filter(|_| phase == Some(Phase::Signing)).unwrap_or(root)
}

/// The root under which the intermediate's leaves verify: of two the one that is to sign now, since a root that was issued again with its key verifies
/// the same leaves as the former.
fn root_above(
    namespace: &str,
    intermediate: &Intermediate,
    root: &Root,
    next: Option<&Root>,
    phase: Option<Phase>,
) -> Result<RootId, KeeperError> {
    let by_next = phase == Some(Phase::Signing);
    let verdict = intermediate.check_under(root);
    match next.filter(|_| by_next || verdict.is_err()) {
        Some(next) if intermediate.check_under(next).is_ok() => Ok(next.id()),
        _ => verdict.map(|()| root.id()).map_err(|problem| KeeperError::issuer(namespace, root, problem)),
    }
}

/// A record for Secrets that have none: of a version without rotations, or because somebody removed it.
fn deduced(root: &Root, next: Option<&Root>, signing: Option<RootId>, now: OffsetDateTime) -> Record {
    let settled = Record { sequence: root.first_sequence(), ..Record::default() };
    match next {
        Some(next) if next.id() != root.id() && signing == Some(next.id()) => {
            Record { phase: Phase::Signing, since: now.unix_timestamp(), next: Some(next.id().to_string()), ..settled }
        }
        _ => settled,
    }
}
