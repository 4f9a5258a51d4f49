//! From one look at the Secrets to the next write, or to what the operator signs with and what people are told.

use std::sync::Arc;

use time::OffsetDateTime;

use super::offers::Offers;
use super::scene::{Scene, Signs};
use super::{
    ABORT_ROTATION, ISSUER_SECRET, Keeper, KeeperError, Look, NEXT_ROOT_SECRET, Outcome, ROOT_SECRET, ROTATE_LEAVES,
    ROTATE_ROOT, USER_SECRET,
};
use crate::ca::TrustBundle;
use crate::ca::authority::Authority;
use crate::ca::delegation::Delegation;
use crate::ca::foreign;
use crate::ca::material::{BACKDATE, Intermediate, Root};
use crate::ca::renewal::{RENEWAL, Renewal, Upkeep, upkeep};
use crate::ca::rotation::{Phase, Record, Sight, Step, Waiting, decide};
use crate::ca::secrets;
use crate::ca::standing::{Complaint, Owner, Signing, Standing};

/// What the leader's part came to.
enum Led {
    /// A write: look again.
    Wrote,
    /// Nothing is to be done now.
    Waits(Option<Waiting>),
}

impl Keeper {
    pub(super) async fn act(&mut self, mut look: Look, now: OffsetDateTime) -> Result<Outcome, KeeperError> {
        let mut complaints = self.requests.as_ref().map(|requests| requests.complaints()).unwrap_or_default();
        let delegation = self.requests.as_ref().map(|requests| {
            let present = look.root.as_ref().and_then(|secret| secrets::root(secret).ok());
            let listed = secrets::listed(look.listed.as_ref());
            Delegation::new(requests, listed, present.map(|root| root.id()), now)
        });
        let delegation = delegation.as_ref();
        let namespace = self.secrets.namespace.clone();
        let is_known = look.root.is_some() || self.remembered.contains_key(ROOT_SECRET);
        let offers = Offers::read(&namespace, &look, delegation, is_known, now, &mut complaints)?;
        let Some(root_secret) = look.root.take() else {
            return self.restore_root(look.issuer.is_some(), offers.wanted.as_ref(), now).await;
        };
        let scene = Scene::read(&namespace, root_secret, look, &offers, delegation, now)?;
        if scene.is_next_lost {
            if self.restore_next(&scene.record).await? {
                return Ok(Outcome::Wrote);
            }
            // Without it nobody can say what the leaves under it are worth; an abort gives them up.
            let abort = secrets::annotation(&scene.root_secret, ABORT_ROTATION);
            if scene.record.phase == Phase::Signing && (abort.is_empty() || abort == scene.record.abort) {
                return Err(KeeperError::NextMissing { namespace });
            }
        }
        let mut waiting = None;
        if *self.is_leader.borrow() {
            match self.lead(&scene, &offers, delegation, &mut complaints, now).await? {
                Led::Wrote => return Ok(Outcome::Wrote),
                Led::Waits(for_whom) => waiting = for_whom,
            }
        }
        let renewal = match scene.signs {
            Signs::Issuer(_) => Renewal::default(),
            // Given up by an abort, which the leader carries out.
            Signs::UnderLost => return Err(KeeperError::NextMissing { namespace }),
            Signs::Nobody => {
                let above = scene.above();
                let offer = offers.under(above);
                self.sign(scene.issuer_secret.as_ref(), above, offer, &Renewal::default(), now).await?;
                return Ok(Outcome::Wrote);
            }
            Signs::Here(_) => match self.keep_up(&scene, &offers, now).await? {
                Some(renewal) => renewal,
                None => return Ok(Outcome::Wrote),
            },
        };
        self.settled(scene, &offers, delegation, &renewal, (waiting, complaints), now)
    }

