//! Conversations over loopback: who may have one, and what ends it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fairlead_proxy_api::v1::config_client::ConfigClient;
use fairlead_proxy_api::v1::config_server::ConfigServer;
use fairlead_proxy_api::v1::{self, operator_message, proxy_message};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request, Status, Streaming};

use crate::ca::authority::{Leaves, RootId};
use crate::ca::keeper::Published;
use crate::ca::{PeerIdentity, TrustBundle};
use crate::config::{ConfigService, Metrics, Registry};
use crate::index::Index;
use crate::index::tests::build::*;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

struct World {
    index: Arc<Index>,
    registry: Arc<Registry>,
    bundles: watch::Sender<Arc<TrustBundle>>,
    leaves: watch::Sender<Leaves>,
    shutdown: CancellationToken,
    address: std::net::SocketAddr,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A server that takes every caller for `identity`.
async fn world(identity: Option<&str>) -> World {
    let index = Arc::new(index());
    web(&index);
    index.set_ready();
    let registry = Arc::new(Registry::default());
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
    let bundle = TrustBundle { sequence: 1, roots: vec![vec![1, 2, 3]], foreign: BTreeMap::new() };
    let (bundles, receiver) = watch::channel(Arc::new(bundle));
    let shutdown = CancellationToken::new();
    let (leaves, required) =
        watch::channel(Leaves { roots: vec![RootId::of(b"root")], since: OffsetDateTime::UNIX_EPOCH });
    let published = Published { bundles: receiver, leaves: required };
    let service = ConfigService::new(index.clone(), registry.clone(), metrics, published, shutdown.clone());
    let peer = identity.map(|id| PeerIdentity(id.parse().unwrap()));
    let service = ConfigServer::with_interceptor(service, move |mut request: Request<()>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        Ok(request)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = shutdown.clone().cancelled_owned();
    tokio::spawn(
        Server::builder().add_service(service).serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop),
    );
    World { index, registry, bundles, leaves, shutdown, address }
}

/// A proxy's end of a stream.
struct Proxy {
    say: mpsc::Sender<v1::ProxyMessage>,
    hear: Streaming<v1::OperatorMessage>,
}

fn hello(pod: &str) -> proxy_message::Kind {
    proxy_message::Kind::Hello(v1::Hello {
        pod_namespace: NS.into(),
        pod_name: pod.into(),
        pod_uid: format!("uid-{pod}"),
        proxy_version: "1".into(),
        instance: "i".into(),
    })
}

impl World {
    async fn open(&self, first: proxy_message::Kind) -> Proxy {
        let channel = Channel::from_shared(format!("http://{}", self.address));
        let channel = channel.unwrap().connect().await.unwrap();
        let (say, messages) = mpsc::channel(16);
        let messages = ReceiverStream::new(messages);
        let answer = ConfigClient::new(channel).stream(messages).await.unwrap();
        let hear = answer.into_inner();
        let proxy = Proxy { say, hear };
        proxy.say(first).await;
        proxy
    }
}

impl Proxy {
    async fn say(&self, kind: proxy_message::Kind) {
        let message = v1::ProxyMessage { kind: Some(kind) };
        self.say.send(message).await.unwrap();
    }

    async fn hear(&mut self) -> Result<operator_message::Kind, Status> {
        let message = tokio::time::timeout(Duration::from_secs(10), self.hear.message());
        let message = message.await.expect("an answer in time")?;
        Ok(message.expect("the stream goes on").kind.unwrap())
    }

    async fn bundle(&mut self) -> u64 {
        match self.hear().await.unwrap() {
            operator_message::Kind::TrustBundle(bundle) => bundle.sequence,
            other => panic!("{other:?}"),
        }
    }

    async fn resource(&mut self) -> v1::Resource {
        match self.hear().await.unwrap() {
            operator_message::Kind::Resource(resource) => resource,
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe_own(&self) {
        let kind = Some(v1::resource_name::Kind::Workload(v1::OwnWorkload {}));
        self.say(proxy_message::Kind::Subscribe(v1::Subscribe {
            name: Some(v1::ResourceName { kind }),
            have_version: String::new(),
        }))
        .await;
    }

    /// How the stream ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.hear().await {
                return status;
            }
        }
    }
}

#[tokio::test]
async fn a_proxy_hears_of_its_workload_and_of_each_change() {
    let world = world(Some(WEB)).await;
    let mut proxy = world.open(hello("web-1-a")).await;
    assert_eq!(proxy.bundle().await, 1);
    proxy.subscribe_own().await;
    let mode = |resource: v1::Resource| match resource.body {
        Some(v1::resource::Body::Workload(workload)) => workload.mtls(),
        other => panic!("{other:?}"),
    };
    assert_eq!(mode(proxy.resource().await), v1::MtlsMode::Permissive);
    world.index.apply(peer_auth(NS, "s", json!({"mtls": {"mode": "Strict"}})));
    world.index.flush();
    assert_eq!(mode(proxy.resource().await), v1::MtlsMode::Strict);
    assert_eq!(world.registry.streams(), 1);
    let next = TrustBundle { sequence: 2, roots: vec![vec![4]], foreign: BTreeMap::new() };
    world.bundles.send_replace(Arc::new(next));
    assert_eq!(proxy.bundle().await, 2);
}

