//! Who listens to which resource, and which resources have to be computed again.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::compile::Compiled;
use super::state::Dependency;
use crate::model::{Resource, ResourceName};

/// Distinct resources that are kept up to date at once: with 200 bytes to some kilobytes each this bounds memory, and a mesh of
/// 10,000 Service ports stays far below it.
const MAX_RESOURCES: usize = 100_000;

/// The newest state of a resource.
#[derive(Debug)]
pub struct Update {
    /// The resource.
    pub resource: Arc<Resource>,
    /// When the first change that led to it was seen; for a resource that nobody listened to before: when it was asked for.
    pub seen: Instant,
}

/// Too many distinct resources are listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_RESOURCES} distinct addresses and pods are subscribed to already; run more replicas of the operator")]
pub struct Full;

#[derive(Debug)]
struct Entry {
    sender: watch::Sender<Arc<Update>>,
    dependencies: HashSet<Dependency>,
}

/// Who listens to which resource.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    entries: HashMap<ResourceName, Entry>,
    dependents: HashMap<Dependency, HashSet<ResourceName>>,
    dirty: HashMap<ResourceName, Instant>,
}

impl Subscriptions {
    /// Marks what was computed from this.
    pub(super) fn touch(&mut self, dependency: &Dependency) {
        let Some(names) = self.dependents.get(dependency) else {
            return;
        };
        let now = Instant::now();
        for name in names {
            if !self.dirty.contains_key(name) {
                self.dirty.insert(name.clone(), now);
            }
        }
    }

    /// Marks everything.
    pub(super) fn touch_all(&mut self) {
        let now = Instant::now();
        for name in self.entries.keys() {
            self.dirty.entry(name.clone()).or_insert(now);
        }
    }

    /// Takes what was marked, and when.
    pub(super) fn take_dirty(&mut self) -> HashMap<ResourceName, Instant> {
        std::mem::take(&mut self.dirty)
    }

    pub(super) fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn is_dirty(&self, name: &ResourceName) -> bool {
        self.dirty.contains_key(name)
    }

    /// A receiver of a resource that is listened to already.
    pub(super) fn join(&self, name: &ResourceName) -> Option<watch::Receiver<Arc<Update>>> {
        self.entries.get(name).map(|entry| entry.sender.subscribe())
    }

    /// What those are told of an address who `share` it, if any listens already.
    pub(super) fn of_address(&self, address: SocketAddr, share: impl Fn(&str) -> bool) -> Option<Compiled> {
        let names = self.dependents.get(&Dependency::Address(address.ip()))?;
        let mut shared = names.iter().filter(|name| match name {
            ResourceName::Destination { caller, address: same } => *same == address && share(caller),
            ResourceName::Workload(_) => false,
        });
        let entry = shared.find(|name| !self.dirty.contains_key(name)).and_then(|name| self.entries.get(name))?;
        let resource = entry.sender.borrow().resource.clone();
        let mut dependencies = entry.dependencies.clone();
        dependencies.retain(|d| !matches!(d, Dependency::Consumer(_)));
        Some(Compiled { resource, dependencies })
    }

    /// Begins to keep a resource up to date.
    pub(super) fn begin(
        &mut self,
        name: ResourceName,
        compiled: Compiled,
    ) -> Result<watch::Receiver<Arc<Update>>, Full> {
        if self.entries.len() >= MAX_RESOURCES {
            self.sweep();
            if self.entries.len() >= MAX_RESOURCES {
                return Err(Full);
            }
        }
        let seen = Instant::now();
        let Compiled { resource, dependencies } = compiled;
        let (sender, receiver) = watch::channel(Arc::new(Update { resource, seen }));
        self.link(&name, &dependencies);
        let entry = Entry { sender, dependencies };
        self.entries.insert(name, entry);
        Ok(receiver)
    }

    /// Puts the newest state of a resource in place, and tells its listeners if it differs.
    pub(super) fn publish(&mut self, name: &ResourceName, compiled: Compiled, seen: Instant) {
        let Compiled { resource, dependencies } = compiled;
        let Some(entry) = self.entries.get_mut(name) else {
            return;
        };
        if entry.sender.borrow().resource != resource {
            entry.sender.send_replace(Arc::new(Update { resource, seen }));
        }
        if entry.dependencies != dependencies {
            self.link(name, &dependencies);
            if let Some(entry) = self.entries.get_mut(name) {
                let old = std::mem::replace(&mut entry.dependencies, dependencies);
                let gone = &old - &entry.dependencies;
                self.unlink(name, &gone);
            }
        }
    }

    /// Whether anyone listens; if not, the resource is forgotten.
    pub(super) fn is_wanted(&mut self, name: &ResourceName) -> bool {
        let wanted = self.entries.get(name).is_some_and(|entry| entry.sender.receiver_count() > 0);
        if !wanted && let Some(entry) = self.entries.remove(name) {
            self.unlink(name, &entry.dependencies);
        }
        wanted
    }

    /// Forgets what nobody listens to.
    pub(super) fn sweep(&mut self) {
        let unwanted: Vec<ResourceName> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.sender.receiver_count() == 0)
            .map(|(name, _)| name.clone())
            .collect();
        for name in unwanted {
            self.is_wanted(&name);
            self.dirty.remove(&name);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn link(&mut self, name: &ResourceName, dependencies: &HashSet<Dependency>) {
        for dependency in dependencies {
            let names = self.dependents.entry(dependency.clone()).or_default();
            names.insert(name.clone());
        }
    }

    fn unlink(&mut self, name: &ResourceName, dependencies: &HashSet<Dependency>) {
        for dependency in dependencies {
            if let Some(names) = self.dependents.get_mut(dependency) {
                names.remove(name);
                if names.is_empty() {
                    self.dependents.remove(dependency);
                }
            }
        }
    }
}
