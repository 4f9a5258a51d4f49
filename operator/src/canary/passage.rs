//! Decides which NetworkPolicies a canary's pods need to hand plain callers over to the running version.
//!
//! A caller without a sidecar that reaches a pod of the clone is handed to a pod of the Deployment. A policy that admits only
//! certain callers to the application refuses that connection, because it comes from the application itself. So while there is a
//! clone, two policies of ours may add to the user's: one lets the clone's pods in at the Deployment's, the other lets them out
//! to these. [`passages`] is the one call that enters; it is pure.
//!
//! # Guarantees
//! - A passage isolates nobody: it selects no pod that the policy which it adds to does not select as well, and it belongs to that
//!   policy, so that it goes with it even while no operator runs.
//! - Nobody gets in through a canary who would not have got in at the running version: there is a passage in only where every
//!   policy that admits somebody to the clone's pods admits them to the Deployment's too.
//!
//! # Caveats
//! A passage is open for all ports, because containers need not declare theirs. While no operator runs, a policy that is edited
//! so that it isolates the application no longer leaves its passage behind, which then isolates by itself until one runs again.

use std::collections::BTreeMap;

use fairlead_crds::{CANARY_LABEL, CLONE_OF_LABEL};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use kube::core::{Selector, SelectorExt as _};
use serde_json::{Value, json};

/// The labels of a pod.
pub type Labels = BTreeMap<String, String>;

/// Which way a passage leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Into the Deployment's pods.
    Ingress,
    /// Out of the clone's.
    Egress,
}

/// A NetworkPolicy of the user's, as far as it matters here.
#[derive(Clone, Debug)]
pub struct Isolating {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// It isolates pods against who comes in.
    pub ingress: bool,
    /// It isolates pods against going out.
    pub egress: bool,
    selector: LabelSelector,
    selects: Selector,
}

/// The application whose plain callers are handed over.
#[derive(Clone, Debug)]
pub struct App {
    /// The name of the Deployment.
    pub deployment: String,
    /// The name of its Canary.
    pub canary: String,
    /// `spec.selector` of the Deployment.
    pub selector: LabelSelector,
    /// The labels of the Deployment's pods, each set once. There may be two during its rollout.
    pub stable: Vec<Labels>,
    /// The labels of the clone's pods.
    pub clone: Labels,
}

impl Isolating {
    /// `None` for one of ours, and for one whose selector does not parse, which the API server would not have taken.
    pub fn read(policy: NetworkPolicy) -> Option<Self> {
        let metadata = policy.metadata;
        if is_ours(metadata.labels.as_ref()) {
            return None;
        }
        let spec = policy.spec.unwrap_or_default();
        let selector = spec.pod_selector.unwrap_or_default();
        // The API server fills the types in; without them the rules say.
        let types = spec.policy_types.unwrap_or_default();
        let isolates = |type_: &str, otherwise: bool| {
            if types.is_empty() { otherwise } else { types.iter().any(|known| known == type_) }
        };
        Some(Self {
            name: metadata.name?,
            uid: metadata.uid?,
            ingress: isolates("Ingress", true),
            egress: isolates("Egress", spec.egress.is_some()),
            selects: Selector::try_from(selector.clone()).ok()?,
            selector,
        })
    }

    fn isolates(&self, direction: Direction, labels: &Labels) -> bool {
        let concerned = match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        };
        concerned && self.selects.matches(labels)
    }
}

/// Whether a NetworkPolicy with these labels is a passage.
pub fn is_ours(labels: Option<&Labels>) -> bool {
    labels.is_some_and(|labels| labels.contains_key(CLONE_OF_LABEL) && labels.contains_key(CANARY_LABEL))
}

/// The name of a Deployment's passage.
pub fn name(deployment: &str, direction: Direction) -> String {
    match direction {
        Direction::Ingress => format!("{deployment}-canary-ingress"),
        Direction::Egress => format!("{deployment}-canary-egress"),
    }
}

/// The policy that keeps plain callers of the clone from the Deployment's pods although nothing may be added to it.
pub fn closed<'a>(app: &App, policies: &'a [Isolating]) -> Option<&'a str> {
    if inward(app, policies).is_some() {
        return None;
    }
    let isolating =
        policies.iter().filter(|policy| app.stable.iter().any(|labels| policy.isolates(Direction::Ingress, labels)));
    isolating.map(|policy| policy.name.as_str()).min()
}

