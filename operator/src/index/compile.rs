//! Joins the tables to resources. [`State::compile`] is the one entry; every look into a table leaves a [`Dependency`] behind, and
//! every object that took part a [`SourceRef`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::pod::Pod;
use super::scope::Policies;
use super::service::{Service, ServicePort};
use super::state::{Dependency, State};
use super::traffic_policy::{Reference, Rules};
use crate::model::{
    self, Body, Destination, Endpoint, MtlsMode, ObjectName, Origination, Place, Resource, ResourceName, Source,
    SourceKind, SourceRef, canonical,
};

/// A resource in the making.
pub(super) struct Compiler<'a> {
    pub state: &'a State,
    /// The namespace of the callers, if policies of its own hold for them.
    pub caller: Option<&'a str>,
    pub dependencies: HashSet<Dependency>,
    pub sources: BTreeMap<Source, i64>,
}

/// An endpoint of a Service and the pod behind it.
#[derive(Clone)]
pub(super) struct Candidate<'a> {
    pub endpoint: Endpoint,
    pub pod: Option<&'a Pod>,
    pub ready: bool,
}

/// What a reference of a policy leads to.
pub(super) struct Resolved<'a> {
    pub service: ObjectName,
    pub port: &'a ServicePort,
    /// Name and labels.
    pub subset: Option<(&'a str, &'a BTreeMap<String, String>)>,
}

/// A resource, and what must change for it to be computed again.
#[derive(Clone)]
pub(super) struct Compiled {
    pub resource: Arc<Resource>,
    pub dependencies: HashSet<Dependency>,
}

/// Addresses that were computed already, as they are for callers without policies of their own: what is the same for callers of a hundred
/// namespaces is computed, and kept, once.
pub(super) type Shared = HashMap<SocketAddr, Compiled>;

impl State {
    /// Computes a resource.
    pub(super) fn compile(&self, name: &ResourceName, shared: &mut Shared) -> Compiled {
        let (caller, address) = match name {
            ResourceName::Workload(pod) => {
                return self.compiled(None, |c| {
                    c.workload(pod).map_or(Body::NoWorkload, |workload| Body::Workload(Box::new(workload)))
                });
            }
            ResourceName::Destination { caller, address } => (caller, *address),
        };
        let compute = |scope| self.compiled(scope, |c| Body::Destination(c.destination(address)));
        let mut compiled = match self.scope(caller) {
            None => shared.entry(address).or_insert_with(|| compute(None)).clone(),
            scope => compute(scope),
        };
        compiled.dependencies.insert(Dependency::Consumer(caller.clone()));
        compiled
    }

    fn compiled<'a>(&'a self, caller: Option<&'a str>, body: impl FnOnce(&mut Compiler<'a>) -> Body) -> Compiled {
        let mut compiler = Compiler { state: self, caller, dependencies: HashSet::new(), sources: BTreeMap::new() };
        let body = body(&mut compiler);
        let sources = compiler.sources.into_iter().map(|(source, generation)| SourceRef { source, generation });
        let resource = Arc::new(Resource { body, sources: sources.collect() });
        Compiled { resource, dependencies: compiler.dependencies }
    }

    /// Where a reference leads, or why nowhere: a sentence for the caller's 500 and for the policy's status. `own` is the port of
    /// the Service that the request was for.
    pub(super) fn resolve<'a>(
        &'a self,
        target: &ObjectName,
        own: &'a ServicePort,
        rules: &'a Rules,
        reference: &'a Reference,
    ) -> Result<Resolved<'a>, String> {
        match reference {
            Reference::Subset(name) => {
                let labels = rules
                    .subsets
                    .get(name)
                    .ok_or_else(|| format!("subset {name} is not defined: add it to the policy's spec.subsets"))?;
                Ok(Resolved { service: target.clone(), port: own, subset: Some((name, labels)) })
            }
            Reference::Service(name, port) => {
                let service = self
                    .services
                    .get(name)
                    .ok_or_else(|| format!("Service {name} does not exist: create it or correct the backend"))?;
                Ok(Resolved {
                    service: name.clone(),
                    port: service.port(*port).ok_or_else(|| no_port(name, service, *port))?,
                    subset: None,
                })
            }
        }
    }
}

fn no_port(name: &ObjectName, service: &Service, port: u16) -> String {
    let ports: Vec<String> = service.ports.iter().map(|p| p.port.to_string()).collect();
    let known = if ports.is_empty() { "none for TCP".to_owned() } else { ports.join(", ") };
    format!("Service {name} has no port {port}, its ports are: {known}")
}

impl<'a> Compiler<'a> {
    fn destination(&mut self, address: SocketAddr) -> Destination {
        let ip = canonical(address.ip());
        self.depend(Dependency::Address(ip));
        if let Some(name) = self.state.service_ips.get(&ip) {
            self.depend(Dependency::Service(name.clone()));
            let service = self.state.services.get(name);
            return match service.and_then(|s| s.port(address.port())) {
                Some(port) => Destination::Service(self.service(name, port, ip.is_ipv4())),
                None => Destination::PassThrough,
            };
        }
        let pod = self.state.pod_ips.get(&ip);
        let pod = pod.and_then(|name| Some((name, self.state.pods.get(name)?)));
        let Some((name, pod)) = pod else {
            return Destination::PassThrough;
        };
        // Slices say in which zone it is.
        self.depend(Dependency::Pod(name.clone()));
        let address = SocketAddr::new(ip, address.port());
        let place = self.place(self.zone_of(name), &pod.node);
        let endpoint = self.endpoint(&name.namespace, pod, address, place);
        if endpoint.identity.is_empty() {
            return Destination::PassThrough;
        }
        self.pod_address(name, endpoint)
    }

