//! Keeps root and intermediate in Secrets, rotates them, and keeps whoever needs them up to date.
//!
//! # Expected flow
//!
//! [`Keeper::run`] settles every [`INTERVAL`]: it reads the Secrets, creates what a new mesh lacks, renews the intermediate in time, takes the next
//! step of a rotation ([`super::rotation`]) while this replica leads, checks all of it, and publishes the outcome as [`State`].
//!
//! # Guarantees
//!
//! Any number of replicas may run it: a Secret is created, or replaced at the version that was read, and whoever comes second takes what the
//! first one wrote. A root is made only where neither Secret exists, or beside the present one; a lost Secret is restored from memory or asked for,
//! never replaced by a root that nobody trusts.
//!
//! # Errors
//!
//! An API server that is away changes nothing. A Secret that is corrupt makes the state [`State::Broken`]: nothing is signed until it is mended. What a
//! user offers and cannot be used is complained of and otherwise ignored.

mod error;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authority::{Authority, Leaves};
use super::delegation::Delegation;
use super::foreign;
use super::material::{BACKDATE, Intermediate, MaterialError, Root, RootId, Serial};
use super::renewal::{RENEWAL, Renewal, Upkeep, upkeep};
pub use super::renewal::{ROTATE_ISSUER, ROTATE_LEAVES};
use super::requests::Requests;
use super::rotation::{Fleet, Phase, Record, Sight, Step, decide};
use super::secrets::{self, Offer, Secrets};
pub use super::secrets::{ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, ROOTS_MAP, USER_SECRET};
use super::standing::{Complaint, Signing, Standing};
use super::{TrustBundle, TrustDomain};
use crate::settings::Settings;

pub(super) use self::error::KeeperError;

/// On the Secret of the root: any new value rotates it.
pub const ROTATE_ROOT: &str = "fairlead.dev/rotate-root";
/// On the Secret of the root: any new value aborts the rotation that is under way.
pub const ABORT_ROTATION: &str = "fairlead.dev/abort-rotation";
/// On the Secret of the root: our record of the rotation.
pub const ROTATION: &str = "fairlead.dev/rotation";

/// Between two looks at the Secrets: so long a mended Secret, or one that another replica renewed, goes unnoticed.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The same during a rotation, where each look may be a step.
const ROTATING_INTERVAL: Duration = Duration::from_secs(2);
/// The same while there is nothing to sign with yet: everything waits for it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// For all calls of one look.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A replica loses each race at most once per Secret, and makes at most four writes in a row; more means that something fights us.
const MAX_ROUNDS: usize = 8;

/// What the operator can sign with.
#[derive(Clone, Debug)]
pub enum State {
    /// The Secrets were not read yet.
    Starting,
    /// Checked and within its validity.
    Ready(Arc<Authority>),
    /// One sentence that names the Secret and the fix.
    Broken(String),
}

impl State {
    /// What to sign with, or why not.
    pub fn authority(&self) -> Result<Arc<Authority>, String> {
        match self {
            Self::Starting => Err("the certificate authority was not loaded yet".to_owned()),
            Self::Ready(authority) => Ok(Arc::clone(authority)),
            Self::Broken(sentence) => Err(sentence.clone()),
        }
    }
}

/// Everything at one moment.
struct Look {
    root: Option<Secret>,
    next: Option<Secret>,
    issuer: Option<Secret>,
    user: Option<Secret>,
    /// Where another authority signs.
    listed: Option<ConfigMap>,
    /// Where this replica leads.
    trust_domains: Option<Vec<ConfigMap>>,
}

/// What came of one look.
enum Outcome {
    /// A write: look again.
    Wrote,
    /// This is how it is, and nothing is to be done.
    Settled(Box<(Authority, Standing)>),
}

