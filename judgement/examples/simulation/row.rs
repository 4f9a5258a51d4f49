//! One row: many releases of one kind of traffic.

use fairlead_judgement::Verdict;
use serde::Serialize;

use crate::fixed;
use crate::release::{ERROR, End, MARGIN, release, step};
use crate::rule;
use crate::traffic::Setting;

/// Of the test of a fixed size.
const POWER: f64 = 0.9;
/// A canary at the margin is looked at for as long as a test of a fixed size would take, after each request.
const LOOKED_AT: f64 = 1.0;
/// Standard errors that an estimate is above its mean once in a thousand times.
const ONE_IN_A_THOUSAND: f64 = 3.09;
/// And a verdict is waited for until so many.
const PATIENCE: f64 = 20.0;

/// When verdicts are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Looks {
    /// After every request.
    Request,
    /// After every second.
    Second,
    /// After every request, through all steps of a default Canary.
    Release,
}

/// What is simulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) setting: Setting,
    pub(crate) looks: Looks,
}

/// How many requests a verdict takes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Cost {
    /// The share of releases with this verdict.
    pub(crate) reached: f64,
    /// Requests of the canary, on average.
    pub(crate) mean: f64,
    /// Of the best test of a fixed size; zero for whole releases, where there is none.
    pub(crate) fixed: f64,
    /// The former over the latter.
    pub(crate) ratio: f64,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) setting: Setting,
    pub(crate) looks: Looks,
    pub(crate) releases: u32,
    /// Of a canary as good as stable, the share that was rolled back.
    pub(crate) false_rollbacks: f64,
    /// Of one that is worse by just the margin, which may not be rolled back either.
    pub(crate) rollbacks_at_margin: f64,
    /// Of the same, which may not be promoted. In a whole release it is so bad in the last step only.
    pub(crate) false_promotions: f64,
    /// Of a canary as good as stable.
    pub(crate) promotion: Cost,
    /// Of one that is worse by twice the margin.
    pub(crate) rollback: Cost,
    /// The chances of the latter two without an end, from the releases of a good and of a bad canary, each weighted with how much likelier it is at the
    /// margin (importance sampling; Siegmund 1976). Zero for whole releases.
    pub(crate) chance_of_rollback_at_margin: f64,
    pub(crate) chance_of_false_promotion: f64,
    /// The standard errors of these two.
    pub(crate) standard_errors: [f64; 2],
    /// What the common rule does: false rollbacks and false promotions, and how many requests of the canary it takes.
    pub(crate) rule: [f64; 3],
}

impl Row {
    /// Whether wrong verdicts are as rare as promised: not more frequent than one row in a thousand has by chance where they just are.
    pub(crate) fn is_right(&self) -> bool {
        let chances = [self.chance_of_rollback_at_margin, self.chance_of_false_promotion];
        let seen = [self.false_rollbacks, self.rollbacks_at_margin, self.false_promotions];
        chances.into_iter().zip(self.standard_errors).all(|(chance, error)| chance - ONE_IN_A_THOUSAND * error <= ERROR)
            && seen.into_iter().all(|share| share <= self.by_chance())
    }

    /// The share that one row in a thousand has by chance alone where the chance is just the error that is allowed.
    fn by_chance(&self) -> f64 {
        let releases = f64::from(self.releases);
        let least =
            (0..self.releases).find(|&count| fixed::Binomial::new(releases, ERROR).up_to(f64::from(count)) >= 0.999);
        f64::from(least.unwrap_or(self.releases)) / releases
    }

    /// Whether verdicts are as quick as promised; nothing was promised of looks each second, and of whole releases.
    pub(crate) fn is_quick(&self) -> Option<bool> {
        (self.looks == Looks::Request).then_some(self.promotion.ratio <= 1.3 && self.rollback.ratio <= 1.3)
    }
}

pub(crate) fn simulate(scenario: &Scenario, releases: u32) -> Row {
    let Scenario { setting, looks } = *scenario;
    let whole = looks == Looks::Release;
    let (rate, weight) = (setting.mean_rate(), if whole { 0.5 } else { setting.weight });
    let size = |p1| fixed::size(MARGIN, (p1, rate), weight, ERROR, POWER);
    let (to_promote, to_roll_back) = (size(rate), size(rate + 2.0 * MARGIN));
    let run = |worse: f64, late: bool, most: f64| -> Vec<End> {
        let setting = Setting { worse, ..setting };
        let one = |seed: u32| match looks {
            Looks::Release => release(setting, late, u64::from(seed), most),
            _ => step(setting, looks, u64::from(seed), most),
        };
        (0..releases).map(one).collect()
    };
    let good = run(0.0, false, PATIENCE * to_promote);
    let at_margin = run(MARGIN, whole, LOOKED_AT * to_promote);
    let bad = run(2.0 * MARGIN, false, PATIENCE * to_roll_back);
    let of_rule = Setting { weight, ..setting };
    let cost = |ends: &[End], verdict: Verdict, fixed: f64| {
        let mean = ends.iter().map(|end| end.requests).sum::<f64>() / ends.len() as f64;
        let fixed = if whole { 0.0 } else { fixed };
        Cost { reached: share(ends, verdict), mean, fixed, ratio: if whole { 0.0 } else { mean / fixed } }
    };
    let chance_of_rollback = chance(&bad, Verdict::Regressed(0), whole);
    let chance_of_promotion = chance(&good, Verdict::NonInferior, whole);
    Row {
        setting,
        looks,
        releases,
        false_rollbacks: share(&good, Verdict::Regressed(0)),
        rollbacks_at_margin: share(&at_margin, Verdict::Regressed(0)),
        false_promotions: share(&at_margin, Verdict::NonInferior),
        promotion: cost(&good, Verdict::NonInferior, to_promote),
        rollback: cost(&bad, Verdict::Regressed(0), to_roll_back),
        chance_of_rollback_at_margin: chance_of_rollback.0,
        chance_of_false_promotion: chance_of_promotion.0,
        standard_errors: [chance_of_rollback.1, chance_of_promotion.1],
        rule: [
            1.0 - rule::passes(&Setting { worse: 0.0, ..of_rule }),
            rule::passes(&Setting { worse: MARGIN, ..of_rule }),
            rule::requests(&of_rule),
        ],
    }
}

fn share(ends: &[End], verdict: Verdict) -> f64 {
    ends.iter().filter(|end| end.verdict == verdict).count() as f64 / ends.len() as f64
}

/// The chance of this verdict for a canary at the margin, and its standard error.
fn chance(ends: &[End], verdict: Verdict, whole: bool) -> (f64, f64) {
    if whole {
        return (0.0, 0.0);
    }
    let weight = |end: &End| if end.verdict == verdict { end.at_margin } else { 0.0 };
    let count = ends.len() as f64;
    let mean = ends.iter().map(weight).sum::<f64>() / count;
    let variance = ends.iter().map(|end| (weight(end) - mean).powi(2)).sum::<f64>() / count;
    (mean, (variance / count).sqrt())
}
