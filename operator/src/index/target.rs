//! The pods that somebody means by a name, and what holds at a port of theirs.
//!
//! Pods that are treated alike are one answer, so that a Deployment of a thousand costs what one pod does.

use std::collections::{BTreeMap, BTreeSet};

use super::Index;
use super::compile::Shared;
use super::peer_auth::{Credit, Part};
use super::pod::Pod;
use super::state::State;
use crate::model::{Body, ObjectName, ResourceName, Workload};

/// Kinds of pods that one answer tells apart. Labels that differ for each pod of a `StatefulSet` make a kind of each.
const MAX_KINDS: usize = 256;

/// Pods that somebody means.
#[derive(Clone, Debug, PartialEq)]
pub struct Target {
    /// `Service`, `Deployment` or `Pod`.
    pub kind: &'static str,
    /// Its port, or that of the pods where it is no Service.
    pub port: u16,
    /// At least one.
    pub alike: Vec<Alike>,
}

/// Pods that are treated alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Alike {
    /// Their names, sorted; at least one.
    pub pods: Vec<String>,
    /// Their own port.
    pub port: u16,
    /// Whether they have a sidecar.
    pub meshed: bool,
    /// Whether it sees what arrives at the port.
    pub captured: bool,
    /// What their proxies are told.
    pub workload: Workload,
    /// The `PeerAuth`s that concern them, the widest first.
    pub parts: Vec<Part>,
    /// Who has the last word among those that hold.
    pub enforced: Credit,
    /// Who has it among those that are only rehearsed as well.
    pub rehearsed: Credit,
}

/// Why nobody is meant. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoTarget {
    /// Deployments are known by their pods alone.
    #[error(
        "there is no Service and no pod {0}, and no Deployment {0} that has a pod: look at `kubectl get services,deployments,pods -n {ns}`",
        ns = .0.namespace
    )]
    Unknown(ObjectName),
    /// Nothing is enforced where nothing runs.
    #[error(
        "{kind} {name} has no pod yet, and policy is what holds at pods: scale it up, or look at why its pods do not start"
    )]
    NoPod {
        /// `Service` or `Deployment`.
        kind: &'static str,
        /// Its name.
        name: ObjectName,
    },
    /// Rules may differ between ports.
    #[error("{kind} {name} has {ports}: say which port is meant, as in {name}:{example}")]
    WhichPort {
        /// The kind.
        kind: &'static str,
        /// Its name.
        name: ObjectName,
        /// What it has, for people.
        ports: String,
        /// One of them.
        example: u16,
    },
    /// Callers could not reach it either.
    #[error("Service {name} has {ports}, but not {port}")]
    NoSuchPort {
        /// Its name.
        name: ObjectName,
        /// What it has, for people.
        ports: String,
        /// What was asked for.
        port: u16,
    },
    /// See [`MAX_KINDS`].
    #[error("the pods of {0} differ in too many ways for one answer: ask about one of them by its name")]
    TooMany(ObjectName),
}

impl Index {
    /// The pods that are meant by `name`: those of a Service, or else of a Deployment, or else the pod. `port` is the Service's, or the pods';
    /// `None`: the only one that there is.
    pub fn target(&self, name: &ObjectName, port: Option<u16>) -> Result<Target, NoTarget> {
        self.state.lock().target(name, port)
    }

    /// How many pods run under a service account: with a sidecar, and without.
    pub fn pods_of_account(&self, namespace: &str, account: &str) -> (usize, usize) {
        let state = self.state.lock();
        let pods = state
            .pods
            .iter()
            .filter(|(name, pod)| name.namespace == namespace && pod.service_account == account && !pod.terminating);
        let (meshed, others): (Vec<_>, Vec<_>) = pods.partition(|(_, pod)| pod.meshed);
        (meshed.len(), others.len())
    }
}

