//! What one decision about a caller costs, by how many rules there are: an example of `fairlead-authz`, built for speed.

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Figure;
use crate::cluster::Places;
use crate::command::{command, run};
use crate::progress::Step;

/// So many rules of one kind.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    rules: usize,
    kind: String,
    /// Nanoseconds.
    at_most: f64,
    /// Nanoseconds of one decision, by run.
    runs: Vec<f64>,
}

/// Builds and runs it.
pub(super) async fn measure() -> Result<Vec<Figure>> {
    let step = Step::begin("decisions with few and with many rules (first time about a minute)");
    let words = ["run", "--quiet", "--locked", "--release", "--package", "fairlead-authz", "--example", "decide"];
    let mut cargo = command("cargo", words);
    let printed = run(cargo.args(["--", "--json"]).current_dir(Places::find()?.checkout)).await?;
    step.done();
    figures(&printed)
}

fn figures(printed: &str) -> Result<Vec<Figure>> {
    let figure = |line| {
        let Case { rules, kind, at_most, runs } = serde_json::from_str(line).with_context(|| format!("{line:?}"))?;
        Ok(Figure::of(format!("a decision with {rules} rules {kind}"), "time", "ns", at_most, runs))
    };
    printed.lines().map(figure).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_figure_with_its_goal() {
        let line = r#"{"rules":10,"kind":"of one","atMost":300,"runs":[200.5, 199.0, 301.0]}"#;
        let figures = figures(line).unwrap();
        assert_eq!((figures[0].median, figures[0].is_met()), (200.5, Some(true)));
        assert_eq!(figures[0].scenario, "a decision with 10 rules of one");
        assert!(super::figures("no figure").is_err());
    }
}
