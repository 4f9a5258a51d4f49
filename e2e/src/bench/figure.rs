//! One measured figure, and how people read a list of them.

use std::fmt::Write as _;

use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub struct Figure {
    /// What was measured.
    pub scenario: String,
    /// What it was measured on.
    pub contender: &'static str,
    /// The kind of figure, such as `p99`.
    pub metric: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// The middle of all runs.
    pub median: f64,
    /// The smallest of all runs.
    pub min: f64,
    /// The largest of all runs.
    pub max: f64,
    /// How many runs.
    pub runs: usize,
    /// What was promised: at most this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<f64>,
    /// What was promised: at least this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<f64>,
}

impl Figure {
    /// A figure of Fairlead's, of one or more runs, that was promised to be small; none at all counts as missed.
    pub fn of(
        scenario: impl Into<String>,
        metric: &'static str,
        unit: &'static str,
        at_most: f64,
        runs: Vec<f64>,
    ) -> Self {
        Self { at_most: Some(at_most), ..Self::measured(scenario, "fairlead", metric, unit, runs) }
    }

    /// The same of a figure that was promised to be large.
    pub fn at_least(
        scenario: impl Into<String>,
        metric: &'static str,
        unit: &'static str,
        at_least: f64,
        runs: Vec<f64>,
    ) -> Self {
        Self { at_least: Some(at_least), ..Self::measured(scenario, "fairlead", metric, unit, runs) }
    }

    /// A figure of which nothing was promised.
    pub fn measured(
        scenario: impl Into<String>,
        contender: &'static str,
        metric: &'static str,
        unit: &'static str,
        mut runs: Vec<f64>,
    ) -> Self {
        runs.sort_by(f64::total_cmp);
        let at = |index: usize| runs.get(index).copied().unwrap_or(f64::INFINITY);
        Self {
            scenario: scenario.into(),
            contender,
            metric,
            unit,
            median: at(runs.len() / 2),
            min: at(0),
            max: at(runs.len().saturating_sub(1)),
            runs: runs.len(),
            at_most: None,
            at_least: None,
        }
    }

    /// Whether what was promised holds; `None`: nothing was.
    pub fn is_met(&self) -> Option<bool> {
        let measured = self.runs > 0;
        match (self.at_most, self.at_least) {
            (None, None) => None,
            (most, least) => Some(
                measured
                    && most.is_none_or(|most| self.median <= most)
                    && least.is_none_or(|least| self.median >= least),
            ),
        }
    }

    /// `met`, `MISSED`, or nothing.
    pub fn verdict(&self) -> &'static str {
        match self.is_met() {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        }
    }
}

/// Figures with a bound each, as people read them.
pub(super) fn table(figures: &[Figure]) -> String {
    let mut out = String::from("| figure | measured | at most | |\n| --- | --- | --- | --- |\n");
    for f in figures {
        let spread =
            if f.runs > 1 { format!(" ({:.1}–{:.1}, {} runs)", f.min, f.max, f.runs) } else { String::new() };
        let bound = f.at_most.map(|bound| format!("{bound} {}", f.unit)).unwrap_or_default();
        let _ = writeln!(
            out,
            "| {}, {} | {:.1} {}{spread} | {bound} | {} |",
            f.scenario,
            f.metric,
            f.median,
            f.unit,
            f.verdict()
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_without_runs_is_missed() {
        let text = table(&[
            Figure::of("x", "p99", "ms", 10.0, vec![]),
            Figure::of("y", "p99", "ms", 10.0, vec![3.0, 1.0, 2.0]),
        ]);
        assert!(text.contains("MISSED") && text.contains("2.0 ms (1.0–3.0, 3 runs)"), "{text}");
    }

    #[test]
    fn a_figure_can_be_too_small() {
        let figure = |median| Figure {
            at_least: Some(2.0),
            ..Figure::measured("a", "fairlead", "requests", "1/s", vec![median])
        };
        assert_eq!(figure(1.9).verdict(), "MISSED");
        assert_eq!(figure(2.0).verdict(), "met");
        assert_eq!(Figure::measured("a", "envoy", "requests", "1/s", vec![1.0]).is_met(), None);
    }
}