/// See the head of this file.
pub struct Keeper {
    secrets: Secrets,
    trust_domain: TrustDomain,
    settings: Settings,
    requests: Option<Arc<Requests>>,
    is_leader: watch::Receiver<bool>,
    fleet: Arc<dyn Fleet>,
    state: watch::Sender<State>,
    standing: watch::Sender<Option<Standing>>,
    /// The roots as they were last read, should they be lost.
    remembered: BTreeMap<&'static str, Secret>,
}

impl Keeper {
    /// `namespace` is the operator's own, `trust_domain` the mesh's. With `requests`, another authority signs, under its own roots. Rotations go on while `is_leader`, gated on what `fleet` answers.
    pub fn new(
        client: kube::Client,
        namespace: &str,
        trust_domain: TrustDomain,
        settings: Settings,
        requests: Option<Arc<Requests>>,
        is_leader: watch::Receiver<bool>,
        fleet: Arc<dyn Fleet>,
    ) -> Self {
        Self {
            secrets: Secrets::new(client, namespace),
            trust_domain,
            settings,
            requests,
            is_leader,
            fleet,
            state: watch::Sender::new(State::Starting),
            standing: watch::Sender::new(None),
            remembered: BTreeMap::new(),
        }
    }

    /// Follows the state.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Follows what people are told: `None` before the first look.
    pub fn standing(&self) -> watch::Receiver<Option<Standing>> {
        self.standing.subscribe()
    }

