//! Keeps root and intermediate in two Secrets, and whoever needs them up to date.
//!
//! # Expected flow
//!
//! [`Keeper::run`] settles every [`INTERVAL`]: it reads both Secrets, creates what a new mesh lacks, renews the intermediate in time, checks all of
//! it, and publishes the outcome as [`State`].
//!
//! # Guarantees
//!
//! Any number of replicas may run it: a Secret is created, or replaced at the version that was read, and whoever comes second takes what the
//! first one wrote. A root is made only where neither Secret exists; afterwards a lost Secret is restored from memory or asked for, never replaced
//! by a root that nobody trusts.
//!
//! # Errors
//!
//! An API server that is away changes nothing. A Secret that is corrupt makes the state [`State::Broken`]: nothing is signed until it is mended.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, PostParams};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::TrustBundle;
use super::authority::{Authority, Material, MaterialError, Serial};

/// Holds the root.
pub const ROOT_SECRET: &str = "fairlead-root";
/// Holds the online intermediate.
pub const ISSUER_SECRET: &str = "fairlead-issuer";
const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Between two looks at the Secrets: so long a mended Secret, or one that another replica renewed, goes unnoticed.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The same while there is nothing to sign with yet: everything waits for it.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// For all calls of one look.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A replica loses each race at most once per Secret; more means that something fights us.
const MAX_ROUNDS: usize = 4;

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

/// Why the Secrets gave no authority.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeeperError {
    #[error("cannot {action} Secret {namespace}/{name}: {source}")]
    Api { action: &'static str, namespace: String, name: &'static str, source: Box<kube::Error> },
    #[error("Secret {namespace}/{name}: {problem}; {fix}")]
    Secret { namespace: String, name: &'static str, problem: MaterialError, fix: &'static str },
    #[error(
        "Secret {namespace}/{ROOT_SECRET} is missing while {ISSUER_SECRET} exists; restore it from a backup, or delete {ISSUER_SECRET} too: then a new mesh identity is made, and every pod must be restarted"
    )]
    RootMissing { namespace: String },
    #[error("cannot make a certificate authority: {0}")]
    Make(#[from] MaterialError),
    #[error("Secrets {ROOT_SECRET} and {ISSUER_SECRET} in {namespace} keep changing: is something else writing them?")]
    Contended { namespace: String },
}

const RESTORE_ROOT: &str = "restore it from a backup, or delete it and fairlead-issuer: then a new mesh identity is made, and every pod must be restarted";
const DELETE_ISSUER: &str = "restore it from a backup, or delete it: the operator then makes a new one from the root";

/// See the head of this file.
pub struct Keeper {
    secrets: Api<Secret>,
    namespace: String,
    state: watch::Sender<State>,
}