impl State {
    fn target(&self, name: &ObjectName, port: Option<u16>) -> Result<Target, NoTarget> {
        if let Some(service) = self.services.get(name) {
            let ports: Vec<u16> = service.ports.iter().map(|port| port.port).collect();
            let port = one_of("Service", name, &ports, port)?;
            let section = service.port(port).map(|port| port.name.as_str());
            let Some(section) = section else {
                return Err(NoTarget::NoSuchPort { name: name.clone(), ports: listed(&ports), port });
            };
            let mut numbered = BTreeSet::new();
            for slice in self.slices_of(name) {
                let numbers = slice.ports.iter().filter(|(name, _)| name == section);
                for (_, number) in numbers {
                    numbered.extend(slice.pods().map(|pod| (pod, *number)));
                }
            }
            return self.alike("Service", name, port, numbered);
        }
        let (kind, pods) = match self.deployment_pods.get(name) {
            Some(pods) => ("Deployment", pods.iter().collect()),
            None if self.pods.contains_key(name) => ("Pod", vec![name]),
            None => return Err(NoTarget::Unknown(name.clone())),
        };
        let known = || pods.iter().flat_map(|pod| self.ports_of(pod)).collect::<BTreeSet<u16>>();
        let ports = if port.is_some() { Vec::new() } else { known().into_iter().collect() };
        let port = one_of(kind, name, &ports, port)?;
        self.alike(kind, name, port, pods.into_iter().map(|pod| (pod, port)))
    }

    /// What its containers declare and Services lead to.
    fn ports_of(&self, pod: &ObjectName) -> BTreeSet<u16> {
        let declared = self.pods.get(pod).into_iter().flat_map(|pod| pod.ports.iter().copied());
        let services = self.services_of(pod);
        let slices = services.iter().flat_map(|service| self.slices_of(service));
        let led_to = slices.filter(|slice| slice.pods().any(|name| name == pod)).flat_map(|slice| &slice.ports);
        declared.chain(led_to.map(|(_, number)| *number)).collect()
    }

    fn alike<'a>(
        &'a self,
        kind: &'static str,
        name: &ObjectName,
        port: u16,
        pods: impl IntoIterator<Item = (&'a ObjectName, u16)>,
    ) -> Result<Target, NoTarget> {
        let mut kinds: BTreeMap<_, Vec<&ObjectName>> = BTreeMap::new();
        for (pod, number) in pods {
            let Some(known) = self.pods.get(pod).filter(|pod| !pod.terminating) else { continue };
            let Pod { labels, meshed, clone_of, .. } = known;
            let key = (number, *meshed, known.captures(number), clone_of, labels, self.services_of(pod));
            kinds.entry(key).or_default().push(pod);
            if kinds.len() > MAX_KINDS {
                return Err(NoTarget::TooMany(name.clone()));
            }
        }
        let alike = kinds.into_iter().filter_map(|((port, meshed, captured, _, labels, _), pods)| {
            let first = *pods.first()?;
            let compiled = self.compile(&ResourceName::Workload(first.clone()), &mut Shared::new());
            let Body::Workload(workload) = &compiled.resource.body else { return None };
            let (parts, [enforced, rehearsed]) = self.credit(&first.namespace, labels, port);
            Some(Alike {
                pods: pods.iter().map(|pod| pod.name.clone()).collect(),
                port,
                meshed,
                captured,
                workload: workload.as_ref().clone(),
                parts,
                enforced,
                rehearsed,
            })
        });
        let alike: Vec<Alike> = alike.collect();
        if alike.is_empty() {
            return Err(NoTarget::NoPod { kind, name: name.clone() });
        }
        Ok(Target { kind, port, alike })
    }
}

/// The port that was asked for, or the only one.
fn one_of(kind: &'static str, name: &ObjectName, ports: &[u16], asked: Option<u16>) -> Result<u16, NoTarget> {
    match (asked, ports) {
        (Some(port), _) => Ok(port),
        (None, [only]) => Ok(*only),
        (None, _) => {
            let example = ports.first().copied().unwrap_or(80);
            Err(NoTarget::WhichPort { kind, name: name.clone(), ports: listed(ports), example })
        }
    }
}

fn listed(ports: &[u16]) -> String {
    let numbers: Vec<String> = ports.iter().map(ToString::to_string).collect();
    match numbers.as_slice() {
        [] => "no TCP port that is declared".to_owned(),
        [only] => format!("the port {only}"),
        several => format!("the ports {}", several.join(", ")),
    }
}
