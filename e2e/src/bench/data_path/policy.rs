//! What a policy of many rules adds to a request: the same proxies at the same constant rate, by turns without rules and with many, of which
//! the last lets the client in.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use super::contenders::{Contenders, Kind};
use super::scenarios::{P50, Scenario};
use super::tools::Programs;
use crate::bench::Figure;
use crate::progress::Step;

/// Rules of the policy.
const RULES: usize = 100;
/// A changed policy is everywhere in a tenth of this.
const SETTLE: Duration = Duration::from_secs(1);
/// Percent.
const AT_MOST: f64 = 2.0;

pub(super) async fn measure(programs: &Programs, contenders: &mut Contenders, quick: bool) -> Result<Vec<Figure>> {
    let (rounds, seconds) = if quick { (5, 2) } else { (15, 5) };
    let step = Step::begin(format!("p50 with a policy of {RULES} rules, and without it"));
    contenders.set_rules(RULES, false)?;
    sleep(SETTLE).await;
    ensure!(!contenders.of(Kind::Fairlead).is_answered().await?, "the rules are not in force");
    let (mut without, mut with, mut more) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut p50 = [0.0; 2];
        // Neither is always the first.
        for turn in [round % 2, 1 - round % 2] {
            contenders.set_rules(turn * RULES, true)?;
            sleep(SETTLE).await;
            let measured = Scenario::Latency.run(programs, contenders.of_mut(Kind::Fairlead), seconds).await?;
            p50[turn] = measured.iter().find(|(metric, _)| *metric == P50).context("no p50 was measured")?.1;
        }
        without.push(p50[0] * 1000.0);
        with.push(p50[1] * 1000.0);
        more.push((p50[1] / p50[0] - 1.0) * 100.0);
    }
    contenders.set_rules(0, true)?;
    step.done();
    let scenario = "3,400 requests a second";
    Ok(vec![
        Figure::measured(format!("{scenario}, no rules"), "fairlead", "p50", "µs", without),
        Figure::measured(format!("{scenario}, {RULES} rules"), "fairlead", "p50", "µs", with),
        Figure::of(format!("{scenario}, {RULES} rules above none"), "p50", "%", AT_MOST, more),
    ])
}
