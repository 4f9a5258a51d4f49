//! Watches of the cluster become the model.
//!
//! [`watch::run`] feeds an [`Index`] with what it watches, through three synchronous calls: [`Index::apply`], [`Index::delete`] and
//! [`Index::retain`] (after a new listing). They keep small structs of the objects and mark what has to be computed again;
//! [`Index::flush`] computes it, so that a burst of changes costs one computation. [`Index::subscribe`] is the way out: a receiver
//! that always holds the newest state of one resource and wakes only if it differs from what was there before.
//!
//! Nothing here waits or does I/O, so all of it is tested with objects built in code.

mod authorities;
mod canary;
mod compile;
mod conjunction;
mod kinds;
mod peer_auth;
mod pod;
mod pod_address;
mod release;
mod report;
mod route;
mod scope;
mod service;
mod split;
mod state;
mod subscriptions;
mod target;
mod traffic_policy;
pub mod watch;
mod workload;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use fairlead_crds::WorkloadReadiness;
use parking_lot::Mutex;
use tokio::sync::watch as channel;

pub use canary::validate_matches;
pub use kinds::Kind;
pub use peer_auth::{Credit, Part, Scope};
pub use pod::{HEALTH_PORT, PROXY_CONTAINER};
pub use report::{Problem, Report};
pub use subscriptions::{Full, Update};
pub use target::{Alike, NoTarget, Target};

use crate::model::{FetchedKeys, ObjectName, Resource, ResourceName};
use compile::Shared;
use state::State;

/// What the Deployment of `install.yaml` puts on the operator's pods.
const OPERATOR_LABEL: (&str, &str) = ("app.kubernetes.io/name", "fairlead-operator");

/// What the index has to know of the mesh as a whole.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Of every identity: `cluster.local`.
    pub trust_domain: String,
    /// A `PeerAuth` here without a selector holds for the mesh.
    pub operator_namespace: String,
}

/// What others may know of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSummary {
    /// `metadata.uid`.
    pub uid: String,
    /// Under which it runs.
    pub service_account: String,
    /// Its own addresses; empty until the kubelet reports them.
    pub ips: Vec<IpAddr>,
    /// Its end has begun, or it has ended.
    pub terminating: bool,
}

/// What is known of the cluster, joined to what proxies must know.
#[derive(Debug)]
pub struct Index {
    state: Mutex<State>,
    ready: channel::Sender<bool>,
    reports: channel::Sender<()>,
}

impl Index {
    /// An empty index, not ready.
    pub fn new(settings: Settings) -> Self {
        Self {
            state: Mutex::new(State::new(settings)),
            ready: channel::Sender::new(false),
            reports: channel::Sender::new(()),
        }
    }

    /// An object was made or has changed.
    pub fn apply<K: Kind>(&self, object: K) {
        object.apply(&mut self.state.lock());
    }

    /// An object is gone.
    pub fn delete<K: Kind>(&self, name: &ObjectName) {
        K::delete(name, &mut self.state.lock());
    }

    /// Of this kind there are these objects and no others.
    pub fn retain<K: Kind>(&self, names: &HashSet<ObjectName>) {
        let mut state = self.state.lock();
        for name in K::names(&state) {
            if !names.contains(&name) {
                K::delete(&name, &mut state);
            }
        }
    }

    /// Computes what the changes since the last call affect, and tells those who listen.
    pub fn flush(&self) {
        let mut state = self.state.lock();
        let mut shared = Shared::new();
        for (name, seen) in state.subscriptions.take_dirty() {
            if state.subscriptions.is_wanted(&name) {
                let compiled = state.compile(&name, &mut shared);
                state.subscriptions.publish(&name, compiled, seen);
            }
        }
        if std::mem::take(&mut state.reports_changed) {
            self.reports.send_replace(());
        }
    }

    /// Whether [`Index::flush`] has anything to do.
    pub fn is_dirty(&self) -> bool {
        let state = self.state.lock();
        state.subscriptions.has_dirty() || state.reports_changed
    }

