//! The tables: what was watched, how its parts find each other, and who has to hear of a change.
//!
//! Each table changes through one `set_…` call that takes the new value or `None`, keeps the reverse tables in step and calls
//! [`State::touch`] with whatever a resource may have been computed from.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::Settings;
use super::authorities::Authorities;
use super::canary::Canary;
use super::peer_auth::PeerAuth;
use super::pod::Pod;
use super::scope::{Attachment, Consumers, Target};
use super::service::{Service, Slice};
use super::subscriptions::Subscriptions;
use super::traffic_policy::TrafficPolicy;
use crate::model::{FetchedKeys, ObjectName, Place};

/// What a resource was computed from, and so what makes it be computed again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Dependency {
    /// What an address belongs to.
    Address(IpAddr),
    /// The ports of a Service and the policies on it of its own namespace, or its absence.
    Service(ObjectName),
    /// The policies of a namespace that are defaults for its own Services.
    Defaults(String),
    /// The policies of a namespace for the Services of others.
    Consumer(String),
    /// The endpoints of a Service and their pods.
    Endpoints(ObjectName),
    /// A pod, or its absence, and the Services that it serves.
    Pod(ObjectName),
    /// The pods of a Deployment.
    Deployment(ObjectName),
    /// The `PeerAuth`s and `Canary`s of a namespace.
    Namespace(String),
    /// A `ConfigMap` with authorities, or its absence.
    Authorities(ObjectName),
    /// Where a node is.
    Node(String),
}

/// All that the index knows.
#[derive(Debug)]
pub struct State {
    pub(super) settings: Settings,
    pub(super) services: HashMap<ObjectName, Service>,
    /// Cluster addresses.
    pub(super) service_ips: HashMap<IpAddr, ObjectName>,
    pub(super) slices: HashMap<ObjectName, Slice>,
    /// The slices of a Service.
    pub(super) service_slices: HashMap<ObjectName, BTreeSet<ObjectName>>,
    /// The slices that name a pod.
    pub(super) pod_slices: HashMap<ObjectName, BTreeSet<ObjectName>>,
    pub(super) pods: HashMap<ObjectName, Pod>,
    pub(super) pod_ips: HashMap<IpAddr, ObjectName>,
    /// Where nodes are; those whose labels say nothing are left out.
    pub(super) nodes: HashMap<String, Place>,
    /// The pods of a Deployment, and of its clone.
    pub(super) deployment_pods: HashMap<ObjectName, BTreeSet<ObjectName>>,
    pub(super) policies: HashMap<ObjectName, TrafficPolicy>,
    /// The policies with one attachment.
    pub(super) attached: HashMap<Attachment, BTreeSet<ObjectName>>,
    pub(super) consumers: Consumers,
    /// Of `ConfigMap`s.
    pub(super) authorities: HashMap<ObjectName, Authorities>,
    /// By namespace, then name.
    pub(super) peer_auths: HashMap<String, BTreeMap<String, PeerAuth>>,
    /// Keys of issuers, as far as they were fetched, by URL.
    pub(super) keys: BTreeMap<String, FetchedKeys>,
    /// By namespace, then name.
    pub(super) canaries: HashMap<String, BTreeMap<String, Canary>>,
    pub(super) subscriptions: Subscriptions,
    /// Policies or what they refer to have changed since someone asked.
    pub(super) reports_changed: bool,
}

