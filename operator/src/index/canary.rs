//! What the index keeps of a `Canary`: how it steers traffic now.

use fairlead_crds::{CanarySpec, CanaryStatus, CanaryStepStatus, Phase, RouteMatch};

use super::traffic_policy::{parse_match, share, stickiness, sticky_value};
use crate::model::{Match, ObjectName, Stickiness};

/// Shares are kept in millionths, exact for every percentage with four decimals.
pub(super) const WHOLE: u32 = 1_000_000;

/// How a `Canary` steers traffic now.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Canary {
    pub name: ObjectName,
    /// The Deployment that is released.
    pub deployment: String,
    /// What the clone's pods get of the Deployment's traffic, in millionths.
    pub share: u32,
    /// What they get copies of, while they get no share.
    pub dark: Option<Dark>,
    /// Requests of which they get all, while they get no share.
    pub matches: Vec<Match>,
    /// Why there are none of those, although the status names some.
    pub invalid: Option<String>,
    /// Keeps users on their side, while both sides have one.
    pub cookie: Option<Cookie>,
    /// What tells this split from earlier ones: when it was decided, unix seconds; 0 before the first.
    pub generation: i64,
    /// Counter groups begin so: `<ns>/<canary>/<revision>/<step>/<since>/`.
    pub group_prefix: String,
}

/// Copies of requests.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Dark {
    /// Of the Deployment's requests, in millionths.
    pub share: u32,
    /// Of each.
    pub copies: u32,
}

/// A cookie that tells the sides of a release from each other.
///
/// Its values are those of the release, not of its steps, so a user stays where it is when a weight grows: weights are of users that come
/// without a value. Another release has other values, and everybody chooses anew.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cookie {
    pub rule: Stickiness,
    /// For all that is not this release's canary.
    pub stable: String,
    pub canary: String,
}

impl Canary {
    /// `uid` is its own.
    pub(super) fn parse(name: &ObjectName, uid: &str, spec: &CanarySpec, status: &CanaryStatus) -> Self {
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
        let weight = step.map_or(0, |s| share(s.weight));
        let unweighted = step.filter(|_| weight == 0);
        let (matches, invalid) = match unweighted.map_or_else(|| Ok(Vec::new()), |s| matches(&s.matches)) {
            Ok(matches) => (matches, None),
            // A part of what was asked for could be far more than all of it.
            Err(why) => (Vec::new(), Some(why)),
        };
        let revision = status.canary.as_ref().map_or("", |c| c.revision.as_str());
        let index = step.and_then(|s| s.index).unwrap_or(0);
        let sides = 0 < weight && weight < WHOLE;
        Self {
            name: name.clone(),
            deployment: spec.workload_ref.name.clone(),
            share: weight,
            dark: unweighted.and_then(dark),
            matches,
            invalid,
            cookie: spec.stickiness.clone().filter(|_| sides).map(|rule| Cookie {
                rule: stickiness(rule),
                stable: sticky_value(uid, revision, "stable"),
                canary: sticky_value(uid, revision, "canary"),
            }),
            generation,
            group_prefix: format!("{name}/{revision}/{index}/{generation}/"),
        }
    }

    /// Whether the clone's pods hear of any request.
    pub(super) fn steers(&self) -> bool {
        self.share > 0 || self.dark.is_some() || !self.matches.is_empty()
    }

    pub(super) fn canary_group(&self) -> String {
        format!("{}canary", self.group_prefix)
    }

    pub(super) fn stable_group(&self) -> String {
        format!("{}stable", self.group_prefix)
    }
}

fn dark(step: &CanaryStepStatus) -> Option<Dark> {
    let dark = step.mirror?;
    let share = share(dark.percent);
    (share > 0).then(|| Dark { share, copies: u32::try_from(dark.copies).unwrap_or(1).max(1) })
}

/// Whether proxies can tell such requests from others. The error is a sentence that says what to change.
pub fn validate_matches(matches: &[RouteMatch]) -> Result<(), String> {
    self::matches(matches).map(drop)
}

