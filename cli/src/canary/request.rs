//! Whether what a user asks of a release makes sense as it stands.

use fairlead_crds::{Canary, CanaryStatus, Phase, Request};

use super::state::{self, is_steerable, pending};

/// What is to be done about a request that makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// It must be written.
    Write,
    /// It is written, and not answered yet.
    Wait,
}

/// The error says why it makes no sense, and what does. `program` is how this command is called.
pub(super) fn check(request: Request, canary: &Canary, program: &str) -> Result<Need, String> {
    let name = state::name(canary);
    if let Some(pending) = pending(canary) {
        if pending == request.to_string() {
            return Ok(Need::Wait);
        }
        return Err(format!(
            "{name}: {pending} was asked for and is not answered yet; see {program} canary watch {name}"
        ));
    }
    let fresh = CanaryStatus::default();
    let status = canary.status.as_ref().unwrap_or(&fresh);
    let refusal = match request {
        Request::Approve => unapprovable(canary, status, &name, program),
        Request::Abort | Request::Promote => unsteerable(status, &name, program),
        Request::Retry => (status.phase != Some(Phase::Failed)).then(|| {
            format!("only a release that failed can be tried again, and the phase is {}; {program} canary history {name} shows how the last ones ended", state::phase(status))
        }),
    };
    refusal.map_or(Ok(Need::Write), |why| Err(format!("{name}: {why}")))
}

fn unsteerable(status: &CanaryStatus, name: &str, program: &str) -> Option<String> {
    match status.phase {
        phase if is_steerable(phase) => None,
        Some(Phase::Promoting) => {
            Some("the new version is being rolled out already; to go back, apply the old template".to_owned())
        }
        Some(Phase::RollingBack) => Some(format!(
            "the new version is being taken away already; when it is gone, {program} canary retry {name} tries it again"
        )),
        Some(Phase::Failed) => Some(format!(
            "nothing is being released, the last release failed; {program} canary retry {name} tries it again"
        )),
        _ => Some("nothing is being released; a release begins when the Deployment's template changes".to_owned()),
    }
}

fn unapprovable(canary: &Canary, status: &CanaryStatus, name: &str, program: &str) -> Option<String> {
    if let Some(refusal) = unsteerable(status, name, program) {
        return Some(refusal);
    }
    let steps = &canary.spec.steps;
    let Some(index) = state::step(status) else {
        return Some(format!(
            "the new version is still starting, so there is no step to approve; {program} canary watch {name} shows when"
        ));
    };
    let ask = |step: Option<&fairlead_crds::CanaryStep>| step.is_some_and(|step| step.approval.is_some());
    if !ask(steps.get(index)) {
        let next = (index + 1..steps.len()).find(|index| ask(steps.get(*index)));
        let hint = match next {
            Some(next) => format!("step {} will", next + 1),
            None => format!("no later one does; to go on without evidence, {program} canary promote {name}"),
        };
        return Some(format!("step {} of {} asks for no approval, {hint}", index + 1, steps.len()));
    }
    let is_approved = status.step.as_ref().is_some_and(|step| step.approved);
    is_approved.then(|| format!("step {} is approved already", index + 1))
}

#[cfg(test)]
mod tests {
    use fairlead_crds::REQUEST_ANNOTATION;
    use serde_json::{Value, from_value, json};

    use super::*;

    /// Steps: 5 %, an approval at 10 %, 50 %.
    fn canary(phase: &str, index: Option<u8>) -> Value {
        let step = index.map(|index| json!({"index": index, "weight": 5, "since": "2026-11-20T10:00:00Z"}));
        json!({
            "apiVersion": "fairlead.dev/v1alpha1",
            "kind": "Canary",
            "metadata": {"name": "reviews", "namespace": "bookinfo"},
            "spec": {
                "workloadRef": {"kind": "Deployment", "name": "reviews"},
                "steps": [{"weight": 5}, {"weight": 10, "approval": {}}, {"weight": 50}],
            },
            "status": {"phase": phase, "step": step},
        })
    }

    fn asked(request: Request, canary: Value) -> Result<Need, String> {
        check(request, &from_value(canary).unwrap(), "fairlead")
    }

    #[test]
    fn what_makes_sense_is_written() {
        for phase in ["Progressing", "Holding", "WaitingApproval", "Suspended"] {
            for request in [Request::Approve, Request::Abort, Request::Promote] {
                assert_eq!(asked(request, canary(phase, Some(1))), Ok(Need::Write), "{request} while {phase}");
            }
        }
        assert_eq!(asked(Request::Abort, canary("Progressing", None)), Ok(Need::Write), "it is starting");
        assert_eq!(asked(Request::Retry, canary("Failed", None)), Ok(Need::Write));
    }

    #[test]
    fn what_makes_none_is_refused_with_what_does() {
        for (request, canary, says) in [
            (Request::Approve, canary("Progressing", None), "still starting"),
            (Request::Approve, canary("Progressing", Some(0)), "step 1 of 3 asks for no approval, step 2 will"),
            (Request::Approve, canary("Progressing", Some(2)), "fairlead canary promote bookinfo/reviews"),
            (Request::Approve, canary("Succeeded", Some(1)), "nothing is being released"),
            (Request::Abort, canary("Promoting", Some(1)), "apply the old template"),
            (Request::Promote, canary("RollingBack", Some(1)), "being taken away already"),
            (Request::Promote, canary("Failed", Some(1)), "fairlead canary retry bookinfo/reviews"),
            (Request::Retry, canary("Progressing", Some(1)), "the phase is Progressing"),
            (
                Request::Retry,
                json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "Canary", "metadata": {}, "spec": {"workloadRef": {"kind": "Deployment", "name": "reviews"}}}),
                "the phase is -",
            ),
        ] {
            let said = asked(request, canary).unwrap_err();
            assert!(said.contains(says), "{request}: {said}");
        }
        let mut approved = canary("Holding", Some(1));
        approved["status"]["step"]["approved"] = json!(true);
        assert!(asked(Request::Approve, approved).unwrap_err().contains("approved already"));
    }

    #[test]
    fn one_request_at_a_time() {
        let mut annotated = canary("WaitingApproval", Some(1));
        annotated["metadata"]["annotations"] = json!({REQUEST_ANNOTATION: "abort"});
        let mut heard = canary("WaitingApproval", Some(1));
        heard["status"]["request"] = json!("abort");
        for pending in [annotated, heard] {
            assert_eq!(asked(Request::Abort, pending.clone()), Ok(Need::Wait));
            let said = asked(Request::Approve, pending).unwrap_err();
            assert!(said.contains("abort was asked for and is not answered yet"), "{said}");
        }
    }
}