impl State {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            settings,
            services: HashMap::new(),
            service_ips: HashMap::new(),
            slices: HashMap::new(),
            service_slices: HashMap::new(),
            pod_slices: HashMap::new(),
            pods: HashMap::new(),
            pod_ips: HashMap::new(),
            nodes: HashMap::new(),
            deployment_pods: HashMap::new(),
            policies: HashMap::new(),
            attached: HashMap::new(),
            consumers: HashMap::new(),
            authorities: HashMap::new(),
            peer_auths: HashMap::new(),
            keys: BTreeMap::new(),
            canaries: HashMap::new(),
            subscriptions: Subscriptions::default(),
            reports_changed: false,
        }
    }

    fn touch(&mut self, dependency: &Dependency) {
        self.subscriptions.touch(dependency);
    }

    pub(super) fn set_service(&mut self, name: &ObjectName, new: Option<Service>) {
        if self.services.get(name) == new.as_ref() {
            return;
        }
        let old = self.services.remove(name);
        self.reports_changed = true;
        for ip in old.iter().flat_map(|s| &s.cluster_ips) {
            remove_if_equal(&mut self.service_ips, ip, name);
            self.subscriptions.touch(&Dependency::Address(*ip));
        }
        for ip in new.iter().flat_map(|s| &s.cluster_ips) {
            self.service_ips.insert(*ip, name.clone());
            self.subscriptions.touch(&Dependency::Address(*ip));
        }
        self.touch(&Dependency::Service(name.clone()));
        if let Some(new) = new {
            self.services.insert(name.clone(), new);
        }
    }

    pub(super) fn set_slice(&mut self, name: &ObjectName, new: Option<Slice>) {
        if self.slices.get(name) == new.as_ref() {
            return;
        }
        let old = self.slices.remove(name);
        // A pod's own workload looks at the slices for its ports alone, so readiness of its neighbours does not concern it.
        let ports_changed =
            old.as_ref().map(|s| (&s.service, &s.ports)) != new.as_ref().map(|s| (&s.service, &s.ports));
        let before: HashSet<&ObjectName> = old.iter().flat_map(Slice::pods).collect();
        let after: HashSet<&ObjectName> = new.iter().flat_map(Slice::pods).collect();
        for pod in before.union(&after) {
            if ports_changed || !(before.contains(pod) && after.contains(pod)) {
                self.subscriptions.touch(&Dependency::Pod((*pod).clone()));
            }
        }
        for pod in before.difference(&after) {
            remove_from(&mut self.pod_slices, pod, name);
        }
        for pod in after.difference(&before) {
            insert_into(&mut self.pod_slices, pod, name);
        }
        if let Some(slice) = &old {
            let service = ObjectName::new(&name.namespace, &slice.service);
            remove_from(&mut self.service_slices, &service, name);
            self.touch(&Dependency::Endpoints(service));
        }
        if let Some(slice) = &new {
            let service = ObjectName::new(&name.namespace, &slice.service);
            insert_into(&mut self.service_slices, &service, name);
            self.touch(&Dependency::Endpoints(service));
        }
        if let Some(new) = new {
            self.slices.insert(name.clone(), new);
        }
    }

    pub(super) fn set_pod(&mut self, name: &ObjectName, new: Option<Pod>) {
        if self.pods.get(name) == new.as_ref() {
            return;
        }
        let old = self.pods.remove(name);
        if let Some(pod) = &old {
            for ip in &pod.ips {
                // An address may have gone to a new pod before the old one's end was heard of.
                remove_if_equal(&mut self.pod_ips, ip, name);
                self.subscriptions.touch(&Dependency::Address(*ip));
            }
            if let Some(deployment) = pod.released_deployment() {
                let deployment = ObjectName::new(&name.namespace, deployment);
                remove_from(&mut self.deployment_pods, &deployment, name);
                self.touch(&Dependency::Deployment(deployment));
            }
        }
        if let Some(pod) = &new {
            for ip in &pod.ips {
                self.pod_ips.insert(*ip, name.clone());
                self.subscriptions.touch(&Dependency::Address(*ip));
            }
            if let Some(deployment) = pod.released_deployment() {
                let deployment = ObjectName::new(&name.namespace, deployment);
                insert_into(&mut self.deployment_pods, &deployment, name);
                self.touch(&Dependency::Deployment(deployment));
            }
        }
        for service in self.services_of(name) {
            self.touch(&Dependency::Endpoints(service));
        }
        self.touch(&Dependency::Pod(name.clone()));
        if let Some(new) = new {
            self.pods.insert(name.clone(), new);
        }
    }

    pub(super) fn set_node(&mut self, name: &str, new: Option<Place>) {
        let new = new.filter(|place| *place != Place::default());
        if self.nodes.get(name) == new.as_ref() {
            return;
        }
        match new {
            Some(place) => self.nodes.insert(name.to_owned(), place),
            None => self.nodes.remove(name),
        };
        self.touch(&Dependency::Node(name.to_owned()));
    }

    pub(super) fn set_policy(&mut self, name: &ObjectName, new: Option<TrafficPolicy>) {
        if self.policies.get(name) == new.as_ref() {
            return;
        }
        let old = self.policies.remove(name);
        self.reports_changed = true;
        for (policy, attached) in [(&old, false), (&new, true)] {
            for attachment in policy.iter().flat_map(TrafficPolicy::attachments) {
                self.attach(name, attachment, attached);
                let dependency = match &attachment.target {
                    _ if attachment.is_consumers() => Dependency::Consumer(attachment.from.clone()),
                    Target::Service { service, .. } => Dependency::Service(service.clone()),
                    Target::Namespace(namespace) => Dependency::Defaults(namespace.clone()),
                };
                self.touch(&dependency);
            }
        }
        if let Some(new) = new {
            self.policies.insert(name.clone(), new);
        }
    }

    pub(super) fn set_authorities(&mut self, name: &ObjectName, new: Option<Authorities>) {
        if self.authorities.get(name) == new.as_ref() {
            return;
        }
        match new {
            Some(new) => self.authorities.insert(name.clone(), new),
            None => self.authorities.remove(name),
        };
        self.reports_changed = true;
        self.touch(&Dependency::Authorities(name.clone()));
    }

    pub(super) fn set_peer_auth(&mut self, name: &ObjectName, new: Option<PeerAuth>) {
        let of_namespace = self.peer_auths.entry(name.namespace.clone()).or_default();
        let changed = of_namespace.get(&name.name) != new.as_ref();
        match new {
            Some(new) => of_namespace.insert(name.name.clone(), new),
            None => of_namespace.remove(&name.name),
        };
        if of_namespace.is_empty() {
            self.peer_auths.remove(&name.namespace);
        }
        if changed {
            self.peer_auths_changed(&name.namespace);
        }
    }

    /// Those of a namespace, or what they refer to.
    pub(super) fn peer_auths_changed(&mut self, namespace: &str) {
        self.reports_changed = true;
        if namespace == self.settings.operator_namespace {
            self.subscriptions.touch_all();
        } else {
            self.touch(&Dependency::Namespace(namespace.to_owned()));
        }
    }

    pub(super) fn set_canary(&mut self, name: &ObjectName, new: Option<Canary>) {
        let of_namespace = self.canaries.entry(name.namespace.clone()).or_default();
        let changed = of_namespace.get(&name.name) != new.as_ref();
        match new {
            Some(new) => of_namespace.insert(name.name.clone(), new),
            None => of_namespace.remove(&name.name),
        };
        if of_namespace.is_empty() {
            self.canaries.remove(&name.namespace);
        }
        if changed {
            self.touch(&Dependency::Namespace(name.namespace.clone()));
        }
    }

    /// The Services whose slices name a pod.
    pub(super) fn services_of(&self, pod: &ObjectName) -> BTreeSet<ObjectName> {
        let slices = self.pod_slices.get(pod).into_iter().flatten();
        slices
            .filter_map(|name| {
                let slice = self.slices.get(name)?;
                Some(ObjectName::new(&name.namespace, &slice.service))
            })
            .collect()
    }

    /// The slices of a Service, in the order of their names.
    pub(super) fn slices_of(&self, service: &ObjectName) -> impl Iterator<Item = &Slice> {
        let names = self.service_slices.get(service).into_iter().flatten();
        names.filter_map(|name| self.slices.get(name))
    }
}

fn remove_if_equal(ips: &mut HashMap<IpAddr, ObjectName>, ip: &IpAddr, name: &ObjectName) {
    if ips.get(ip) == Some(name) {
        ips.remove(ip);
    }
}

fn insert_into(table: &mut HashMap<ObjectName, BTreeSet<ObjectName>>, key: &ObjectName, member: &ObjectName) {
    table.entry(key.clone()).or_default().insert(member.clone());
}

fn remove_from(table: &mut HashMap<ObjectName, BTreeSet<ObjectName>>, key: &ObjectName, member: &ObjectName) {
    if let Some(members) = table.get_mut(key) {
        members.remove(member);
        if members.is_empty() {
            table.remove(key);
        }
    }
}
