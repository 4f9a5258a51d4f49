//! The stream and the certificate service, over real connections to an operator that a test plays.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_proxy_api::v1::{self, operator_message, proxy_message, resource::Body};
use proxy_message::Kind::{Acknowledge, Hello, Refuse, Report, Subscribe, Unsubscribe};
use tokio::{sync::watch, task::JoinHandle};

use super::{
    persist::StateDir,
    stream::{self, Connection, Store, Stream},
    testing::{FakeOperator, OPERATOR, OWN},
    *,
};
use crate::{
    identity::{
        Identity, SpiffeId, TrustBundle,
        certify::CertifyError,
        renew,
        testing::{Authority, domain, id},
    },
    inbound::policy::Plain,
    route::{Destination, Handle},
};

/// A proxy's control side.
struct Proxy {
    store: Store,
    state: StateDir,
    connection: watch::Sender<Connection>,
    tasks: [JoinHandle<()>; 2],
}

impl Proxy {
    /// As `main` does it: from the state directory, or with a certificate from the operator.
    async fn start(operator: &FakeOperator, state: &std::path::Path) -> Self {
        let own: SpiffeId = id(OWN);
        let state = StateDir::new(state.to_owned());
        let restored = state.load(&own, SystemTime::now());
        let (leaf, bundle) = if let Some(found) = restored.identity {
            found
        } else {
            let issued = operator.certifier().certify(None).await.unwrap();
            state.write_identity(&issued.leaf, &issued.bundle).unwrap();
            (issued.leaf, issued.bundle)
        };
        let store = Store {
            identity: Arc::new(Identity::new(domain(), leaf, bundle).unwrap()),
            workload: Arc::default(),
            destinations: Arc::default(),
            telemetry: Arc::default(),
            metrics: Metrics::default(),
        };
        store.restore(restored.workload, restored.destinations);
        let (connection, _) = watch::channel(Connection::Away { reason: String::new() });
        let stream = Stream {
            operator: operator.operator(),
            hello: v1::Hello { pod_namespace: "bookinfo".into(), pod_name: "reviews-1".into(), ..Default::default() },
        };
        let following = tokio::spawn({
            let (store, state, connection) = (store.clone(), state.clone(), connection.clone());
            async move { stream::run(&stream, &store, &state, &connection, || 0.0).await }
        });
        let renewing = tokio::spawn({
            let (identity, certifier) = (store.identity.clone(), operator.certifier());
            let issue = async move |known: Option<Arc<TrustBundle>>| certifier.certify(known.as_deref()).await;
            async move { renew::keep(&identity, issue, SystemTime::now, || 0.5).await }
        });
        Self { store, state, connection, tasks: [following, renewing] }
    }

    async fn connected(&self, connected: bool) {
        let mut connection = self.connection.subscribe();
        let wait = connection.wait_for(|now| (*now == Connection::Connected) == connected);
        tokio::time::timeout(Duration::from_secs(10), wait).await.unwrap().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, n], 9080))
}

fn resource(name: v1::ResourceName, version: &str, body: Body) -> operator_message::Kind {
    operator_message::Kind::Resource(v1::Resource { name: Some(name), version: version.into(), body: Some(body) })
}

fn workload(version: &str, mode: v1::MtlsMode) -> operator_message::Kind {
    let workload = v1::Workload { mtls: mode.into(), ..Default::default() };
    resource(workload_name(), version, Body::Workload(workload))
}

fn pod(n: u8, version: &str) -> operator_message::Kind {
    let endpoint = v1::Endpoint { ip: vec![10, 0, 0, n], port: 9080, ..Default::default() };
    let destination = v1::Destination { kind: Some(v1::destination::Kind::Pod(endpoint)) };
    resource(destination_name(address(n)), version, Body::Destination(destination))
}

fn subscription(name: v1::ResourceName, have: &str) -> proxy_message::Kind {
    Subscribe(v1::Subscribe { name: Some(name), have_version: have.into() })
}

fn acknowledged(name: v1::ResourceName, version: &str) -> proxy_message::Kind {
    Acknowledge(v1::Acknowledge { name: Some(name), version: version.into() })
}

async fn expect_hello(operator: &mut FakeOperator) {
    let Hello(hello) = operator.next().await else {
        panic!("the first message of a stream is Hello");
    };
    assert_eq!(hello.pod_name, "reviews-1");
}

fn is_pod(handle: &Handle) -> bool {
    matches!(**handle.load(), Destination::Pod(_))
}

