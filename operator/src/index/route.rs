//! Routes of a Service: its policy joined with endpoints. [`release`](super::release) makes of them what releases ask for.

use std::collections::{BTreeMap, HashMap};

use super::canary::{Canary, WHOLE};
use super::compile::{Candidate, Compiler};
use super::release::{self, Chosen, Part, Release};
use super::service::ServicePort;
use super::state::Dependency;
use super::traffic_policy::{BackendRule, Reference, RouteRule, behaviour, default_budget};
use crate::model::{
    Behaviour, Endpoint, EndpointSet, Mirror, ObjectName, Place, Route, Rules, Service, SourceKind, Tries,
};

/// Endpoint sets in the making: each part of each Service once, however many routes lead there.
#[derive(Default)]
struct Sets<'a> {
    done: Vec<EndpointSet>,
    parts: HashMap<String, Part<'a>>,
    candidates: HashMap<(ObjectName, u16), Vec<Candidate<'a>>>,
}

/// The name of the route to the Service as it is.
pub(super) const DEFAULT_ROUTE: &str = "default";

impl<'a> Compiler<'a> {
    pub(super) fn service(&mut self, name: &ObjectName, port: &'a ServicePort, ipv4: bool) -> Service {
        let mut sets = Sets::default();
        let mut routes = Vec::new();
        self.depend(Dependency::Defaults(name.namespace.clone()));
        let policies = self.state.policies_on(name, &port.name, self.caller);
        for (policy, rules) in policies.iter() {
            self.cite_object(SourceKind::TrafficPolicy, policy, rules.generation);
        }
        if let Some(rules) = policies.routes() {
            for rule in &rules.routes {
                let resolved = self.resolve_all(name, port, rules, rule);
                let chosen = self.chosen(&mut sets, resolved, ipv4);
                let route = Route {
                    name: rule.name.clone(),
                    matches: rule.matches.clone(),
                    requests_only: false,
                    backends: Vec::new(),
                    request_timeout_ms: rule.request_timeout_ms,
                    mirrors: self.mirrors(&mut sets, name, port, rules, rule, ipv4),
                    rules: rule.rules.clone(),
                    tries: rule.tries.clone(),
                };
                routes.extend(release::routes(route, &chosen));
            }
        }
        if routes.last().is_none_or(|r| !r.matches.is_empty()) {
            let own = Wanted { service: name.clone(), port, subset: None };
            let whole = vec![Share { weight: 1, sticky: "", wanted: Ok(own), fallback: None }];
            let chosen = self.chosen(&mut sets, whole, ipv4);
            let route = Route {
                name: DEFAULT_ROUTE.to_owned(),
                matches: Vec::new(),
                requests_only: false,
                backends: Vec::new(),
                request_timeout_ms: 0,
                mirrors: Vec::new(),
                rules: Rules::default(),
                tries: Tries::default(),
            };
            routes.extend(release::routes(route, &chosen));
        }
        Service {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
            port: port.port,
            protocol: policies.protocol(port),
            routes,
            endpoint_sets: sets.done,
            retry_budget: policies.first(|rules| rules.retry_budget).unwrap_or_else(default_budget),
        }
    }