    /// What one replica does for all.
    async fn lead(
        &mut self,
        scene: &Scene,
        offers: &Offers,
        delegation: Option<&Delegation>,
        complaints: &mut Vec<Complaint>,
        now: OffsetDateTime,
    ) -> Result<Led, KeeperError> {
        let Scene { root_secret, root, next, record, .. } = scene;
        if !scene.is_recorded {
            // A record that somebody removed may have numbered more than the root's first second says.
            self.write_record(root_secret.clone(), &record.clone().numbered(now.unix_timestamp())).await?;
            return Ok(Led::Wrote);
        }
        let known = secrets::foreign(root_secret);
        let maps = scene.trust_domains.as_deref();
        let (foreign, unusable) = foreign::read(maps.unwrap_or_default(), &self.trust_domain, &known);
        complaints.extend(unusable.into_iter().map(Complaint::foreign));
        if foreign != known && maps.is_some() {
            let mut secret = root_secret.clone();
            secrets::set_foreign(&mut secret, &foreign);
            self.write_record(secret, &record.clone().numbered(now.unix_timestamp())).await?;
            return Ok(Led::Wrote);
        }
        let asked_leaves = secrets::annotation(root_secret, ROTATE_LEAVES);
        if scene.is_issuer_asked() && !asked_leaves.is_empty() && asked_leaves != record.leaves {
            let (leaves, renewed_since) = (asked_leaves.to_owned(), now.unix_timestamp());
            self.write_record(root_secret.clone(), &Record { leaves, renewed_since, ..record.clone() }).await?;
            return Ok(Led::Wrote);
        }
        // The issuer still signs, and is not to.
        let is_leaving =
            scene.is_issuer_asked() && delegation.is_some_and(|delegation| delegation.requests.is_phased_out());
        let may_sign = |root: &Root| root.has_key() || offers.under(root).is_some();
        let sight = Sight {
            record,
            root: root.id(),
            due: is_leaving || (root.has_key() && root.validity.is_half_over(now)),
            root_signs: may_sign(root),
            next: next.as_ref().map(Root::id),
            next_signs: next.as_ref().is_some_and(may_sign),
            offered: offers.wanted.as_ref().map(|offer| offer.root.id()),
            refusal: offers.refusal.as_deref(),
            signing: scene.signs.root(),
            rotate: secrets::annotation(root_secret, ROTATE_ROOT),
            abort: secrets::annotation(root_secret, ABORT_ROTATION),
            now: now.unix_timestamp(),
        };
        match decide(&sight, self.fleet.everyone().as_ref()) {
            Step::Rest => return Ok(Led::Waits(None)),
            Step::Wait(for_whom) => return Ok(Led::Waits(Some(for_whom))),
            Step::Make => self.make_next(scene.next_secret.as_ref(), offers.wanted.as_ref(), now).await?,
            Step::Discard => {
                if let Some(left) = &scene.next_secret {
                    self.secrets.delete(NEXT_ROOT_SECRET, left).await?;
                    self.remembered.remove(NEXT_ROOT_SECRET);
                }
            }
            Step::Record(record) => self.write_record(root_secret.clone(), &record).await?,
            Step::Adopt(record) => {
                let mut secret = root_secret.clone();
                secret.data.get_or_insert_default().extend(next.iter().flat_map(secrets::root_data));
                self.write_record(secret, &record).await?;
            }
            Step::Sign { by_next } => {
                let above = next.as_ref().filter(|_| by_next).unwrap_or(root);
                let renewal = self.renewal(scene)?;
                self.sign(scene.issuer_secret.as_ref(), above, offers.under(above), &renewal, now).await?;
            }
        }
        Ok(Led::Wrote)
    }

    /// Renews the intermediate that signs here, or has leaves renewed; `None`: that was written. What is asked for of leaves otherwise.
    async fn keep_up(
        &self,
        scene: &Scene,
        offers: &Offers,
        now: OffsetDateTime,
    ) -> Result<Option<Renewal>, KeeperError> {
        let renewal = self.renewal(scene)?;
        let Some(intermediate) = &scene.intermediate else { return Ok(Some(renewal)) };
        let (above, secret) = (scene.signing(), scene.issuer_secret.as_ref());
        let offer = offers.under(above);
        if let Some(renewed) = upkeep(secret, intermediate, above, offer, &renewal, now) {
            self.check_root(above, now)?;
            match renewed {
                Upkeep::Sign(renewal) => self.sign(secret, above, offer, &renewal, now).await?,
                Upkeep::Note(renewal) => self.note(secret, &renewal).await?,
            }
            return Ok(None);
        }
        let namespace = &self.secrets.namespace;
        intermediate.validity.check(now).map_err(|problem| KeeperError::issuer(namespace, above, problem))?;
        Ok(Some(renewal))
    }