    /// The newest state of a resource, and each later one. What nobody listens to any more is forgotten.
    pub fn subscribe(&self, name: ResourceName) -> Result<channel::Receiver<Arc<Update>>, Full> {
        let mut state = self.state.lock();
        let joined = state.subscriptions.join(&name);
        // What is marked is old; the newcomer need not see it, the others get it a little sooner.
        if let Some(receiver) = &joined
            && !state.subscriptions.is_dirty(&name)
        {
            return Ok(receiver.clone());
        }
        let mut shared = state.shared_with(&name);
        let compiled = state.compile(&name, &mut shared);
        let Some(mut receiver) = joined else {
            return state.subscriptions.begin(name, compiled);
        };
        state.subscriptions.publish(&name, compiled, tokio::time::Instant::now());
        receiver.mark_unchanged();
        Ok(receiver)
    }

    /// The present state of a resource, for those who ask once.
    pub fn get(&self, name: &ResourceName) -> Resource {
        self.state.lock().compile(name, &mut Shared::new()).resource.as_ref().clone()
    }

    /// Forgets resources that nobody listens to; called now and then.
    pub fn sweep(&self) {
        self.state.lock().subscriptions.sweep();
    }

    /// How many distinct resources are kept up to date.
    pub fn resources(&self) -> usize {
        self.state.lock().subscriptions.len()
    }

    /// A pod, if it has been seen.
    pub fn pod(&self, name: &ObjectName) -> Option<PodSummary> {
        let state = self.state.lock();
        let pod = state.pods.get(name)?;
        Some(PodSummary {
            uid: pod.uid.clone(),
            service_account: pod.service_account.clone(),
            ips: pod.ips.clone(),
            terminating: pod.terminating,
        })
    }

    /// Every pod with a sidecar that has an address and has not begun to end: those that need a certificate, ready or not.
    pub fn meshed(&self) -> Vec<ObjectName> {
        let state = self.state.lock();
        let meshed = state.pods.iter().filter(|(_, pod)| pod.meshed && !pod.ips.is_empty() && !pod.terminating);
        meshed.map(|(name, _)| name.clone()).collect()
    }

    /// The names of the operator's own pods, of those that have an address and have not begun to end.
    pub fn operators(&self) -> Vec<String> {
        let state = self.state.lock();
        let own = |name: &ObjectName| name.namespace == state.settings.operator_namespace;
        let live = state.pods.iter().filter(|(name, pod)| own(name) && !pod.ips.is_empty() && !pod.terminating);
        let operators = live.filter(|(_, pod)| pod.labels.get(OPERATOR_LABEL.0).is_some_and(|v| v == OPERATOR_LABEL.1));
        operators.map(|(name, _)| name.name.clone()).collect()
    }

    /// What is to be said of every `TrafficPolicy` and `PeerAuth`.
    pub fn reports(&self) -> Vec<Report> {
        report::all(&self.state.lock())
    }

    /// Whom Strict would cut off, by `PeerAuth`; `called` says from which addresses pods were called in plain.
    pub fn readiness(
        &self,
        called: &HashMap<ObjectName, BTreeSet<IpAddr>>,
    ) -> HashMap<ObjectName, Vec<WorkloadReadiness>> {
        self.state.lock().readiness(called)
    }

    /// Wakes when [`Index::reports`] may have changed.
    pub fn reports_changed(&self) -> channel::Receiver<()> {
        self.reports.subscribe()
    }

    /// The URLs of the key sets that `PeerAuth`s name.
    pub fn wanted_keys(&self) -> BTreeSet<String> {
        self.state.lock().wanted_keys()
    }

    /// What became of them.
    pub fn set_keys(&self, keys: BTreeMap<String, FetchedKeys>) {
        self.state.lock().set_keys(keys);
        self.flush();
    }

    /// All first listings are in: what is answered from now on is the cluster, not a part of it.
    pub fn set_ready(&self) {
        self.flush();
        self.ready.send_replace(true);
    }

    /// Whether [`Index::set_ready`] was called.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// Returns once the index is ready.
    pub async fn ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives as long as `self`.
        let _ = ready.wait_for(|ready| *ready).await;
    }
}
