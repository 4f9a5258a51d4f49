//! The whole data path: client → outbound proxy → mutual TLS → inbound proxy → server, on captured sockets in network namespaces, beside Envoy
//! doing the same work. `docs/performance.md` says how each figure is measured.

mod contenders;
mod cost;
mod envoy;
mod lab;
mod operator;
mod policy;
mod report;
mod scenarios;
mod tools;

use anyhow::{Context, Result};

use self::contenders::{Contenders, Kind};
pub(super) use self::lab::Namespace;
pub(crate) use self::report::Results;
pub use self::scenarios::Scenario;
use self::tools::Programs;
use super::Figure;
use crate::progress::Step;

/// Long enough for connections to be made and buffers to have grown.
const WARM_UP: u64 = 1;

/// Runs the scenarios, the contenders of each taking turns.
pub(super) async fn measure(scenarios: &[Scenario], quick: bool) -> Result<Results> {
    let (programs, mut contenders) = start().await?;
    let seconds = if quick { 2 } else { 3 };
    let mut results = Results::default();
    for scenario in scenarios {
        let step = Step::begin(scenario.title());
        scenario_of(*scenario, &programs, &mut contenders, &mut results, seconds, quick)
            .await
            .with_context(|| scenario.title())?;
        step.done();
    }
    Ok(results)
}

/// What a policy of many rules adds.
pub(super) async fn policy(quick: bool) -> Result<Vec<Figure>> {
    let (programs, mut contenders) = start().await?;
    policy::measure(&programs, &mut contenders, quick).await
}

async fn start() -> Result<(Programs, Contenders)> {
    // Fails only if there is one already, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let programs = Programs::prepare().await?;
    let step = Step::begin("starting two pods for each: direct, Envoy, Fairlead");
    let contenders = Contenders::start(&programs).await?;
    step.done();
    Ok((programs, contenders))
}

async fn scenario_of(
    scenario: Scenario,
    programs: &Programs,
    contenders: &mut Contenders,
    results: &mut Results,
    seconds: u64,
    quick: bool,
) -> Result<()> {
    let mut turns: Vec<Kind> =
        Kind::ALL.into_iter().filter(|kind| scenario.has_direct() || *kind != Kind::Direct).collect();
    if scenario != Scenario::Memory {
        for kind in &turns {
            scenario
                .run(programs, contenders.of_mut(*kind), WARM_UP)
                .await
                .with_context(|| format!("warming {kind}"))?;
        }
    }
    for _ in 0..scenario.rounds(quick) {
        for kind in &turns {
            let measured = scenario.run(programs, contenders.of_mut(*kind), seconds).await;
            for (metric, value) in measured.with_context(|| format!("measuring {kind}"))? {
                results.add(scenario, metric, *kind, value);
            }
        }
        // Nobody is always the one that follows the heaviest.
        turns.rotate_left(1);
    }
    results.derive(scenario);
    for kind in Kind::ALL {
        if let Some((metric, value)) = scenario.count(contenders.of(kind), WARM_UP).await? {
            results.add(scenario, metric, kind, value);
        }
    }
    Ok(())
}
