//! `make bench`: the figures that Fairlead promises, measured on this machine and printed beside what was promised.
//!
//! Nothing here fails because a figure is missed: a busy machine must not turn a measurement into a broken build. Results also go to
//! `.bench/results.json`.

mod configuration;
mod lossless;
mod memory;
mod metrics;
mod webhook;

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::cluster::Places;
use crate::kit::apps::App;
use crate::kit::{Mesh, TempNamespace};
use crate::progress::Step;
use crate::{cluster, durations, images};

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
    pub at_most: f64,
}

impl Figure {
    /// A figure of one or more runs; none at all counts as missed.
    pub fn of(
        scenario: impl Into<String>,
        metric: &'static str,
        unit: &'static str,
        at_most: f64,
        mut runs: Vec<f64>,
    ) -> Self {
        runs.sort_by(f64::total_cmp);
        let at = |index: usize| runs.get(index).copied().unwrap_or(f64::INFINITY);
        Self {
            scenario: scenario.into(),
            contender: "fairlead",
            metric,
            unit,
            median: at(runs.len() / 2),
            min: at(0),
            max: at(runs.len().saturating_sub(1)),
            runs: runs.len(),
            at_most,
        }
    }
}

/// Measures everything; brings up the cluster if it is not there, and leaves it as it was.
pub async fn run() -> Result<()> {
    cluster::up().await?;
    images::build_and_load(&images::IMAGES).await?;
    let mesh = Mesh::connect().await?;
    mesh.install().await?;

    let ns = TempNamespace::injected(&mesh, "bench").await?;
    mesh.apply(&App::reviews("reviews", "v1").replicas(2).arg("--ratings-url=http://client:9080").yaml(ns.name()))
        .await?;
    mesh.apply(&App::echo("client").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "reviews").await?;
    mesh.rolled_out(ns.name(), "client").await?;

    let mut figures = Vec::new();
    let step = Step::begin("memory of proxies that idle, and of the operator");
    figures.extend(memory::measure().await?);
    step.done();
    let step = Step::begin("webhook at 50 pods a second");
    figures.extend(webhook::measure(&mesh, ns.name()).await?);
    step.done();
    let step = Step::begin("a policy's way to all of its proxies, 60 times");
    figures.extend(configuration::measure(&mesh, ns.name()).await?);
    step.done();
    let step = Step::begin("requests lost at 500 a second (about 80 s)");
    figures.extend(lossless::measure(&mesh, ns.name()).await?);
    step.done();

    let folder = Places::find()?.checkout.join(".bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("results.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}\n{}", table(&figures), durations::table()?);
    Ok(())
}

/// The figures as people read them.
fn table(figures: &[Figure]) -> String {
    let mut out = String::from("| figure | measured | at most | |\n| --- | --- | --- | --- |\n");
    for f in figures {
        let verdict = if f.median <= f.at_most { "met" } else { "MISSED" };
        let spread =
            if f.runs > 1 { format!(" ({:.1}–{:.1}, {} runs)", f.min, f.max, f.runs) } else { String::new() };
        let _ = writeln!(
            out,
            "| {}, {} | {:.1} {}{spread} | {} {} | {verdict} |",
            f.scenario, f.metric, f.median, f.unit, f.at_most, f.unit
        );
    }
    out
}

/// The value below which this share of the samples lies.
fn quantile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let index = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len().max(1)) - 1;
    samples.get(index).copied().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_is_a_sample() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((quantile(&mut samples, 0.99) - 99.0).abs() < f64::EPSILON);
        assert!(quantile(&mut [], 0.5).is_infinite());
    }

    #[test]
    fn a_figure_without_runs_is_missed() {
        let text = table(&[
            Figure::of("x", "p99", "ms", 10.0, vec![]),
            Figure::of("y", "p99", "ms", 10.0, vec![3.0, 1.0, 2.0]),
        ]);
        assert!(text.contains("MISSED") && text.contains("2.0 ms (1.0–3.0, 3 runs)"), "{text}");
    }
}
