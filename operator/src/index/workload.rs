//! How a pod's own proxy treats what arrives.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::compile::Compiler;
use super::peer_auth::Effective;
use super::pod::Pod;
use super::state::Dependency;
use super::traffic_policy::{behaviour, default_behaviour};
use crate::model::{self, Behaviour, Caller, HandoverPort, ObjectName, Protocol, RateLimit, SourceKind, Workload};

/// Of one pod: each is asked at each request. Eight Services with eight limits each.
const MAX_RATE_LIMITS: usize = 64;

impl Compiler<'_> {
    /// `None`: there is no such pod.
    pub(super) fn workload(&mut self, name: &ObjectName) -> Option<Workload> {
        self.depend(Dependency::Pod(name.clone()));
        let pod = self.state.pods.get(name)?;
        self.depend(Dependency::Namespace(name.namespace.clone()));
        let Effective { admission, rehearsal, issuers, sources } = self.state.effective(&name.namespace, &pod.labels);
        for source in sources {
            self.cite(source);
        }
        let handover = pod.clone_of.as_ref().map(|deployment| self.handover(name, pod, deployment));
        let handovers_from = self.handovers_from(name, pod);
        let (port_protocols, rate_limits) = self.ports(name);
        let place = self.place(String::new(), &pod.node);
        let trust_domain = &self.state.settings.trust_domain;
        Some(Workload {
            uid: pod.uid.clone(),
            identity: model::identity(trust_domain, &name.namespace, &pod.service_account),
            trust_domain: trust_domain.clone(),
            caller: Caller {
                namespace: name.namespace.clone(),
                service_account: pod.service_account.clone(),
                labels: pod.labels.clone(),
                place,
            },
            admission,
            rehearsal,
            issuers,
            port_protocols,
            rate_limits,
            handovers_from,
            handover,
        })
    }

    /// Who hands plain callers over to a pod of a Deployment that is released.
    fn handovers_from(&mut self, name: &ObjectName, pod: &Pod) -> Vec<IpAddr> {
        let Some(deployment) = pod.deployment.as_ref().filter(|_| pod.clone_of.is_none()) else {
            return Vec::new();
        };
        let canaries = self.state.canaries.get(&name.namespace);
        if !canaries.is_some_and(|canaries| canaries.values().any(|canary| canary.deployment == *deployment)) {
            return Vec::new();
        }
        let deployment = ObjectName::new(&name.namespace, deployment);
        self.depend(Dependency::Deployment(deployment.clone()));
        let members = self.state.deployment_pods.get(&deployment).into_iter().flatten();
        let clones = members.filter_map(|member| self.state.pods.get(member)).filter(|pod| pod.clone_of.is_some());
        let mut addresses: Vec<IpAddr> = clones.flat_map(|pod| pod.ips.iter().copied()).collect();
        addresses.sort_unstable();
        addresses
    }

    /// What Services and the policies on them say of the pod's ports. Where two contradict each other, the protocol is told from the
    /// bytes; limits of all hold, as a pod cannot tell which Service its caller meant.
    fn ports(&mut self, pod: &ObjectName) -> (Vec<(u16, Protocol)>, Vec<RateLimit>) {
        self.depend(Dependency::Defaults(pod.namespace.clone()));
        let mut protocols = BTreeMap::new();
        let mut limits = BTreeMap::new();
        for name in self.state.services_of(pod) {
            let ports = self.pod_ports(&name, pod);
            let service = self.state.services.get(&name);
            for port in service.iter().flat_map(|s| &s.ports) {
                // A consumer's policy is for what its callers send, not for what others do.
                let policies = self.state.policies_on(&name, &port.name, None);
                let protocol = policies.protocol(port);
                for (policy, rules) in policies.iter().filter(|(_, rules)| rules.concerns_pods()) {
                    self.cite_object(SourceKind::TrafficPolicy, policy, rules.generation);
                }
                let rules = policies.rate_limits();
                for (_, number) in ports.iter().filter(|(n, _)| *n == port.name) {
                    for rule in rules.into_iter().flatten() {
                        let limit = rule.of_port(&name, *number);
                        limits.insert((*number, limit.name.clone()), limit);
                    }
                    let known = protocols.entry(*number).or_insert(protocol);
                    if *known != protocol {
                        *known = Protocol::Detect;
                    }
                }
            }
            self.depend(Dependency::Service(name));
        }
        protocols.retain(|_, protocol| *protocol != Protocol::Detect);
        (protocols.into_iter().collect(), limits.into_values().take(MAX_RATE_LIMITS).collect())
    }

    /// The port names of a Service and the numbers that they have on this pod.
    pub(super) fn pod_ports(&self, service: &ObjectName, pod: &ObjectName) -> Vec<(String, u16)> {
        self.state
            .slices_of(service)
            .filter(|slice| slice.pods().any(|name| name == pod))
            .flat_map(|slice| slice.ports.iter().cloned())
            .collect()
    }

    /// Where plain callers of a canary's pod go: to the Deployment's own ready pods. Ports that a Service leads to are matched by
    /// the Service's port name, because the versions may listen on different numbers; others by number.
    fn handover(&mut self, name: &ObjectName, pod: &Pod, deployment: &str) -> Vec<HandoverPort> {
        let mut ports: BTreeMap<u16, HandoverPort> = BTreeMap::new();
        let of =
            |port, behaviour: Behaviour| HandoverPort { port, endpoints: Vec::new(), outliers: behaviour.outliers };
        let Some(ipv4) = pod.ips.first().map(IpAddr::is_ipv4) else {
            return Vec::new();
        };
        for service in self.state.services_of(name) {
            for (port_name, number) in self.pod_ports(&service, name) {
                let candidates = self.candidates(&service, &port_name, ipv4);
                let stable = candidates
                    .into_iter()
                    .filter(|c| c.ready && c.pod.is_some_and(|p| is_stable(p, deployment)))
                    .map(|c| c.endpoint);
                let policies = self.state.policies_on(&service, &port_name, None);
                let entry = ports.entry(number).or_insert_with(|| of(number, behaviour(&policies)));
                entry.endpoints.extend(stable);
            }
        }
        let deployment = ObjectName::new(&name.namespace, deployment);
        self.depend(Dependency::Deployment(deployment.clone()));
        for number in &pod.ports {
            if ports.contains_key(number) {
                continue;
            }
            let mut entry = of(*number, default_behaviour());
            let members = self.state.deployment_pods.get(&deployment);
            for member in members.into_iter().flatten() {
                let Some(other) = self.state.pods.get(member) else {
                    continue;
                };
                if !is_stable(other, &deployment.name) || !other.ready || other.terminating {
                    continue;
                }
                if let Some(ip) = other.ips.iter().find(|ip| ip.is_ipv4() == ipv4) {
                    let address = SocketAddr::new(*ip, *number);
                    let place = self.place(self.zone_of(member), &other.node);
                    entry.endpoints.push(self.endpoint(&member.namespace, other, address, place));
                }
            }
            ports.insert(*number, entry);
        }
        ports
            .into_values()
            .map(|mut entry| {
                entry.endpoints.sort_unstable();
                entry.endpoints.dedup();
                entry
            })
            .collect()
    }
}

fn is_stable(pod: &Pod, deployment: &str) -> bool {
    pod.clone_of.is_none() && pod.deployment.as_deref() == Some(deployment)
}
