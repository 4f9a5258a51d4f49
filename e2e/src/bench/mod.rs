//! `make bench`: the figures that Fairlead promises, measured on this machine and printed beside what was promised.
//!
//! Nothing here fails because a figure is missed: a busy machine must not turn a measurement into a broken build. Results also go to
//! `.bench/results.json`.

mod canary;
mod control_plane;
mod data_path;
mod decision;
mod figure;
mod fleet;
mod growth;
mod identity;
mod release;

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

pub use self::data_path::Scenario;
pub use self::figure::Figure;
use crate::cluster::Places;
use crate::durations;

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Every scenario of the data path.
    Proxy,
    /// One of them.
    Scenario(Scenario),
    /// Whether a request costs more where more is configured.
    Growth,
    /// What a decision about a caller costs, by how many rules there are.
    Decision,
    /// What a policy of many rules adds to each request.
    Policy,
    /// What certificates cost, and thousands of proxies at once.
    Identity,
    /// How often verdicts on simulated releases are wrong, and how many requests they take.
    Canary,
    /// How fast and how exactly a release moves traffic, and what a thousand Canaries cost.
    Release,
    /// What the control plane and a release cost; needs a cluster.
    ControlPlane,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "proxy" => Ok(Self::Proxy),
            "growth" => Ok(Self::Growth),
            "decision" => Ok(Self::Decision),
            "policy" => Ok(Self::Policy),
            "identity" => Ok(Self::Identity),
            "canary" => Ok(Self::Canary),
            "release" => Ok(Self::Release),
            "control-plane" => Ok(Self::ControlPlane),
            letter => Scenario::ALL
                .into_iter()
                .find(|scenario| scenario.letter() == letter)
                .map(Self::Scenario)
                .ok_or_else(|| {
                    let letters: Vec<_> = Scenario::ALL.iter().map(|scenario| scenario.letter()).collect();
                    format!(
                        "there are proxy, growth, decision, policy, identity, canary, release, control-plane, and of the data path {}",
                        letters.join(", ")
                    )
                }),
        }
    }
}

/// What to measure and how long.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Only these; none: everything.
    pub only: Vec<Part>,
    /// Fewer and shorter runs: to see what a change did, not to publish.
    pub quick: bool,
}

impl Options {
    fn scenarios(&self) -> Vec<Scenario> {
        let all = self.includes(Part::Proxy);
        Scenario::ALL.into_iter().filter(|scenario| all || self.only.contains(&Part::Scenario(*scenario))).collect()
    }

    fn includes(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }
}

/// Measures what is asked for. The data path goes first: a cluster that this starts must not run beside it.
pub async fn run(options: &Options) -> Result<()> {
    let mut end = signal(SignalKind::terminate())?;
    tokio::select! {
        done = measure(options) => done,
        // What was started is ended as its handles are dropped.
        _ = tokio::signal::ctrl_c() => bail!("interrupted; everything that was started is ended"),
        _ = end.recv() => bail!("asked to end; everything that was started is ended"),
    }
}

async fn measure(options: &Options) -> Result<()> {
    let mut figures = Vec::new();
    let mut tables = Vec::new();
    let scenarios = options.scenarios();
    if !scenarios.is_empty() {
        let results = data_path::measure(&scenarios, options.quick).await?;
        tables.push(results.table());
        figures.extend(results.figures());
    }
    if options.includes(Part::Growth) {
        let measured = growth::measure().await?;
        tables.push(figure::table(&measured));
        figures.extend(measured);
    }
    if options.includes(Part::Decision) {
        let measured = decision::measure().await?;
        tables.push(figure::table(&measured));
        figures.extend(measured);
    }
    if options.includes(Part::Policy) {
        let measured = data_path::policy(options.quick).await?;
        tables.push(figure::table(&measured));
        figures.extend(measured);
    }
    if options.includes(Part::Identity) {
        let measured = identity::measure(options.quick).await?;
        tables.push(figure::table(&measured));
        figures.extend(measured);
    }
    if options.includes(Part::Canary) {
        let simulated = canary::measure(options.quick).await?;
        tables.push(simulated.table);
        tables.push(figure::table(&simulated.figures));
        figures.extend(simulated.figures);
    }
    if options.includes(Part::Release) {
        let measured = release::measure(options.quick).await?;
        tables.push(figure::table(&measured.figures));
        tables.push(measured.table);
        figures.extend(measured.figures);
    }
    if options.includes(Part::ControlPlane) {
        let measured = control_plane::measure().await?;
        tables.push(figure::table(&measured));
        figures.extend(measured);
        tables.push(durations::table()?);
    }
    let folder = Places::find()?.checkout.join(".bench");
    std::fs::create_dir_all(&folder)?;
    let file = folder.join("results.json");
    std::fs::write(&file, serde_json::to_vec_pretty(&figures)?)
        .with_context(|| format!("{} cannot be written", file.display()))?;
    println!("{}", tables.join("\n"));
    Ok(())
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

    fn only(text: &str) -> Options {
        Options { only: text.split(',').map(|part| part.parse().unwrap()).collect(), quick: true }
    }

    #[test]
    fn parts_are_chosen_by_name_and_scenarios_by_letter() {
        assert_eq!(only("D,A").scenarios(), [Scenario::Requests, Scenario::Large]);
        assert!(!only("D,A").includes(Part::ControlPlane));
        assert!(only("control-plane").scenarios().is_empty());
        assert_eq!(only("proxy").scenarios(), Scenario::ALL);
        assert!(Options::default().includes(Part::ControlPlane));
        assert!("Z".parse::<Part>().unwrap_err().contains("control-plane"));
    }

    #[test]
    fn a_quantile_is_a_sample() {
        let mut samples: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((quantile(&mut samples, 0.99) - 99.0).abs() < f64::EPSILON);
        assert!(quantile(&mut [], 0.5).is_infinite());
    }
}