    /// The endpoints of a Service's port with addresses of one family, by address; who ends is left out. The two families of a Service
    /// lead to the same pods, which must not count twice.
    pub(super) fn candidates(&mut self, service: &ObjectName, port_name: &str, ipv4: bool) -> Vec<Candidate<'a>> {
        self.depend(Dependency::Endpoints(service.clone()));
        let mut found = BTreeMap::new();
        let state = self.state;
        for slice in state.slices_of(service) {
            let Some(port) = slice.target_port(port_name) else {
                continue;
            };
            for e in &slice.endpoints {
                if e.terminating || e.ip.is_ipv4() != ipv4 {
                    continue;
                }
                let address = SocketAddr::new(e.ip, port);
                let ready = e.ready;
                let place = self.place(e.zone.clone(), &e.node);
                let Some(reference) = &e.pod else {
                    let endpoint = self.by_hand(address, place);
                    found.insert(address, Candidate { endpoint, pod: None, ready });
                    continue;
                };
                // A pod that is not known yet could be one that must be reached with mTLS, so it waits until it is.
                let Some(pod) = state.pods.get(&reference.name) else {
                    continue;
                };
                let stale = !reference.uid.is_empty() && reference.uid != pod.uid;
                if stale || pod.terminating {
                    continue;
                }
                let endpoint = self.endpoint(&reference.name.namespace, pod, address, place);
                let pod = Some(pod);
                found.insert(address, Candidate { endpoint, pod, ready });
            }
        }
        found.into_values().collect()
    }

    /// An endpoint that somebody wrote into a slice. If it is the address of a pod, that pod's proxy is met like any other, whatever
    /// namespace it is in; but it takes part in no subset and no release of this Service, which name pods of their own namespace.
    fn by_hand(&mut self, address: SocketAddr, place: Place) -> Endpoint {
        self.depend(Dependency::Address(address.ip()));
        let state = self.state;
        let pod = state.pod_ips.get(&address.ip()).and_then(|name| Some((name, state.pods.get(name)?)));
        match pod {
            Some((name, pod)) => self.endpoint(&name.namespace, pod, address, place),
            None => Endpoint { address, identity: String::new(), place, group: String::new() },
        }
    }

    /// A pod's port as callers reach it.
    pub(super) fn endpoint(&mut self, namespace: &str, pod: &Pod, address: SocketAddr, place: Place) -> Endpoint {
        let mut identity = String::new();
        // An address that the pod does not know as its own (a second network's) does not lead to its proxy.
        if pod.captures(address.port()) && pod.ips.contains(&address.ip()) {
            self.depend(Dependency::Namespace(namespace.to_owned()));
            let mtls = self.state.mtls(namespace, &pod.labels);
            if mtls.of_port(address.port()) == MtlsMode::Disabled {
                // Otherwise it is the pod's own proxy alone that applies them.
                for source in mtls.sources {
                    self.cite(source);
                }
            } else {
                let trust_domain = &self.state.settings.trust_domain;
                identity = model::identity(trust_domain, namespace, &pod.service_account);
            }
        }
        Endpoint { address, identity, place, group: String::new() }
    }

    /// Where something is: in the zone that was stated, if any, and where its node is.
    pub(super) fn place(&mut self, zone: String, node: &str) -> Place {
        let place = self.state.nodes.get(node);
        if !node.is_empty() {
            self.depend(Dependency::Node(node.to_owned()));
        }
        let mut place = place.cloned().unwrap_or_default();
        if !zone.is_empty() {
            place.zone = zone;
        }
        place
    }

    /// How endpoints without an identity are reached, as the first policy that says it wants it.
    pub(super) fn origination(&mut self, policies: &Policies<'_>) -> Option<Origination> {
        let rule = policies.first(|rules| rules.origination.as_ref())?;
        self.depend(Dependency::Authorities(rule.authorities.clone()));
        Some(Origination { server_name: rule.server_name.clone(), roots: self.state.roots(&rule.authorities) })
    }

    /// The zone that slices state for a pod; empty: none does.
    pub(super) fn zone_of(&self, pod: &ObjectName) -> String {
        let slices = self.state.pod_slices.get(pod).into_iter().flatten();
        slices
            .filter_map(|name| self.state.slices.get(name))
            .flat_map(|slice| &slice.endpoints)
            .find(|e| e.pod.as_ref().is_some_and(|p| p.name == *pod))
            .map(|e| e.zone.clone())
            .unwrap_or_default()
    }

    pub(super) fn depend(&mut self, dependency: Dependency) {
        self.dependencies.insert(dependency);
    }

    pub(super) fn cite(&mut self, source: SourceRef) {
        self.sources.insert(source.source, source.generation);
    }

    pub(super) fn cite_object(&mut self, kind: SourceKind, object: &ObjectName, generation: i64) {
        let object = object.clone();
        self.cite(SourceRef { source: Source { kind, object }, generation });
    }
}
