//! How fast a release moves traffic, how exactly it divides it, and what a thousand Canaries cost: `fairlead-fleet` beside a real operator.

use std::collections::BTreeMap;

use anyhow::Result;
use serde::Deserialize;

use super::fleet::Fleet;
use super::{Figure, quantile};
use crate::progress::Step;

/// What `fairlead-fleet release` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Release {
    callers: u32,
    /// Of each change of a step, until the last caller splits so.
    step_milliseconds: Vec<f64>,
    /// For one weight.
    requests: u32,
    weights: Vec<Weight>,
    rollbacks: Vec<Rollback>,
}

#[derive(Debug, Deserialize)]
struct Weight {
    weight: u32,
    /// By how many the share differs, by round.
    points: Vec<f64>,
}

/// A release to a bad version.
#[derive(Debug, Deserialize)]
struct Rollback {
    seconds: f64,
    /// What was counted of the bad version.
    requests: f64,
    failures: f64,
}

/// What `fairlead-fleet canaries` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Crowd {
    canaries: u32,
    progressing: u32,
    managed_seconds: f64,
    at_rest: Rates,
    while_progressing: Rates,
    operator_mib: Memory,
}

/// A second, by kind of object as well.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rates {
    writes: f64,
    writes_by_kind: BTreeMap<String, f64>,
    reads: f64,
    reads_by_kind: BTreeMap<String, f64>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    peak_at_rest: f64,
    at_rest: f64,
    peak: f64,
}

/// What came of it.
pub(super) struct Measured {
    /// Which objects were asked for.
    pub(super) table: String,
    pub(super) figures: Vec<Figure>,
}

/// Builds and runs both.
pub(super) async fn measure(quick: bool) -> Result<Measured> {
    let fleet = Fleet::prepare().await?;
    let quickly = |words: &'static str| if quick { vec![words, "--quick"] } else { vec![words] };
    let step = Step::begin(if quick { "releases (about two minutes)" } else { "releases (about eight minutes)" });
    let release = fleet.run(&quickly("release")).await?;
    step.done();
    let step =
        Step::begin(if quick { "1,000 Canaries (about two minutes)" } else { "1,000 Canaries (about five minutes)" });
    let crowd: Crowd = fleet.run(&quickly("canaries")).await?;
    step.done();
    let mut figures = of_release(release);
    figures.extend(of_crowd(&crowd));
    Ok(Measured { table: table(&crowd), figures })
}

fn of_release(mut release: Release) -> Vec<Figure> {
    let changed = format!("{} changes of a step → all of {} callers", release.step_milliseconds.len(), release.callers);
    let mut step = |share| vec![quantile(&mut release.step_milliseconds, share)];
    let mut figures = vec![
        Figure::measured(&changed, "fairlead", "p50", "ms", step(0.5)),
        Figure::of(&changed, "p99", "ms", 500.0, step(0.99)),
    ];
    let bad = format!(
        "{} canaries that fail 20 % at 5 % of 100 requests/s, until nobody calls them",
        release.rollbacks.len()
    );
    let each = |of: fn(&Rollback) -> f64| release.rollbacks.iter().map(of).collect::<Vec<_>>();
    let mut seconds = each(|rollback| rollback.seconds);
    let mut after = |share| vec![quantile(&mut seconds, share)];
    figures.extend([
        Figure::of(&bad, "p50", "s", 10.0, after(0.5)),
        Figure::measured(&bad, "fairlead", "p90", "s", after(0.9)),
        Figure::of(&bad, "worst", "s", 10.0, after(1.0)),
        Figure::measured(
            &bad,
            "fairlead",
            "requests that they answered",
            "requests",
            each(|rollback| rollback.requests),
        ),
        Figure::measured(&bad, "fairlead", "of which failed", "requests", each(|rollback| rollback.failures)),
    ]);
    let requests = release.requests;
    figures.extend(release.weights.into_iter().map(|Weight { weight, points }| {
        Figure::of(
            format!("weight {weight} %, {requests} requests of 10 callers"),
            "away from it",
            "points",
            1.0,
            points,
        )
    }));
    figures
}

