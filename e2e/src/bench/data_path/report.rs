//! Samples become figures and a table.

use std::fmt::Write as _;

use super::contenders::Kind;
use super::scenarios::{ADDED_P50, ADDED_P99, Goal, Metric, P50, P99, Scenario};
use crate::bench::Figure;

/// Runs that took longer than they should would make ratios to nothing; an added latency is at least this, milliseconds.
const LEAST_ADDED: f64 = 0.001;

/// All samples, in the order in which they were taken.
#[derive(Debug, Default)]
pub(crate) struct Results(Vec<Row>);

/// One metric of one scenario.
#[derive(Debug)]
struct Row {
    scenario: Scenario,
    metric: Metric,
    /// By contender; the n-th of each are of the same round.
    samples: [Vec<f64>; 3],
}

impl Results {
    pub(super) fn add(&mut self, scenario: Scenario, metric: Metric, contender: Kind, value: f64) {
        let found = self.0.iter().position(|row| row.scenario == scenario && row.metric == metric);
        let index = found.unwrap_or_else(|| {
            self.0.push(Row { scenario, metric, samples: Default::default() });
            self.0.len() - 1
        });
        self.0[index].samples[contender as usize].push(value);
    }

    /// Once a scenario is complete: what follows from its samples.
    pub(super) fn derive(&mut self, scenario: Scenario) {
        for (raw, added) in [(P50, ADDED_P50), (P99, ADDED_P99)] {
            let Some(row) = self.0.iter().find(|row| row.scenario == scenario && row.metric == raw) else { continue };
            let direct = row.samples[Kind::Direct as usize].clone();
            for kind in [Kind::Envoy, Kind::Fairlead] {
                let through = self.of(scenario, raw, kind);
                for (through, direct) in through.into_iter().zip(&direct) {
                    self.add(scenario, added, kind, (through - direct).max(LEAST_ADDED));
                }
            }
        }
    }

    fn of(&self, scenario: Scenario, metric: Metric, kind: Kind) -> Vec<f64> {
        let row = self.0.iter().find(|row| row.scenario == scenario && row.metric == metric);
        row.map(|row| row.samples[kind as usize].clone()).unwrap_or_default()
    }

    /// Every contender's figure, and Fairlead's as a ratio to Envoy's.
    pub(crate) fn figures(&self) -> Vec<Figure> {
        self.0
            .iter()
            .flat_map(|row| Kind::ALL.into_iter().filter_map(|kind| row.figure(kind)).chain(row.ratio()))
            .collect()
    }

    /// As people read it.
    pub(crate) fn table(&self) -> String {
        let mut out = String::from(
            "| scenario | direct | Envoy | Fairlead | ratio | goal | |\n| --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for row in &self.0 {
            let shown = |kind| row.figure(kind).map(|figure| spread(&figure)).unwrap_or_default();
            let goal = row.scenario.goal(row.metric);
            let ratio = row.ratio();
            let (promised, verdict) = match goal {
                Some(Goal::RatioAtLeast(least)) => (format!("≥ {least}"), ratio.as_ref().map(Figure::verdict)),
                Some(Goal::RatioAtMost(most)) => (format!("≤ {most}"), ratio.as_ref().map(Figure::verdict)),
                Some(Goal::Below(most)) => {
                    let figure = row.figure(Kind::Fairlead);
                    (format!("< {most} {}", row.metric.unit), figure.as_ref().map(Figure::verdict))
                }
                None => (String::new(), None),
            };
            let _ = writeln!(
                out,
                "| {}, {}{} | {} | {} | {} | {} | {promised} | {} |",
                row.scenario.title(),
                row.metric.name,
                if row.metric.unit.is_empty() { String::new() } else { format!(", {}", row.metric.unit) },
                shown(Kind::Direct),
                shown(Kind::Envoy),
                shown(Kind::Fairlead),
                ratio.as_ref().map(spread).unwrap_or_default(),
                verdict.unwrap_or_default(),
            );
        }
        out
    }
}

impl Row {
    fn figure(&self, kind: Kind) -> Option<Figure> {
        let samples = self.samples[kind as usize].clone();
        let figure = Figure::measured(self.scenario.title(), kind.name(), self.metric.name, self.metric.unit, samples);
        let at_most = match self.scenario.goal(self.metric) {
            Some(Goal::Below(most)) if kind == Kind::Fairlead => Some(most),
            _ => None,
        };
        (figure.runs > 0).then_some(Figure { at_most, ..figure })
    }

    /// Round by round, so that a machine that was busy during one of them does not tilt it.
    fn ratio(&self) -> Option<Figure> {
        let [_, envoy, fairlead] = &self.samples;
        let ratios: Vec<f64> = fairlead.iter().zip(envoy).map(|(fairlead, envoy)| fairlead / envoy).collect();
        let name = "fairlead as a ratio to envoy";
        let figure = Figure::measured(self.scenario.title(), name, self.metric.name, "", ratios);
        let (at_least, at_most) = match self.scenario.goal(self.metric) {
            Some(Goal::RatioAtLeast(least)) => (Some(least), None),
            Some(Goal::RatioAtMost(most)) => (None, Some(most)),
            _ => (None, None),
        };
        (figure.runs > 0).then_some(Figure { at_most, at_least, ..figure })
    }
}

fn spread(figure: &Figure) -> String {
    if figure.runs > 1 {
        format!("{} ({}–{})", number(figure.median), number(figure.min), number(figure.max))
    } else {
        number(figure.median)
    }
}

/// With three digits that say something.
fn number(value: f64) -> String {
    match value {
        10_000.0.. => format!("{:.1} k", value / 1000.0),
        1000.0.. => format!("{:.2} k", value / 1000.0),
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUESTS: Metric = Metric { name: "requests", unit: "1/s" };

    fn results(samples: [[f64; 3]; 3]) -> Results {
        let mut results = Results::default();
        for round in samples {
            for (kind, value) in Kind::ALL.into_iter().zip(round) {
                results.add(Scenario::Requests, REQUESTS, kind, value);
            }
        }
        results
    }

    #[test]
    fn ratios_are_made_round_by_round() {
        // The second round was slow for everybody.
        let results = results([[90e3, 10e3, 31e3], [9e3, 1e3, 3.2e3], [90e3, 10e3, 29e3]]);
        let ratio = results.figures().pop().unwrap();
        assert!((ratio.median - 3.1).abs() < 1e-9 && ratio.is_met() == Some(true), "{ratio:?}");
        let table = results.table();
        assert!(
            table.contains("| 3.10 (2.90–3.20) | ≥ 3 | met |") && table.contains("10.0 k (1.00 k–10.0 k)"),
            "{table}"
        );
    }

    #[test]
    fn what_proxies_add_is_over_the_direct_run_of_the_round() {
        let mut results = Results::default();
        for (kind, value) in Kind::ALL.into_iter().zip([1.0, 3.0, 1.5]) {
            results.add(Scenario::Latency, P50, kind, value);
        }
        results.derive(Scenario::Latency);
        let table = results.table();
        assert!(table.contains("added p50, ms |  | 2.00 | 0.50 | 0.25 | ≤ 0.28 | met |"), "{table}");
    }
}
