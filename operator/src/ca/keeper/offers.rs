//! What people want of the authority: which root the mesh is to have, and what may sign below the one that it has.

use k8s_openapi::api::core::v1::Secret;
use time::OffsetDateTime;

use super::{KeeperError, Look, ROOT_SECRET, ROOTS_MAP, ROTATE_ROOT, USER_SECRET};
use crate::ca::delegation::Delegation;
use crate::ca::material::{MaterialError, Root, RootId};
use crate::ca::secrets::{self, Offer};
use crate::ca::standing::Complaint;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Offers {
    /// The user's, or the issuer's; `None`: the mesh is to have a root of its own, or what it is to have cannot be read.
    pub(super) wanted: Option<Offer>,
    /// Of Secret `fairlead-ca`, whose root is in use while an issuer is to sign under another one: until then the user goes on renewing what signs.
    former: Option<Offer>,
    /// The root of Secret `fairlead-ca`, of which there is no use.
    ignored: Option<RootId>,
    /// Why a request for another root is not acted on: a sentence.
    pub(super) refusal: Option<String>,
}

impl Offers {
    /// Complains of what cannot be used. `is_known`: there is a root, be it in memory.
    pub(super) fn read(
        namespace: &str,
        look: &Look,
        delegation: Option<&Delegation>,
        is_known: bool,
        now: OffsetDateTime,
        complaints: &mut Vec<Complaint>,
    ) -> Result<Self, KeeperError> {
        let present = id(look.root.as_ref());
        let theirs = look.user.as_ref().map(|secret| secrets::offer(secret, now));
        let (mut offers, why) = match delegation.filter(|delegation| !delegation.requests.is_phased_out()) {
            None => Self::of_user(namespace, theirs, present, complaints),
            Some(delegation) => {
                let (wanted, why) = of_issuer(namespace, delegation, present, is_known, complaints)?;
                let trusted = [present, id(look.next.as_ref())];
                let offers = Self::beside_issuer(namespace, delegation, theirs, trusted, complaints);
                (Self { wanted, ..offers }, why)
            }
        };
        offers.refusal = why.map(|why| {
            format!(
                "annotation {ROTATE_ROOT} of Secret {namespace}/{ROOT_SECRET} is not acted on: {why}; then give it another value, or remove it"
            )
        });
        Ok(offers)
    }

    fn of_user(
        namespace: &str,
        theirs: Option<Result<Offer, MaterialError>>,
        present: Option<RootId>,
        complaints: &mut Vec<Complaint>,
    ) -> (Self, Option<String>) {
        match theirs {
            None => (Self::default(), None),
            Some(Ok(offer)) => {
                let why = (Some(offer.root.id()) == present).then(|| {
                    format!(
                        "the root is yours, so put another one into Secret {namespace}/{USER_SECRET}, or delete that for a root of the mesh's own"
                    )
                });
                (Self { wanted: Some(offer), ..Self::default() }, why)
            }
            Some(Err(problem)) => {
                complaints.push(Complaint::unusable(namespace, USER_SECRET, &problem));
                let why = format!("Secret {namespace}/{USER_SECRET} cannot be used ({problem}), so mend or delete it");
                (Self::default(), Some(why))
            }
        }
    }

    /// What becomes of the user's Secret where an issuer is to sign.
    fn beside_issuer(
        namespace: &str,
        delegation: &Delegation,
        theirs: Option<Result<Offer, MaterialError>>,
        trusted: [Option<RootId>; 2],
        complaints: &mut Vec<Complaint>,
    ) -> Self {
        let is_former = |root| !delegation.lists(root) && trusted.contains(&Some(root));
        match theirs {
            None => Self::default(),
            Some(Ok(offer)) if is_former(offer.root.id()) => Self { former: Some(offer), ..Self::default() },
            Some(Err(problem)) if trusted[0].is_some_and(is_former) => {
                complaints.push(Complaint::unusable(namespace, USER_SECRET, &problem));
                Self::default()
            }
            Some(theirs) => {
                complaints.push(Complaint::ignored(&format!(
                    "Secret {namespace}/{USER_SECRET} is ignored, since certificateRequests in the settings name who signs; delete one of the two"
                )));
                Self { ignored: theirs.ok().map(|offer| offer.root.id()), ..Self::default() }
            }
        }
    }

    /// What is there for `root`.
    pub(super) fn under(&self, root: &Root) -> Option<&Offer> {
        [&self.former, &self.wanted].into_iter().flatten().find(|offer| offer.root.id() == root.id())
    }

    /// Whether it can sign: an issuer's root alone cannot.
    pub(super) fn sign_under(&self, root: &Root) -> bool {
        self.under(root).is_some_and(|offer| offer.root.has_key() || offer.intermediate.is_some())
    }

    /// Whether the Secret that is ignored holds a key that is believed under `root`.
    pub(super) fn ignore_a_key_of(&self, root: &Root) -> bool {
        self.ignored == Some(root.id())
    }
}

/// The root of the issuer that is asked to sign, and why there can be no other. Without it a new mesh does not begin with one of its own.
fn of_issuer(
    namespace: &str,
    delegation: &Delegation,
    present: Option<RootId>,
    is_known: bool,
    complaints: &mut Vec<Complaint>,
) -> Result<(Option<Offer>, Option<String>), KeeperError> {
    match &delegation.wanted {
        Ok(root) => {
            let why = (Some(root.id()) == present).then(|| {
                let issuer = delegation.requests.issuer();
                format!(
                    "the root is that of {issuer}, so put its next one below it in ConfigMap {namespace}/{ROOTS_MAP}"
                )
            });
            Ok((Some(Offer { root: root.without_key(), intermediate: None }), why))
        }
        Err(problem) if !is_known => {
            Err(KeeperError::Roots { namespace: namespace.to_owned(), problem: problem.clone() })
        }
        Err(problem) => {
            complaints.push(Complaint::foreign(format!(
                "ConfigMap {namespace}/{ROOTS_MAP}: {problem}; who is trusted and who signs stays as it is until that is mended"
            )));
            let why = format!(
                "the roots of the issuer are not known (ConfigMap {namespace}/{ROOTS_MAP}: {problem}), so mend that"
            );
            Ok((None, Some(why)))
        }
    }
}

fn id(secret: Option<&Secret>) -> Option<RootId> {
    secret.and_then(|secret| secrets::root(secret).ok()).map(|root| root.id())
}
