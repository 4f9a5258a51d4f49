//! What the conditions of a `TrafficPolicy` or `PeerAuth` say: decisions alone.

use fairlead_crds::{ConditionType, Fact, set_condition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::config::Programmed;
use crate::index::{Problem, Report};
use crate::model::SourceKind;

/// Sentences about references that lead nowhere: more would not be read, and a status is no place for a list.
const MAX_SENTENCES: usize = 4;

/// The conditions after what is known now. Those that do not change keep their times.
pub(super) fn next(report: &Report, programmed: &Programmed, before: &[Condition], now: &Time) -> Vec<Condition> {
    let mut conditions = before.to_vec();
    let facts = [
        (ConditionType::Accepted, accepted(report)),
        (ConditionType::ResolvedRefs, resolved(report)),
        (ConditionType::Programmed, programmed_fact(report, programmed, before)),
    ];
    for (kind, fact) in facts {
        set_condition(&mut conditions, kind, &fact, Some(report.generation), now);
    }
    conditions
}

fn accepted(report: &Report) -> Fact {
    match &report.problem {
        None => Fact::holds("Accepted", "in force"),
        Some(Problem::Invalid(why)) => {
            let kept =
                report.kept.map_or_else(String::new, |generation| format!(" (generation {generation} stays in force)"));
            Fact::fails("Invalid", format!("{why}{kept}"))
        }
        Some(Problem::Conflicted(winner)) => {
            let kind = report.source.kind.as_str();
            let sentence = if report.source.kind == SourceKind::PeerAuth {
                format!(
                    "the {kind} {winner} states mtls for the same pods and is older, so its mtls holds; rules of both do: take mtls out of one of them"
                )
            } else {
                format!("the {kind} {winner} is about the same and older: delete one of them or join them")
            };
            Fact::fails("Conflicted", sentence)
        }
    }
}

fn resolved(report: &Report) -> Fact {
    if report.unresolved.is_empty() {
        return Fact::holds("ResolvedRefs", "everything that it names exists");
    }
    let told = report.unresolved.len().min(MAX_SENTENCES);
    let more = report.unresolved.len() - told;
    let more = (more > 0).then(|| format!("and {more} more"));
    let sentences: Vec<&str> = report.unresolved[..told].iter().chain(&more).map(String::as_str).collect();
    let sentences = sentences.join("; ");
    let reason = match report.source.kind {
        SourceKind::PeerAuth => "Incomplete",
        SourceKind::TrafficPolicy | SourceKind::Canary => "BackendNotFound",
    };
    Fact::fails(reason, sentences)
}

/// Whether proxies apply it.
///
/// Where no proxy has anything to do with it (none talks to the Service, no pod is selected) there is nothing left to wait for, so
/// it holds, at `0/0 proxies`. Once a generation holds, a proxy that starts later does not make it fail again while it reads its first
/// configuration: that is the present one already. Only the number says so, and a refusal.
fn programmed_fact(report: &Report, programmed: &Programmed, before: &[Condition]) -> Fact {
    // Of a PeerAuth whose mtls an older one states, the rules hold all the same.
    let holds = matches!(report.problem, Some(Problem::Conflicted(_))) && report.source.kind == SourceKind::PeerAuth;
    if report.problem.is_some() && !holds {
        return Fact::fails("Pending", "not in force: see the condition Accepted");
    }
    let count = format!("{}/{} proxies", programmed.acknowledged, programmed.proxies);
    if let Some((pod, why)) = programmed.refused.first() {
        let others = programmed.refused.len() - 1;
        let others = if others > 0 { " and others" } else { "" };
        return Fact::fails("Rejected", format!("{count}: {pod}{others} refused: {why}"));
    }
    let held_before = before.iter().any(|c| {
        c.type_ == ConditionType::Programmed.to_string()
            && c.status == "True"
            && c.observed_generation == Some(report.generation)
    });
    if programmed.is_complete() || held_before {
        Fact::holds("Programmed", count)
    } else {
        Fact::fails("Pending", count)
    }
}

/// The conditions of `after` that a person should hear of: those that say something else than before, whatever the number in their
/// message. What is well from the beginning goes without saying.
pub(super) fn transitions<'a>(before: &[Condition], after: &'a [Condition]) -> Vec<&'a Condition> {
    after
        .iter()
        .filter(|now| match before.iter().find(|c| c.type_ == now.type_) {
            Some(was) => (&was.status, &was.reason) != (&now.status, &now.reason),
            None => now.status != "True" && now.reason != "Pending",
        })
        .collect()
}

