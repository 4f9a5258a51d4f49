//! `Config.Stream`: who may open one, and what carries its messages.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use fairlead_proxy_api::v1;
use fairlead_proxy_api::v1::config_server::Config;
use futures::stream::Stream;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::metrics::Metrics;
use super::registry::Registry;
use super::session::Session;
use crate::ca::PeerIdentity;
use crate::ca::keeper::Published;
use crate::index::{Index, Update};
use crate::model::{Body, ObjectName, ResourceName};

/// For the first message.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// The index hears of a pod about when its proxy starts: so long we wait for it.
const POD_PATIENCE: Duration = Duration::from_secs(5);
/// The first listing of a large cluster takes some seconds.
const INDEX_PATIENCE: Duration = Duration::from_secs(30);
/// Messages on their way to a proxy. Few: what waits in the session is replaced by what is newer, what waits here is not.
const OUTBOX: usize = 4;
/// A proxy that says more than this within [`PACE`] is read no further until that is over: a full set of subscriptions and their
/// acknowledgements come at once after a reconnect, and nothing else comes close.
const MESSAGES: u32 = 5_000;
const PACE: Duration = Duration::from_secs(1);
/// Of what a proxy says in its Hello; it goes into logs and to other replicas.
const MAX_INSTANCE: usize = 128;

/// The service; see the contract for what it speaks.
#[derive(Clone)]
pub struct ConfigService {
    index: Arc<Index>,
    registry: Arc<Registry>,
    metrics: Metrics,
    published: Published,
    /// One stream for each pod: what a pod can cost is bounded, and a proxy that comes back does not wait for its dead connection.
    streams: Arc<Mutex<HashMap<ObjectName, CancellationToken>>>,
    shutdown: CancellationToken,
}

impl ConfigService {
    /// `shutdown` ends the streams, so that proxies go to another replica.
    pub fn new(
        index: Arc<Index>,
        registry: Arc<Registry>,
        metrics: Metrics,
        published: Published,
        shutdown: CancellationToken,
    ) -> Self {
        Self { index, registry, metrics, published, streams: Arc::default(), shutdown }
    }

    /// Lets a proxy in: its pod exists, is the one it says, and runs under the identity that was proved.
    async fn admit(
        &self,
        peer: Option<PeerIdentity>,
        hello: &v1::Hello,
    ) -> Result<(ObjectName, watch::Receiver<Arc<Update>>), Status> {
        let Some(PeerIdentity(peer)) = peer else {
            return Err(Status::unauthenticated(
                "configuration is given over mutual TLS only: connect with the pod's certificate",
            ));
        };
        if timeout(INDEX_PATIENCE, self.index.ready()).await.is_err() {
            return Err(Status::unavailable("this replica has not listed the cluster yet"));
        }
        let pod = ObjectName::new(&hello.pod_namespace, &hello.pod_name);
        if hello.instance.is_empty() || hello.instance.len() > MAX_INSTANCE {
            return Err(Status::invalid_argument("Hello.instance has 1 to 128 bytes"));
        }
        // Before anything is kept under names that a stranger chose.
        if peer.namespace() != pod.namespace {
            return Err(Status::permission_denied(format!("{peer} may not speak for the pod {pod}")));
        }
        let mut own = self
            .index
            .subscribe(ResourceName::Workload(pod.clone()))
            .map_err(|full| Status::resource_exhausted(full.to_string()))?;
        let known = timeout(POD_PATIENCE, own.wait_for(|update| check(update, &hello.pod_uid, "").is_ok()));
        let identity = peer.to_string();
        let found = match known.await {
            Ok(Ok(update)) => check(&update, &hello.pod_uid, &identity),
            _ => Err("does not exist"),
        };
        match found {
            Ok(()) => Ok((pod, own)),
            Err(why) => Err(Status::permission_denied(format!("the pod {pod} with UID {:?} {why}", hello.pod_uid))),
        }
    }

    /// Ends the stream that the pod had, and answers with what will end this one.
    fn take_over(&self, pod: &ObjectName) -> CancellationToken {
        let replaced = CancellationToken::new();
        let mut streams = self.streams.lock();
        streams.retain(|_, token| !token.is_cancelled());
        if let Some(before) = streams.insert(pod.clone(), replaced.clone()) {
            before.cancel();
        }
        replaced
    }
}

/// Whether the pod is still the one with this UID, and runs under this identity (empty: any).
fn check(update: &Update, uid: &str, identity: &str) -> Result<(), &'static str> {
    match &update.resource.body {
        Body::Workload(w) if w.uid != uid => Err("does not exist"),
        Body::Workload(w) if !identity.is_empty() && w.identity != identity => {
            Err("does not run under the identity of the certificate")
        }
        Body::Workload(_) => Ok(()),
        Body::NoWorkload | Body::Destination(_) => Err("does not exist"),
    }
}