    fn resolve_all(
        &mut self,
        name: &ObjectName,
        port: &'a ServicePort,
        rules: &'a super::traffic_policy::Rules,
        rule: &'a RouteRule,
    ) -> Vec<Share<'a>> {
        if rule.backends.is_empty() {
            let own = Wanted { service: name.clone(), port, subset: None };
            return vec![Share { weight: 1, sticky: "", wanted: Ok(own), fallback: None }];
        }
        let mut resolve = |reference: &'a Reference| {
            if let Reference::Service(service, _) = reference {
                self.depend(Dependency::Service(service.clone()));
            }
            self.state.resolve(name, port, rules, reference)
        };
        let shares = rule.backends.iter().map(|BackendRule { weight, reference, fallback, sticky }| Share {
            sticky,
            weight: *weight,
            wanted: resolve(reference),
            fallback: fallback.as_ref().map(&mut resolve),
        });
        shares.collect()
    }

    /// Where copies go that the policy asks for: to the part itself, never to its canaries, whose evidence they must not be. A reference that
    /// leads nowhere is in the policy's status, and nobody waits for its copies.
    fn mirrors(
        &mut self,
        sets: &mut Sets<'a>,
        name: &ObjectName,
        port: &'a ServicePort,
        rules: &'a super::traffic_policy::Rules,
        rule: &'a RouteRule,
        ipv4: bool,
    ) -> Vec<Mirror> {
        let mut mirrors = Vec::new();
        for mirror in &rule.mirrors {
            if let Reference::Service(service, _) = &mirror.reference {
                self.depend(Dependency::Service(service.clone()));
            }
            if let Ok(wanted) = self.state.resolve(name, port, rules, &mirror.reference) {
                let endpoint_set = self.part(sets, &wanted, ipv4).set;
                mirrors.push(Mirror { endpoint_set, share: mirror.share, copies: mirror.copies, counted: false });
            }
        }
        mirrors
    }

    /// The parts of Services that shares lead to.
    fn chosen(&mut self, sets: &mut Sets<'a>, shares: Vec<Share<'a>>, ipv4: bool) -> Vec<Chosen<'a>> {
        let choose = |Share { weight, sticky, wanted, fallback }| {
            let mut part = wanted.map(|wanted| self.part(sets, &wanted, ipv4));
            if let (Ok(empty), Some(fallback)) = (&part, fallback)
                && empty.endpoints == 0
            {
                part = fallback.map(|wanted| self.part(sets, &wanted, ipv4));
            }
            Chosen { weight, sticky, part }
        };
        shares.into_iter().map(choose).collect()
    }

    /// A part of a Service. The pods of canaries are in none; they have sets of their own while they get traffic.
    fn part(&mut self, sets: &mut Sets<'a>, wanted: &Wanted<'a>, ipv4: bool) -> Part<'a> {
        let service = &wanted.service;
        let port = wanted.port.port;
        let mut name = format!("{service}:{port}");
        if let Some((subset, _)) = wanted.subset {
            name.push('/');
            name.push_str(subset);
        }
        if let Some(part) = sets.parts.get(&name) {
            return part.clone();
        }
        let key = (service.clone(), port);
        if !sets.candidates.contains_key(&key) {
            let found = self.candidates(service, &wanted.port.name, ipv4);
            sets.candidates.insert(key.clone(), found);
        }
        let candidates = sets.candidates.get(&key).map_or(&[][..], Vec::as_slice);
        self.depend(Dependency::Namespace(service.namespace.clone()));
        // How endpoints are used is their own Service's business, whoever routes there.
        self.depend(Dependency::Defaults(service.namespace.clone()));
        let policies = self.state.policies_on(service, &wanted.port.name, self.caller);
        for (policy, rules) in policies.iter() {
            self.cite_object(SourceKind::TrafficPolicy, policy, rules.generation);
        }
        let behaviour = Behaviour { origination: self.origination(&policies), ..behaviour(&policies) };

        let mut clones: BTreeMap<&str, Vec<Endpoint>> = BTreeMap::new();
        let mut base: Vec<(Endpoint, Option<&str>)> = Vec::new();
        let mut unready: Vec<Place> = Vec::new();
        for candidate in candidates {
            let endpoint = candidate.endpoint.clone();
            if !candidate.ready {
                // Where nearness plays no part, those who come and go are nobody's news.
                let counts = behaviour.balancing.locality.is_some()
                    && candidate.pod.is_none_or(|p| p.clone_of.is_none())
                    && wanted.subset.is_none_or(|(_, labels)| candidate.pod.is_some_and(|p| p.has_labels(labels)));
                unready.extend(counts.then_some(endpoint.place));
            } else if let Some(deployment) = candidate.pod.and_then(|p| p.clone_of.as_deref()) {
                clones.entry(deployment).or_default().push(endpoint);
            } else if wanted.subset.is_none_or(|(_, labels)| candidate.pod.is_some_and(|p| p.has_labels(labels))) {
                base.push((endpoint, candidate.pod.and_then(|p| p.deployment.as_deref())));
            }
        }
        let present = base.len();
        let mut absent = 0;
        let mut released = Vec::new();
        let state = self.state;
        for (canary_name, canary) in state.canaries.get(&service.namespace).into_iter().flatten() {
            let deployment = canary.deployment.as_str();
            let mut stable = base.iter().filter(|(_, d)| *d == Some(deployment)).count();
            // All of it goes to the canary, also while a rollout has stopped every pod of the Deployment's own.
            if stable == 0 && canary.share == WHOLE {
                stable = clones.get(deployment).map_or(0, Vec::len);
                absent += stable;
            }
            if stable == 0 {
                continue;
            }
            let object = ObjectName::new(&service.namespace, canary_name);
            self.cite_object(SourceKind::Canary, &object, canary.generation);
            // Removed, so that a second Canary of the same Deployment does not divide it again.
            if canary.steers()
                && let Some(mut clone) = clones.remove(deployment)
            {
                mark(&mut base, &mut clone, canary);
                released.push((canary, stable, format!("{name}#{deployment}-canary"), clone));
                // With all of it on the canary, nothing of the rest is for the Deployment.
                if canary.share == WHOLE && stable < present {
                    base.retain(|(_, d)| *d != Some(deployment));
                }
            }
        }
        let set = sets.push(name.clone(), base.into_iter().map(|(e, _)| e).collect(), unready, &behaviour);
        let releases = released
            .into_iter()
            .map(|(canary, stable, name, endpoints)| {
                let set = sets.push(name, endpoints, Vec::new(), &behaviour);
                Release { canary, stable, set }
            })
            .collect();
        let endpoints = present + absent;
        let part = Part { service: service.clone(), port: wanted.port, set, endpoints, releases };
        sets.parts.insert(name, part.clone());
        part
    }
}

/// A share of a route, its references resolved.
struct Share<'a> {
    weight: u32,
    sticky: &'a str,
    wanted: Result<Wanted<'a>, String>,
    /// In its place while it has no endpoints.
    fallback: Option<Result<Wanted<'a>, String>>,
}

/// What a reference leads to.
type Wanted<'a> = super::compile::Resolved<'a>;

/// Has both sides of a release counted.
fn mark(base: &mut [(Endpoint, Option<&str>)], clone: &mut [Endpoint], canary: &Canary) {
    for endpoint in clone {
        endpoint.group = canary.canary_group();
    }
    for (endpoint, deployment) in base {
        if *deployment == Some(canary.deployment.as_str()) {
            endpoint.group = canary.stable_group();
        }
    }
}

impl Sets<'_> {
    fn push(&mut self, name: String, endpoints: Vec<Endpoint>, unready: Vec<Place>, behaviour: &Behaviour) -> u32 {
        self.done.push(EndpointSet { name, endpoints, unready, behaviour: behaviour.clone() });
        (self.done.len() - 1) as u32
    }
}
