//! `Replica.Share`: the leader hears what proxies said to the other replicas.

use std::sync::Arc;
use std::time::Duration;

use fairlead_proxy_api::v1;
use fairlead_proxy_api::v1::replica_client::ReplicaClient;
use fairlead_proxy_api::v1::replica_server::{Replica, ReplicaServer};
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::registry::Registry;
use super::trust::trust_to_wire;
use crate::ca::{PeerIdentity, SpiffeId};
use crate::leader::Leadership;

/// What is known is shared at least so often.
const INTERVAL: Duration = Duration::from_secs(1);
/// And no oftener than this, however much changes: a step of a release waits for every proxy's word, and must not wait long.
const PAUSE: Duration = Duration::from_millis(100);
/// For one exchange.
const TIMEOUT: Duration = Duration::from_secs(5);
/// After a failure; the leader may just be going.
const RETRY: Duration = Duration::from_millis(500);
/// What a message may measure, bytes: 10,000 proxies with a few kilobytes each. Only the operator itself may send one.
const MAX_SHARE: usize = 64 * 1024 * 1024;

/// The receiving side.
#[derive(Clone)]
pub struct ReplicaService {
    registry: Arc<Registry>,
    operator: SpiffeId,
}

impl ReplicaService {
    /// `operator` is the identity of the operator's own replicas.
    pub fn new(registry: Arc<Registry>, operator: SpiffeId) -> Self {
        Self { registry, operator }
    }

    /// As a service of a gRPC server, which takes messages as large as replicas send.
    pub fn into_server(self) -> ReplicaServer<Self> {
        ReplicaServer::new(self).max_decoding_message_size(MAX_SHARE)
    }
}

#[tonic::async_trait]
impl Replica for ReplicaService {
    async fn share(&self, request: Request<v1::ShareRequest>) -> Result<Response<v1::ShareResponse>, Status> {
        match request.extensions().get::<PeerIdentity>() {
            Some(PeerIdentity(peer)) if *peer == self.operator => {}
            Some(PeerIdentity(peer)) => {
                tracing::warn!(%peer, "tried to speak as a replica of the operator");
                return Err(Status::permission_denied(format!("only {} may share what proxies said", self.operator)));
            }
            None => return Err(Status::unauthenticated("over mutual TLS only")),
        }
        let share = request.into_inner();
        self.registry.take_share(share.replica, share.trust, share.proxies);
        Ok(Response::new(v1::ShareResponse {}))
    }
}

/// Opens a connection to the replica at a pod IP, authenticated both ways as the operator.
pub type Connect =
    Arc<dyn Fn(String) -> BoxFuture<'static, Result<Channel, Box<dyn std::error::Error + Send + Sync>>> + Send + Sync>;

/// Shares what `registry` knows with the leader, while that is another replica. `own_ip` and `replica` are this pod's.
/// Runs until it is dropped.
pub async fn run(registry: Arc<Registry>, leadership: Leadership, replica: String, own_ip: String, connect: Connect) {
    let mut address = leadership.address;
    let mut changed = registry.changed();
    let mut channel: Option<(String, Channel)> = None;
    loop {
        let leader = address.borrow_and_update().clone();
        let leader = leader.filter(|leader| *leader != own_ip);
        let Some(leader) = leader else {
            channel = None;
            if address.changed().await.is_err() {
                return;
            }
            continue;
        };
        let started = Instant::now();
        changed.mark_unchanged();
        let open = channel.take().filter(|(to, _)| *to == leader);
        let shared = timeout(TIMEOUT, share(&registry, &replica, &leader, open, &connect)).await;
        let pause = match shared {
            Ok(Ok(open)) => {
                channel = Some((leader, open));
                PAUSE
            }
            Ok(Err(error)) => {
                tracing::warn!(%leader, error, "what proxies said could not be shared with the leader");
                RETRY
            }
            Err(_) => {
                tracing::warn!(%leader, "the leader did not take what proxies said in time");
                RETRY
            }
        };
        sleep_until(started + pause).await;
        tokio::select! {
            () = sleep_until(started + INTERVAL) => {}
            _ = changed.changed() => {}
            _ = address.changed() => {}
        }
    }
}

async fn share(
    registry: &Registry,
    replica: &str,
    leader: &str,
    open: Option<(String, Channel)>,
    connect: &Connect,
) -> Result<Channel, String> {
    let channel = match open {
        Some((_, channel)) => channel,
        None => connect(leader.to_owned()).await.map_err(|error| error.to_string())?,
    };
    let trust = registry.own_trust().as_ref().map(trust_to_wire);
    let request = v1::ShareRequest { replica: replica.to_owned(), proxies: registry.share(), trust };
    let mut client = ReplicaClient::new(channel.clone()).max_encoding_message_size(MAX_SHARE);
    let outcome = client.share(request).await;
    outcome.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?;
    Ok(channel)
}
