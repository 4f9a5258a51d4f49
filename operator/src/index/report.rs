//! What is to be said of policies: what only the whole cluster can tell.

use std::collections::BTreeSet;

use fairlead_crds::WorkloadReadiness;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::peer_auth::PeerAuth;
use super::scope::Target;
use super::state::State;
use super::traffic_policy::TrafficPolicy;
use crate::model::{ObjectName, Source, SourceKind};

/// What is to be said of one `TrafficPolicy` or `PeerAuth`.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Which.
    pub source: Source,
    /// To tell it from one that bore its name before.
    pub uid: String,
    /// Its newest generation.
    pub generation: i64,
    /// Why that is not in force.
    pub problem: Option<Problem>,
    /// An older generation that is in force instead.
    pub kept: Option<i64>,
    /// References that lead nowhere, as sentences, each once.
    pub unresolved: Vec<String>,
    /// What its status says now.
    pub conditions: Vec<Condition>,
    /// The same of plain callers.
    pub readiness: Vec<WorkloadReadiness>,
}

/// Why a policy is not in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// It contradicts itself or cannot be read.
    Invalid(String),
    /// This older one is about the same thing.
    Conflicted(ObjectName),
}

pub(super) fn all(state: &State) -> Vec<Report> {
    let policies = state.policies.iter().map(|(name, p)| traffic_policy(state, name, p));
    let auths = state.peer_auths.iter().flat_map(|(namespace, auths)| {
        auths.iter().map(move |(name, auth)| {
            let name = ObjectName::new(namespace, name);
            peer_auth(state, name, auth)
        })
    });
    policies.chain(auths).collect()
}

fn traffic_policy(state: &State, name: &ObjectName, policy: &TrafficPolicy) -> Report {
    let kept = policy.in_force.as_ref().filter(|r| r.generation != policy.generation);
    let problem = if let Some(why) = &policy.invalid {
        Some(Problem::Invalid(why.clone()))
    } else {
        let winner = policy.named.as_ref().and_then(|attachment| state.holder(attachment));
        winner.filter(|(winner, _)| *winner != name).map(|(winner, _)| Problem::Conflicted(winner.clone()))
    };
    Report {
        source: Source { kind: SourceKind::TrafficPolicy, object: name.clone() },
        uid: policy.uid.clone(),
        generation: policy.generation,
        problem,
        kept: kept.map(|r| r.generation),
        unresolved: unresolved(state, policy),
        conditions: policy.conditions.clone(),
        readiness: Vec::new(),
    }
}

fn unresolved(state: &State, policy: &TrafficPolicy) -> Vec<String> {
    let Some(rules) = &policy.in_force else {
        return Vec::new();
    };
    let Target::Service { service: target, section } = &rules.attachment.target else {
        // Any namespace may get Services later.
        return Vec::new();
    };
    let Some(service) = state.services.get(target) else {
        return vec![format!("Service {target} does not exist: create it or correct spec.targetRef")];
    };
    let Some(port) = service.ports.iter().find(|p| section.as_ref().is_none_or(|name| *name == p.name)) else {
        return vec![match section {
            Some(section) => {
                format!("Service {target} has no TCP port of the name {section}: correct spec.targetRef.sectionName")
            }
            None => format!("Service {target} has no TCP port"),
        }];
    };
    let mut sentences = BTreeSet::new();
    if let Some(tls) = &rules.origination {
        if let Err(why) = state.roots(&tls.authorities) {
            sentences.insert(format!("tls: {why}: callers get 503 until it is there"));
        }
        if service.cluster_ips.is_empty() {
            // Nothing else would tell that it goes on in plain.
            sentences.insert(format!(
                "tls: Service {target} has no cluster address, so callers reach what it leads to without it"
            ));
        }
    }
    for route in &rules.routes {
        let backends = route.backends.iter().flat_map(|b| std::iter::once(&b.reference).chain(&b.fallback));
        for reference in backends.chain(route.mirrors.iter().map(|m| &m.reference)) {
            if let Err(why) = state.resolve(target, port, rules, reference) {
                sentences.insert(format!("route {}: {why}", route.name));
            }
        }
    }
    sentences.into_iter().collect()
}

fn peer_auth(state: &State, name: ObjectName, auth: &PeerAuth) -> Report {
    let problem = match &auth.invalid {
        Some(why) if auth.kept().is_none() => Some(Problem::Invalid(format!(
            "{why}; until that is mended, all that it selects is closed to callers that no rule allows"
        ))),
        Some(why) => Some(Problem::Invalid(why.clone())),
        None => state.older_peer_auth(&name.namespace, &name.name).map(Problem::Conflicted),
    };
    Report {
        uid: auth.uid.clone(),
        generation: auth.generation,
        problem,
        kept: auth.kept(),
        unresolved: [state.missing_keys(auth), state.bytes_under_http_rules(&name.namespace, auth)].concat(),
        conditions: auth.status.conditions.clone(),
        readiness: auth.status.readiness.clone(),
        source: Source { kind: SourceKind::PeerAuth, object: name },
    }
}
