//! The keeper against an API server in memory.

use k8s_openapi::ByteString;
use parking_lot::Mutex;
use serde_json::json;
use time::Duration as Span;

use super::super::TrustBundle;
use super::super::authority::tests::{identity, now, parts};
use super::super::material::{BACKDATE, INTERMEDIATE_LIFETIME, Intermediate, Root, RootId, Serial};
use super::super::rotation::{Everyone, Trust};
use super::super::secrets;
use super::*;
use crate::fake_api::FakeApi;

mod delegated;
mod rotation;
mod user;

const SECRETS: &str = "/api/v1/namespaces/fairlead-system/secrets";

fn path(name: &str) -> String {
    format!("{SECRETS}/{name}")
}

/// Whoever there is, as the test says.
#[derive(Default)]
struct Said(Mutex<Option<Everyone>>);

impl Fleet for Said {
    fn everyone(&self) -> Option<Everyone> {
        self.0.lock().clone()
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

/// A replica that does not lead.
fn keeper(api: &FakeApi) -> Keeper {
    with_settings(api, Settings::default())
}

fn with_settings(api: &FakeApi, settings: Settings) -> Keeper {
    let (namespace, follower) = ("fairlead-system", watch::channel(false).1);
    Keeper::new(api.client(), namespace, trust_domain(), settings, None, follower, Arc::new(Said::default()))
}

async fn settle(api: &FakeApi, now: OffsetDateTime) -> Result<(Authority, Standing), KeeperError> {
    keeper(api).settle(now).await
}

fn roots(authority: &Authority) -> &[Vec<u8>] {
    &authority.trust_bundle().roots
}

fn put(api: &FakeApi, name: &str, secret: &Secret) {
    api.put(&path(name), serde_json::to_value(secret).unwrap());
}

fn of_root(root: &Root) -> Secret {
    secrets::new(ROOT_SECRET, secrets::root_data(root))
}

fn of_intermediate(intermediate: &Intermediate, root: &Root) -> Secret {
    secrets::new(ISSUER_SECRET, secrets::intermediate_data(intermediate, root))
}

/// What `kubectl annotate --overwrite` does.
fn annotate(api: &FakeApi, name: &str, annotation: &str, value: &str) {
    let mut secret = api.get(&path(name)).unwrap();
    secret["metadata"]["annotations"][annotation] = json!(value);
    api.put(&path(name), secret);
}

#[tokio::test]
async fn a_new_mesh_gets_a_root_and_an_intermediate_that_a_restart_finds_again() {
    let api = FakeApi::default();
    let (first, _) = settle(&api, now()).await.unwrap();
    let (second, _) = settle(&api, now() + Span::hours(1)).await.unwrap();
    assert_eq!(first.trust_bundle(), second.trust_bundle());
    assert_eq!(first.intermediate().unwrap().chain(), second.intermediate().unwrap().chain());
    assert_eq!(first.trust_bundle().sequence, u64::try_from((now() - BACKDATE).unix_timestamp()).unwrap());
}

#[tokio::test]
async fn leaves_last_as_long_as_the_settings_say_under_the_same_authority() {
    let (api, settings) = (FakeApi::default(), |minutes: u64| Settings {
        certificate_lifetime: std::time::Duration::from_secs(minutes * 60),
        ..Settings::default()
    });
    let key = super::super::authority::public_key_of(&rcgen::KeyPair::generate().unwrap()).unwrap();
    for minutes in [1440, 10, 60] {
        let (authority, _) = with_settings(&api, settings(minutes)).settle(now()).await.unwrap();
        let leaf = authority.issue(&key, &identity(), &[], &Serial::random().unwrap(), now()).unwrap();
        assert_eq!(leaf.not_after, now() + Span::minutes(minutes.try_into().unwrap()));
    }
    assert_eq!(api.writes(), 2, "root and intermediate, once");
}

#[tokio::test]
async fn of_two_replicas_that_start_together_the_second_takes_the_firsts() {
    let api = FakeApi::default();
    let (one, two) = tokio::join!(settle(&api, now()), settle(&api, now()));
    assert_eq!(roots(&one.unwrap().0), roots(&two.unwrap().0));

    // The other one writes between our look and our write.
    let (api, (theirs, _)) = (FakeApi::default(), parts());
    let (secret, at) = (serde_json::to_value(of_root(&theirs)).unwrap(), path(ROOT_SECRET));
    api.before_next_write(move |api| api.put(&at, secret));
    assert_eq!(roots(&settle(&api, now()).await.unwrap().0), [theirs.certificate().to_vec()]);
}

#[tokio::test]
async fn the_intermediate_is_renewed_at_half_of_its_life_and_also_when_it_is_too_late() {
    for days in [46, 200] {
        let api = FakeApi::default();
        let (first, _) = settle(&api, now()).await.unwrap();
        let later = now() + Span::days(days);
        let (second, _) = settle(&api, later).await.unwrap();
        assert_eq!(first.trust_bundle(), second.trust_bundle());
        assert_eq!(second.intermediate().unwrap().validity.not_after, later + INTERMEDIATE_LIFETIME);
        assert_eq!(first.leaves(), second.leaves(), "leaves of the former one go on");
    }
    let api = FakeApi::default();
    let (first, _) = settle(&api, now()).await.unwrap();
    let (second, _) = settle(&api, now() + Span::days(44)).await.unwrap();
    assert_eq!(first.intermediate().unwrap().chain(), second.intermediate().unwrap().chain());
}

#[tokio::test]
async fn intermediate_and_leaves_are_renewed_once_for_each_request() {
    let api = FakeApi::default();
    let (first, _) = settle(&api, now()).await.unwrap();
    annotate(&api, ISSUER_SECRET, ROTATE_LEAVES, "1");
    let asked = now() + Span::hours(1);
    let (leaves, _) = settle(&api, asked).await.unwrap();
    assert_eq!(leaves.intermediate().unwrap().chain(), first.intermediate().unwrap().chain());
    assert_eq!(leaves.leaves().since, asked);
    let (again, _) = settle(&api, asked + Span::hours(1)).await.unwrap();
    assert_eq!(again.leaves(), leaves.leaves());

    annotate(&api, ISSUER_SECRET, ROTATE_ISSUER, "1");
    let asked = now() + Span::hours(3);
    let (issuer, _) = settle(&api, asked).await.unwrap();
    assert_ne!(issuer.intermediate().unwrap().chain(), first.intermediate().unwrap().chain());
    assert_eq!(issuer.leaves().since, asked, "leaves follow: a key that may be known has signed them");
    assert_eq!(issuer.trust_bundle(), first.trust_bundle());
    let (again, _) = settle(&api, asked + Span::hours(1)).await.unwrap();
    assert_eq!(
        (again.intermediate().unwrap().chain(), again.leaves()),
        (issuer.intermediate().unwrap().chain(), issuer.leaves())
    );
}

#[tokio::test]
async fn a_lost_secret_is_restored_from_memory_but_no_second_root_is_made() {
    let api = FakeApi::default();
    let mut keeper = keeper(&api);
    let (known, _) = keeper.settle(now()).await.unwrap();
    api.remove(&path(ROOT_SECRET));
    let error = settle(&api, now()).await.unwrap_err().to_string();
    assert!(error.contains("fairlead-system/fairlead-root is missing"), "{error}");
    assert_eq!(roots(&keeper.settle(now()).await.unwrap().0), roots(&known));
    api.remove(&path(ROOT_SECRET));
    api.remove(&path(ISSUER_SECRET));
    assert_eq!(roots(&keeper.settle(now()).await.unwrap().0), roots(&known));
}

#[tokio::test]
async fn a_corrupt_secret_is_named_with_its_fix_and_left_as_it_is() {
    let ((root, intermediate), (other_root, other)) = (parts(), parts());
    let api = FakeApi::default();
    put(&api, ROOT_SECRET, &of_root(&root));
    let mut mismatch = of_intermediate(&intermediate, &root);
    mismatch.data.as_mut().unwrap().insert("tls.key".into(), ByteString(other.key_pem().into_bytes()));
    put(&api, ISSUER_SECRET, &mismatch);
    let error = settle(&api, now()).await.unwrap_err().to_string();
    assert!(
        error.starts_with("Secret fairlead-system/fairlead-issuer: tls.key does not belong to tls.crt; restore"),
        "{error}"
    );

    put(&api, ISSUER_SECRET, &of_intermediate(&other, &other_root));
    let error = settle(&api, now()).await.unwrap_err().to_string();
    assert!(error.contains("not signed by the root"), "{error}");

    put(&api, ISSUER_SECRET, &of_intermediate(&intermediate, &root));
    api.put(&path(ROOT_SECRET), json!({"data": {"tls.crt": "Z2FyYmFnZQ==", "tls.key": "Z2FyYmFnZQ=="}}));
    let error = settle(&api, now()).await.unwrap_err().to_string();
    assert!(error.contains("fairlead-root: tls.crt is not one certificate"), "{error}");

    put(&api, ROOT_SECRET, &of_root(&root));
    let error = settle(&api, now() + Span::days(4000)).await.unwrap_err().to_string();
    assert!(error.contains("fairlead-root: tls.crt expired at"), "{error}");
    // A clock that is minutes behind, or was when the Secret was made.
    let error = settle(&api, now() - Span::minutes(10)).await.unwrap_err().to_string();
    assert!(error.contains("check this machine's clock"), "{error}");

    annotate(&api, ROOT_SECRET, ROTATION, "{");
    let error = settle(&api, now()).await.unwrap_err().to_string();
    assert!(error.contains("annotation fairlead.dev/rotation is damaged; remove it"), "{error}");
    assert_eq!(api.writes(), 0);
}

#[tokio::test]
async fn what_runs_out_is_complained_of_days_before() {
    let api = FakeApi::default();
    let (root, intermediate) = parts();
    // The root cannot sign a successor.
    let mut without_key = of_root(&root);
    without_key.data.as_mut().unwrap().insert("tls.key".into(), ByteString(Vec::new()));
    put(&api, ROOT_SECRET, &without_key);
    put(&api, ISSUER_SECRET, &of_intermediate(&intermediate, &root));
    let (_, early) = settle(&api, now() + Span::days(60)).await.unwrap();
    assert!(early.complaints.is_empty(), "{:?}", early.complaints);
    let (_, late) = settle(&api, now() + Span::days(64)).await.unwrap();
    let [complaint] = late.complaints.as_slice() else { panic!("{:?}", late.complaints) };
    assert_eq!((complaint.reason, complaint.secret), ("Expiring", ISSUER_SECRET));
    assert!(complaint.sentence.contains("fairlead-ca"), "{}", complaint.sentence);
}

#[tokio::test(start_paused = true)]
async fn the_state_breaks_with_the_secret_and_heals_with_it_but_outlives_the_api_server() {
    let api = FakeApi::default();
    let keeper = keeper(&api);
    let mut state = keeper.state();
    let stop = CancellationToken::new();
    let running = tokio::spawn(keeper.run(stop.clone()));
    state.changed().await.unwrap();
    let published = published(state.clone(), stop.clone()).await.unwrap();
    assert!(state.borrow_and_update().authority().is_ok());

    api.set_down(true);
    tokio::time::sleep(INTERVAL * 3).await;
    assert!(!state.has_changed().unwrap());
    api.set_down(false);

    let good = api.get(&path(ISSUER_SECRET)).unwrap();
    api.put(&path(ISSUER_SECRET), json!({"data": {}}));
    state.changed().await.unwrap();
    let error = state.borrow_and_update().authority().unwrap_err();
    assert!(error.contains("fairlead-issuer"), "{error}");

    api.put(&path(ISSUER_SECRET), good);
    state.changed().await.unwrap();
    assert!(state.borrow_and_update().authority().is_ok());
    assert!(!published.bundles.has_changed().unwrap(), "the same root is trusted all along");
    stop.cancel();
    running.await.unwrap();
}
