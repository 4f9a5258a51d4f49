//! Simulated releases: how often verdicts are wrong, and how many requests they take.
//!
//! `make bench-canary`, or `cargo run --release --package fairlead-judgement --example simulation -- --help`. Each row has at least 2,000 releases of a canary
//! that is as good as the running version, of one that is worse by the margin, and of one that is worse by twice as much. Seeds are fixed,
//! so that the numbers of one version are always the same. What the columns say is in `docs/canary.md`.

mod fixed;
mod release;
mod report;
mod row;
mod rule;
mod traffic;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use clap::Parser;

use self::row::{Looks, Row, Scenario};
use self::traffic::Setting;

/// Simulated releases, and what their verdicts cost.
#[derive(Parser)]
struct Arguments {
    /// A few rows with fewer releases: to see what a change did, not to publish.
    #[arg(long)]
    quick: bool,
    /// Where results go as JSON.
    #[arg(long, default_value = ".bench/canary-simulation.json")]
    output: PathBuf,
    /// On so many cores; absent: on all.
    #[arg(long)]
    threads: Option<usize>,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (scenarios, releases) = if arguments.quick { (few(), 400) } else { (all(), 2_000) };
    let threads = arguments.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into)).unwrap_or(1);
    let rows = simulate(&scenarios, releases, threads);
    report::write(&arguments.output, &rows)?;
    print!("{}", report::table(&rows));
    Ok(())
}

/// The longest first, so that no core is left with one at the end.
fn simulate(scenarios: &[Scenario], releases: u32, threads: usize) -> Vec<Row> {
    let mut order: Vec<usize> = (0..scenarios.len()).collect();
    order.sort_by(|&a, &b| scenarios[b].setting.rate.total_cmp(&scenarios[a].setting.rate));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    #[expect(clippy::disallowed_methods, reason = "there is no time to pause: progress is for people")]
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let row = row::simulate(&scenarios[index], releases);
                    if let Ok(mut done) = done.lock() {
                        done.push((index, row));
                        eprintln!(
                            "{} of {} rows after {:.0} s",
                            done.len(),
                            order.len(),
                            began.elapsed().as_secs_f64()
                        );
                    }
                }
            });
        }
    });
    let mut rows = done.into_inner().unwrap_or_default();
    rows.sort_by_key(|(index, _)| *index);
    rows.into_iter().map(|(_, row)| row).collect()
}

const RATES: [f64; 4] = [0.0001, 0.001, 0.01, 0.05];
const WEIGHTS: [f64; 3] = [0.01, 0.1, 0.5];
/// Requests a second. Where nothing varies with time it does not matter to who looks after every request.
const TRAFFIC: [f64; 3] = [0.1, 10.0, 1_000.0];

fn scenario(rate: f64, weight: f64, traffic: f64, varies: bool, looks: Looks) -> Scenario {
    Scenario { setting: Setting { rate, worse: 0.0, weight, traffic, varies }, looks }
}

fn all() -> Vec<Scenario> {
    let mut scenarios = Vec::new();
    for (rate, weight) in RATES.into_iter().flat_map(|rate| WEIGHTS.map(|weight| (rate, weight))) {
        scenarios.push(scenario(rate, weight, TRAFFIC[1], false, Looks::Request));
        // At the highest rate verdicts take so many requests that its rows take half of the time already.
        let many = rate >= RATES[3];
        let traffic = if many { &TRAFFIC[1..2] } else { &TRAFFIC[..] };
        scenarios.extend(traffic.iter().map(|&traffic| scenario(rate, weight, traffic, true, Looks::Request)));
        if !many {
            scenarios.push(scenario(rate, weight, TRAFFIC[2], false, Looks::Second));
        }
    }
    for rate in &RATES[..3] {
        scenarios.push(scenario(*rate, 0.0, TRAFFIC[1], false, Looks::Release));
        scenarios.push(scenario(*rate, 0.0, TRAFFIC[1], true, Looks::Release));
    }
    scenarios
}

fn few() -> Vec<Scenario> {
    let mut scenarios: Vec<Scenario> =
        WEIGHTS.map(|weight| scenario(0.001, weight, TRAFFIC[1], true, Looks::Request)).into();
    scenarios.push(scenario(0.01, 0.1, TRAFFIC[1], false, Looks::Request));
    scenarios.push(scenario(0.001, 0.1, TRAFFIC[2], false, Looks::Second));
    scenarios.push(scenario(0.001, 0.0, TRAFFIC[1], true, Looks::Release));
    scenarios
}
