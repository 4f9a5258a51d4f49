//! What certificates cost the operator, and what it does for thousands of proxies at once: a benchmark of `fairlead-operator`, and `fairlead-fleet`,
//! which simulates the proxies, in a network namespace of its own.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::fleet::Fleet;
use super::{Figure, quantile};
use crate::cluster::Places;
use crate::command::{command, run};
use crate::progress::Step;

/// What `issuance` prints.
#[derive(Debug, Deserialize)]
struct Issuance {
    /// By round.
    certificates_per_second: Vec<f64>,
}

/// What `fairlead-fleet arrival` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arrival {
    proxies: u32,
    certified_seconds: f64,
    configured_seconds: f64,
    policy_proxies: u32,
    /// Of each change, until the last proxy decides by it.
    policy_milliseconds: Vec<f64>,
    operator_mib: Memory,
}

#[derive(Debug, Deserialize)]
struct Memory {
    alone: f64,
    peak: f64,
}

/// Builds and runs both.
pub(super) async fn measure(quick: bool) -> Result<Vec<Figure>> {
    let step = Step::begin("certificates of one core (first time some minutes)");
    let words = ["bench", "--quiet", "--locked", "--package", "fairlead-operator", "--bench", "issuance"];
    let printed = run(command("cargo", words).current_dir(Places::find()?.checkout)).await?;
    let Issuance { certificates_per_second } =
        serde_json::from_str(&printed).with_context(|| format!("issuance printed {printed:?}"))?;
    step.done();
    let mut figures =
        vec![Figure::at_least("certificates, tokens believed", "one core", "1/s", 2_000.0, certificates_per_second)];

    let fleet = Fleet::prepare().await?;
    let mut arrivals = Vec::new();
    for _ in 0..if quick { 1 } else { 3 } {
        let step = Step::begin("5,000 proxies that start at once, and a policy for 100 of them (about a minute)");
        arrivals.push(fleet.run(&["arrival"]).await?);
        step.done();
    }
    figures.extend(of_arrivals(arrivals));
    Ok(figures)
}

fn of_arrivals(mut arrivals: Vec<Arrival>) -> Vec<Figure> {
    let Some(Arrival { proxies, policy_proxies, .. }) = arrivals.first() else { return Vec::new() };
    let scenario = format!("{proxies} proxies start at once");
    let changed = format!("policy changed → enforced at all of {policy_proxies} proxies");
    let each = |of: fn(&Arrival) -> f64| arrivals.iter().map(of).collect::<Vec<_>>();
    let mut figures = vec![
        Figure::of(&scenario, "all have certificates", "s", 30.0, each(|arrival| arrival.certified_seconds)),
        Figure::measured(&scenario, "fairlead", "all are configured", "s", each(|arrival| arrival.configured_seconds)),
        Figure::of(&scenario, "operator, at most resident", "MiB", 300.0, each(|arrival| arrival.operator_mib.peak)),
        Figure::measured(&scenario, "fairlead", "before they came", "MiB", each(|arrival| arrival.operator_mib.alone)),
    ];
    for (name, share, goal) in [("p50", 0.5, None), ("p99", 0.99, Some(200.0))] {
        let values = arrivals.iter_mut().map(|arrival| quantile(&mut arrival.policy_milliseconds, share)).collect();
        figures.push(match goal {
            Some(goal) => Figure::of(&changed, name, "ms", goal, values),
            None => Figure::measured(&changed, "fairlead", name, "ms", values),
        });
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fleet_prints_are_figures_with_their_goals() {
        let line = r#"{"proxies":5000,"certifiedSeconds":14.5,"configuredSeconds":16.0,"policyProxies":100,
            "policyMilliseconds":[250.0,50.0,60.0],"operatorMib":{"alone":16.0,"peak":290.0,"now":280.0}}"#;
        let figures = of_arrivals(vec![serde_json::from_str(line).unwrap()]);
        let of = |metric: &str| figures.iter().find(|figure| figure.metric == metric).unwrap();
        assert_eq!((of("all have certificates").median, of("all have certificates").is_met()), (14.5, Some(true)));
        assert_eq!((of("p50").median, of("p50").is_met()), (60.0, None));
        assert_eq!((of("p99").median, of("p99").is_met()), (250.0, Some(false)));
        assert!(of_arrivals(Vec::new()).is_empty());
    }
}
