//! How often verdicts on simulated releases are wrong, and how many requests they take: an example of `fairlead-judgement`, built for speed. All rows
//! are in `.bench/canary-simulation.json`; the figures here are the worst of them.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::Figure;
use crate::cluster::Places;
use crate::command::command;
use crate::progress::Step;

/// So many standard errors an estimate is above its mean once in a thousand times; the chances are near what is allowed, by design.
const ONE_IN_A_THOUSAND: f64 = 3.09;

/// One row, as far as something was promised of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    looks: String,
    false_rollbacks: f64,
    chance_of_rollback_at_margin: f64,
    chance_of_false_promotion: f64,
    /// Of these two.
    standard_errors: [f64; 2],
    promotion: Cost,
    rollback: Cost,
}

/// How many requests a verdict takes, over those of the best test of a fixed size.
#[derive(Debug, Deserialize)]
struct Cost {
    ratio: f64,
}

/// What came of it.
pub(super) struct Simulated {
    /// Every row.
    pub(super) table: String,
    /// The worst of all rows.
    pub(super) figures: Vec<Figure>,
}

/// Builds and runs it.
pub(super) async fn measure(quick: bool) -> Result<Simulated> {
    let step = Step::begin(if quick {
        "simulated releases (about a minute)"
    } else {
        "simulated releases (about ten minutes)"
    });
    let checkout = Places::find()?.checkout;
    let output = checkout.join(".bench/canary-simulation.json");
    let words =
        ["run", "--quiet", "--locked", "--release", "--package", "fairlead-judgement", "--example", "simulation", "--"];
    let mut cargo = command("cargo", words);
    cargo.arg("--output").arg(&output).args(quick.then_some("--quick")).current_dir(checkout);
    // It says on its standard error how far it is.
    let child = cargo.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting cargo")?;
    let ended = child.wait_with_output().await?;
    ensure!(ended.status.success(), "the simulation of releases ended with {}", ended.status);
    step.done();
    let rows = std::fs::read(&output).with_context(|| format!("{} cannot be read", output.display()))?;
    let table = String::from_utf8_lossy(&ended.stdout).into_owned();
    Ok(Simulated { table, figures: figures(&serde_json::from_slice::<Vec<Row>>(&rows)?) })
}

fn figures(rows: &[Row]) -> Vec<Figure> {
    let percent = |metric, of: fn(&Row) -> f64| {
        let worst = rows.iter().map(of).fold(0.0, f64::max) * 100.0;
        Figure::of("simulated releases, worst row", metric, "%", 1.0, vec![worst])
    };
    let ratio = |metric, of: fn(&Row) -> f64| {
        let worst = rows.iter().filter(|row| row.looks == "request").map(of).fold(0.0, f64::max);
        Figure::of("simulated releases, worst row", metric, "× best fixed-size test", 1.3, vec![worst])
    };
    vec![
        percent("a good canary rolled back", |row| row.false_rollbacks),
        percent("one at the margin rolled back, at least", |row| {
            row.chance_of_rollback_at_margin - ONE_IN_A_THOUSAND * row.standard_errors[0]
        }),
        percent("one at the margin promoted, at least", |row| {
            row.chance_of_false_promotion - ONE_IN_A_THOUSAND * row.standard_errors[1]
        }),
        ratio("requests to promote a good one", |row| row.promotion.ratio),
        ratio("requests to roll back a bad one", |row| row.rollback.ratio),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_row_is_the_figure() {
        let row = |looks: &str, wrong: f64, ratio: f64| {
            format!(
                r#"{{"rate": 0.01, "looks": "{looks}", "falseRollbacks": 0, "chanceOfRollbackAtMargin": 0.001, "chanceOfFalsePromotion": {wrong},
                "standardErrors": [0, 0],
                "promotion": {{"ratio": {ratio}}}, "rollback": {{"ratio": 0.8}}}}"#
            )
        };
        let rows = [row("request", 0.004, 1.1), row("request", 0.009, 1.4), row("second", 0.002, 3.0)].join(",");
        let figures = figures(&serde_json::from_str::<Vec<Row>>(&format!("[{rows}]")).unwrap());
        let medians: Vec<f64> = figures.iter().map(|figure| figure.median).collect();
        assert_eq!(medians.len(), 5);
        assert!((medians[2] - 0.9).abs() < 1e-9 && figures[2].is_met() == Some(true));
        assert!((medians[3] - 1.4).abs() < 1e-9 && figures[3].is_met() == Some(false));
    }
}
