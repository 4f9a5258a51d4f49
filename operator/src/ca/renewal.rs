//! What an intermediate and the leaves below it need outside of a rotation of the root: a successor in time, or because somebody asks.

use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::material::{Intermediate, Root};
use super::secrets::{self, Offer, USER_SECRET};

/// On the Secret of the intermediate: any new value rotates it, and the leaves below it.
pub const ROTATE_ISSUER: &str = "fairlead.dev/rotate-issuer";
/// On the Secret of the intermediate: any new value has every leaf renewed, the operator's own among them.
pub const ROTATE_LEAVES: &str = "fairlead.dev/rotate-leaves";
/// On the Secret of the intermediate: our record of what was asked for.
pub(super) const RENEWAL: &str = "fairlead.dev/renewal";

/// What was asked for of the intermediate, and what became of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Renewal {
    /// The request for a new intermediate that was acted on last.
    issuer: String,
    /// The request for new leaves that was acted on last.
    leaves: String,
    /// Leaves issued before this are renewed, unix seconds.
    pub(super) since: i64,
}

/// What the intermediate needs.
pub(super) enum Upkeep {
    /// A successor, with this record.
    Sign(Renewal),
    /// This record alone.
    Note(Renewal),
}

/// Decides it; `above` is the root that the intermediate is under, `offer` what the user has for that root. `None`: nothing.
pub(super) fn upkeep(
    secret: Option<&Secret>,
    intermediate: &Intermediate,
    above: &Root,
    offer: Option<&Offer>,
    renewal: &Renewal,
    now: OffsetDateTime,
) -> Option<Upkeep> {
    let secret = secret?;
    let (issuer, leaves) = (secrets::annotation(secret, ROTATE_ISSUER), secrets::annotation(secret, ROTATE_LEAVES));
    let asked_issuer = !issuer.is_empty() && issuer != renewal.issuer;
    let asked_leaves = !leaves.is_empty() && leaves != renewal.leaves;
    let mut next = renewal.clone();
    if asked_issuer {
        issuer.clone_into(&mut next.issuer);
    }
    if asked_leaves {
        leaves.clone_into(&mut next.leaves);
    }
    if asked_issuer || asked_leaves {
        // Whoever asks for a new intermediate may have lost the key of the old one, which signed the leaves.
        next.since = now.unix_timestamp();
    }
    let offered = offer.and_then(|offer| offer.intermediate.as_ref());
    let sign = if let Some(offered) = offered {
        offered.chain() != intermediate.chain()
    } else {
        let longer = above.validity.not_after > intermediate.validity.not_after;
        above.has_key() && (asked_issuer || (intermediate.validity.is_half_over(now) && longer))
    };
    if sign {
        return Some(Upkeep::Sign(next));
    }
    if asked_issuer {
        tracing::warn!(
            "the intermediate is the user's: only who made Secret {USER_SECRET} can renew it; its leaves are renewed"
        );
    }
    (next != *renewal).then_some(Upkeep::Note(next))
}