    /// Settles until stopped.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut loaded = false;
        loop {
            match tokio::time::timeout(TIMEOUT, self.settle(OffsetDateTime::now_utc())).await {
                Ok(Ok((authority, standing))) => {
                    loaded = true;
                    self.publish(State::Ready(Arc::new(authority)));
                    self.standing.send_if_modified(|known| {
                        let changed = known.as_ref() != Some(&standing);
                        *known = Some(standing);
                        changed
                    });
                }
                Ok(Err(error @ (KeeperError::Api { .. } | KeeperError::Maps { .. }))) => {
                    tracing::warn!(%error, "certificate authority not refreshed; going on with what is known");
                }
                Ok(Err(error)) => self.publish(State::Broken(error.to_string())),
                Err(_) => tracing::warn!("certificate authority not refreshed in time; going on with what is known"),
            }
            let rotating = self.standing.borrow().as_ref().is_some_and(|standing| standing.phase != Phase::Settled);
            let pause = match (loaded, rotating) {
                (false, _) => FIRST_RETRY,
                (true, true) => ROTATING_INTERVAL,
                (true, false) => INTERVAL,
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => (),
            }
        }
    }

    fn publish(&self, next: State) {
        self.state.send_if_modified(|state| {
            let same = match (&*state, &next) {
                (State::Ready(old), State::Ready(new)) => old.is_same(new),
                (State::Broken(old), State::Broken(new)) => old == new,
                _ => false,
            };
            if same {
                return false;
            }
            match &next {
                State::Ready(authority) => {
                    let bundle = authority.trust_bundle();
                    let signing = authority.leaves().roots.first();
                    tracing::info!(
                        issuer_ends =
                            authority.intermediate().map(|own| tracing::field::display(own.validity.not_after)),
                        root = signing.map(tracing::field::display),
                        roots = bundle.roots.len(),
                        sequence = bundle.sequence,
                        "certificate authority loaded"
                    );
                }
                State::Broken(sentence) => {
                    tracing::error!(error = sentence, "certificate authority unusable; no certificate is issued");
                }
                State::Starting => (),
            }
            *state = next;
            true
        });
    }

    /// Brings the Secrets to where they should be, and reads them.
    pub(super) async fn settle(&mut self, now: OffsetDateTime) -> Result<(Authority, Standing), KeeperError> {
        for _ in 0..MAX_ROUNDS {
            let look = self.look().await?;
            let version = version(look.root.as_ref());
            // Large, and rare.
            match Box::pin(self.act(look, now)).await {
                Ok(Outcome::Settled(settled)) => return Ok(*settled),
                Err(error @ (KeeperError::Api { .. } | KeeperError::Maps { .. })) => return Err(error),
                Err(error) if version == self::version(self.secrets.get(ROOT_SECRET).await?.as_ref()) => {
                    return Err(error);
                }
                // A write; or an error of Secrets that were read one after the other, between which another replica took a step.
                Ok(Outcome::Wrote) | Err(_) => {}
            }
        }
        Err(KeeperError::Contended { namespace: self.secrets.namespace.clone() })
    }

    async fn look(&self) -> Result<Look, KeeperError> {
        let leads = *self.is_leader.borrow();
        Ok(Look {
            root: self.secrets.get(ROOT_SECRET).await?,
            next: self.secrets.get(NEXT_ROOT_SECRET).await?,
            issuer: self.secrets.get(ISSUER_SECRET).await?,
            user: self.secrets.get(USER_SECRET).await?,
            listed: if self.requests.is_some() { self.secrets.listed_roots().await? } else { None },
            trust_domains: if leads { Some(self.secrets.trust_domains().await?) } else { None },
        })
    }

    async fn act(&mut self, look: Look, now: OffsetDateTime) -> Result<Outcome, KeeperError> {
        let mut complaints = Vec::new();
        let delegation = self.requests.as_ref().map(|requests| {
            complaints.extend(requests.complaints());
            let present = look.root.as_ref().and_then(|secret| secrets::root(secret).ok());
            let listed = secrets::listed(look.listed.as_ref());
            Delegation::new(requests, listed, present.map(|root| root.id()), now)
        });
        let to_delegate = delegation.as_ref().filter(|delegation| !delegation.requests.is_phased_out());
        let offer = if let Some(delegation) = to_delegate {
            self.delegated_offer(delegation, &look, &mut complaints)?
        } else {
            look.user.as_ref().and_then(|secret| match secrets::offer(secret, now) {
                Ok(offer) => Some(offer),
                Err(problem) => {
                    complaints.push(Complaint::unusable(&self.secrets.namespace, USER_SECRET, &problem));
                    None
                }
            })
        };
        let Some(root_secret) = look.root else {
            self.restore_root(look.issuer.is_some(), offer, now).await?;
            return Ok(Outcome::Wrote);
        };
        let root = secrets::root(&root_secret).map_err(|problem| self.secret_error(ROOT_SECRET, problem))?;
        let record: Option<Record> =
            secrets::kept(&root_secret, ROTATION).map_err(|_| self.record_error(ROOT_SECRET, ROTATION))?;
        let found = look.issuer.as_ref().map(secrets::intermediate).transpose();
        let next = look.next.as_ref().map(secrets::root).transpose();
        let next = match (next, &record) {
            (Ok(next), _) => next,
            // Before it signs anything it can be made anew.
            (Err(_), Some(Record { phase: Phase::Settled | Phase::Publishing, .. }) | None) => None,
            (Err(problem), _) => return Err(self.secret_error(NEXT_ROOT_SECRET, problem)),
        };
        let rotating = record.as_ref().is_some_and(|record| matches!(record.phase, Phase::Signing | Phase::Aborting));
        let lost = rotating && next.is_none();
        let by_next = record.as_ref().is_some_and(|record| record.phase == Phase::Signing);
        let above = next.as_ref().filter(|_| by_next).unwrap_or(&root);
        // What the user offers for it signs under it, and the issuer does not.
        let offered = offer.as_ref().is_some_and(|offer| {
            offer.root.id() == above.id() && (offer.root.has_key() || offer.intermediate.is_some())
        });
        let asked = delegation.as_ref().filter(|delegation| {
            let here = found.as_ref().ok().and_then(Option::as_ref);
            !offered && delegation.covers(above, here)
        });
        let signs_under = |intermediate: &Intermediate, root: &Root| intermediate.check_under(root).is_ok();
        let intermediate = if asked.is_some() {
            None
        } else {
            let found = found.map_err(|problem| self.secret_error(ISSUER_SECRET, problem))?;
            // One that is left from before another authority signed is of no use to anybody.
            found.filter(|found| {
                delegation.is_none()
                    || signs_under(found, &root)
                    || next.as_ref().is_some_and(|next| signs_under(found, next))
            })
        };
        let signing = match &intermediate {
            None if asked.is_some() => Some(above.id()),
            None => None,
            Some(intermediate) => match self.root_above(intermediate, &root, next.as_ref(), record.as_ref()) {
                Ok(root) => Some(root),
                Err(_) if lost => None,
                Err(error) => return Err(error),
            },
        };
        let recorded = record.is_some();
        let record = record.unwrap_or_else(|| deduced(&root, next.as_ref(), signing, now));
        let abort = secrets::annotation(&root_secret, ABORT_ROTATION);
        if lost {
            if self.restore_next(&record).await? {
                return Ok(Outcome::Wrote);
            }
            // Without it nobody can say what the leaves under it are worth; an abort gives them up.
            if record.phase == Phase::Signing && (abort.is_empty() || abort == record.abort) {
                return Err(KeeperError::NextMissing { namespace: self.secrets.namespace.clone() });
            }
        }
        let mut waiting = None;
        if *self.is_leader.borrow() {
            if !recorded {
                // A record that somebody removed may have numbered more than the root's first second says.
                return self.write_record(root_secret, &record.numbered(now.unix_timestamp())).await;
            }
            let known = secrets::foreign(&root_secret);
            let (foreign, unusable) =
                foreign::read(look.trust_domains.as_deref().unwrap_or_default(), &self.trust_domain, &known);
            complaints.extend(unusable.into_iter().map(Complaint::foreign));
            if foreign != known && look.trust_domains.is_some() {
                let mut secret = root_secret;
                secrets::set_foreign(&mut secret, &foreign);
                return self.write_record(secret, &record.numbered(now.unix_timestamp())).await;
            }
            let asked_leaves = secrets::annotation(&root_secret, ROTATE_LEAVES);
            if asked.is_some() && !asked_leaves.is_empty() && asked_leaves != record.leaves {
                let (leaves, renewed_since) = (asked_leaves.to_owned(), now.unix_timestamp());
                return self.write_record(root_secret, &Record { leaves, renewed_since, ..record }).await;
            }
            // The issuer still signs, and is not to.
            let is_leaving = asked.is_some() && to_delegate.is_none();
            let may_sign =
                |root: &Root| root.has_key() || offer.as_ref().is_some_and(|offer| offer.root.id() == root.id());
            let sight = Sight {
                record: &record,
                root: root.id(),
                due: is_leaving || (root.has_key() && root.validity.is_half_over(now)),
                root_signs: may_sign(&root),
                next: next.as_ref().map(Root::id),
                next_signs: next.as_ref().is_some_and(may_sign),
                offered: offer.as_ref().map(|offer| offer.root.id()),
                signing,
                rotate: secrets::annotation(&root_secret, ROTATE_ROOT),
                abort,
                now: now.unix_timestamp(),
            };
            match decide(&sight, self.fleet.everyone().as_ref()) {
                Step::Rest => {}
                Step::Wait(for_whom) => waiting = Some(for_whom),
                Step::Make => {
                    let made = match offer {
                        Some(offer) => offer.root,
                        None => Root::new(&Serial::random()?, now)?,
                    };
                    return self.make_next(look.next, &made).await;
                }
                Step::Discard => {
                    if let Some(left) = &look.next {
                        self.secrets.delete(NEXT_ROOT_SECRET, left).await?;
                        self.remembered.remove(NEXT_ROOT_SECRET);
                    }
                    return Ok(Outcome::Wrote);
                }
                Step::Record(record) => return self.write_record(root_secret, &record).await,
                Step::Adopt(record) => {
                    let mut secret = root_secret;
                    secret.data.get_or_insert_default().extend(next.iter().flat_map(secrets::root_data));
                    return self.write_record(secret, &record).await;
                }
                Step::Sign { by_next } => {
                    let above = next.as_ref().filter(|_| by_next).unwrap_or(&root);
                    let renewal = self.renewal(look.issuer.as_ref())?;
                    return self.sign(look.issuer, above, offer.as_ref(), &renewal, now).await;
                }
            }
        }
        if intermediate.is_some() && signing.is_none() {
            // Given up by an abort, which the leader carries out.
            return Err(KeeperError::NextMissing { namespace: self.secrets.namespace.clone() });
        }
        let above = next.as_ref().filter(|_| record.phase == Phase::Signing).unwrap_or(&root);
        let mut renewal = Renewal::default();
        let mut above = above;
        if asked.is_none() {
            let Some((intermediate, signing)) = intermediate.as_ref().zip(signing) else {
                return self.sign(look.issuer, above, offer.as_ref(), &renewal, now).await;
            };
            above = next.as_ref().filter(|next| next.id() == signing).unwrap_or(&root);
            renewal = self.renewal(look.issuer.as_ref())?;
            if let Some(renewed) = upkeep(look.issuer.as_ref(), intermediate, above, offer.as_ref(), &renewal, now) {
                above.validity.check(now).map_err(|problem| self.secret_error(ROOT_SECRET, problem))?;
                return match renewed {
                    Upkeep::Sign(renewal) => self.sign(look.issuer, above, offer.as_ref(), &renewal, now).await,
                    Upkeep::Note(renewal) => self.note(look.issuer, &renewal).await,
                };
            }
            intermediate.validity.check(now).map_err(|problem| self.secret_error(ISSUER_SECRET, problem))?;
        }
        above.validity.check(now).map_err(|problem| self.secret_error(ROOT_SECRET, problem))?;

        let foreign = secrets::foreign(&root_secret);
        self.remembered.insert(ROOT_SECRET, root_secret);
        if let Some(secret) = look.next {
            self.remembered.insert(NEXT_ROOT_SECRET, secret);
        }
        let mut roots = vec![root.certificate().to_vec()];
        // One that was not numbered yet is not published.
        let numbered = next
            .as_ref()
            .filter(|next| record.phase.trusts_both() && record.next.as_deref() == Some(&next.id().to_string()));
        roots.extend(numbered.map(|next| next.certificate().to_vec()));
        let bundle = TrustBundle { sequence: record.sequence, roots, foreign };
        let (authority, since) = match (intermediate, asked) {
            (Some(intermediate), _) => (Authority::new(above, intermediate), renewal.since),
            (None, Some(delegation)) => {
                let roots = delegation.accepted(record.phase, &root, next.as_ref(), None);
                if roots.len() > 1
                    && let Some(waiting) = &mut waiting
                {
                    waiting.others.push("the issuer, which is yours to have sign under that root");
                }
                // Whoever signs there does not backdate as we do.
                let since = record.renewed_since + BACKDATE.whole_seconds().min(record.renewed_since);
                (Authority::by_requests(Arc::clone(&delegation.requests), &roots, bundle.clone()), since)
            }
            (None, None) => return Err(KeeperError::NoSigner { namespace: self.secrets.namespace.clone() }),
        };
        let since = OffsetDateTime::from_unix_timestamp(since).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let authority = authority.with(bundle, since).lasting(self.settings.certificate_lifetime);
        let signer = match (authority.intermediate(), asked) {
            (None, Some(delegation)) => Signing::Requests(delegation.requests.issuer()),
            (Some(intermediate), _) => Signing::Here(intermediate),
            (None, None) => return Err(KeeperError::NoSigner { namespace: self.secrets.namespace.clone() }),
        };
        let standing = Standing::new(&record, &root, numbered, &signer, waiting, complaints, now);
        Ok(Outcome::Settled(Box::new((authority, standing))))
    }

    /// The root of the authority that is asked to sign. Without it a new mesh does not begin with one of its own.
    fn delegated_offer(
        &self,
        delegation: &Delegation,
        look: &Look,
        complaints: &mut Vec<Complaint>,
    ) -> Result<Option<Offer>, KeeperError> {
        let namespace = self.secrets.namespace.clone();
        if look.user.is_some() {
            complaints.push(Complaint::ignored(&format!(
                "Secret {namespace}/{USER_SECRET} is ignored, since certificateRequests in the settings name who signs; delete one of the two"
            )));
        }
        match &delegation.wanted {
            Ok(root) => Ok(Some(Offer { root: root.without_key(), intermediate: None })),
            Err(problem) if look.root.is_none() && !self.remembered.contains_key(ROOT_SECRET) => {
                Err(KeeperError::Roots { namespace, problem: problem.clone() })
            }
            Err(problem) => {
                complaints.push(Complaint::foreign(format!(
                    "ConfigMap {namespace}/{ROOTS_MAP}: {problem}; who is trusted and who signs stays as it is until that is mended"
                )));
                Ok(None)
            }
        }
    }

    /// The root under which the intermediate's leaves verify: of two the one that is to sign now, since a root that was issued again with its key verifies
    /// the same leaves as the former.
    fn root_above(
        &self,
        intermediate: &Intermediate,
        root: &Root,
        next: Option<&Root>,
        record: Option<&Record>,
    ) -> Result<RootId, KeeperError> {
        let by_next = record.is_some_and(|record| record.phase == Phase::Signing);
        let verdict = intermediate.check_under(root);
        match next.filter(|_| by_next || verdict.is_err()) {
            Some(next) if intermediate.check_under(next).is_ok() => Ok(next.id()),
            _ => verdict.map(|()| root.id()).map_err(|problem| self.secret_error(ISSUER_SECRET, problem)),
        }
    }

    fn renewal(&self, secret: Option<&Secret>) -> Result<Renewal, KeeperError> {
        let Some(secret) = secret else { return Ok(Renewal::default()) };
        let kept = secrets::kept(secret, RENEWAL).map_err(|_| self.record_error(ISSUER_SECRET, RENEWAL))?;
        Ok(kept.unwrap_or_default())
    }

    async fn restore_root(
        &mut self,
        has_issuer: bool,
        offer: Option<Offer>,
        now: OffsetDateTime,
    ) -> Result<(), KeeperError> {
        let secret = match self.remembered.get(ROOT_SECRET) {
            Some(known) => secrets::again(known.clone()),
            None if has_issuer => {
                return Err(KeeperError::RootMissing { namespace: self.secrets.namespace.clone() });
            }
            None => {
                let root = match offer {
                    Some(offer) => offer.root,
                    None => Root::new(&Serial::random()?, now)?,
                };
                secrets::new(ROOT_SECRET, secrets::root_data(&root))
            }
        };
        self.secrets.create(ROOT_SECRET, secret).await
    }

    /// From memory; says whether that was possible.
    async fn restore_next(&self, record: &Record) -> Result<bool, KeeperError> {
        let known = self.remembered.get(NEXT_ROOT_SECRET).filter(|known| {
            secrets::root(known).is_ok_and(|root| record.next.as_deref() == Some(&root.id().to_string()))
        });
        let Some(known) = known else { return Ok(false) };
        self.secrets.create(NEXT_ROOT_SECRET, secrets::again(known.clone())).await?;
        Ok(true)
    }

    async fn make_next(&self, present: Option<Secret>, root: &Root) -> Result<Outcome, KeeperError> {
        let data = secrets::root_data(root);
        match present {
            Some(mut secret) => {
                secret.data = Some(data);
                self.secrets.replace(NEXT_ROOT_SECRET, &secret, "the root that comes was made anew").await?;
            }
            None => self.secrets.create(NEXT_ROOT_SECRET, secrets::new(NEXT_ROOT_SECRET, data)).await?,
        }
        Ok(Outcome::Wrote)
    }

    async fn write_record(&self, mut secret: Secret, record: &Record) -> Result<Outcome, KeeperError> {
        secrets::keep(&mut secret, ROTATION, record);
        tracing::info!(phase = record.phase.name(), sequence = record.sequence, "rotation of the root");
        self.secrets.replace(ROOT_SECRET, &secret, "rotation recorded").await?;
        Ok(Outcome::Wrote)
    }

    /// Puts an intermediate below `above` in place: the user's, or a new one.
    async fn sign(
        &self,
        present: Option<Secret>,
        above: &Root,
        offer: Option<&Offer>,
        renewal: &Renewal,
        now: OffsetDateTime,
    ) -> Result<Outcome, KeeperError> {
        let offered = offer.filter(|offer| offer.root.id() == above.id()).and_then(|offer| offer.intermediate.as_ref());
        let data = if let Some(intermediate) = offered {
            secrets::intermediate_data(intermediate, above)
        } else {
            let signer = offer.map(|offer| &offer.root).filter(|root| root.id() == above.id() && root.has_key());
            let made = signer.unwrap_or(above).new_intermediate(&Serial::random()?, now);
            let made = made.map_err(|problem| match problem {
                MaterialError::NoRootKey => KeeperError::NoSigner { namespace: self.secrets.namespace.clone() },
                problem => self.secret_error(ISSUER_SECRET, problem),
            })?;
            secrets::intermediate_data(&made, above)
        };
        match present {
            Some(mut secret) => {
                secret.data = Some(data);
                secrets::keep(&mut secret, RENEWAL, renewal);
                self.secrets.replace(ISSUER_SECRET, &secret, "intermediate renewed").await?;
            }
            None => self.secrets.create(ISSUER_SECRET, secrets::new(ISSUER_SECRET, data)).await?,
        }
        Ok(Outcome::Wrote)
    }

    async fn note(&self, present: Option<Secret>, renewal: &Renewal) -> Result<Outcome, KeeperError> {
        if let Some(mut secret) = present {
            secrets::keep(&mut secret, RENEWAL, renewal);
            self.secrets.replace(ISSUER_SECRET, &secret, "every leaf is to be renewed").await?;
        }
        Ok(Outcome::Wrote)
    }

    fn secret_error(&self, name: &'static str, problem: MaterialError) -> KeeperError {
        KeeperError::Secret { namespace: self.secrets.namespace.clone(), name, problem, fix: error::fix(name) }
    }

    fn record_error(&self, name: &'static str, annotation: &'static str) -> KeeperError {
        KeeperError::Record { namespace: self.secrets.namespace.clone(), name, annotation }
    }
}

