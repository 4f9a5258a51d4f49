//! An answer for people: one line that says it, then why, then what is rehearsed.

use std::fmt::Write as _;

use fairlead_operator_api::{Answer, Caller, Group, Mtls, Outcome, Question, Verdict};

/// What to print.
pub(crate) fn text(question: &Question, answer: &Answer) -> String {
    let mut text = format!("{}: {}\n", headline(answer), asked(question, answer));
    for group in &answer.groups {
        text.push('\n');
        write(&mut text, group, answer.groups.len() > 1);
    }
    for note in &answer.notes {
        let _ = write!(text, "\nnote: {note}\n");
    }
    text
}

fn headline(answer: &Answer) -> String {
    let pods = |allowed: bool| {
        let groups = answer.groups.iter().filter(|group| (group.outcome.verdict == Verdict::Allowed) == allowed);
        groups.map(|group| group.pod_count).sum::<usize>()
    };
    match (pods(true), pods(false), answer.groups.first()) {
        (allowed, refused, _) if allowed > 0 && refused > 0 => {
            format!("It depends on the pod ({allowed} of {} allow it)", allowed + refused)
        }
        (_, 0, _) => "Allowed".to_owned(),
        (.., Some(group)) => word(group.outcome.verdict).to_owned(),
        (.., None) => "Nobody is asked".to_owned(),
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allowed => "Allowed",
        Verdict::Denied => "Denied",
        Verdict::PlaintextRefused => "Refused, because it comes in plain",
    }
}

fn asked(question: &Question, answer: &Answer) -> String {
    let from = match &question.from {
        Caller::Plain => "a caller without a sidecar".to_owned(),
        Caller::Identity(identity) => identity.clone(),
        Caller::ServiceAccount { namespace, name } => format!("{namespace}/{name}"),
    };
    let address = question.address.map(|address| format!(" at {address}")).unwrap_or_default();
    let what = match &question.request {
        None => "bytes".to_owned(),
        Some(request) => format!("{} {}", request.method, request.path),
    };
    format!("{what} from {from}{address} to {}, port {}", answer.target, answer.port)
}

fn write(text: &mut String, group: &Group, differs: bool) {
    let mut line = |name: &str, said: &str| {
        let _ = writeln!(text, "  {name:<10}{said}");
    };
    if differs {
        line("verdict", word(group.outcome.verdict));
    }
    line("because", &group.outcome.because);
    line("pods", &pods(group));
    line("mTLS", &mtls(&group.mtls));
    for (number, policy) in group.policies.iter().enumerate() {
        let rehearsed = if policy.rehearsed { ", rehearsed" } else { "" };
        let invalid = policy.invalid.as_ref().map(|why| format!("; not in force as it is written: {why}"));
        let name = if number == 0 { "policies" } else { "" };
        line(name, &format!("{} ({}{rehearsed}){}", policy.name, policy.scope, invalid.unwrap_or_default()));
    }
    if group.policies.is_empty() {
        line("policies", "none");
    }
    if let Some(rule) = &group.audited_by {
        line("recorded", &format!("by rule {rule}"));
    }
    for note in &group.notes {
        line("note", note);
    }
    if let Some(rehearsal) = &group.rehearsed {
        let Outcome { verdict, because, .. } = &rehearsal.outcome;
        line("rehearsed", &format!("{}, once what is only rehearsed holds: {because}", word(*verdict)));
        line("", &format!("mTLS would be {}", mtls(&rehearsal.mtls)));
    }
}

fn pods(group: &Group) -> String {
    let more = group.pod_count.saturating_sub(group.pods.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}, port {}", group.pods.join(", "), group.port)
}

fn mtls(mtls: &Mtls) -> String {
    match &mtls.from {
        Some(auth) => format!("{} (PeerAuth {auth})", mtls.mode),
        None => format!("{} (the default)", mtls.mode),
    }
}

#[cfg(test)]
mod tests {
    use fairlead_operator_api::{Policy, Rehearsal, Request, Target};

    use super::*;

    fn question() -> Question {
        Question {
            from: Caller::ServiceAccount { namespace: "bookinfo".into(), name: "productpage".into() },
            address: None,
            to: Target { namespace: "bookinfo".into(), name: "ratings".into(), port: None },
            request: Some(Request { method: "GET".into(), path: "/ratings/1".into(), ..Request::default() }),
        }
    }

    fn outcome(verdict: Verdict, rule: Option<&str>, because: &str) -> Outcome {
        Outcome { verdict, rule: rule.map(Into::into), because: because.into() }
    }

    fn group(pods: &[&str], outcome: Outcome) -> Group {
        Group {
            pods: pods.iter().map(|&pod| pod.into()).collect(),
            pod_count: pods.len(),
            port: 9080,
            outcome,
            mtls: Mtls { mode: "Permissive".into(), from: None },
            policies: Vec::new(),
            audited_by: None,
            rehearsed: None,
            notes: Vec::new(),
        }
    }

    fn answer(groups: Vec<Group>) -> Answer {
        Answer { target: "Service bookinfo/ratings".into(), port: 9080, groups, notes: Vec::new() }
    }

    #[test]
    fn one_answer_says_why_and_what_is_rehearsed() {
        let rule = "bookinfo/ratings/readers";
        let mut group = group(
            &["ratings-1", "ratings-2"],
            outcome(Verdict::Allowed, Some(rule), "rule bookinfo/ratings/readers allows it"),
        );
        group.pod_count = 12;
        group.mtls = Mtls { mode: "Strict".into(), from: Some("fairlead-system/mesh".into()) };
        let policy = |name: &str, scope: &str, rehearsed| Policy {
            name: name.into(),
            scope: scope.into(),
            rehearsed,
            invalid: None,
        };
        group.policies = vec![policy("fairlead-system/mesh", "Mesh", false), policy("bookinfo/soon", "Workload", true)];
        group.policies[1].invalid = Some("rule x: the pattern \"(\" does not compile".into());
        group.audited_by = Some("bookinfo/ratings/seen".into());
        group.rehearsed = Some(Rehearsal {
            outcome: outcome(Verdict::Denied, None, "Allow rules say who may, and none of them holds"),
            mtls: Mtls { mode: "Strict".into(), from: Some("bookinfo/soon".into()) },
        });
        let answer = Answer { notes: vec!["1 of the pods has no sidecar".into()], ..answer(vec![group]) };
        insta::assert_snapshot!(text(&question(), &answer));
    }

    #[test]
    fn pods_that_differ_are_shown_apart() {
        let allowed =
            group(&["ratings-1"], outcome(Verdict::Allowed, None, "no rule denies it, and none says who may"));
        let mut refused = group(
            &["ratings-2"],
            outcome(Verdict::PlaintextRefused, None, "the caller comes in plain, and mTLS is Strict"),
        );
        refused.notes = vec!["a note".into()];
        let question =
            Question { from: Caller::Plain, address: Some([10, 0, 0, 1].into()), request: None, ..question() };
        insta::assert_snapshot!(text(&question, &answer(vec![allowed, refused])));
    }

    #[test]
    fn one_that_all_refuse_is_denied() {
        let denied = group(&["ratings-1"], outcome(Verdict::Denied, None, "x"));
        assert!(
            text(&question(), &answer(vec![denied])).starts_with("Denied: GET /ratings/1 from bookinfo/productpage to")
        );
    }
}
