//! Runs releases: watches tell that something changed, each Canary is then read anew with all that belongs to it, planned, written.
//!
//! [`Releases::run`] is the one call that enters. Watches carry metadata alone and only say *when* to look; what is decided on is
//! read from the API server at that moment, so that a cache that lags cannot make a decision twice.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::{CANARY_LABEL, CLONE_OF_LABEL, Canary, REQUEST_ANNOTATION};
use futures::stream::{BoxStream, SelectAll, StreamExt as _};
use k8s_openapi::api::apps::v1::Deployment as ApiDeployment;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::ListParams;
use kube::core::PartialObjectMeta;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::observe::Deployment;
use super::outside::World;
use super::{Evidence, Programmed, act, passage};

/// Canaries that are worked on at once.
const AT_ONCE: usize = 4;
/// Ends each watch after this many seconds, because one that died silently is otherwise never noticed.
const WATCH_TIMEOUT: u32 = 200;
/// For one Canary's reads and writes together: several times what a busy API server takes.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause after the first failure; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// From here on a pause is long.
const LONG: Duration = Duration::from_secs(30);
/// While the last pods of a clone end.
const SOON: Duration = Duration::from_secs(1);
/// After a conflict.
const SHORTLY: Duration = Duration::from_millis(100);
/// Pods of a clone that are looked at for trouble: one in trouble is enough, and all have the same template.
const PODS: u32 = 50;
/// Canaries of a namespace that are compared for the same Deployment.
const RIVALS: u32 = 500;

/// Namespace and name of a Canary.
type Key = (String, String);

/// The Canaries there are: of each, the generation, whether it is being deleted, and what its user asks for.
type Seen = HashMap<Key, (Option<i64>, bool, Option<String>)>;

/// The reconciler of Canaries.
pub struct Releases {
    client: Client,
    recorder: Recorder,
    evidence: Arc<dyn Evidence>,
    programmed: Arc<dyn Programmed>,
    world: Arc<dyn World>,
}

/// Why a Canary could not be worked on.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the API server refused or did not answer: {0}")]
    Api(#[from] kube::Error),
    #[error("the Canary does not parse; correct it or install the matching definitions: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the API server took longer than {} s", PATIENCE.as_secs())]
    Slow,
}

impl Releases {
    /// `instance` is the name of this replica's pod, for events.
    pub fn new(
        client: Client,
        evidence: Arc<dyn Evidence>,
        programmed: Arc<dyn Programmed>,
        world: Arc<dyn World>,
        instance: Option<String>,
    ) -> Arc<Self> {
        let recorder = Recorder::new(client.clone(), Reporter { controller: "fairlead-operator".to_owned(), instance });
        Arc::new(Self { client, recorder, evidence, programmed, world })
    }

    /// Waits until this replica leads, then works until `shutdown` is done. What is being written then is finished.
    pub async fn run(self: Arc<Self>, mut is_leader: watch::Receiver<bool>, shutdown: impl Future<Output = ()>) {
        tokio::pin!(shutdown);
        tokio::select! {
            () = &mut shutdown => return,
            led = is_leader.wait_for(|leads| *leads) => {
                if led.is_err() {
                    return;
                }
            }
        }
        self.evidence.take_over();
        let mut triggers = self.triggers();
        let mut queue = Queue::default();
        let mut running = JoinSet::new();
        loop {
            let next = queue.next();
            tokio::select! {
                () = &mut shutdown => break,
                Some(key) = triggers.next() => queue.add(key, Duration::ZERO),
                Some(done) = running.join_next() => match done {
                    Ok((key, again)) => queue.finish(key, again),
                    Err(error) => tracing::error!(%error, "a reconciliation ended abnormally"),
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() && running.len() < AT_ONCE => {
                    if let Some(key) = queue.start() {
                        running.spawn(Arc::clone(&self).work(key));
                    }
                }
            }
        }
        while running.join_next().await.is_some() {}
    }

    /// What may concern a Canary: changes of its own spec, any change of its Deployment or clone, and of its namespace's
    /// NetworkPolicies.
    fn triggers(&self) -> SelectAll<BoxStream<'static, Key>> {
        let config = || watcher::Config::default().timeout(WATCH_TIMEOUT);
        let canaries = watcher(Api::<PartialObjectMeta<Canary>>::all(self.client.clone()), config());
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let known = Arc::clone(&seen);
        let canaries = canaries.default_backoff().filter_map(move |event| {
            let key = match event {
                Ok(watcher::Event::Apply(canary) | watcher::Event::InitApply(canary)) => {
                    own_key(&canary).filter(|key| {
                        // Writes of the status are our own.
                        let asked = canary.annotations().get(REQUEST_ANNOTATION).cloned();
                        let now = (canary.metadata.generation, canary.metadata.deletion_timestamp.is_some(), asked);
                        seen.lock().insert(key.clone(), now.clone()) != Some(now)
                    })
                }
                Ok(watcher::Event::Delete(canary)) => own_key(&canary).inspect(|key| {
                    seen.lock().remove(key);
                }),
                Ok(watcher::Event::Init | watcher::Event::InitDone) => None,
                Err(error) => {
                    tracing::warn!(%error, "watch of Canaries failed: it is begun again");
                    None
                }
            };
            std::future::ready(key)
        });
        let mut all = SelectAll::new();
        all.push(canaries.boxed());
        for label in [CANARY_LABEL, CLONE_OF_LABEL] {
            let deployments = Api::<PartialObjectMeta<ApiDeployment>>::all(self.client.clone());
            let events = watcher(deployments, config().labels(label)).default_backoff().touched_objects();
            let keys = events.filter_map(|event| {
                let key = match event {
                    Ok(deployment) => canary_of(&deployment),
                    Err(error) => {
                        tracing::warn!(%error, "watch of Deployments failed: it is begun again");
                        None
                    }
                };
                std::future::ready(key)
            });
            all.push(keys.boxed());
        }
        let policies = watcher(Api::<PartialObjectMeta<NetworkPolicy>>::all(self.client.clone()), config());
        let keys = policies.default_backoff().touched_objects().flat_map(move |event| {
            let keys: Vec<Key> = match event {
                Ok(policy) => {
                    let namespace = policy.namespace().unwrap_or_default();
                    let mut keys: Vec<_> =
                        known.lock().keys().filter(|(home, _)| *home == namespace).cloned().collect();
                    // One of ours whose Canary went while no operator ran.
                    let left = policy.labels().get(CANARY_LABEL).filter(|_| passage::is_ours(Some(policy.labels())));
                    keys.extend(left.map(|canary| (namespace, canary.clone())));
                    keys
                }
                Err(error) => {
                    tracing::warn!(%error, "watch of NetworkPolicies failed: it is begun again");
                    Vec::new()
                }
            };
            futures::stream::iter(keys)
        });
        all.push(keys.boxed());
        all
    }

