//! What the index keeps of a `Canary`: how it splits traffic now.

use fairlead_crds::{CanarySpec, CanaryStatus, Phase};

use crate::model::ObjectName;

/// Shares are kept in millionths, exact for every percentage with four decimals.
pub(super) const WHOLE: u32 = 1_000_000;

/// How a `Canary` splits traffic now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Canary {
    /// The Deployment that is released.
    pub deployment: String,
    /// What the clone's pods get of the Deployment's traffic, in millionths.
    pub share: u32,
    /// What tells this split from earlier ones: when it was decided, unix seconds; 0 before the first.
    pub generation: i64,
    /// Counter groups begin so: `<ns>/<canary>/<revision>/<step>/<since>/`.
    pub group_prefix: String,
}

impl Canary {
    pub(super) fn parse(name: &ObjectName, spec: &CanarySpec, status: &CanaryStatus) -> Self {
        let generation = status.step.as_ref().map_or(0, |s| s.since.0.as_second());
        let moving = matches!(
            status.phase,
            Some(
                Phase::Progressing
                    | Phase::Holding
                    | Phase::WaitingApproval
                    | Phase::Promoting
                    | Phase::RollingBack
                    | Phase::Suspended
            )
        );
        let step = status.step.as_ref().filter(|_| moving);
        let share = step.map_or(0, |s| (s.weight.fraction() * f64::from(WHOLE)).round() as u32);
        let revision = status.canary.as_ref().map_or("", |c| c.revision.as_str());
        let index = step.and_then(|s| s.index).unwrap_or(0);
        Self {
            deployment: spec.workload_ref.name.clone(),
            share: share.min(WHOLE),
            generation,
            group_prefix: format!("{name}/{revision}/{index}/{generation}/"),
        }
    }

    pub(super) fn canary_group(&self) -> String {
        format!("{}canary", self.group_prefix)
    }

    pub(super) fn stable_group(&self) -> String {
        format!("{}stable", self.group_prefix)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(phase: &str) -> Canary {
        let spec = serde_json::from_value(json!({"workloadRef": {"kind": "Deployment", "name": "reviews"}})).unwrap();
        let status = serde_json::from_value(json!({
            "phase": phase,
            "step": {"index": 2, "weight": 12.5, "since": "2026-11-20T12:00:00Z"},
            "canary": {"revision": "6d5f"},
        }))
        .unwrap();
        Canary::parse(&ObjectName::new("shop", "release"), &spec, &status)
    }

    #[test]
    fn the_status_is_the_split() {
        let canary = parse("Progressing");
        assert_eq!(canary.share, 125_000);
        assert_eq!(canary.generation, 1_795_176_000);
        assert_eq!(canary.canary_group(), "shop/release/6d5f/2/1795176000/canary");
        assert_eq!(canary.stable_group(), "shop/release/6d5f/2/1795176000/stable");
    }

    #[test]
    fn a_release_that_is_over_splits_nothing() {
        for phase in ["Initialized", "Succeeded", "Failed"] {
            assert_eq!(parse(phase).share, 0, "{phase}");
        }
        for phase in ["Holding", "Suspended", "Promoting", "RollingBack"] {
            assert_eq!(parse(phase).share, 125_000, "{phase}");
        }
    }
}
