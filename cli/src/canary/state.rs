//! What a Canary says of itself, read off its spec and status: what several commands ask.

use fairlead_crds::{Canary, CanaryStatus, Phase, REQUEST_ANNOTATION};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;

/// As commands take it.
pub(super) fn name(canary: &Canary) -> String {
    format!("{}/{}", canary.namespace().unwrap_or_default(), canary.name_any())
}

/// A word for the phase, or for none.
pub(super) fn phase(status: &CanaryStatus) -> String {
    status.phase.map_or_else(|| "-".to_owned(), |phase| format!("{phase:?}"))
}

/// Whether a release has begun and not ended.
pub(super) fn is_under_way(phase: Option<Phase>) -> bool {
    is_steerable(phase) || matches!(phase, Some(Phase::Promoting | Phase::RollingBack))
}

/// Whether a release is under way whose end is still open.
pub(super) fn is_steerable(phase: Option<Phase>) -> bool {
    matches!(phase, Some(Phase::Progressing | Phase::Holding | Phase::WaitingApproval | Phase::Suspended))
}

/// Into `spec.steps`. `None` where no step runs.
pub(super) fn step(status: &CanaryStatus) -> Option<usize> {
    usize::try_from(status.step.as_ref()?.index?).ok()
}

/// What was asked for and is not answered yet.
pub(super) fn pending(canary: &Canary) -> Option<String> {
    let annotated = canary.annotations().get(REQUEST_ANNOTATION).cloned();
    annotated.or_else(|| canary.status.as_ref()?.request.map(|request| request.to_string()))
}

/// Since when it is as it is: the split of a release that is under way, the end of the last one, or the beginning of all.
pub(super) fn since(canary: &Canary) -> Option<Timestamp> {
    let status = canary.status.as_ref();
    let under_way = status.filter(|status| is_under_way(status.phase));
    let time = match (under_way, status.and_then(|status| status.history.first())) {
        (Some(status), _) => status.step.as_ref().filter(|_| step(status).is_some()).map(|step| &step.since),
        (None, Some(last)) => Some(&last.finished),
        (None, None) => canary.metadata.creation_timestamp.as_ref(),
    };
    time.map(|time| time.0)
}

/// Conditions that do not hold, each as a sentence.
pub(super) fn broken(status: &CanaryStatus) -> impl Iterator<Item = String> {
    let broken = status.conditions.iter().filter(|condition| condition.status == "False");
    broken.map(|condition| format!("{} is False, {}: {}", condition.type_, condition.reason, condition.message))
}

/// Why nothing is released, if the operator says so.
pub(super) fn objection(status: &CanaryStatus) -> Option<&str> {
    let objecting = |type_: &str| matches!(type_, "Accepted" | "ResolvedRefs");
    let found = status.conditions.iter().find(|known| objecting(&known.type_) && known.status == "False");
    found.map(|condition| condition.message.as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn status(value: Value) -> CanaryStatus {
        from_value(value).unwrap()
    }

    #[test]
    fn a_split_without_a_place_among_the_steps_is_none() {
        let step_at = |split: Value| step(&status(json!({"phase": "Progressing", "step": split})));
        let since = "2026-11-20T10:00:00Z";
        assert_eq!(step_at(json!({"weight": 0, "since": since})), None, "it is starting");
        assert_eq!(
            step_at(json!({"index": 3, "weight": 0, "since": since})),
            Some(3),
            "a step that leaves traffic alone"
        );
        assert_eq!(step(&CanaryStatus::default()), None);
    }
}