#[tokio::test]
async fn what_is_subscribed_is_applied_and_acknowledged_or_refused() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    assert_eq!(operator.next().await, subscription(workload_name(), ""));

    assert!(!*proxy.store.workload.known().borrow());
    operator.say(workload("w1", v1::MtlsMode::Permissive)).await;
    assert_eq!(operator.next().await, acknowledged(workload_name(), "w1"));
    assert!(*proxy.store.workload.known().borrow());
    let handle = proxy.store.workload.handle();
    assert!(matches!(handle.load().plain(9080), Plain::Accept));

    // What does not compile is refused with a reason, and what was there stays.
    operator.say(workload("w2", v1::MtlsMode::Unspecified)).await;
    let Refuse(refused) = operator.next().await else { panic!("expected a refusal") };
    assert_eq!((refused.version.as_str(), refused.reason.is_empty()), ("w2", false));
    assert!(matches!(handle.load().plain(9080), Plain::Accept));
    operator.say(workload("w3", v1::MtlsMode::Strict)).await;
    assert_eq!(operator.next().await, acknowledged(workload_name(), "w3"));
    assert!(matches!(handle.load().plain(9080), Plain::Refuse));

    // A destination is asked for when somebody dials it, and follows later versions.
    let dial = tokio::spawn({
        let destinations = proxy.store.destinations.clone();
        async move { destinations.get(address(1)).await }
    });
    assert_eq!(operator.next().await, subscription(destination_name(address(1)), ""));
    operator.say(pod(1, "d1")).await;
    let handle = dial.await.unwrap();
    assert!(is_pod(&handle));
    assert_eq!(operator.next().await, acknowledged(destination_name(address(1)), "d1"));
    let pass = v1::Destination { kind: Some(v1::destination::Kind::PassThrough(v1::PassThrough {})) };
    operator.say(resource(destination_name(address(1)), "d2", Body::Destination(pass))).await;
    assert_eq!(operator.next().await, acknowledged(destination_name(address(1)), "d2"));
    assert!(!is_pod(&handle));

    // A body of another kind than the name, and a destination that nobody asked for.
    let wrong = Body::Workload(v1::Workload::default());
    operator.say(resource(destination_name(address(1)), "d3", wrong)).await;
    assert!(matches!(operator.next().await, Refuse(_)));
    operator.say(pod(9, "x")).await;
    assert!(operator.silence(Duration::from_millis(200)).await);
    assert_eq!(proxy.store.destinations.len(), 1);
    assert_eq!(proxy.store.metrics.refused.get(), 2);
}

#[tokio::test]
async fn after_an_outage_it_resumes_with_the_versions_it_has() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    operator.next().await;
    operator.say(workload("w1", v1::MtlsMode::Permissive)).await;
    operator.next().await;
    let dial = tokio::spawn({
        let destinations = proxy.store.destinations.clone();
        async move { destinations.get(address(1)).await }
    });
    operator.next().await;
    operator.say(pod(1, "d1")).await;
    operator.next().await;
    let handle = dial.await.unwrap();
    let group = proxy.store.telemetry.groups.get(&"step/canary".into()).unwrap();
    group.count(true, None);
    let Report(report) = operator.next().await else { panic!("expected a report") };
    assert_eq!((report.groups[0].requests, report.groups[0].failures), (1, 1));

    operator.stop().await;
    proxy.connected(false).await;
    assert!(is_pod(&handle), "what is known stays in use");
    assert!(is_pod(&proxy.store.destinations.get(address(1)).await));

    operator.resume().await;
    expect_hello(&mut operator).await;
    let mut resumed = vec![operator.next().await, operator.next().await];
    resumed.sort_by_key(|message| format!("{message:?}"));
    let mut expected = vec![subscription(workload_name(), "w1"), subscription(destination_name(address(1)), "d1")];
    expected.sort_by_key(|message| format!("{message:?}"));
    assert_eq!(resumed, expected);
    // Another replica knows nothing of what was reported before.
    let Report(report) = operator.next().await else { panic!("expected a report") };
    assert_eq!(report.groups[0].requests, 1);
    operator.say(workload("w2", v1::MtlsMode::Strict)).await;
    assert_eq!(operator.next().await, acknowledged(workload_name(), "w2"));
}

#[tokio::test]
async fn plain_callers_are_told_and_those_who_stay_again_to_another_replica() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    operator.next().await;
    let callers = &proxy.store.telemetry.plain_callers;
    let _stays = callers.begin([10, 0, 0, 1].into());
    drop(callers.begin([10, 0, 0, 2].into()));
    let Report(report) = operator.next().await else { panic!("expected a report") };
    assert_eq!(report.plain_callers, [[10, 0, 0, 1], [10, 0, 0, 2]]);
    operator.stop().await;
    proxy.connected(false).await;
    operator.resume().await;
    expect_hello(&mut operator).await;
    operator.next().await;
    let Report(report) = operator.next().await else { panic!("expected a report") };
    assert_eq!(report.plain_callers, [[10, 0, 0, 1]]);
}