#[tokio::test]
async fn a_proxy_is_asked_once_to_renew_a_certificate_that_is_not_what_it_should_be() {
    let world = world(Some(WEB)).await;
    let mut proxy = world.open(hello("web-1-a")).await;
    proxy.bundle().await;
    let trust = |root: &[u8]| {
        let leaf_roots = vec![RootId::of(root).as_bytes().to_vec()];
        proxy_message::Kind::Trust(v1::Trust { sequence: 1, leaf_roots, leaf_not_before: 1_800_000_000 })
    };
    proxy.say(trust(b"root")).await;
    proxy.subscribe_own().await;
    proxy.resource().await;
    let said = world.registry.trust().0;
    assert_eq!(said[&name("web-1-a")].leaf_roots, [RootId::of(b"root")]);

    let renew = |kind: operator_message::Kind| match kind {
        operator_message::Kind::Renew(renew) => renew.within_seconds,
        other => panic!("{other:?}"),
    };
    world.leaves.send_modify(|leaves| leaves.roots = vec![RootId::of(b"another")]);
    assert_eq!(renew(proxy.hear().await.unwrap()), 1);
    // What it says before it has the new one does not have it asked again.
    proxy.say(trust(b"root")).await;
    proxy.subscribe_own().await;
    proxy.resource().await;
    world.leaves.send_modify(|leaves| leaves.since = OffsetDateTime::from_unix_timestamp(1_900_000_000).unwrap());
    assert_eq!(renew(proxy.hear().await.unwrap()), 1);
    proxy.say(trust(b"another")).await;
    for since in [OffsetDateTime::UNIX_EPOCH, OffsetDateTime::UNIX_EPOCH + time::Duration::HOUR] {
        proxy.subscribe_own().await;
        proxy.resource().await;
        world.leaves.send_modify(|leaves| leaves.since = since);
    }
    proxy.subscribe_own().await;
    proxy.resource().await;
}

#[tokio::test]
async fn nobody_gets_a_pods_configuration_but_the_pod() {
    let cases = [
        (None, "web-1-a", "uid-web-1-a", Code::Unauthenticated, "mutual TLS"),
        (
            Some("spiffe://cluster.local/ns/evil/sa/web"),
            "web-1-a",
            "uid-web-1-a",
            Code::PermissionDenied,
            "may not speak for",
        ),
        (Some("spiffe://cluster.local/ns/shop/sa/cart"), "web-1-a", "uid-web-1-a", Code::PermissionDenied, "identity"),
    ];
    for (identity, pod, uid, code, sentence) in cases {
        let world = world(identity).await;
        let mut hello = hello(pod);
        if let proxy_message::Kind::Hello(hello) = &mut hello {
            hello.pod_uid = uid.into();
        }
        let status = world.open(hello).await.end().await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(sentence), "{status:?}");
        assert_eq!(world.registry.streams(), 0);
    }
}

#[tokio::test]
async fn a_pod_that_is_not_known_in_time_is_refused() {
    let world = world(Some(WEB)).await;
    let mut again = hello("web-1-a");
    if let proxy_message::Kind::Hello(hello) = &mut again {
        hello.pod_uid = "of the pod before".into();
    }
    let status = world.open(again).await.end().await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("does not exist"), "{status:?}");
}

#[tokio::test]
async fn a_pod_that_the_index_hears_of_a_little_later_is_let_in() {
    let world = world(Some(WEB)).await;
    let mut proxy = world.open(hello("web-1-new")).await;
    world.index.apply(pod("web-1-new", "10.0.0.7").build());
    world.index.flush();
    assert_eq!(proxy.bundle().await, 1);
}

#[tokio::test]
async fn the_first_message_is_hello() {
    let world = world(Some(WEB)).await;
    let report = proxy_message::Kind::Report(v1::Report::default());
    let status = world.open(report).await.end().await;
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_newer_stream_of_a_pod_ends_the_older() {
    let world = world(Some(WEB)).await;
    let mut first = world.open(hello("web-1-a")).await;
    first.bundle().await;
    let mut second = world.open(hello("web-1-a")).await;
    second.bundle().await;
    assert_eq!(first.end().await.code(), Code::Aborted);
    second.subscribe_own().await;
    second.resource().await;
    assert_eq!(world.registry.streams(), 1);
}

#[tokio::test]
async fn the_stream_of_a_pod_that_is_gone_ends() {
    let world = world(Some(WEB)).await;
    let mut proxy = world.open(hello("web-1-a")).await;
    proxy.bundle().await;
    world.index.delete::<Pod>(&name("web-1-a"));
    world.index.flush();
    assert_eq!(proxy.end().await.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_replica_that_goes_sends_its_proxies_to_another() {
    let world = world(Some(WEB)).await;
    let mut proxy = world.open(hello("web-1-a")).await;
    proxy.bundle().await;
    world.shutdown.cancel();
    assert_eq!(proxy.end().await.code(), Code::Unavailable);
}
