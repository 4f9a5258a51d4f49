//! What proxies said: which configuration they apply, and what they counted.
//!
//! Each stream writes what it sent and what came back; the status reconcilers and releases read. Replicas that do not lead share
//! what they know with the one that does ([`super::replica`]), so that it can speak for all proxies.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use fairlead_proxy_api::v1;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use super::groups::Groups;
use super::plain_callers::PlainCallers;
use super::trust::{trust_from_wire, trust_to_wire};
use crate::ca::rotation::Trust;
use crate::canary::Fresh;
use crate::canary::counts::Counts;
use crate::model::{ObjectName, ResourceName, Source, SourceKind, SourceRef};

/// What a replica shared is forgotten without a successor for so long: ten missed, one each second.
pub(super) const SHARE_EXPIRY: Duration = Duration::from_secs(10);
/// Replicas that share at once; a rollout doubles a handful.
const MAX_REPLICAS: usize = 32;
/// Refusals that are kept of an answer: people read the first.
const MAX_REFUSALS: usize = 3;

/// What proxies said.
#[derive(Debug)]
pub struct Registry {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
}

/// One stream of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

/// How far a change has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    /// Proxies whose configuration the object takes part in.
    pub proxies: usize,
    /// Those of them that apply the generation asked about.
    pub acknowledged: usize,
    /// Those of them that refused it: pod and reason, the first few by the pods' names.
    pub refused: Vec<(ObjectName, String)>,
}

impl Programmed {
    /// All that there are apply it.
    pub fn is_complete(&self) -> bool {
        self.acknowledged == self.proxies
    }
}

#[derive(Debug, Default)]
struct Inner {
    next: u64,
    streams: BTreeMap<StreamId, Proxy>,
    replicas: HashMap<String, Replica>,
    groups: Groups,
    plain_callers: PlainCallers,
    /// Of this replica itself.
    own_trust: Option<Trust>,
}

/// A proxy with a stream to this replica.
#[derive(Debug)]
struct Proxy {
    pod: ObjectName,
    instance: String,
    trust: Option<Trust>,
    resources: HashMap<ResourceName, Applied>,
    /// The same by source, worked out when it is asked for.
    by_source: Option<HashMap<Source, SourceState>>,
}

#[derive(Debug, Default)]
struct Applied {
    sent: Vec<SourceRef>,
    acknowledged: Vec<SourceRef>,
    refused: Option<String>,
}

/// What another replica shared.
#[derive(Debug)]
struct Replica {
    at: Instant,
    trust: Option<Trust>,
    proxies: Vec<RemoteProxy>,
}

#[derive(Debug, PartialEq)]
struct RemoteProxy {
    pod: ObjectName,
    instance: String,
    trust: Option<Trust>,
    by_source: HashMap<Source, SourceState>,
}