fn of_crowd(measured: &Crowd) -> Vec<Figure> {
    let Crowd { canaries, progressing, .. } = measured;
    let rest = format!("{canaries} Canaries at rest");
    let moving = format!("{progressing} of {canaries} Canaries progressing");
    vec![
        Figure::measured("operator starts", "fairlead", "all Canaries managed", "s", vec![measured.managed_seconds]),
        Figure::of(&rest, "API writes", "1/s", 1.0, vec![measured.at_rest.writes]),
        Figure::measured(&rest, "fairlead", "API reads", "1/s", vec![measured.at_rest.reads]),
        Figure::of(&rest, "operator, at most resident", "MiB", 150.0, vec![measured.operator_mib.peak_at_rest]),
        Figure::measured(&rest, "fairlead", "operator, resident", "MiB", vec![measured.operator_mib.at_rest]),
        Figure::of(&moving, "API writes", "1/s", 100.0, vec![measured.while_progressing.writes]),
        Figure::measured(&moving, "fairlead", "API reads", "1/s", vec![measured.while_progressing.reads]),
        Figure::measured(&moving, "fairlead", "operator, at most resident", "MiB", vec![measured.operator_mib.peak]),
    ]
}

/// Of which kinds the requests to the API server were.
fn table(measured: &Crowd) -> String {
    let list = |rates: &BTreeMap<String, f64>| {
        rates.iter().map(|(kind, rate)| format!("{kind} {rate:.1}")).collect::<Vec<_>>().join(", ")
    };
    let rows = [("at rest", &measured.at_rest), ("progressing", &measured.while_progressing)];
    let rows = rows.map(|(name, rates)| {
        format!("| {name} | {} | {} |\n", list(&rates.writes_by_kind), list(&rates.reads_by_kind))
    });
    format!("| Canaries | writes, 1/s | reads, 1/s |\n| --- | --- | --- |\n{}", rows.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure<'a>(figures: &'a [Figure], scenario: &str, metric: &str) -> &'a Figure {
        let found = figures.iter().find(|figure| figure.scenario.contains(scenario) && figure.metric == metric);
        found.unwrap_or_else(|| panic!("no {metric} of {scenario}"))
    }

    #[test]
    fn what_a_release_prints_are_figures_with_their_goals() {
        let release: Release = serde_json::from_str(
            r#"{"callers":100,"stepMilliseconds":[40.0,30.0,600.0],"requests":10000,
            "weights":[{"weight":5,"points":[0.2,1.3,0.4]}],
            "rollbacks":[{"seconds":6.5,"requests":30,"failures":6},{"seconds":7.5,"requests":33,"failures":6},{"seconds":12.0,"requests":50,"failures":7}]}"#,
        )
        .unwrap();
        let figures = of_release(release);
        let p99 = figure(&figures, "100 callers", "p99");
        assert_eq!((p99.median, p99.is_met()), (600.0, Some(false)));
        let weight = figure(&figures, "weight 5 %", "away from it");
        assert_eq!((weight.median, weight.max, weight.is_met()), (0.4, 1.3, Some(true)));
        let p50 = figure(&figures, "3 canaries", "p50");
        assert_eq!((p50.median, p50.is_met()), (7.5, Some(true)));
        assert_eq!(figure(&figures, "3 canaries", "worst").is_met(), Some(false));
        let failed = figure(&figures, "3 canaries", "of which failed");
        assert_eq!((failed.median, failed.is_met()), (6.0, None));
    }

    #[test]
    fn what_canaries_print_are_figures_with_their_goals() {
        let crowd: Crowd = serde_json::from_str(
            r#"{"canaries":1000,"progressing":100,"managedSeconds":9.0,
            "atRest":{"writes":0.5,"writesByKind":{"leases":0.5},"reads":100.0,"readsByKind":{"canaries":34.0}},
            "whileProgressing":{"writes":120.0,"writesByKind":{"leases":0.5,"canaries":119.5},"reads":400.0,"readsByKind":{}},
            "operatorMib":{"started":60.0,"atRest":50.0,"peakAtRest":70.0,"peak":80.0}}"#,
        )
        .unwrap();
        let figures = of_crowd(&crowd);
        assert_eq!(figure(&figures, "at rest", "API writes").is_met(), Some(true));
        assert_eq!(figure(&figures, "progressing", "API writes").is_met(), Some(false));
        assert_eq!(figure(&figures, "at rest", "operator, at most resident").is_met(), Some(true));
        assert!(table(&crowd).contains("| at rest | leases 0.5 | canaries 34.0 |"));
    }
}