#[tokio::test]
async fn a_container_that_restarts_alone_serves_what_it_knew_without_the_operator() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    operator.next().await;
    operator.say(workload("w1", v1::MtlsMode::Permissive)).await;
    operator.next().await;
    let dial = tokio::spawn({
        let destinations = proxy.store.destinations.clone();
        async move { destinations.get(address(1)).await }
    });
    operator.next().await;
    operator.say(pod(1, "d1")).await;
    operator.next().await;
    drop(dial.await.unwrap());
    let before = proxy.store.identity.leaf().chain().to_vec();
    operator.stop().await;
    proxy.connected(false).await;
    let saved = proxy.state.clone();
    drop(proxy);
    assert_eq!(saved.load(&id(OWN), SystemTime::now()).destinations.len(), 1);

    let proxy = Proxy::start(&operator, state.path()).await;
    assert_eq!(proxy.store.identity.leaf().chain(), before);
    assert!(*proxy.store.workload.known().borrow());
    assert!(matches!(proxy.store.workload.handle().load().plain(9080), Plain::Accept));
    let begun = tokio::time::Instant::now();
    assert!(is_pod(&proxy.store.destinations.get(address(1)).await));
    assert!(begun.elapsed() < Duration::from_millis(100), "nobody waits for what is known");

    operator.resume().await;
    expect_hello(&mut operator).await;
    assert_eq!(operator.next().await, subscription(workload_name(), "w1"));
    assert_eq!(operator.next().await, subscription(destination_name(address(1)), "d1"));
}

#[tokio::test]
async fn a_pushed_bundle_is_used_from_then_on_and_an_older_one_is_not() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    let new = Authority::new();
    let both = TrustBundle::new(5, vec![operator.authority.root_der().into(), new.root_der().into()]).unwrap();
    let mut changes = proxy.store.identity.changes();
    operator.say(operator_message::Kind::TrustBundle(both.to_proto())).await;
    changes.wait_for(|change| change.bundles == 2).await.unwrap();
    assert_eq!(proxy.store.identity.bundle().anchors(), both.anchors());

    let empty = v1::TrustBundle { sequence: 6, ..Default::default() };
    operator.say(operator_message::Kind::TrustBundle(empty)).await;
    let older = new.bundle(4).to_proto();
    operator.say(operator_message::Kind::TrustBundle(older)).await;
    // Answered after both were read.
    operator.next().await;
    operator.say(workload("w1", v1::MtlsMode::Strict)).await;
    assert_eq!(operator.next().await, acknowledged(workload_name(), "w1"));
    assert_eq!(proxy.store.identity.bundle().sequence(), 5);
}

#[tokio::test]
async fn it_says_which_bundle_it_trusts_and_under_which_root_its_certificate_is() {
    use ring::digest::{SHA256, digest};
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    let own_root = digest(&SHA256, &operator.authority.root_der()).as_ref().to_vec();
    let first = operator.trusted(|trust| trust.sequence == 1).await;
    assert_eq!(first.leaf_roots.as_slice(), std::slice::from_ref(&own_root));
    let begins = proxy.store.identity.leaf().claims().not_before;
    assert_eq!(first.leaf_not_before, begins.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().cast_signed());

    let new = Authority::new();
    let both = TrustBundle::new(5, vec![new.root_der().into(), operator.authority.root_der().into()]).unwrap();
    operator.say(operator_message::Kind::TrustBundle(both.to_proto())).await;
    let second = operator.trusted(|trust| trust.sequence == 5).await;
    assert_eq!(second.leaf_roots, [own_root], "a root that is trusted is not one that the leaf leads to");

    // Asked for a new certificate, it comes back with one on a stream of its own.
    let before = proxy.store.identity.leaf().chain()[0].clone();
    operator.say(operator_message::Kind::Renew(v1::Renew { within_seconds: 0 })).await;
    operator.next().await;
    expect_hello(&mut operator).await;
    operator.trusted(|trust| trust.sequence == 5).await;
    assert_ne!(proxy.store.identity.leaf().chain()[0], before);
}

