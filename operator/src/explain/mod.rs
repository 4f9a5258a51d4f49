//! May this caller do that there, and by which rule?
//!
//! [`explain`] answers with the code that proxies decide with ([`fairlead_authz`]), on what they are told ([`crate::index`] computes it), in the
//! order in which they ask: mutual TLS, then the token, then rules, then the default. A test holds it against the proxy's own reading of
//! what the operator sends.
//!
//! What a question leaves open, the caller's address or the host, is tried in every way that some rule tells apart ([`open`]); where the
//! answer depends on it, there is none, and the refusal says what to add.

mod admit;
mod open;
mod request;
mod serve;
#[cfg(test)]
mod tests;

use fairlead_authz::Caller;
use fairlead_identity::SpiffeId;
use fairlead_operator_api as api;

use crate::index::{Alike, Index, NoTarget};
use crate::model::{MtlsMode, ObjectName};
use admit::Admitted;
use request::Request;

pub use serve::router;

/// Names of pods in a group: the others are only counted.
const MAX_NAMES: usize = 8;

/// Why a question has no answer. Each says what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// It cannot be asked so.
    #[error("{0}")]
    Malformed(String),
    /// Nobody is meant.
    #[error(transparent)]
    NoTarget(#[from] NoTarget),
    /// It leaves open what decides.
    #[error("{0}")]
    Depends(String),
}

/// What becomes of it, at each pod that is meant.
pub fn explain(index: &Index, question: &api::Question) -> Result<api::Answer, Unanswered> {
    let request = question.request.as_ref().map(Request::parse).transpose().map_err(Unanswered::Malformed)?;
    let name = ObjectName::new(&question.to.namespace, &question.to.name);
    let target = index.target(&name, question.to.port)?;
    let mut groups: Vec<api::Group> = Vec::new();
    for alike in &target.alike {
        let identity = identity(&question.from, &alike.workload.trust_domain)?;
        let group = group(alike, identity.as_ref(), question, request.as_ref())?;
        match groups.iter_mut().find(|known| is_same(known, &group)) {
            Some(known) => {
                known.pods.extend(group.pods);
                known.pod_count += group.pod_count;
            }
            None => groups.push(group),
        }
    }
    for group in &mut groups {
        group.pods.sort_unstable();
        group.pods.truncate(MAX_NAMES);
    }
    let notes = doubts(index, &question.from);
    Ok(api::Answer { target: format!("{} {name}", target.kind), port: target.port, groups, notes })
}

fn identity(from: &api::Caller, trust_domain: &str) -> Result<Option<SpiffeId>, Unanswered> {
    let parsed = match from {
        api::Caller::Plain => return Ok(None),
        api::Caller::Identity(identity) => identity.parse(),
        api::Caller::ServiceAccount { namespace, name } => SpiffeId::new(trust_domain, namespace, name),
    };
    parsed.map(Some).map_err(|error| Unanswered::Malformed(format!("from: {error}")))
}

fn group(
    alike: &Alike,
    identity: Option<&SpiffeId>,
    question: &api::Question,
    request: Option<&Request>,
) -> Result<api::Group, Unanswered> {
    let admitted = Admitted::new(alike).map_err(Unanswered::Malformed)?;
    let decided = open::every(alike, question.address, request, |address, host| {
        admitted.decide(Caller { identity: identity.cloned(), address }, request, host)
    });
    let decided = decided.map_err(Unanswered::Depends)?;
    Ok(api::Group {
        pods: alike.pods.clone(),
        pod_count: alike.pods.len(),
        port: alike.port,
        outcome: decided.outcome,
        mtls: mtls(alike.workload.admission.mtls_of(alike.port), alike.enforced.mtls.as_ref()),
        policies: alike.parts.iter().map(policy).collect(),
        audited_by: decided.audited_by,
        rehearsed: decided.rehearsed.zip(alike.workload.rehearsal.as_ref()).map(|(outcome, admission)| {
            api::Rehearsal { outcome, mtls: mtls(admission.mtls_of(alike.port), alike.rehearsed.mtls.as_ref()) }
        }),
        notes: decided.notes.into_iter().map(str::to_owned).collect(),
    })
}

fn mtls(mode: MtlsMode, from: Option<&ObjectName>) -> api::Mtls {
    api::Mtls { mode: format!("{mode:?}"), from: from.map(ToString::to_string) }
}

fn policy(part: &crate::index::Part) -> api::Policy {
    api::Policy {
        name: part.object.to_string(),
        scope: format!("{:?}", part.scope),
        rehearsed: part.rehearsed,
        invalid: part.invalid.clone(),
    }
}

/// Whether all but the pods is the same.
fn is_same(a: &api::Group, b: &api::Group) -> bool {
    let without_pods = |group: &api::Group| api::Group { pods: Vec::new(), pod_count: 0, ..group.clone() };
    without_pods(a) == without_pods(b)
}

/// What makes one doubt that such a caller calls so.
fn doubts(index: &Index, from: &api::Caller) -> Vec<String> {
    let api::Caller::ServiceAccount { namespace, name } = from else { return Vec::new() };
    match index.pods_of_account(namespace, name) {
        (0, 0) => vec![format!("no pod runs under the service account {namespace}/{name}: is the name right?")],
        (0, _) => vec![format!(
            "no pod under the service account {namespace}/{name} has a sidecar, so its calls come in plain: ask about a plain caller as well"
        )],
        (_, 0) => Vec::new(),
        (_, others) => vec![format!(
            "{others} of the pods under the service account {namespace}/{name} have no sidecar: their calls come in plain"
        )],
    }
}
