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

mod act;
mod error;
mod offers;
mod published;
mod scene;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::TrustDomain;
use super::authority::Authority;
pub use super::renewal::{ROTATE_ISSUER, ROTATE_LEAVES};
use super::requests::Requests;
use super::rotation::{Fleet, Phase};
use super::secrets::Secrets;
pub use super::secrets::{ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, ROOTS_MAP, USER_SECRET};
use super::standing::Standing;
use crate::settings::Settings;

pub(super) use self::error::KeeperError;
pub use self::published::{Published, published};

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
}

fn version(secret: Option<&Secret>) -> Option<String> {
    secret.and_then(|secret| secret.metadata.resource_version.clone())
}

#[cfg(test)]
mod tests;