impl Keeper {
    /// `namespace` is the operator's own.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            state: watch::Sender::new(State::Starting),
        }
    }

    /// Follows the state.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// Settles until stopped.
    pub async fn run(self, stop: CancellationToken) {
        let mut known = None;
        loop {
            match tokio::time::timeout(TIMEOUT, self.settle(known.as_deref(), OffsetDateTime::now_utc())).await {
                Ok(Ok(authority)) => {
                    let authority = Arc::new(authority);
                    self.publish(State::Ready(Arc::clone(&authority)));
                    known = Some(authority);
                }
                Ok(Err(error @ KeeperError::Api { .. })) => {
                    tracing::warn!(%error, "certificate authority not refreshed; going on with what is known");
                }
                Ok(Err(error)) => self.publish(State::Broken(error.to_string())),
                Err(_) => tracing::warn!("certificate authority not refreshed in time; going on with what is known"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(if known.is_some() { INTERVAL } else { FIRST_RETRY }) => (),
            }
        }
    }

    fn publish(&self, next: State) {
        self.state.send_if_modified(|state| {
            let same = match (&*state, &next) {
                (State::Ready(old), State::Ready(new)) => {
                    old.root().certificate_pem() == new.root().certificate_pem()
                        && old.issuer().certificate_pem() == new.issuer().certificate_pem()
                }
                (State::Broken(old), State::Broken(new)) => old == new,
                _ => false,
            };
            if same {
                return false;
            }
            match &next {
                State::Ready(authority) => {
                    tracing::info!(issuer_ends = %authority.issuer().not_after(), "certificate authority loaded");
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

    /// Brings both Secrets to where they should be, and reads them.
    pub(super) async fn settle(
        &self,
        known: Option<&Authority>,
        now: OffsetDateTime,
    ) -> Result<Authority, KeeperError> {
        for _ in 0..MAX_ROUNDS {
            let root = self.get(ROOT_SECRET).await?;
            let issuer = self.get(ISSUER_SECRET).await?;
            match (root, issuer) {
                (Some(root), Some(secret)) => {
                    let root = self.read_root(&root, now)?;
                    let issuer = self.read_issuer(&root, &secret)?;
                    if issuer.needs_renewal(now) && root.not_after() > issuer.not_after() {
                        let renewed = root.new_issuer(&Serial::random()?, now)?;
                        self.replace(secret, &renewed).await?;
                        continue;
                    }
                    issuer.check_validity(now).map_err(|problem| self.issuer_error(problem))?;
                    return Ok(Authority::new(root, issuer));
                }
                (Some(root), None) => {
                    let root = self.read_root(&root, now)?;
                    let issuer = root.new_issuer(&Serial::random()?, now)?;
                    self.create(ISSUER_SECRET, &issuer).await?;
                }
                (None, issuer) => match known {
                    Some(known) => self.create(ROOT_SECRET, known.root()).await?,
                    None if issuer.is_some() => {
                        return Err(KeeperError::RootMissing { namespace: self.namespace.clone() });
                    }
                    None => self.create(ROOT_SECRET, &Material::new_root(&Serial::random()?, now)?).await?,
                },
            }
        }
        Err(KeeperError::Contended { namespace: self.namespace.clone() })
    }

    fn read_root(&self, secret: &Secret, now: OffsetDateTime) -> Result<Material, KeeperError> {
        let error = |problem| KeeperError::Secret {
            namespace: self.namespace.clone(),
            name: ROOT_SECRET,
            problem,
            fix: RESTORE_ROOT,
        };
        let root = material(secret).map_err(error)?;
        root.check_validity(now).map_err(error)?;
        Ok(root)
    }

    fn read_issuer(&self, root: &Material, secret: &Secret) -> Result<Material, KeeperError> {
        let issuer = material(secret).map_err(|problem| self.issuer_error(problem))?;
        root.check_signed(&issuer).map_err(|problem| self.issuer_error(problem))?;
        Ok(issuer)
    }

    fn issuer_error(&self, problem: MaterialError) -> KeeperError {
        KeeperError::Secret { namespace: self.namespace.clone(), name: ISSUER_SECRET, problem, fix: DELETE_ISSUER }
    }

    async fn get(&self, name: &'static str) -> Result<Option<Secret>, KeeperError> {
        self.secrets.get_opt(name).await.map_err(|source| self.api_error("read", name, source))
    }

    /// That someone else was first is no error: the next round reads theirs.
    async fn create(&self, name: &'static str, material: &Material) -> Result<(), KeeperError> {
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "fairlead".to_owned())])),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data(material)),
            ..Secret::default()
        };
        match self.secrets.create(&PostParams::default(), &secret).await {
            Ok(_) => {
                tracing::info!(secret = name, "certificate authority written");
                Ok(())
            }
            Err(error) if is_conflict(&error) => Ok(()),
            Err(source) => Err(self.api_error("create", name, source)),
        }
    }

    /// `secret` carries the version that was read, so that a renewal of another replica is not undone.
    async fn replace(&self, mut secret: Secret, material: &Material) -> Result<(), KeeperError> {
        secret.data = Some(data(material));
        match self.secrets.replace(ISSUER_SECRET, &PostParams::default(), &secret).await {
            Ok(_) => {
                tracing::info!(secret = ISSUER_SECRET, "intermediate renewed");
                Ok(())
            }
            Err(error) if is_conflict(&error) => Ok(()),
            Err(source) => Err(self.api_error("renew", ISSUER_SECRET, source)),
        }
    }

    fn api_error(&self, action: &'static str, name: &'static str, source: kube::Error) -> KeeperError {
        KeeperError::Api { action, namespace: self.namespace.clone(), name, source: Box::new(source) }
    }
}

