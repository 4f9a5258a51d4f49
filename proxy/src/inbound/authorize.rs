//! Asks policy about callers, and says in metrics and log what it decided.

use fairlead_authz::{Caller, Effect};
use tokio::time::Instant;

use super::{
    authorization::Asked,
    policy::{Recorded, Workload},
};
use crate::{
    accept::Mesh,
    telemetry::{Direction, Outcome, Refusal},
};

/// Of what no rule decided.
const DEFAULT: &str = "default";
/// Of callers that prove nothing where that is asked for.
const MTLS: &str = "mtls";

/// Whether rules let a request in, or a connection that is not HTTP (`None`).
pub(super) fn allows(mesh: &Mesh, workload: &Workload, caller: &Caller, port: u16, asked: Option<&Asked<'_>>) -> bool {
    if !workload.decides() {
        return true;
    }
    let decision = workload.decide(caller, port, asked);
    if decision.effect == Effect::Deny {
        let rule = decision.rule.unwrap_or(DEFAULT);
        if asked.is_none() {
            mesh.telemetry.refused(Direction::Inbound, Refusal::Policy);
        }
        note(mesh, caller, port, Outcome::Denied, rule);
        return false;
    }
    for recorded in workload.recorded(caller, port, asked) {
        let (outcome, rule) = match recorded {
            Recorded::Audit(rule) => (Outcome::Audited, rule),
            Recorded::WouldRefusePlain => (Outcome::WouldDeny, MTLS),
            Recorded::WouldDeny(rule) => (Outcome::WouldDeny, rule.unwrap_or(DEFAULT)),
        };
        note(mesh, caller, port, outcome, rule);
    }
    true
}

fn note(mesh: &Mesh, caller: &Caller, port: u16, outcome: Outcome, rule: &str) {
    mesh.telemetry.authorized().count(outcome, rule);
    if !mesh.refusals.worth_a_line(caller.address, Instant::now()) {
        return;
    }
    let Caller { identity, address } = caller;
    let identity = identity.as_ref().map_or("none", |identity| identity.as_str());
    match outcome {
        Outcome::Denied => tracing::warn!(caller = identity, %address, port, rule, "refused by policy"),
        Outcome::WouldDeny => {
            tracing::warn!(caller = identity, %address, port, rule, "would be refused by policy that is only rehearsed");
        }
        Outcome::Audited => tracing::info!(caller = identity, %address, port, rule, "recorded by policy"),
    }
}

/// Ready when rules do not let in any more what they let in before: connections and answers last for hours, and policy must not wait for
/// their end.
pub(super) async fn denied(mesh: &Mesh, caller: &Caller, port: u16, asked: Option<Asked<'_>>) {
    mesh.workload.until(|workload| workload.decide(caller, port, asked.as_ref()).effect == Effect::Deny).await;
    // Says so.
    allows(mesh, &mesh.workload.load(), caller, port, asked.as_ref());
}
