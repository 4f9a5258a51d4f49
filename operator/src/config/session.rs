//! The conversation with one proxy: which resources it wants, which of them it has, what is to be sent next.
//!
//! Data and decisions alone; [`super::stream`] carries the messages. A resource that changes while the proxy is slow to read is
//! sent once, in its newest state, so that the queue never holds more than one entry for each subscription.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use fairlead_proxy_api::v1;
use futures::future::{AbortHandle, Abortable, BoxFuture};
use futures::stream::{FuturesUnordered, Stream as _};
use tokio::sync::watch;
use tokio::time::Instant;

use super::encode::{name_from_wire, resource_to_wire};
use super::metrics::Metrics;
use super::registry::{Registry, StreamId};
use super::trust::{is_outdated, trust_from_wire};
use crate::ca::authority::Leaves;
use crate::ca::rotation::Trust;
use crate::index::{Index, Update};
use crate::model::{Body, Caller, Destination, ObjectName, ResourceName, SourceRef};

/// Resources that one proxy may subscribe to. A pod that talks to more addresses than this at once is a scanner; at some kilobytes
/// each they would cost the operator more than all other pods.
const MAX_SUBSCRIPTIONS: usize = 2_000;
/// Groups that a proxy may report on: those of the endpoints that it was sent.
const MAX_GROUPS: usize = 4_096;
/// Reports that came before the resource that allows them, after a reconnect.
const MAX_EARLY: usize = 64;
/// How many proxies of a replica are asked to renew in a second: a fraction of what it can issue, and a token review each.
const RENEWALS_PER_SECOND: usize = 100;
/// A reason is shown in a status; characters.
const MAX_REASON: usize = 256;

type Change = Abortable<BoxFuture<'static, ResourceName>>;

/// The conversation with one proxy.
pub(super) struct Session {
    index: Arc<Index>,
    registry: Arc<Registry>,
    metrics: Metrics,
    stream: StreamId,
    pod: ObjectName,
    subscriptions: HashMap<ResourceName, Subscription>,
    /// Each resolves once to the name of a subscription that has changed.
    changes: FuturesUnordered<Change>,
    /// Names of subscriptions with something to send, each once.
    queue: VecDeque<ResourceName>,
    /// Who is told; `None`: not looked up yet.
    caller: Option<Caller>,
    groups: HashSet<String>,
    early: HashMap<String, v1::GroupCounts>,
    over_limit: bool,
    trust: Option<Trust>,
    /// What leaves were to be when it was asked to renew its own.
    asked: Option<Leaves>,
}

struct Subscription {
    receiver: watch::Receiver<Arc<Update>>,
    /// While it is not in the queue: what puts it there.
    watching: AbortHandle,
    queued: bool,
    /// What the proxy said it had when it subscribed.
    has: String,
    sent: Option<Sent>,
}

struct Sent {
    version: String,
    sources: Vec<SourceRef>,
    /// When the change that led to it was seen.
    seen: Instant,
    acknowledged: bool,
}

impl Session {
    pub(super) fn new(
        index: Arc<Index>,
        registry: Arc<Registry>,
        metrics: Metrics,
        pod: ObjectName,
        instance: String,
    ) -> Self {
        metrics.streams.inc();
        Self {
            stream: registry.begin(pod.clone(), instance),
            index,
            registry,
            metrics,
            pod,
            subscriptions: HashMap::new(),
            changes: FuturesUnordered::new(),
            queue: VecDeque::new(),
            caller: None,
            groups: HashSet::new(),
            early: HashMap::new(),
            over_limit: false,
            trust: None,
            asked: None,
        }
    }