fn version(secret: Option<&Secret>) -> Option<String> {
    secret.and_then(|secret| secret.metadata.resource_version.clone())
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

/// What follows from the state for those who serve: whom to trust, and what leaves should be. A state that breaks later leaves both as they are.
pub async fn published(mut state: watch::Receiver<State>, stop: CancellationToken) -> Option<Published> {
    let first = loop {
        if let State::Ready(authority) = &*state.borrow_and_update() {
            break Arc::clone(authority);
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            changed = state.changed() => changed.ok()?,
        }
    };
    let (bundle, bundles) = watch::channel(Arc::new(first.trust_bundle().clone()));
    let (required, leaves) = watch::channel(first.leaves().clone());
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            if let State::Ready(authority) = &*state.borrow_and_update() {
                bundle.send_if_modified(|bundle| {
                    let changed = **bundle != *authority.trust_bundle();
                    if changed {
                        *bundle = Arc::new(authority.trust_bundle().clone());
                    }
                    changed
                });
                let next = authority.leaves();
                required.send_if_modified(|leaves| std::mem::replace(leaves, next.clone()) != *next);
            }
        }
    });
    Some(Published { bundles, leaves })
}

/// See [`published`].
#[derive(Clone, Debug)]
pub struct Published {
    /// Whom to trust.
    pub bundles: watch::Receiver<Arc<TrustBundle>>,
    /// What leaves should be.
    pub leaves: watch::Receiver<Leaves>,
}

#[cfg(test)]
mod tests;
