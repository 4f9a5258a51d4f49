//! Ports that carry bytes although rules ask for what only HTTP can answer.

use std::collections::BTreeSet;

use kube::core::SelectorExt as _;

use super::{PeerAuth, Terms};
use crate::index::state::State;
use crate::model::{ObjectName, Protocol};

impl State {
    /// Sentences about them, each once: nobody should have to find out from what is refused.
    pub(in crate::index) fn bytes_under_http_rules(&self, namespace: &str, auth: &PeerAuth) -> Vec<String> {
        let terms = &auth.in_force;
        if !terms.rules.iter().any(fairlead_authz::Rule::needs_http) {
            return Vec::new();
        }
        let mesh = namespace == self.settings.operator_namespace && terms.selector.is_none();
        let services = self.services.iter().filter(|(name, _)| mesh || name.namespace == namespace);
        let mut sentences = BTreeSet::new();
        for (name, service) in services {
            for port in &service.ports {
                if self.policies_on(name, &port.name, None).protocol(port) != Protocol::Opaque {
                    continue;
                }
                for number in self.numbers(name, &port.name, terms) {
                    let rules = terms.rules.iter().filter(|rule| needs_http_on(rule, number));
                    sentences.extend(rules.map(|rule| {
                        let rule = rule.name.rsplit('/').next().unwrap_or_default();
                        format!(
                            "rule {rule}: port {number} of Service {name} carries bytes, of which it cannot tell what it asks for: an Allow allows nothing there, a Deny denies"
                        )
                    }));
                }
            }
        }
        sentences.into_iter().collect()
    }

    /// Of a Service's port on the pods that are selected.
    fn numbers(&self, service: &ObjectName, port: &str, terms: &Terms) -> BTreeSet<u16> {
        let selected = |pod: &ObjectName| {
            let labels = self.pods.get(pod).map(|pod| &pod.labels);
            labels.is_some_and(|labels| terms.selector.as_ref().is_none_or(|selector| selector.matches(labels)))
        };
        let slices = self.slices_of(service).filter(|slice| slice.pods().any(selected));
        slices.flat_map(|slice| &slice.ports).filter(|(name, _)| *name == port).map(|(_, number)| *number).collect()
    }
}

fn needs_http_on(rule: &fairlead_authz::Rule, port: u16) -> bool {
    let here = |to: &&fairlead_authz::Operation| to.ports.is_empty() || to.ports.contains(&port);
    let asks = rule.to.iter().filter(here).any(fairlead_authz::Operation::needs_http);
    asks || (!rule.when.is_empty() && (rule.to.is_empty() || rule.to.iter().any(|to| here(&to))))
}