    /// What the operator signs with from now on, and what people are told of it.
    fn settled(
        &mut self,
        scene: Scene,
        offers: &Offers,
        delegation: Option<&Delegation>,
        renewal: &Renewal,
        (mut waiting, mut complaints): (Option<Waiting>, Vec<Complaint>),
        now: OffsetDateTime,
    ) -> Result<Outcome, KeeperError> {
        self.check_root(scene.signing(), now)?;
        let delegated = delegation.filter(|delegation| !delegation.requests.is_phased_out());
        complaints.extend(delegated.into_iter().flat_map(|delegation| self.keys_left(&scene, offers, delegation, now)));
        let asked = delegation.filter(|_| scene.is_issuer_asked());
        let is_next_published = scene.is_next_published();
        let Scene { root_secret, next_secret, root, next, intermediate, record, signs, .. } = scene;
        if !record.refused.is_empty() && secrets::annotation(&root_secret, ROTATE_ROOT) == record.request {
            complaints.push(Complaint::refused(&record.refused));
        }
        let owner = if delegated.is_some() {
            Owner::Issuer
        } else if !root.has_key() || offers.under(&root).is_some() {
            Owner::User
        } else {
            Owner::Mesh
        };
        let published = next.as_ref().filter(|_| is_next_published);
        let roots = std::iter::once(&root).chain(published).map(|root| root.certificate().to_vec()).collect();
        let bundle = TrustBundle { sequence: record.sequence, roots, foreign: secrets::foreign(&root_secret) };
        let tell = |signer: &Signing<'_>, waiting, complaints| {
            Standing::new(&record, (&root, published), (signer, owner), waiting, complaints, now)
        };
        let (authority, standing, since) = match (asked, intermediate) {
            (Some(delegation), left) => {
                let requests = &delegation.requests;
                let accepted = delegation.accepted(record.phase, &root, next.as_ref(), left.as_ref());
                if accepted.len() > 1
                    && let Some(waiting) = &mut waiting
                {
                    waiting.others.push("the issuer, which is yours to have sign under that root");
                }
                let signer = Signing::Requests(requests.issuer(), requests.issuer_validity());
                let authority = Authority::by_requests(Arc::clone(requests), &accepted, bundle.clone());
                // Whoever signs there does not backdate as we do.
                let since = record.renewed_since + BACKDATE.whole_seconds().min(record.renewed_since);
                (authority, tell(&signer, waiting, complaints), since)
            }
            (None, Some(intermediate)) => {
                let above = next.as_ref().filter(|next| signs.root() == Some(next.id())).unwrap_or(&root);
                let standing = tell(&Signing::Here(&intermediate), waiting, complaints);
                (Authority::new(above, intermediate), standing, renewal.since)
            }
            (None, None) => {
                return Err(KeeperError::NoSigner { namespace: self.secrets.namespace.clone(), left: false });
            }
        };
        let since = OffsetDateTime::from_unix_timestamp(since).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let authority = authority.with(bundle, since).lasting(self.settings.certificate_lifetime);
        self.remembered.insert(ROOT_SECRET, root_secret);
        if let Some(secret) = next_secret {
            self.remembered.insert(NEXT_ROOT_SECRET, secret);
        }
        Ok(Outcome::Settled(Box::new((authority, standing))))
    }

    /// Keys of the time before the issuer signed, which are good under the root that it signs under. A rotation that is under way is rid of them at its end.
    fn keys_left(
        &self,
        scene: &Scene,
        offers: &Offers,
        delegation: &Delegation,
        now: OffsetDateTime,
    ) -> Vec<Complaint> {
        if !scene.is_issuer_asked() || scene.record.phase != Phase::Settled {
            return Vec::new();
        }
        let root = &scene.root;
        let signs = |left: &Intermediate| left.validity.check(now).is_ok() && left.check_under(root).is_ok();
        let places = [
            (ROOT_SECRET, root.has_key()),
            (ISSUER_SECRET, scene.intermediate.as_ref().is_some_and(signs)),
            (USER_SECRET, offers.ignore_a_key_of(root)),
        ];
        let left = places.into_iter().filter(|(_, is_left)| *is_left);
        let issuer = delegation.requests.issuer();
        left.map(|(secret, _)| Complaint::key_left(&self.secrets.namespace, secret, issuer)).collect()
    }

    fn check_root(&self, root: &Root, now: OffsetDateTime) -> Result<(), KeeperError> {
        let checked = root.validity.check(now);
        checked.map_err(|problem| KeeperError::secret(&self.secrets.namespace, ROOT_SECRET, problem))
    }

    /// What was asked for of intermediate and leaves.
    fn renewal(&self, scene: &Scene) -> Result<Renewal, KeeperError> {
        let Some(secret) = &scene.issuer_secret else { return Ok(Renewal::default()) };
        let kept = secrets::kept(secret, RENEWAL);
        let kept = kept.map_err(|_| KeeperError::record(&self.secrets.namespace, ISSUER_SECRET, RENEWAL))?;
        Ok(kept.unwrap_or_default())
    }
}