    /// Takes what the proxy says. The error is a sentence about what is wrong with it, and ends the conversation.
    pub(super) fn receive(&mut self, message: v1::ProxyMessage) -> Result<(), &'static str> {
        use v1::proxy_message::Kind;
        match message.kind {
            Some(Kind::Hello(_)) => return Err("a proxy says Hello once"),
            Some(Kind::Subscribe(subscribe)) => {
                let name = name_from_wire(&self.pod, subscribe.name)?;
                self.subscribe(name, subscribe.have_version);
            }
            Some(Kind::Unsubscribe(name)) => {
                let name = name_from_wire(&self.pod, Some(name))?;
                if let Some(old) = self.subscriptions.remove(&name) {
                    old.watching.abort();
                    self.metrics.subscriptions.dec();
                    self.registry.forget(self.stream, &name);
                }
            }
            Some(Kind::Acknowledge(acknowledge)) => {
                let name = name_from_wire(&self.pod, acknowledge.name)?;
                self.acknowledge(&name, &acknowledge.version);
            }
            Some(Kind::Refuse(refuse)) => {
                let name = name_from_wire(&self.pod, refuse.name)?;
                self.refuse(&name, &refuse.version, &refuse.reason);
            }
            Some(Kind::Report(report)) => {
                self.registry.plain_callers(self.stream, &report.plain_callers);
                self.report(report.groups);
            }
            Some(Kind::Trust(trust)) => {
                let trust = trust_from_wire(&trust);
                self.registry.trusts(self.stream, trust.clone());
                self.trust = Some(trust);
            }
            // Of a newer proxy.
            None => {}
        }
        Ok(())
    }

    fn subscribe(&mut self, name: ResourceName, has: String) {
        let known = self.subscriptions.remove(&name);
        if known.is_none() && self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            if !std::mem::replace(&mut self.over_limit, true) {
                tracing::warn!(pod = %self.pod, "more than {MAX_SUBSCRIPTIONS} addresses: further ones are not answered");
            }
            return;
        }
        if let Some(known) = known {
            known.watching.abort();
            self.metrics.subscriptions.dec();
            self.queue.retain(|queued| *queued != name);
        }
        let receiver = match self.index.subscribe(name.clone()) {
            Ok(receiver) => receiver,
            Err(full) => {
                tracing::warn!(pod = %self.pod, error = %full, "an address is not answered");
                return;
            }
        };
        self.metrics.subscriptions.inc();
        let subscription =
            Subscription { receiver, watching: AbortHandle::new_pair().0, queued: true, has, sent: None };
        self.subscriptions.insert(name.clone(), subscription);
        self.queue.push_back(name);
    }

    /// What to ask of a proxy whose certificate is not as `leaves` says: once on a stream for each change, since with its next certificate it comes
    /// on another stream.
    pub(super) fn renewal(&mut self, leaves: &Leaves) -> Option<v1::Renew> {
        let outdated = self.trust.as_ref().is_some_and(|trust| is_outdated(trust, leaves));
        if !outdated || self.asked.replace(leaves.clone()).as_ref() == Some(leaves) {
            return None;
        }
        let seconds = 1 + self.registry.streams() / RENEWALS_PER_SECOND;
        Some(v1::Renew { within_seconds: u32::try_from(seconds).unwrap_or(u32::MAX) })
    }

    /// Ready when resources that the proxy wants have changed; they are then in the queue.
    pub(super) fn poll_changes(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let change = Pin::new(&mut self.changes).poll_next(context);
            match ready!(change) {
                Some(Ok(name)) => {
                    let Some(subscription) = self.subscriptions.get_mut(&name) else {
                        continue;
                    };
                    if !std::mem::replace(&mut subscription.queued, true) {
                        self.queue.push_back(name);
                    }
                    return Poll::Ready(());
                }
                // Unsubscribed.
                Some(Err(_)) => {}
                // No subscriptions. A new one comes with a message, after which this is asked again.
                None => return Poll::Pending,
            }
        }
    }

    /// Whether [`Session::next`] may have something.
    pub(super) fn has_next(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next resource that the proxy does not have.
    pub(super) fn next(&mut self) -> Option<v1::Resource> {
        while let Some(name) = self.queue.pop_front() {
            let Some(subscription) = self.subscriptions.get_mut(&name) else {
                continue;
            };
            subscription.queued = false;
            let update = subscription.receiver.borrow_and_update().clone();
            subscription.watching = watch(&self.changes, name.clone(), &subscription.receiver);
            let sources = &update.resource.sources;
            if let Body::Workload(workload) = &update.resource.body {
                self.is(&workload.caller);
            }
            let caller = self.caller.get_or_insert_with(|| caller(&self.index, &self.pod));
            let Some(message) = resource_to_wire(&name, &update.resource, caller) else {
                continue;
            };
            let Some(subscription) = self.subscriptions.get_mut(&name) else {
                continue;
            };
            let known = subscription.sent.as_mut();
            if let Some(sent) = known.filter(|sent| sent.version == message.version) {
                // Other sources, or newer generations of them, that come to the same: nothing is sent, and what the proxy says, or
                // said, of the body holds for them.
                sent.sources.clone_from(sources);
                self.registry.sent(self.stream, &name, sources);
                if sent.acknowledged {
                    self.registry.acknowledged(self.stream, &name, sources);
                    self.metrics.latency.observe(update.seen.elapsed().as_secs_f64());
                }
                continue;
            }
            let has = subscription.sent.is_none() && subscription.has == message.version;
            subscription.sent = Some(Sent {
                version: message.version.clone(),
                sources: sources.clone(),
                seen: update.seen,
                acknowledged: has,
            });
            self.registry.sent(self.stream, &name, sources);
            if has {
                self.registry.acknowledged(self.stream, &name, sources);
            }
            self.allow_groups(&update.resource.body);
            if has {
                continue;
            }
            self.metrics.sent.inc();
            return Some(message);
        }
        None
    }

    /// Takes note of who is told. Routes may be meant for other labels than those that the pod had so far, so all are looked at again.
    fn is(&mut self, caller: &Caller) {
        let known = self.caller.replace(caller.clone());
        if known.is_none_or(|known| known == *caller) {
            return;
        }
        for (name, subscription) in &mut self.subscriptions {
            if !matches!(name, ResourceName::Workload(_)) && !std::mem::replace(&mut subscription.queued, true) {
                subscription.watching.abort();
                self.queue.push_back(name.clone());
            }
        }
    }

    fn acknowledge(&mut self, name: &ResourceName, version: &str) {
        let sent = self.subscriptions.get_mut(name).and_then(|s| s.sent.as_mut());
        // Of an earlier version: the answer to the newest is on its way.
        let Some(sent) = sent.filter(|s| s.version == version && !s.acknowledged) else {
            return;
        };
        sent.acknowledged = true;
        self.metrics.acknowledged.inc();
        self.metrics.latency.observe(sent.seen.elapsed().as_secs_f64());
        self.registry.acknowledged(self.stream, name, &sent.sources);
    }

    fn refuse(&mut self, name: &ResourceName, version: &str, reason: &str) {
        let sent = self.subscriptions.get(name).and_then(|s| s.sent.as_ref());
        if sent.is_none_or(|s| s.version != version || s.acknowledged) {
            return;
        }
        let reason: String = reason.chars().filter(|c| !c.is_control()).take(MAX_REASON).collect();
        self.metrics.refused.inc();
        tracing::warn!(pod = %self.pod, resource = ?name, reason, "configuration refused");
        let reason = if reason.is_empty() { "no reason given".to_owned() } else { reason };
        self.registry.refused(self.stream, name, reason);
    }

    /// A proxy may report on what it talks to, and on nothing else: whoever could speak for other callers could end any release.
    fn report(&mut self, reports: Vec<v1::GroupCounts>) {
        let (allowed, early): (Vec<_>, Vec<_>) =
            reports.into_iter().partition(|report| self.groups.contains(&report.group));
        self.registry.count(self.stream, &allowed);
        for report in early {
            if self.early.len() < MAX_EARLY || self.early.contains_key(&report.group) {
                self.early.insert(report.group.clone(), report);
            }
        }
    }

    fn allow_groups(&mut self, body: &Body) {
        let Body::Destination(Destination::Service(service)) = body else {
            return;
        };
        let endpoints = service.endpoint_sets.iter().flat_map(|s| &s.endpoints);
        for endpoint in endpoints.filter(|e| !e.group.is_empty()) {
            if self.groups.contains(&endpoint.group) {
                continue;
            }
            if self.groups.len() >= MAX_GROUPS {
                // Of steps that are long over; those of the present come again with their resources.
                self.groups.clear();
            }
            self.groups.insert(endpoint.group.clone());
            if let Some(report) = self.early.remove(&endpoint.group) {
                self.registry.count(self.stream, [&report]);
            }
        }
    }
}

/// Who the pod is; nobody, as long as it is not known.
fn caller(index: &Index, pod: &ObjectName) -> Caller {
    match index.get(&ResourceName::Workload(pod.clone())).body {
        Body::Workload(workload) => workload.caller,
        Body::NoWorkload | Body::Destination(_) => Caller::default(),
    }
}

/// Has `changes` tell of the next state after the one that `receiver` saw last.
fn watch(
    changes: &FuturesUnordered<Change>,
    name: ResourceName,
    receiver: &watch::Receiver<Arc<Update>>,
) -> AbortHandle {
    let (handle, registration) = AbortHandle::new_pair();
    let mut receiver = receiver.clone();
    let change: BoxFuture<'static, ResourceName> = Box::pin(async move {
        if receiver.changed().await.is_err() {
            // The index has forgotten it, so nothing changes any more.
            std::future::pending::<()>().await;
        }
        name
    });
    changes.push(Abortable::new(change, registration));
    handle
}

impl Drop for Session {
    fn drop(&mut self) {
        self.registry.end(self.stream);
        self.metrics.streams.dec();
        let subscriptions = i64::try_from(self.subscriptions.len()).unwrap_or(i64::MAX);
        self.metrics.subscriptions.dec_by(subscriptions);
    }
}
