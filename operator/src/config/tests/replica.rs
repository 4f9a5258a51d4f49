//! What replicas share, over loopback.

use std::sync::Arc;
use std::time::Duration;

use fairlead_proxy_api::v1;
use fairlead_proxy_api::v1::replica_client::ReplicaClient;
use fairlead_proxy_api::v1::replica_server::ReplicaServer;
use futures::FutureExt as _;
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic::{Code, Request};

use crate::ca::PeerIdentity;
use crate::config::{Connect, Registry, ReplicaService, share};
use crate::leader::Leadership;
use crate::model::{ObjectName, Source, SourceKind, SourceRef};

const OPERATOR: &str = "spiffe://cluster.local/ns/fairlead-system/sa/fairlead-operator";

/// A leader that takes every caller for `identity`.
async fn leader(identity: Option<&str>) -> (Arc<Registry>, Channel) {
    let registry = Arc::new(Registry::default());
    let service = ReplicaService::new(registry.clone(), OPERATOR.parse().unwrap());
    let peer = identity.map(|id| PeerIdentity(id.parse().unwrap()));
    let service = ReplicaServer::with_interceptor(service, move |mut request: Request<()>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        Ok(request)
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(format!("http://{address}")).unwrap();
    (registry, channel.connect_lazy())
}

fn source() -> SourceRef {
    SourceRef { source: Source { kind: SourceKind::Canary, object: ObjectName::new("shop", "release") }, generation: 7 }
}

#[tokio::test]
async fn only_the_operator_shares() {
    for (identity, code) in [
        (None, Code::Unauthenticated),
        (Some("spiffe://cluster.local/ns/fairlead-system/sa/default"), Code::PermissionDenied),
        (Some("spiffe://other.local/ns/fairlead-system/sa/fairlead-operator"), Code::PermissionDenied),
    ] {
        let (_, channel) = leader(identity).await;
        let mut client = ReplicaClient::new(channel);
        let outcome = client.share(v1::ShareRequest::default()).await;
        assert_eq!(outcome.unwrap_err().code(), code, "{identity:?}");
    }
}

#[tokio::test]
async fn the_leader_hears_of_an_acknowledgement_at_another_replica() {
    let (leaders, channel) = leader(Some(OPERATOR)).await;
    let own = Arc::new(Registry::default());
    let stream = own.begin(ObjectName::new("shop", "web-1-a"), "i".into());
    let name = crate::index::tests::build::at("10.96.0.1:80");
    own.sent(stream, &name, &[source()]);

    let (_is_leader, is_leader) = watch::channel(false);
    let (address_is, address) = watch::channel(Some("10.0.0.9".to_owned()));
    let leadership = Leadership { is_leader, address };
    let connect: Connect = Arc::new(move |address| {
        assert_eq!(address, "10.0.0.1");
        let channel = channel.clone();
        async move { Ok(channel) }.boxed()
    });
    let running = tokio::spawn(share(own.clone(), leadership, "replica-2".into(), "10.0.0.9".into(), connect));
    let heard = |acknowledged| {
        let leaders = leaders.clone();
        let mut changed = leaders.changed();
        async move {
            let wanted = (acknowledged, 1);
            let told = |r: &Registry| {
                let programmed = r.programmed(&source());
                (programmed.acknowledged, programmed.proxies) == wanted
            };
            while !told(&leaders) {
                let next = tokio::time::timeout(Duration::from_secs(10), changed.changed());
                next.await.expect("the leader hears in time").unwrap();
            }
        }
    };
    assert_eq!(leaders.programmed(&source()).proxies, 0, "it leads itself and tells nobody");
    address_is.send_replace(Some("10.0.0.1".into()));
    heard(0).await;
    own.acknowledged(stream, &name, &[source()]);
    heard(1).await;
    running.abort();
}