/// What a proxy said of one source, over all resources that it takes part in.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SourceState {
    /// The newest that was sent.
    sent: i64,
    /// What it applies; 0 if of some resource it applies none yet.
    acknowledged: i64,
    refused: Option<String>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { inner: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Registry {
    /// A proxy has come.
    pub(crate) fn begin(&self, pod: ObjectName, instance: String) -> StreamId {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let id = StreamId(inner.next);
        let proxy = Proxy { pod, instance, trust: None, resources: HashMap::new(), by_source: None };
        inner.streams.insert(id, proxy);
        id
    }

    /// A proxy has gone; what it counted stays.
    pub(crate) fn end(&self, stream: StreamId) {
        self.inner.lock().streams.remove(&stream);
        self.changed.send_replace(());
    }

    /// A resource was sent, made of these sources.
    pub(crate) fn sent(&self, stream: StreamId, name: &ResourceName, sources: &[SourceRef]) {
        self.update(stream, |proxy| {
            let applied = proxy.resources.entry(name.clone()).or_default();
            applied.sent = sources.to_vec();
            applied.refused = None;
        });
    }

    /// The proxy applies a resource, made of these sources.
    pub(crate) fn acknowledged(&self, stream: StreamId, name: &ResourceName, sources: &[SourceRef]) {
        self.update(stream, |proxy| {
            let applied = proxy.resources.entry(name.clone()).or_default();
            applied.acknowledged = sources.to_vec();
            applied.refused = None;
        });
    }

    /// The proxy keeps what it had.
    pub(crate) fn refused(&self, stream: StreamId, name: &ResourceName, reason: String) {
        self.update(stream, |proxy| {
            let applied = proxy.resources.entry(name.clone()).or_default();
            applied.refused = Some(reason);
        });
    }

    /// The proxy does not want a resource any more.
    pub(crate) fn forget(&self, stream: StreamId, name: &ResourceName) {
        self.update(stream, |proxy| {
            proxy.resources.remove(name);
        });
    }

    /// The proxy said whom it trusts and what it shows.
    pub(crate) fn trusts(&self, stream: StreamId, trust: Trust) {
        self.update(stream, |proxy| proxy.trust = Some(trust));
    }

    /// This replica itself came to trust this, and to show that.
    pub fn set_own_trust(&self, trust: Trust) {
        self.inner.lock().own_trust = Some(trust);
        self.changed.send_replace(());
    }

    /// Of this replica itself.
    pub fn own_trust(&self) -> Option<Trust> {
        self.inner.lock().own_trust.clone()
    }

    /// What proxies said last, and the other replicas by their pods' names. The leader's answer speaks for all.
    pub fn trust(&self) -> (HashMap<ObjectName, Trust>, HashMap<String, Trust>) {
        let inner = self.inner.lock();
        let now = Instant::now();
        let mut shared: Vec<_> = inner.replicas.iter().filter(|(_, r)| now - r.at < SHARE_EXPIRY).collect();
        shared.sort_unstable_by_key(|(_, r)| r.at);
        let replicas = shared.iter().filter_map(|(name, r)| Some(((*name).clone(), r.trust.clone()?))).collect();
        // What was said to this replica, and last, is what stands at the end.
        let elsewhere = shared.iter().flat_map(|(_, r)| &r.proxies).map(|proxy| (&proxy.pod, &proxy.trust));
        let here = inner.streams.values().map(|proxy| (&proxy.pod, &proxy.trust));
        let said = elsewhere.chain(here).filter_map(|(pod, trust)| Some((pod.clone(), trust.clone()?)));
        (said.collect(), replicas)
    }

    fn update(&self, stream: StreamId, change: impl FnOnce(&mut Proxy)) {
        let mut inner = self.inner.lock();
        if let Some(proxy) = inner.streams.get_mut(&stream) {
            change(proxy);
            proxy.by_source = None;
            drop(inner);
            self.changed.send_replace(());
        }
    }

    /// What the proxy counted.
    pub(crate) fn count<'a>(&self, stream: StreamId, reports: impl IntoIterator<Item = &'a v1::GroupCounts>) {
        let inner = &mut *self.inner.lock();
        if let Some(proxy) = inner.streams.get(&stream) {
            for report in reports {
                inner.groups.record(&proxy.instance, report, true);
            }
        }
    }

    /// Who called the proxy's pod in plain.
    pub(crate) fn plain_callers(&self, stream: StreamId, addresses: &[Vec<u8>]) {
        let inner = &mut *self.inner.lock();
        let Some(proxy) = inner.streams.get(&stream) else { return };
        let mut news = false;
        for address in addresses {
            news |= inner.plain_callers.note(&proxy.pod, address, Instant::now());
        }
        if news {
            self.changed.send_replace(());
        }
    }

    /// Who called pods in plain within the last hour, over all proxies that this replica knows of.
    pub fn called_in_plain(&self) -> HashMap<ObjectName, BTreeSet<IpAddr>> {
        self.inner.lock().plain_callers.now(Instant::now())
    }

    /// Wakes when [`Registry::programmed`] may have changed.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// How many proxies have a stream to this replica.
    pub fn streams(&self) -> usize {
        self.inner.lock().streams.len()
    }

    /// How far a generation of an object has come, over all proxies that this replica knows of.
    pub fn programmed(&self, source: &SourceRef) -> Programmed {
        let inner = &mut *self.inner.lock();
        let now = Instant::now();
        // A proxy that went to another replica may be in what its former one shared last.
        let mut seen: HashSet<&str> = HashSet::new();
        let mut answer = Programmed::default();
        let mut take = |pod: &ObjectName, state: Option<&SourceState>| {
            let Some(state) = state else { return };
            answer.proxies += 1;
            if state.refused.is_none() && reaches(source, state.acknowledged) {
                answer.acknowledged += 1;
            } else if let Some(reason) = &state.refused
                && state.sent == source.generation
            {
                answer.refused.push((pod.clone(), reason.clone()));
            }
        };
        for proxy in inner.streams.values_mut().rev() {
            if proxy.by_source.is_none() {
                proxy.by_source = Some(by_source(&proxy.resources));
            }
            if seen.insert(&proxy.instance) {
                let by_source = proxy.by_source.as_ref();
                take(&proxy.pod, by_source.and_then(|s| s.get(&source.source)));
            }
        }
        let mut replicas: Vec<&Replica> = inner.replicas.values().filter(|r| now - r.at < SHARE_EXPIRY).collect();
        replicas.sort_unstable_by_key(|r| std::cmp::Reverse(r.at));
        for proxy in replicas.into_iter().flat_map(|r| &r.proxies) {
            if seen.insert(&proxy.instance) {
                take(&proxy.pod, proxy.by_source.get(&source.source));
            }
        }
        answer.refused.sort_unstable();
        answer.refused.truncate(MAX_REFUSALS);
        answer
    }

    /// What all proxies counted of a group, since they began; `None` where none did.
    pub fn counts(&self, group: &str) -> Option<Counts> {
        self.inner.lock().groups.sum(group)
    }

    /// This replica leads from now on.
    pub fn take_over(&self) {
        self.inner.lock().groups.take_over();
    }

    /// Of these what no other process can have taken for evidence.
    pub fn fresh(&self, group: &str) -> Fresh {
        self.inner.lock().groups.fresh(group)
    }

    /// All that proxies said to this replica, for the one that leads.
    pub(crate) fn share(&self) -> Vec<v1::ProxyState> {
        let inner = &mut *self.inner.lock();
        let mut groups = inner.groups.reported_here();
        let mut states = Vec::with_capacity(inner.streams.len());
        for proxy in inner.streams.values_mut() {
            let resources = &proxy.resources;
            let by_source = proxy.by_source.get_or_insert_with(|| by_source(resources));
            states.push(v1::ProxyState {
                pod_namespace: proxy.pod.namespace.clone(),
                pod_name: proxy.pod.name.clone(),
                instance: proxy.instance.clone(),
                applied: by_source.iter().map(applied_to_wire).collect(),
                groups: groups.remove(proxy.instance.as_str()).unwrap_or_default(),
                plain_callers: inner.plain_callers.of(&proxy.pod, Instant::now()),
                trust: proxy.trust.as_ref().map(trust_to_wire),
            });
        }
        // Proxies that are gone apply nothing, but what they counted counts.
        states.extend(groups.into_iter().map(|(instance, groups)| v1::ProxyState {
            instance: instance.to_owned(),
            groups,
            ..v1::ProxyState::default()
        }));
        states
    }

    /// What another replica shared; replaces what it shared before.
    pub(crate) fn take_share(&self, replica: String, trust: Option<v1::Trust>, states: Vec<v1::ProxyState>) {
        let now = Instant::now();
        let mut proxies = Vec::new();
        let inner = &mut *self.inner.lock();
        let mut news = false;
        for state in states {
            for report in &state.groups {
                inner.groups.record(&state.instance, report, false);
            }
            for caller in &state.plain_callers {
                let pod = ObjectName::new(&state.pod_namespace, &state.pod_name);
                let ago = Duration::from_secs(caller.seconds_ago.into());
                if let Some(at) = now.checked_sub(ago) {
                    news |= inner.plain_callers.note(&pod, &caller.ip, at);
                }
            }
            if state.applied.is_empty() && state.trust.is_none() {
                continue;
            }
            proxies.push(RemoteProxy {
                pod: ObjectName::new(state.pod_namespace, state.pod_name),
                instance: state.instance,
                trust: state.trust.as_ref().map(trust_from_wire),
                by_source: state.applied.into_iter().filter_map(applied_from_wire).collect(),
            });
        }
        inner.replicas.retain(|_, r| now - r.at < SHARE_EXPIRY);
        if inner.replicas.len() >= MAX_REPLICAS && !inner.replicas.contains_key(&replica) {
            tracing::warn!(replica, "more than {MAX_REPLICAS} replicas share what proxies said: this one is left out");
            return;
        }
        let trust = trust.map(|trust| trust_from_wire(&trust));
        let before = inner.replicas.get(&replica);
        let changed = news || before.is_none_or(|before| before.proxies != proxies || before.trust != trust);
        inner.replicas.insert(replica, Replica { at: now, trust, proxies });
        if changed {
            self.changed.send_replace(());
        }
    }
}