    async fn work(self: Arc<Self>, key: Key) -> (Key, Again) {
        let again = match tokio::time::timeout(PATIENCE, self.reconcile(&key)).await.unwrap_or(Err(Error::Slow)) {
            Ok(again) => again,
            Err(Error::Api(error)) if act::is_conflict(&error) => Again::In(SHORTLY),
            Err(error) => {
                tracing::warn!(namespace = key.0, canary = key.1, %error, "release not advanced: it is tried again");
                Again::Failed
            }
        };
        (key, again)
    }

    /// Releases the Deployments, except for `own`, that are labelled with a Canary that is gone: otherwise the webhook would go on
    /// holding their changes with nobody to judge them. Where there are more than one page of them, the watch calls here again.
    async fn release_orphans(&self, namespace: &str, canary: &str, own: Option<&str>) -> Result<(), Error> {
        let labelled = ListParams::default().labels(&format!("{CANARY_LABEL}={canary}")).limit(PODS);
        for deployment in act::deployments(&self.client, namespace).list(&labelled).await?.items {
            let name = deployment.name_any();
            if own == Some(name.as_str()) {
                continue;
            }
            let deployment = serde_json::to_value(deployment)?;
            let (config, _) = self.config(namespace, &deployment).await?;
            let read = Deployment::read(&deployment, config.as_deref());
            act::release(&self.client, &deployment, read.rolls_out_on_release()).await?;
            let still_paused = read.paused && !read.rolls_out_on_release();
            tracing::info!(
                namespace,
                canary,
                deployment = name,
                still_paused,
                "the Canary is gone: Deployment released"
            );
        }
        Ok(())
    }
}

fn own_key(canary: &PartialObjectMeta<Canary>) -> Option<Key> {
    Some((canary.namespace()?, canary.metadata.name.clone()?))
}

/// The Canary that a Deployment or a clone belongs to.
fn canary_of(deployment: &PartialObjectMeta<ApiDeployment>) -> Option<Key> {
    let namespace = deployment.namespace()?;
    let labelled = deployment.labels().get(CANARY_LABEL).cloned();
    let owned = || {
        let kind = Canary::kind(&());
        deployment.owner_references().iter().find(|owner| owner.kind == kind).map(|owner| owner.name.clone())
    };
    Some((namespace, labelled.or_else(owned)?))
}

/// When to work on a Canary again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    In(Duration),
    Failed,
    Never,
}

impl Again {
    /// Long pauses differ from Canary to Canary, or those that began together would come together each time.
    fn spread(self, key: &Key) -> Self {
        match self {
            Self::In(delay) if delay >= LONG => {
                let mut hasher = std::hash::DefaultHasher::new();
                key.hash(&mut hasher);
                Self::In(delay / 4 * 3 + delay / 4 * (hasher.finish() % 1024) as u32 / 1024)
            }
            other => other,
        }
    }
}

/// Which Canary is worked on when. Never the same one twice at a time.
#[derive(Default)]
struct Queue {
    due: HashMap<Key, Instant>,
    running: HashSet<Key>,
    failures: HashMap<Key, u32>,
}

impl Queue {
    fn add(&mut self, key: Key, delay: Duration) {
        let at = Instant::now() + delay;
        let due = self.due.entry(key).or_insert(at);
        *due = at.min(*due);
    }

    /// When the next one is due.
    fn next(&self) -> Option<Instant> {
        self.waiting().map(|(_, at)| *at).min()
    }

    /// Takes the one that is due first, if it is due.
    fn start(&mut self) -> Option<Key> {
        let (key, at) = self.waiting().min_by_key(|(_, at)| **at)?;
        if *at > Instant::now() {
            return None;
        }
        let key = key.clone();
        self.due.remove(&key);
        self.running.insert(key.clone());
        Some(key)
    }

    fn finish(&mut self, key: Key, again: Again) {
        self.running.remove(&key);
        let again = again.spread(&key);
        let delay = match again {
            Again::Never => {
                self.failures.remove(&key);
                return;
            }
            Again::In(delay) => {
                self.failures.remove(&key);
                delay
            }
            Again::Failed => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                *failures += 1;
                FIRST_PAUSE.saturating_mul(1 << (*failures - 1).min(6)).min(LONGEST_PAUSE)
            }
        };
        self.add(key, delay);
    }

    fn waiting(&self) -> impl Iterator<Item = (&Key, &Instant)> {
        self.due.iter().filter(|(key, _)| !self.running.contains(*key))
    }
}

mod passages;
mod reconcile;
#[cfg(test)]
mod tests;