/// The policies to keep while the clone's pods may hand callers over, whole. None where nothing is in the way.
pub fn passages(app: &App, namespace: &str, policies: &[Isolating]) -> Vec<Value> {
    let mut passages = Vec::new();
    if let Some(isolating) = inward(app, policies) {
        passages.push(manifest(app, namespace, Direction::Ingress, isolating));
    }
    let outward = policies.iter().filter(|policy| policy.isolates(Direction::Egress, &app.clone));
    if let Some(isolating) = outward.min_by_key(|policy| &policy.name) {
        passages.push(manifest(app, namespace, Direction::Egress, isolating));
    }
    passages
}

/// The policy to add to for the Deployment's pods: of those that keep the clone out, the one that covers most of them.
fn inward<'a>(app: &App, policies: &'a [Isolating]) -> Option<&'a Isolating> {
    let admitting_clone: Vec<_> =
        policies.iter().filter(|policy| policy.isolates(Direction::Ingress, &app.clone)).collect();
    // Without one everybody reaches the clone: a passage would lead everybody on.
    if admitting_clone.is_empty() {
        return None;
    }
    let trusted = |labels: &Labels| admitting_clone.iter().all(|policy| policy.isolates(Direction::Ingress, labels));
    let covered = |policy: &Isolating| {
        let mut selected = app.stable.iter().filter(|labels| policy.isolates(Direction::Ingress, labels)).peekable();
        selected.peek()?;
        let (count, all_trusted) =
            selected.fold((0_usize, true), |(count, all), labels| (count + 1, all && trusted(labels)));
        all_trusted.then_some(count)
    };
    let candidates = policies.iter().filter_map(|policy| Some((covered(policy)?, policy)));
    // Ties go to the first name, so that two looks at the same agree.
    let best = candidates.min_by_key(|(count, policy)| (std::cmp::Reverse(*count), &policy.name));
    best.map(|(_, policy)| policy)
}

fn manifest(app: &App, namespace: &str, direction: Direction, isolating: &Isolating) -> Value {
    let stable = with_clone_label(&app.selector, false, &app.deployment);
    let clone = with_clone_label(&app.selector, true, &app.deployment);
    let (subject, peer) = match direction {
        Direction::Ingress => (stable, clone),
        Direction::Egress => (clone, stable),
    };
    let peer = json!([{"podSelector": peer}]);
    let (type_, rules, rule) = match direction {
        Direction::Ingress => ("Ingress", "ingress", json!([{"from": peer}])),
        Direction::Egress => ("Egress", "egress", json!([{"to": peer}])),
    };
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": name(&app.deployment, direction),
            "namespace": namespace,
            "labels": {
                CANARY_LABEL: app.canary,
                CLONE_OF_LABEL: app.deployment,
                "app.kubernetes.io/managed-by": "fairlead",
            },
            "ownerReferences": [{
                "apiVersion": "networking.k8s.io/v1",
                "kind": "NetworkPolicy",
                "name": isolating.name,
                "uid": isolating.uid,
            }],
        },
        "spec": {
            "podSelector": both(&isolating.selector, &subject),
            "policyTypes": [type_],
            rules: rule,
        },
    })
}

/// The application's pods of one side.
fn with_clone_label(selector: &LabelSelector, clone: bool, deployment: &str) -> LabelSelector {
    let mut side = selector.clone();
    if clone {
        side.match_labels.get_or_insert_default().insert(CLONE_OF_LABEL.to_owned(), deployment.to_owned());
    } else {
        side.match_expressions.get_or_insert_default().push(LabelSelectorRequirement {
            key: CLONE_OF_LABEL.to_owned(),
            operator: "DoesNotExist".to_owned(),
            values: None,
        });
    }
    side
}

/// What both select. Both select the same pods among others, so no key can have two values.
fn both(one: &LabelSelector, other: &LabelSelector) -> LabelSelector {
    let mut both = one.clone();
    for (key, value) in other.match_labels.iter().flatten() {
        both.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
    }
    for requirement in other.match_expressions.iter().flatten() {
        let requirements = both.match_expressions.get_or_insert_default();
        if !requirements.contains(requirement) {
            requirements.push(requirement.clone());
        }
    }
    both
}

#[cfg(test)]
mod tests;
