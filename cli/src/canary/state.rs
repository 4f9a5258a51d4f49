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

/// Into `spec.steps`: where the present release is, or where the last one ended. `None` where it has not come to a step.
///
/// A release leaves its last split in the status, and the next one begins with it; so one that is older than the end of the release
/// before is not this one's.
pub(super) fn step(status: &CanaryStatus) -> Option<usize> {
    let step = status.step.as_ref()?;
    let index = usize::try_from(step.index).ok()?;
    if steers(status) {
        return Some(index);
    }
    // Of a release that ended, the end itself is the newest entry.
    let before = if is_under_way(status.phase) { status.history.first() } else { status.history.get(1) };
    let is_ours = before.is_none_or(|before| step.since.0.as_second() > before.finished.0.as_second());
    is_ours.then_some(index)
}

/// Whether the new version gets anything.
fn steers(status: &CanaryStatus) -> bool {
    let step = status.step.as_ref();
    step.is_some_and(|step| step.weight.value() > 0.0 || step.mirror.is_some() || !step.matches.is_empty())
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

    fn ended(at: &str) -> Value {
        json!({"revision": "a", "outcome": "Succeeded", "reason": "r", "finished": at})
    }

    #[test]
    fn a_split_that_an_earlier_release_left_is_no_step_of_this_one() {
        let step_at = |phase: &str, weight: u8, since: &str, history: &[Value]| {
            let split = json!({"index": 3, "weight": weight, "since": since});
            step(&status(json!({"phase": phase, "step": split, "history": history})))
        };
        let (early, late) = ("2026-11-20T10:00:00Z", "2026-11-20T10:05:00Z");
        assert_eq!(step_at("Progressing", 0, early, &[ended(late)]), None, "it is starting");
        assert_eq!(step_at("Progressing", 0, late, &[ended(late)]), None, "it started over");
        assert_eq!(step_at("Progressing", 0, late, &[ended(early)]), Some(3), "a step that leaves traffic alone");
        assert_eq!(step_at("Progressing", 5, early, &[ended(late)]), Some(3), "traffic is split");
        assert_eq!(step_at("Failed", 0, late, &[ended(late), ended(early)]), Some(3), "where it failed");
        assert_eq!(step_at("Failed", 0, early, &[ended(late), ended(early)]), None, "it failed before the first step");
        assert_eq!(step(&CanaryStatus::default()), None);
    }
}