fn matches(matches: &[RouteMatch]) -> Result<Vec<Match>, String> {
    let parse = |(i, entry): (usize, &RouteMatch)| {
        if *entry == RouteMatch::default() {
            return Err(format!(
                "matches[{i}]: every request is of this kind; say of which, or use a step with weight"
            ));
        }
        parse_match(entry.clone()).map_err(|why| format!("matches[{i}]: {why}"))
    };
    matches.iter().enumerate().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(phase: &str) -> Canary {
        step(phase, "6d5f", json!({"weight": 12.5}))
    }

    fn step(phase: &str, revision: &str, mut step: Value) -> Canary {
        let spec = serde_json::from_value(json!({
            "workloadRef": {"kind": "Deployment", "name": "reviews"},
            "stickiness": {"cookie": {"name": "fl-canary", "maxAge": "1h"}},
        }));
        step["index"] = json!(2);
        step["since"] = json!("2026-11-20T12:00:00Z");
        let status = json!({"phase": phase, "step": step, "canary": {"revision": revision}});
        let status = serde_json::from_value(status).unwrap();
        Canary::parse(&ObjectName::new("shop", "release"), "uid", &spec.unwrap(), &status)
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

    #[test]
    fn a_step_without_weight_has_copies_and_matches_and_no_other_has() {
        let steered = json!({
            "weight": 0, "mirror": {"percent": 12.5, "copies": 3},
            "matches": [{"headers": [{"name": "End-User", "value": "jason"}]}],
        });
        let canary = step("Holding", "6d5f", steered.clone());
        assert_eq!(canary.dark, Some(Dark { share: 125_000, copies: 3 }));
        assert_eq!(canary.matches[0].headers[0].name, "end-user");
        assert!(canary.steers());
        let mut weighted = steered.clone();
        weighted["weight"] = json!(5);
        for canary in [step("Holding", "6d5f", weighted), step("Failed", "6d5f", steered)] {
            assert_eq!((canary.dark, canary.matches), (None, vec![]));
        }
    }

    #[test]
    fn of_matches_that_cannot_be_used_none_is() {
        let good = json!({"methods": ["GET"]});
        for (bad, expected) in [
            (
                json!({"path": {"type": "RegularExpression", "value": "/a("}}),
                "matches[1]: path.value: \"/a(\" is no regular",
            ),
            (json!({"headers": [{"name": "a"}]}), "matches[1]: header a: type Exact needs a value"),
            (json!({}), "matches[1]: every request is of this kind; say of which"),
        ] {
            let canary = step("Progressing", "6d5f", json!({"weight": 0, "matches": [good, bad]}));
            assert_eq!(canary.matches, []);
            assert!(!canary.steers());
            let why = canary.invalid.unwrap();
            assert!(why.starts_with(expected), "{why}");
            let matches: Vec<RouteMatch> = serde_json::from_value(json!([good, bad])).unwrap();
            assert_eq!(validate_matches(&matches), Err(why));
        }
        let matches: Vec<RouteMatch> = serde_json::from_value(json!([good])).unwrap();
        assert_eq!(validate_matches(&matches), Ok(()));
    }

    #[test]
    fn a_users_side_is_known_for_as_long_as_the_release_lasts() {
        let at = |revision, weight: f64| step("Progressing", revision, json!({"weight": weight})).cookie;
        let cookie = at("6d5f", 5.0).unwrap();
        assert_eq!(cookie.rule, Stickiness { cookie: "fl-canary".into(), max_age_s: Some(3600) });
        assert_ne!(cookie.stable, cookie.canary);
        assert_eq!(at("6d5f", 50.0), Some(cookie.clone()));
        let other = at("77aa", 5.0).unwrap();
        assert!(other.stable != cookie.stable && other.canary != cookie.canary);
        assert_eq!((at("6d5f", 0.0), at("6d5f", 100.0)), (None, None), "there is one side alone");
    }
}