/// The traffic states of a Canary follow each other, so a later one is further. An object made anew begins to count its generations
/// anew, so of the other kinds it must be the very one.
fn reaches(source: &SourceRef, acknowledged: i64) -> bool {
    let later = source.source.kind == SourceKind::Canary && acknowledged > source.generation;
    later || acknowledged == source.generation
}

/// Of several resources with one source it is the one that lags behind that counts.
fn by_source(resources: &HashMap<ResourceName, Applied>) -> HashMap<Source, SourceState> {
    let mut states: HashMap<Source, SourceState> = HashMap::new();
    for applied in resources.values() {
        for sent in &applied.sent {
            let acknowledged =
                applied.acknowledged.iter().find(|s| s.source == sent.source).map_or(0, |s| s.generation);
            let state = states.entry(sent.source.clone()).or_insert_with(|| SourceState {
                sent: sent.generation,
                acknowledged,
                refused: None,
            });
            state.sent = state.sent.max(sent.generation);
            state.acknowledged = state.acknowledged.min(acknowledged);
            if state.refused.is_none() {
                state.refused.clone_from(&applied.refused);
            }
        }
    }
    states
}

fn applied_to_wire((source, state): (&Source, &SourceState)) -> v1::Applied {
    v1::Applied {
        kind: source.kind.as_str().to_owned(),
        namespace: source.object.namespace.clone(),
        name: source.object.name.clone(),
        sent_generation: state.sent,
        acknowledged_generation: state.acknowledged,
        refused: state.refused.clone().unwrap_or_default(),
    }
}