/// The bundle of the present authority, once there is one; a state that breaks later leaves what is trusted as it is.
pub async fn trust_bundles(
    mut state: watch::Receiver<State>,
    stop: CancellationToken,
) -> Option<watch::Receiver<Arc<TrustBundle>>> {
    let first = loop {
        if let State::Ready(authority) = &*state.borrow_and_update() {
            break authority.trust_bundle();
        }
        tokio::select! {
            () = stop.cancelled() => return None,
            changed = state.changed() => changed.ok()?,
        }
    };
    let (sender, receiver) = watch::channel(Arc::new(first));
    tokio::spawn(async move {
        while state.changed().await.is_ok() {
            if let State::Ready(authority) = &*state.borrow_and_update() {
                let next = authority.trust_bundle();
                sender.send_if_modified(|bundle| {
                    let changed = **bundle != next;
                    if changed {
                        *bundle = Arc::new(next);
                    }
                    changed
                });
            }
        }
    });
    Some(receiver)
}

fn data(material: &Material) -> BTreeMap<String, ByteString> {
    BTreeMap::from([
        (CERTIFICATE.to_owned(), ByteString(material.certificate_pem().into_bytes())),
        (KEY.to_owned(), ByteString(material.key_pem().into_bytes())),
    ])
}

fn material(secret: &Secret) -> Result<Material, MaterialError> {
    let read = |key: &str| secret.data.as_ref().and_then(|data| data.get(key)).map(|value| value.0.as_slice());
    Material::parse(read(CERTIFICATE).ok_or(MaterialError::Certificate)?, read(KEY).ok_or(MaterialError::Key)?)
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

#[cfg(test)]
mod tests {
    use time::Duration as Span;

    use super::super::authority::tests::{authority, now};
    use super::*;
    use crate::fake_api::FakeApi;

    const SECRETS: &str = "/api/v1/namespaces/fairlead-system/secrets";

    fn path(name: &str) -> String {
        format!("{SECRETS}/{name}")
    }

    fn keeper(api: &FakeApi) -> Keeper {
        Keeper::new(api.client(), "fairlead-system")
    }

    fn roots(authority: &Authority) -> Vec<Vec<u8>> {
        authority.trust_bundle().roots
    }

    fn put(api: &FakeApi, name: &str, material: &Material) {
        let secret = Secret {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            data: Some(data(material)),
            ..Secret::default()
        };
        api.put(&path(name), serde_json::to_value(secret).unwrap());
    }

    #[tokio::test]
    async fn a_new_mesh_gets_a_root_and_an_intermediate_that_a_restart_finds_again() {
        let api = FakeApi::default();
        let first = keeper(&api).settle(None, now()).await.unwrap();
        let second = keeper(&api).settle(None, now() + Span::hours(1)).await.unwrap();
        assert_eq!(roots(&first), roots(&second));
        assert_eq!(first.issuer().certificate_pem(), second.issuer().certificate_pem());
        assert_eq!(
            first.trust_bundle().sequence,
            u64::try_from((now() - super::super::authority::BACKDATE).unix_timestamp()).unwrap()
        );
    }

    #[tokio::test]
    async fn of_two_replicas_that_start_together_the_second_takes_the_firsts() {
        let api = FakeApi::default();
        let (one, two) = (keeper(&api), keeper(&api));
        let (one, two) = tokio::join!(one.settle(None, now()), two.settle(None, now()));
        assert_eq!(roots(&one.unwrap()), roots(&two.unwrap()));

        // The other one writes between our look and our write.
        let (api, theirs) = (FakeApi::default(), authority());
        let (secret, at) = (
            serde_json::to_value(Secret { data: Some(data(theirs.root())), ..Secret::default() }).unwrap(),
            path(ROOT_SECRET),
        );
        api.before_next_write(move |api| api.put(&at, secret));
        assert_eq!(roots(&keeper(&api).settle(None, now()).await.unwrap()), roots(&theirs));
    }

    #[tokio::test]
    async fn the_intermediate_is_renewed_in_time_and_also_when_it_is_too_late() {
        for days in [61, 200] {
            let api = FakeApi::default();
            let first = keeper(&api).settle(None, now()).await.unwrap();
            let later = now() + Span::days(days);
            let second = keeper(&api).settle(Some(&first), later).await.unwrap();
            assert_eq!(roots(&first), roots(&second));
            assert_eq!(second.issuer().not_after(), later + super::super::authority::ISSUER_LIFETIME);
        }
        let api = FakeApi::default();
        let first = keeper(&api).settle(None, now()).await.unwrap();
        let second = keeper(&api).settle(None, now() + Span::days(59)).await.unwrap();
        assert_eq!(first.issuer().certificate_pem(), second.issuer().certificate_pem());
    }

    #[tokio::test]
    async fn a_lost_secret_is_restored_from_memory_but_no_second_root_is_made() {
        let api = FakeApi::default();
        let known = keeper(&api).settle(None, now()).await.unwrap();
        api.remove(&path(ROOT_SECRET));
        let error = keeper(&api).settle(None, now()).await.unwrap_err().to_string();
        assert!(error.contains("fairlead-system/fairlead-root is missing"), "{error}");
        let again = keeper(&api).settle(Some(&known), now()).await.unwrap();
        assert_eq!(roots(&known), roots(&again));
        api.remove(&path(ROOT_SECRET));
        api.remove(&path(ISSUER_SECRET));
        assert_eq!(roots(&keeper(&api).settle(Some(&known), now()).await.unwrap()), roots(&known));
    }

    #[tokio::test]
    async fn a_corrupt_secret_is_named_with_its_fix_and_left_as_it_is() {
        let (one, two) = (authority(), authority());
        let mismatch = |one: &Authority, two: &Authority| {
            let mut secret = data(one.issuer());
            secret.insert(KEY.to_owned(), ByteString(two.issuer().key_pem().into_bytes()));
            serde_json::to_value(Secret { data: Some(secret), ..Secret::default() }).unwrap()
        };
        let api = FakeApi::default();
        put(&api, ROOT_SECRET, one.root());
        api.put(&path(ISSUER_SECRET), mismatch(&one, &two));
        let error = keeper(&api).settle(None, now()).await.unwrap_err().to_string();
        assert!(
            error.starts_with("Secret fairlead-system/fairlead-issuer: tls.key does not belong to tls.crt; restore"),
            "{error}"
        );

        put(&api, ISSUER_SECRET, two.issuer());
        let error = keeper(&api).settle(None, now()).await.unwrap_err().to_string();
        assert!(error.contains("not signed by the root"), "{error}");

        put(&api, ISSUER_SECRET, one.issuer());
        api.put(
            &path(ROOT_SECRET),
            serde_json::json!({"data": {"tls.crt": "Z2FyYmFnZQ==", "tls.key": "Z2FyYmFnZQ=="}}),
        );
        let error = keeper(&api).settle(None, now()).await.unwrap_err().to_string();
        assert!(error.contains("fairlead-root: tls.crt is not one certificate"), "{error}");

        put(&api, ROOT_SECRET, one.root());
        let error = keeper(&api).settle(None, now() + Span::days(4000)).await.unwrap_err().to_string();
        assert!(error.contains("fairlead-root: tls.crt expired at"), "{error}");
        assert_eq!(api.writes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_state_breaks_with_the_secret_and_heals_with_it_but_outlives_the_api_server() {
        let api = FakeApi::default();
        let keeper = keeper(&api);
        let mut state = keeper.state();
        let stop = CancellationToken::new();
        let running = tokio::spawn(keeper.run(stop.clone()));
        state.changed().await.unwrap();
        let bundles = trust_bundles(state.clone(), stop.clone()).await.unwrap();
        assert!(state.borrow_and_update().authority().is_ok());

        api.set_down(true);
        tokio::time::sleep(INTERVAL * 3).await;
        assert!(!state.has_changed().unwrap());
        api.set_down(false);

        let good = api.get(&path(ISSUER_SECRET)).unwrap();
        api.put(&path(ISSUER_SECRET), serde_json::json!({"data": {}}));
        state.changed().await.unwrap();
        let error = state.borrow_and_update().authority().unwrap_err();
        assert!(error.contains("fairlead-issuer"), "{error}");

        api.put(&path(ISSUER_SECRET), good);
        state.changed().await.unwrap();
        assert!(state.borrow_and_update().authority().is_ok());
        assert!(!bundles.has_changed().unwrap(), "the same root is trusted all along");
        stop.cancel();
        running.await.unwrap();
    }
}
