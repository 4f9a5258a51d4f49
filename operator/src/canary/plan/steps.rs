//! What steps ask for: pure arithmetic over a Canary's spec.

use fairlead_crds::{CanarySpec, CanaryStep, CanaryStepStatus, Percent, Replicas};

use crate::canary::judge::By;

/// Where a step's traffic goes: as it says, or as the last one before it that does.
pub(super) fn steering(spec: &CanarySpec, index: usize) -> Option<&CanaryStep> {
    up_to(spec, index).rev().find(|step| step.steers())
}

/// The split of a step: its share of the traffic, none where it gets copies or matched requests alone.
pub(super) fn weight(spec: &CanarySpec, index: usize) -> Percent {
    steering(spec, index).and_then(|step| step.weight).unwrap_or(Percent::ZERO)
}

/// Whether a split is still what the spec says of its step.
pub(super) fn is_as_asked(spec: &CanarySpec, index: usize, split: &CanaryStepStatus) -> bool {
    let asked = steering(spec, index);
    split.weight == weight(spec, index)
        && split.mirror == asked.and_then(|step| step.mirror)
        && asked.map_or(&[][..], |step| &step.matches) == split.matches
}

/// How many pods of the new version run in a step beside so many of the running one.
pub(super) fn replicas(spec: &CanarySpec, index: usize, stable: i64) -> i64 {
    if let Some(asked) = up_to(spec, index).rev().find_map(|step| step.replicas) {
        return i64::from(asked);
    }
    match (spec.rollout.replicas, steering(spec, index).and_then(|step| step.weight)) {
        (Replicas::ByWeight, Some(weight)) => {
            ((stable as f64 * weight.fraction()).ceil() as i64).clamp(1, stable.max(1))
        }
        (Replicas::ByWeight, None) if steering(spec, index).is_none() => 1,
        _ => stable,
    }
}

/// By what the requests of a split are judged. `None`: the new version gets nothing.
pub(super) fn judged_by(split: &CanaryStepStatus) -> Option<By> {
    if split.weight == Percent::ZERO && split.mirror.is_none() && split.matches.is_empty() {
        None
    } else if split.weight > Percent::ZERO && split.weight.fraction() < 1.0 {
        Some(By::All)
    } else {
        Some(By::Limits)
    }
}

/// `25 % of the traffic goes to the new version`.
pub(super) fn describe(spec: &CanarySpec, index: usize) -> String {
    let Some(step) = up_to(spec, index).next_back() else { return String::new() };
    let mut parts = Vec::new();
    if let Some(dark) = &step.mirror {
        let times = if dark.copies > 1 { format!(" {} times", dark.copies) } else { String::new() };
        parts.push(format!("{} % of the requests are copied to the new version{times}", dark.percent));
    } else if !step.matches.is_empty() {
        parts.push("requests that match go to the new version, and they alone".to_owned());
    } else if let Some(weight) = step.weight {
        parts.push(format!("{weight} % of the traffic goes to the new version"));
    }
    if let Some(replicas) = step.replicas {
        parts.push(format!("it runs {replicas} pods"));
    }
    if !step.hold.as_std().is_zero() {
        parts.push(format!("held for {}", step.hold));
    }
    if step.approval.is_some() {
        parts.push("until it is approved".to_owned());
    }
    parts.join(", ")
}

fn up_to(spec: &CanarySpec, index: usize) -> impl DoubleEndedIterator<Item = &CanaryStep> {
    spec.steps.iter().take(index.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spec(steps: &Value, replicas: &str) -> CanarySpec {
        let workload = json!({"kind": "Deployment", "name": "reviews"});
        serde_json::from_value(json!({"workloadRef": workload, "steps": steps, "rollout": {"replicas": replicas}}))
            .unwrap()
    }

    #[test]
    fn what_a_step_does_not_say_holds_from_before() {
        let all = json!([
            {"hold": "1m"}, {"mirror": {}}, {"approval": {}}, {"weight": 10, "replicas": 2}, {"hold": "1m"}, {"weight": 50}, {"weight": 100, "replicas": 9},
        ]);
        let matched = spec(&all, "Match");
        let at = |spec: &CanarySpec| -> Vec<_> {
            (0..spec.steps.len()).map(|index| (weight(spec, index).value(), replicas(spec, index, 10))).collect()
        };
        assert_eq!(at(&matched), [(0.0, 10), (0.0, 10), (0.0, 10), (10.0, 2), (10.0, 2), (50.0, 2), (100.0, 9)]);
        assert!(steering(&matched, 0).is_none());
        assert!(steering(&matched, 2).unwrap().mirror.is_some());
        // An index that the spec has no longer is that of the last.
        assert_eq!(weight(&matched, 40).to_string(), "100");
    }

    #[test]
    fn by_weight_there_are_as_many_as_the_share_needs() {
        let spec =
            spec(&json!([{"hold": "1m"}, {"mirror": {}}, {"weight": 1}, {"weight": 15}, {"weight": 100}]), "ByWeight");
        let at: Vec<_> = (0..5).map(|index| replicas(&spec, index, 10)).collect();
        assert_eq!(at, [1, 10, 1, 2, 10]);
        assert_eq!(replicas(&spec, 3, 0), 1);
    }

    #[test]
    fn only_what_has_a_counterpart_is_compared() {
        let split = |value: Value| -> CanaryStepStatus {
            let mut step = json!({"index": 0, "weight": 0, "since": "2026-11-20T12:00:00Z"});
            step.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            serde_json::from_value(step).unwrap()
        };
        for (value, by) in [
            (json!({}), None),
            (json!({"weight": 0.01}), Some(By::All)),
            (json!({"weight": 99}), Some(By::All)),
            (json!({"weight": 100}), Some(By::Limits)),
            (json!({"mirror": {"percent": 1, "copies": 1}}), Some(By::Limits)),
            (json!({"matches": [{"headers": [{"name": "a", "value": "b"}]}]}), Some(By::Limits)),
        ] {
            assert_eq!(judged_by(&split(value.clone())), by, "{value}");
        }
    }
}