/// `None`: of a kind that a newer replica knows.
fn applied_from_wire(applied: v1::Applied) -> Option<(Source, SourceState)> {
    let source =
        Source { kind: SourceKind::parse(&applied.kind)?, object: ObjectName::new(applied.namespace, applied.name) };
    let state = SourceState {
        sent: applied.sent_generation,
        acknowledged: applied.acknowledged_generation,
        refused: Some(applied.refused).filter(|why| !why.is_empty()),
    };
    Some((source, state))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(generation: i64) -> SourceRef {
        SourceRef {
            source: Source { kind: SourceKind::TrafficPolicy, object: ObjectName::new("shop", "p") },
            generation,
        }
    }

    fn at(port: u16) -> ResourceName {
        ResourceName::Destination { caller: "shop".into(), address: ([10, 0, 0, 1], port).into() }
    }

    fn proxy(registry: &Registry, name: &str) -> StreamId {
        registry.begin(ObjectName::new("shop", name), format!("instance-{name}"))
    }

    fn summary(registry: &Registry, generation: i64) -> (usize, usize) {
        let programmed = registry.programmed(&source(generation));
        (programmed.acknowledged, programmed.proxies)
    }

    #[tokio::test]
    async fn a_change_is_programmed_when_all_that_have_it_say_so() {
        let registry = Registry::default();
        let (a, b, _c) = (proxy(&registry, "a"), proxy(&registry, "b"), proxy(&registry, "c"));
        assert_eq!(summary(&registry, 1), (0, 0));
        registry.sent(a, &at(80), &[source(1)]);
        registry.sent(b, &at(80), &[source(1)]);
        assert_eq!(summary(&registry, 1), (0, 2));
        registry.acknowledged(a, &at(80), &[source(1)]);
        registry.acknowledged(b, &at(80), &[source(1)]);
        assert_eq!(summary(&registry, 1), (2, 2));
        assert!(registry.programmed(&source(1)).is_complete());
        assert_eq!(summary(&registry, 2), (0, 2), "a generation that was not sent yet");
        registry.sent(a, &at(80), &[source(2)]);
        registry.acknowledged(a, &at(80), &[source(2)]);
        assert_eq!(summary(&registry, 2), (1, 2));
        registry.end(b);
        assert_eq!(summary(&registry, 2), (1, 1));
    }

    #[tokio::test]
    async fn a_proxy_has_a_change_when_all_its_resources_have_it() {
        let registry = Registry::default();
        let a = proxy(&registry, "a");
        registry.sent(a, &at(80), &[source(1)]);
        registry.sent(a, &at(81), &[source(1)]);
        registry.acknowledged(a, &at(80), &[source(1)]);
        assert_eq!(summary(&registry, 1), (0, 1));
        registry.forget(a, &at(81));
        assert_eq!(summary(&registry, 1), (1, 1));
    }

    #[tokio::test]
    async fn a_refusal_names_the_pod_and_ends_with_the_next_version() {
        let registry = Registry::default();
        let a = proxy(&registry, "a");
        registry.sent(a, &at(80), &[source(1)]);
        registry.acknowledged(a, &at(80), &[source(1)]);
        registry.sent(a, &at(80), &[source(2)]);
        registry.refused(a, &at(80), "too large".into());
        let programmed = registry.programmed(&source(2));
        assert_eq!(programmed.refused, [(ObjectName::new("shop", "a"), "too large".to_owned())]);
        assert_eq!(programmed.acknowledged, 0);
        registry.sent(a, &at(80), &[source(3)]);
        assert!(registry.programmed(&source(3)).refused.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_leader_speaks_for_the_proxies_of_all_replicas() {
        let (leader, other) = (Registry::default(), Registry::default());
        let a = proxy(&leader, "a");
        leader.sent(a, &at(80), &[source(1)]);
        let b = proxy(&other, "b");
        other.sent(b, &at(80), &[source(1)]);
        other.acknowledged(b, &at(80), &[source(1)]);
        let counts = v1::GroupCounts { group: "g".into(), requests: 7, failures: 1, latency: vec![7] };
        other.count(b, [&counts]);
        leader.take_share("replica-2".into(), None, other.share());
        assert_eq!(summary(&leader, 1), (1, 2));
        assert_eq!(leader.counts("g").unwrap().requests, 7);

        // The proxy comes over to the leader: it is counted once, and so is what it counted.
        let b = proxy(&leader, "b");
        leader.sent(b, &at(80), &[source(1)]);
        leader.count(b, [&counts]);
        assert_eq!(summary(&leader, 1), (0, 2));
        assert_eq!(leader.counts("g").unwrap().requests, 7);

        tokio::time::advance(SHARE_EXPIRY).await;
        leader.end(b);
        assert_eq!(summary(&leader, 1), (0, 1), "a replica that is silent is forgotten");
        assert_eq!(leader.counts("g").unwrap().requests, 7, "what was counted stays");
    }

    #[tokio::test]
    async fn what_a_proxy_counted_outlives_it_in_what_is_shared() {
        let (leader, other) = (Registry::default(), Registry::default());
        let b = proxy(&other, "b");
        let counts = v1::GroupCounts { group: "g".into(), requests: 3, ..v1::GroupCounts::default() };
        other.count(b, [&counts]);
        other.end(b);
        leader.take_share("replica-2".into(), None, other.share());
        assert_eq!(leader.counts("g").unwrap().requests, 3);
        assert_eq!(summary(&leader, 1), (0, 0));
    }

    #[tokio::test]
    async fn a_share_that_says_nothing_new_wakes_nobody() {
        let (leader, other) = (Registry::default(), Registry::default());
        let b = proxy(&other, "b");
        other.sent(b, &at(80), &[source(1)]);
        leader.take_share("replica-2".into(), None, other.share());
        let mut changed = leader.changed();
        changed.mark_unchanged();
        leader.take_share("replica-2".into(), None, other.share());
        assert!(!changed.has_changed().unwrap());
        other.acknowledged(b, &at(80), &[source(1)]);
        leader.take_share("replica-2".into(), None, other.share());
        assert!(changed.has_changed().unwrap());
    }
}
