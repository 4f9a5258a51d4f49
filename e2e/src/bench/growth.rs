//! Whether a request costs more where more is configured. The steps are those of `fairlead-growth`, which is built for speed.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::Figure;
use crate::cluster::Places;
use crate::command::{command, run};
use crate::images;
use crate::progress::Step;

/// What a step may cost more with much configured than with little, nanoseconds: about two percent of a request through one proxy, which is what a few
/// misses of the cache take. Asking a thousand routes one by one takes twenty times as much.
const AT_MOST: f64 = 250.0;

/// A step, with so much to look in.
#[derive(Debug, Deserialize)]
struct Case {
    step: String,
    of: String,
    count: usize,
    /// Nanoseconds of one call, by round.
    rounds: Vec<f64>,
}

/// Builds and runs it.
pub(super) async fn measure() -> Result<Vec<Figure>> {
    let folder =
        images::binaries(&Places::find()?, images::Profile::DataPlane, &["fairlead-proxy", "fairlead-lab"]).await?;
    let step = Step::begin("steps of a request with little and with much configured");
    let printed = run(&mut command(folder.join("fairlead-growth"), [""; 0])).await?;
    step.done();
    Ok(figures(&serde_json::from_str::<Vec<Case>>(&printed).context("fairlead-growth printed no list")?))
}

/// Of each step its cost with much configured, and by how much that is above its cost with little.
fn figures(cases: &[Case]) -> Vec<Figure> {
    let mut steps = BTreeMap::<&str, Vec<&Case>>::new();
    for case in cases {
        steps.entry(&case.step).or_default().push(case);
    }
    let mut figures = Vec::new();
    for (step, mut cases) in steps {
        cases.sort_by_key(|case| case.count);
        let (Some(few), Some(many)) = (cases.first(), cases.last()) else { continue };
        let much = format!("{step} of {} {}", many.count, many.of);
        figures.push(Figure::measured(&much, "fairlead", "time", "ns", many.rounds.clone()));
        let more = few.rounds.iter().zip(&many.rounds).map(|(few, many)| many - few).collect();
        figures.push(Figure::of(format!("{much}, above that of {}", few.count), "time", "ns", AT_MOST, more));
    }
    figures
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_what_much_costs_above_little() {
        let case =
            |count, rounds: &[f64]| Case { step: "route".into(), of: "routes".into(), count, rounds: rounds.into() };
        let figures = figures(&[case(1000, &[90.0, 95.0, 400.0]), case(1, &[10.0, 15.0, 20.0])]);
        assert_eq!(figures[0].scenario, "route of 1000 routes");
        assert!((figures[1].median - 80.0).abs() < 1e-9 && figures[1].is_met() == Some(true), "{figures:?}");
    }
}