/// Whether only numbers in messages changed: such news can wait a little.
pub(super) fn only_numbers(before: &[Condition], after: &[Condition]) -> bool {
    before.len() == after.len()
        && before.iter().zip(after).all(|(a, b)| {
            a.type_ == b.type_
                && a.status == b.status
                && a.reason == b.reason
                && a.observed_generation == b.observed_generation
        })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::model::{ObjectName, Source, SourceKind};

    fn report(generation: i64) -> Report {
        Report {
            source: Source { kind: SourceKind::TrafficPolicy, object: ObjectName::new("shop", "p") },
            uid: "u".into(),
            generation,
            problem: None,
            kept: None,
            unresolved: Vec::new(),
            conditions: Vec::new(),
            readiness: Vec::new(),
        }
    }

    fn proxies(acknowledged: usize, proxies: usize) -> Programmed {
        Programmed { proxies, acknowledged, refused: Vec::new() }
    }

    fn at(second: i64) -> Time {
        Time(Timestamp::from_second(second).unwrap())
    }

    /// `status reason message`.
    fn line(conditions: &[Condition], kind: ConditionType) -> String {
        let c = conditions.iter().find(|c| c.type_ == kind.to_string()).unwrap();
        format!("{} {} {}", c.status, c.reason, c.message)
    }

    #[test]
    fn a_change_is_pending_until_all_proxies_have_it() {
        use ConditionType::Programmed;
        let first = next(&report(1), &proxies(1, 2), &[], &at(1));
        assert_eq!(line(&first, Programmed), "False Pending 1/2 proxies");
        let done = next(&report(1), &proxies(2, 2), &first, &at(2));
        assert_eq!(line(&done, Programmed), "True Programmed 2/2 proxies");
        let newcomer = next(&report(1), &proxies(2, 3), &done, &at(3));
        assert_eq!(line(&newcomer, Programmed), "True Programmed 2/3 proxies");
        assert!(only_numbers(&done, &newcomer));
        let changed = next(&report(2), &proxies(0, 3), &newcomer, &at(4));
        assert_eq!(line(&changed, Programmed), "False Pending 0/3 proxies");
        assert!(!only_numbers(&newcomer, &changed));
        assert!(changed.iter().all(|c| c.observed_generation == Some(2)));
    }

    #[test]
    fn what_nobody_has_to_do_with_is_done() {
        let conditions = next(&report(1), &proxies(0, 0), &[], &at(1));
        let said = line(&conditions, ConditionType::Programmed);
        assert_eq!(said, "True Programmed 0/0 proxies");
    }

    #[test]
    fn a_refusal_names_the_pod_and_the_reason() {
        let mut programmed = proxies(1, 2);
        programmed.refused = vec![(ObjectName::new("shop", "web-1"), "too large".into())];
        let done = next(&report(1), &proxies(2, 2), &[], &at(1));
        let conditions = next(&report(1), &programmed, &done, &at(2));
        let said = line(&conditions, ConditionType::Programmed);
        assert_eq!(said, "False Rejected 1/2 proxies: shop/web-1 refused: too large");
    }

    #[test]
    fn a_loser_says_who_won_and_a_mistake_says_what_stays() {
        let mut loser = report(1);
        loser.problem = Some(Problem::Conflicted(ObjectName::new("shop", "older")));
        let conditions = next(&loser, &proxies(0, 0), &[], &at(1));
        let said = line(&conditions, ConditionType::Accepted);
        assert!(said.starts_with("False Conflicted the TrafficPolicy shop/older"), "{said}");
        let said = line(&conditions, ConditionType::Programmed);
        assert!(said.starts_with("False Pending not in force"), "{said}");

        let mut invalid = report(2);
        invalid.problem = Some(Problem::Invalid("route r: wrong".into()));
        invalid.kept = Some(1);
        let conditions = next(&invalid, &proxies(3, 3), &[], &at(1));
        assert_eq!(
            line(&conditions, ConditionType::Accepted),
            "False Invalid route r: wrong (generation 1 stays in force)"
        );
    }

    #[test]
    fn references_that_lead_nowhere_are_told_and_counted() {
        let mut report = report(1);
        report.unresolved = (0..6).map(|i| format!("s{i}")).collect();
        let conditions = next(&report, &proxies(0, 0), &[], &at(1));
        assert_eq!(line(&conditions, ConditionType::ResolvedRefs), "False BackendNotFound s0; s1; s2; s3; and 2 more");
    }

    #[test]
    fn nothing_new_is_no_change_and_no_event() {
        let first = next(&report(1), &proxies(2, 2), &[], &at(1));
        let again = next(&report(1), &proxies(2, 2), &first, &at(99));
        assert_eq!(first, again);
        assert!(transitions(&first, &again).is_empty());
        assert!(transitions(&[], &first).is_empty(), "all well from the beginning");
        let more = next(&report(1), &proxies(3, 3), &first, &at(99));
        assert!(transitions(&first, &more).is_empty(), "a number is no transition");
        let mut broken = report(1);
        broken.unresolved = vec!["gone".into()];
        let broken = next(&broken, &proxies(2, 2), &first, &at(5));
        let told = transitions(&first, &broken);
        assert_eq!(told.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["ResolvedRefs"]);
        let healed = next(&report(1), &proxies(2, 2), &broken, &at(6));
        assert_eq!(transitions(&broken, &healed).len(), 1);
    }
}