#[tonic::async_trait]
impl Config for ConfigService {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::OperatorMessage, Status>> + Send + 'static>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let peer = request.extensions().get::<PeerIdentity>().cloned();
        let mut inbox = request.into_inner();
        let (outbox, messages) = mpsc::channel(OUTBOX);
        let service = self.clone();
        // The answer's head must not wait for the first message: some clients send that only once they have the head.
        tokio::spawn(async move {
            let outcome = tokio::select! {
                outcome = service.serve(peer, &mut inbox, &outbox) => outcome,
                () = service.shutdown.cancelled() => {
                    Err(Status::unavailable("this replica of the operator is going away: connect again"))
                }
            };
            if let Err(status) = outcome {
                tracing::debug!(code = ?status.code(), reason = status.message(), "stream ended");
                // A proxy that does not read learns it from the connection's end.
                let _ = outbox.try_send(Err(status));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

type Outbox = mpsc::Sender<Result<v1::OperatorMessage, Status>>;

impl ConfigService {
    async fn serve(
        &self,
        peer: Option<PeerIdentity>,
        inbox: &mut Streaming<v1::ProxyMessage>,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let hello = match timeout(HELLO_TIMEOUT, inbox.message()).await {
            Ok(Ok(Some(v1::ProxyMessage { kind: Some(v1::proxy_message::Kind::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return Err(Status::invalid_argument("the first message is Hello")),
            Ok(Err(status)) => return Err(status),
            Err(_) => return Err(Status::deadline_exceeded("no Hello came")),
        };
        let (pod, own) = self.admit(peer, &hello).await.inspect_err(|refusal| {
            let pod = format!("{}/{}", hello.pod_namespace, hello.pod_name);
            tracing::warn!(pod, reason = refusal.message(), "stream refused");
        })?;
        tracing::info!(%pod, version = hello.proxy_version, "proxy connected");
        let replaced = self.take_over(&pod);
        let _released = replaced.clone().drop_guard();
        let session =
            Session::new(self.index.clone(), self.registry.clone(), self.metrics.clone(), pod.clone(), hello.instance);
        let outcome = self.converse(session, own, &hello.pod_uid, &replaced, inbox, outbox).await;
        tracing::info!(%pod, "proxy gone");
        outcome
    }

    async fn converse(
        &self,
        mut session: Session,
        mut own: watch::Receiver<Arc<Update>>,
        uid: &str,
        replaced: &CancellationToken,
        inbox: &mut Streaming<v1::ProxyMessage>,
        outbox: &Outbox,
    ) -> Result<(), Status> {
        let Published { mut bundles, mut leaves } = self.published.clone();
        bundles.mark_changed();
        let mut published_live = true;
        let mut messages = 0;
        let mut pace = Instant::now() + PACE;
        loop {
            let wanted = leaves.borrow_and_update().clone();
            if let Some(renew) = session.renewal(&wanted) {
                send(outbox, v1::operator_message::Kind::Renew(renew)).await?;
            }
            let may_read = messages < MESSAGES;
            tokio::select! {
                () = replaced.cancelled() => {
                    return Err(Status::aborted("the pod opened a newer stream"));
                }
                message = inbox.next(), if may_read => match message {
                    Some(Ok(message)) => {
                        if Instant::now() >= pace {
                            pace = Instant::now() + PACE;
                            messages = 0;
                        }
                        messages += 1;
                        session.receive(message).map_err(Status::invalid_argument)?;
                    }
                    Some(Err(status)) => return Err(status),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(pace), if !may_read => messages = 0,
                () = poll_fn(|context| session.poll_changes(context)) => {}
                changed = bundles.changed(), if published_live => match changed {
                    Ok(()) => {
                        let bundle = v1::TrustBundle::from(bundles.borrow_and_update().as_ref().clone());
                        send(outbox, v1::operator_message::Kind::TrustBundle(bundle)).await?;
                    }
                    Err(_) => published_live = false,
                },
                changed = leaves.changed(), if published_live => published_live = changed.is_ok(),
                changed = own.changed() => {
                    let gone = changed.is_err() || check(&own.borrow_and_update(), uid, "").is_err();
                    if gone {
                        return Err(Status::permission_denied("the pod does not exist any more"));
                    }
                }
                permit = outbox.reserve(), if session.has_next() => {
                    let permit = permit.map_err(|_| Status::cancelled("the proxy went away"))?;
                    if let Some(resource) = session.next() {
                        let kind = Some(v1::operator_message::Kind::Resource(resource));
                        permit.send(Ok(v1::OperatorMessage { kind }));
                    }
                }
            }
        }
    }
}

async fn send(outbox: &Outbox, kind: v1::operator_message::Kind) -> Result<(), Status> {
    let message = v1::OperatorMessage { kind: Some(kind) };
    let sent = outbox.send(Ok(message)).await;
    sent.map_err(|_| Status::cancelled("the proxy went away"))
}