#[tokio::test]
async fn a_destination_that_is_forgotten_is_unsubscribed() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    operator.next().await;
    for n in 0..=MAX_DESTINATIONS as u16 {
        let some = SocketAddr::from(([10, 1, (n >> 8) as u8, n as u8], 80));
        proxy
            .store
            .destinations
            .restore(some, "1", v1::Destination { kind: Some(v1::destination::Kind::PassThrough(v1::PassThrough {})) })
            .unwrap();
    }
    // The map is full, so one has to go for this one.
    let destinations = proxy.store.destinations.clone();
    let dial = tokio::spawn(async move { destinations.get(address(1)).await });
    let (mut subscribed, mut unsubscribed) = (0, 0);
    while subscribed - unsubscribed < MAX_DESTINATIONS {
        match operator.next().await {
            Subscribe(subscribe) => {
                subscribed += 1;
                if subscribe.name == Some(destination_name(address(1))) {
                    operator.say(pod(1, "d1")).await;
                }
            }
            Unsubscribe(_) => unsubscribed += 1,
            Acknowledge(_) => {}
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert!(is_pod(&dial.await.unwrap()));
    assert_eq!(proxy.store.destinations.len(), MAX_DESTINATIONS);
}

#[tokio::test]
async fn a_renewed_certificate_gets_a_stream_of_its_own() {
    let mut operator = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&operator, state.path()).await;
    expect_hello(&mut operator).await;
    operator.next().await;
    let issued = operator.certifier().certify(Some(&proxy.store.identity.bundle())).await.unwrap();
    proxy.store.identity.install(issued).unwrap();
    expect_hello(&mut operator).await;
}

#[tokio::test]
async fn an_operator_that_was_installed_anew_is_followed() {
    let mut gone = FakeOperator::start().await;
    let state = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&gone, state.path()).await;
    expect_hello(&mut gone).await;
    gone.say(operator_message::Kind::TrustBundle(gone.authority.bundle(9).to_proto())).await;
    proxy.store.identity.changes().wait_for(|change| change.bundles == 2).await.unwrap();
    gone.stop().await;

    // Another root, counted from 1 again; the kubelet has brought it into the pod.
    let mut anew = FakeOperator::start_with(OPERATOR, gone.address, None).await;
    std::fs::copy(anew.file("ca.crt"), gone.file("ca.crt")).unwrap();
    expect_hello(&mut anew).await;
    assert_eq!(proxy.store.identity.bundle().anchors(), anew.authority.bundle(1).anchors());
}

#[tokio::test]
async fn a_token_that_is_refused_gives_no_certificate_and_says_why() {
    let operator = FakeOperator::start().await;
    std::fs::write(operator.file("token"), "other.pod.token").unwrap();
    let error = operator.certifier().certify(None).await.unwrap_err();
    let CertifyError::Refused { status, .. } = &error else { panic!("{error}") };
    assert_eq!(status.code(), tonic::Code::Unauthenticated);
    assert!(error.to_string().contains(OWN), "{error}");
    for junk in ["", "not a token", "two.parts", "a.b.c\r\nx: y"] {
        std::fs::write(operator.file("token"), junk).unwrap();
        let error = operator.certifier().certify(None).await.unwrap_err();
        assert!(matches!(error, CertifyError::Token(_)), "{error}");
    }
    std::fs::remove_file(operator.file("token")).unwrap();
    let error = operator.certifier().certify(None).await.unwrap_err();
    assert!(error.to_string().contains("token"), "{error}");
}

#[tokio::test]
async fn the_token_is_shown_to_nobody_but_the_operator() {
    let impostor = FakeOperator::start_with(OWN, SocketAddr::from(([127, 0, 0, 1], 0)), None).await;
    let error = impostor.certifier().certify(None).await.unwrap_err();
    assert!(error.to_string().contains("fairlead-operator"), "{error}");

    let operator = FakeOperator::start().await;
    std::fs::write(operator.file("ca.crt"), Authority::new().root_pem()).unwrap();
    let error = operator.certifier().certify(None).await.unwrap_err();
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");
    // The bundle that was pushed is as good as the mounted one.
    let pushed = operator.authority.bundle(2);
    operator.certifier().certify(Some(&pushed)).await.unwrap();
}

#[tokio::test]
async fn an_operator_that_is_not_there_is_named() {
    let mut operator = FakeOperator::start().await;
    operator.stop().await;
    let error = operator.certifier().certify(None).await.unwrap_err();
    assert!(error.to_string().contains(&operator.address.to_string()), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
}

#[test]
fn addresses_have_one_form_on_the_wire() {
    for text in ["10.0.0.1:80", "[fd00::1]:65535"] {
        let address: SocketAddr = text.parse().unwrap();
        assert_eq!(from_proto(&to_proto(address)), Some(address));
    }
    for bad in [
        v1::Address { ip: vec![1, 2, 3], port: 80 },
        v1::Address { ip: vec![10, 0, 0, 1], port: 65536 },
        v1::Address::default(),
    ] {
        assert_eq!(from_proto(&bad), None);
    }
}
