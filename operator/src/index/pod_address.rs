//! What a pod's own address leads to: that pod alone, in the protocol that the Services which lead to it state.

use super::compile::Compiler;
use super::route::DEFAULT_ROUTE;
use super::state::Dependency;
use super::traffic_policy::{default_behaviour, default_budget};
use crate::model::{
    Backend, Destination, Endpoint, EndpointSet, ObjectName, Protocol, Route, Rules, Service, SourceKind, Target, Tries,
};

impl Compiler<'_> {
    /// Callers of a headless Service come here, and those who were given the name of a `StatefulSet`'s pod: databases most of all, so
    /// what is stated of the port spares them the wait for a server that speaks first, and measures them by the Service's name. It also
    /// keeps callers from going round the limits of a port by looking like something else for a while.
    pub(super) fn pod_address(&mut self, name: &ObjectName, endpoint: Endpoint) -> Destination {
        self.depend(Dependency::Defaults(name.namespace.clone()));
        let mut stated: Option<(ObjectName, u16, Protocol)> = None;
        let state = self.state;
        for service in state.services_of(name) {
            self.depend(Dependency::Service(service.clone()));
            let numbers = self.pod_ports(&service, name);
            for port in state.services.get(&service).iter().flat_map(|s| &s.ports) {
                if !numbers.iter().any(|(n, number)| *n == port.name && *number == endpoint.address.port()) {
                    continue;
                }
                let policies = state.policies_on(&service, &port.name, self.caller);
                for (policy, rules) in policies.iter().filter(|(_, rules)| rules.concerns_pods()) {
                    self.cite_object(SourceKind::TrafficPolicy, policy, rules.generation);
                }
                let protocol = policies.protocol(port);
                match &stated {
                    None => stated = Some((service.clone(), port.port, protocol)),
                    Some((_, _, other)) if *other == protocol => {}
                    // Two contradict each other, so it is told from the bytes.
                    Some(_) => return Destination::Pod(endpoint),
                }
            }
        }
        match stated {
            None | Some((_, _, Protocol::Detect)) => Destination::Pod(endpoint),
            Some((service, port, protocol)) => {
                let name = format!("{service}:{port}/{}", name.name);
                let (endpoints, unready) = (vec![endpoint], Vec::new());
                let set = EndpointSet { name, endpoints, unready, behaviour: default_behaviour() };
                let backends = vec![Backend { weight: 1, sticky: String::new(), target: Target::EndpointSet(0) }];
                Destination::Service(Service {
                    namespace: service.namespace,
                    name: service.name,
                    port,
                    protocol,
                    routes: vec![Route {
                        name: DEFAULT_ROUTE.to_owned(),
                        matches: Vec::new(),
                        requests_only: false,
                        backends,
                        request_timeout_ms: 0,
                        mirrors: Vec::new(),
                        rules: Rules::default(),
                        tries: Tries::default(),
                    }],
                    endpoint_sets: vec![set],
                    retry_budget: default_budget(),
                })
            }
        }
    }
}
