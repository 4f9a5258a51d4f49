//! Canaries and past releases as tables.

use fairlead_crds::{Canary, CanaryStatus, Outcome, Release, VerdictResult};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde::Serialize;

use super::state::{self, is_under_way};
use crate::text::{span, table};

/// A line of the list, and the form in which programs get it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Row {
    namespace: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    workload: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    phase: Option<String>,
    /// Of the release that is under way, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<usize>,
    /// Percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    weight: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<VerdictResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<Timestamp>,
}

impl Row {
    /// One that this command does not understand has a row as well.
    pub(super) fn of(object: DynamicObject) -> Self {
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        match object.try_parse::<Canary>() {
            Ok(canary) => Self::read(namespace, name, &canary),
            Err(error) => Self {
                namespace,
                name,
                workload: None,
                phase: None,
                step: None,
                steps: None,
                weight: None,
                verdict: None,
                reason: Some(format!("not as this command knows it, is it as new as the operator? {error}")),
                since: None,
            },
        }
    }

    fn read(namespace: String, name: String, canary: &Canary) -> Self {
        let fresh = CanaryStatus::default();
        let status = canary.status.as_ref().unwrap_or(&fresh);
        let under_way = is_under_way(status.phase).then(|| state::step(status)).flatten();
        let verdict = status.verdict.as_ref();
        Self {
            namespace,
            name,
            workload: Some(canary.spec.workload_ref.name.clone()),
            phase: status.phase.map(|phase| format!("{phase:?}")),
            step: under_way.map(|index| index + 1),
            steps: under_way.map(|_| canary.spec.steps.len()),
            weight: under_way.and(status.step.as_ref()).map(|step| step.weight.value()),
            verdict: verdict.map(|verdict| verdict.result),
            // Why nothing is released at all is what there is to know first.
            reason: state::objection(status)
                .map(str::to_owned)
                .or_else(|| verdict.map(|verdict| verdict.reason.clone())),
            since: state::since(canary),
        }
    }

    fn cells(&self, now: Timestamp) -> [String; 9] {
        let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        [
            self.namespace.clone(),
            self.name.clone(),
            or_none(self.workload.clone()),
            or_none(self.phase.clone()),
            or_none(self.step.zip(self.steps).map(|(step, steps)| format!("{step}/{steps}"))),
            or_none(self.weight.map(|weight| format!("{weight} %"))),
            or_none(self.verdict.map(|verdict| format!("{verdict:?}"))),
            or_none(self.since.map(|since| ago(since, now))),
            or_none(self.reason.clone()),
        ]
    }
}

fn ago(time: Timestamp, now: Timestamp) -> String {
    span(now.as_second() - time.as_second())
}

/// `width` is that of the terminal, if it is one.
pub(super) fn list(rows: &[Row], now: Timestamp, width: Option<usize>) -> String {
    if rows.is_empty() {
        return "there are no Canaries here; -A lists those of every namespace\n".to_owned();
    }
    let heads = ["NAMESPACE", "NAME", "WORKLOAD", "PHASE", "STEP", "WEIGHT", "VERDICT", "SINCE", "REASON"];
    let rows: Vec<_> = rows.iter().map(|row| row.cells(now)).collect();
    table(heads, &rows, width)
}

/// The reason is what this is asked for, so it is never cut.
pub(super) fn history(releases: &[Release], now: Timestamp) -> String {
    if releases.is_empty() {
        return "no release has ended yet\n".to_owned();
    }
    let rows: Vec<_> = releases
        .iter()
        .map(|release| {
            let at = Timestamp::from_second(release.finished.0.as_second()).unwrap_or(release.finished.0);
            let outcome = match release.outcome {
                Outcome::Succeeded => "Succeeded",
                Outcome::Failed => "Failed",
                Outcome::Aborted => "Aborted",
                Outcome::Superseded => "Superseded",
            };
            [release.revision.clone(), outcome.to_owned(), ago(at, now), at.to_string(), release.reason.clone()]
        })
        .collect();
    table(["REVISION", "OUTCOME", "AGO", "ENDED", "REASON"], &rows, None)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-11-20T10:10:00Z".parse().unwrap()
    }

    fn row(name: &str, status: &Value) -> Row {
        let object = json!({
            "apiVersion": "fairlead.dev/v1alpha1",
            "kind": "Canary",
            "metadata": {"namespace": "bookinfo", "name": name, "creationTimestamp": "2026-11-01T10:00:00Z"},
            "spec": {"workloadRef": {"kind": "Deployment", "name": name}},
            "status": status,
        });
        Row::of(from_value(object).unwrap())
    }

    fn rows() -> Vec<Row> {
        let ended = json!([{"revision": "b3c9d0e1f2", "outcome": "Failed", "reason": "9 of 41 requests failed; stable 0 of 770", "finished": "2026-11-19T08:00:00Z"}]);
        let verdict = |result: &str, reason: &str| json!({"result": result, "reason": reason});
        vec![
            row("details", &json!({"phase": "Initialized", "stable": {"revision": "a"}})),
            row(
                "ratings",
                &json!({"phase": "Failed", "verdict": verdict("Regressed", "9 of 41 requests failed; stable 0 of 770"), "history": ended}),
            ),
            row(
                "reviews",
                &json!({
                    "phase": "Progressing", "verdict": verdict("Inconclusive", "0 of 553 requests failed; stable 6 of 4,985: about 540 requests\nmore are needed"),
                    "step": {"index": 2, "weight": 12.5, "since": "2026-11-20T10:07:30Z"},
                }),
            ),
            row("newer", &json!({"phase": "Dreaming"})),
        ]
    }

    #[test]
    fn a_list_fits_the_terminal() {
        insta::assert_snapshot!(list(&rows(), now(), Some(120)));
    }

    #[test]
    fn a_pipe_gets_all_of_it_and_programs_json() {
        let text = list(&rows(), now(), None);
        assert!(text.contains("about 540 requests more are needed\n"), "{text}");
        let json = serde_json::to_value(rows()).unwrap();
        assert_eq!(
            json[1],
            json!({
                "namespace": "bookinfo", "name": "ratings", "workload": "ratings", "phase": "Failed", "verdict": "Regressed",
                "reason": "9 of 41 requests failed; stable 0 of 770", "since": "2026-11-19T08:00:00Z",
            })
        );
        assert_eq!((&json[2]["step"], &json[2]["weight"]), (&json!(3), &json!(12.5)));
        assert!(list(&[], now(), None).contains("no Canaries"));
    }

    #[test]
    fn a_history_says_how_and_when_releases_ended() {
        let release = |revision: &str, outcome: &str, reason: &str, finished: &str| json!({"revision": revision, "outcome": outcome, "reason": reason, "finished": finished});
        let releases = json!([
            release("5f6a7b8c9d", "Succeeded", "revision 5f6a7b8c9d is rolled out", "2026-11-20T10:05:20Z"),
            release("b3c9d0e1f2", "Failed", "9 of 41 requests failed; stable 0 of 770", "2026-11-19T08:00:00Z"),
            release("77aa01c4de", "Superseded", "the template changed again", "2026-11-12T16:31:09Z"),
        ]);
        insta::assert_snapshot!(history(&from_value::<Vec<Release>>(releases).unwrap(), now()));
        assert_eq!(history(&[], now()), "no release has ended yet\n");
    }
}
