//! Is a rate above an absolute limit? Two e-processes over the requests of the canary alone.
//!
//! Against `p ≤ max` each request counts `1 + a (x - max)` with `a > 0`: with the alternative `p1` that is the likelihood ratio `p1 / max` for a bad
//! one and `(1 - p1) / (1 - max)` for a good one, whose expectation is at most one for every `p ≤ max`, also where `p` changes from request to request.
//! Mixed over some `p1` (method of mixtures: Robbins 1970; Howard and others, arXiv:1810.08240, section 3.3).
//!
//! A limit to a quantile is a limit to a share: `p99 ≤ x` says that at most one in a hundred takes longer than `x`.

use serde::{Deserialize, Serialize};

use crate::block::Side;
use crate::capital::{BROKE, FIRST_STEP, add_in_logs, sum_of_logs};

/// The odds that are bet on, over those of the limit; against `p ≥ max` one over these. The nearest find what is hardly above the limit,
/// the last what fails always, or never.
const ODDS: [f64; 8] = [17.0 / 16.0, 9.0 / 8.0, 5.0 / 4.0, 3.0 / 2.0, 2.0, 4.0, 16.0, 256.0];
/// And how much on each.
const SHARES: [f64; 8] = [0.05, 0.05, 0.1, 0.1, 0.2, 0.15, 0.15, 0.2];

/// Evidence on whether a limit is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    max: f64,
    seen: Side,
    /// Logarithms of capitals against `p ≥ max`; anew with each step.
    good: [f64; ODDS.len()],
    /// And against `p ≤ max`, over the whole release.
    bad: [f64; ODDS.len()],
    reserve: f64,
    steps_left: u32,
}

impl Limit {
    /// At the begin of the first of `steps`; `max` is a rate.
    pub fn new(max: f64, steps: u32) -> Self {
        let max = if max.is_finite() { max.clamp(1e-6, 1.0 - 1e-6) } else { 1.0 - 1e-6 };
        let steps_left = steps.max(1) - 1;
        let first = if steps_left == 0 { 1.0 } else { FIRST_STEP };
        Self {
            max,
            seen: Side::default(),
            good: SHARES.map(f64::ln),
            bad: SHARES.map(|share| (first * share).ln()),
            reserve: 1.0 - first,
            steps_left,
        }
    }

    /// The next step begins.
    pub fn begin_step(&mut self) {
        self.seen = Side::default();
        self.good = SHARES.map(f64::ln);
        if self.steps_left > 0 {
            let part = self.reserve / f64::from(self.steps_left);
            self.steps_left -= 1;
            self.reserve -= part;
            for (capital, share) in self.bad.iter_mut().zip(SHARES) {
                *capital = add_in_logs(*capital, (part * share).ln());
            }
        }
    }

    /// Takes what was counted of the canary since the last call, each request once. Says whether the evidence changed.
    pub fn observe(&mut self, canary: &Side) -> bool {
        let canary = canary.sound();
        let limit = self.max / (1.0 - self.max);
        for (place, odds) in ODDS.into_iter().enumerate() {
            for (capital, odds) in [(&mut self.good[place], limit / odds), (&mut self.bad[place], limit * odds)] {
                if *capital > BROKE {
                    // Odds over odds are rate over rate times the ratio of the rests, which is that of a good request.
                    let good = limit.ln_1p() - odds.ln_1p();
                    let bad = (odds / limit).ln() + good;
                    *capital = (*capital + bad * canary.bad + good * canary.good()).max(2.0 * BROKE);
                }
            }
        }
        self.seen.add(canary);
        canary.requests > 0.0
    }

    /// The logarithm of the evidence that the rate is below the limit, in this step.
    pub fn for_good(&self) -> f64 {
        sum_of_logs(&self.good)
    }

    /// The logarithm of the evidence that it is above, in the whole release.
    pub fn for_bad(&self) -> f64 {
        add_in_logs(sum_of_logs(&self.bad), self.reserve.ln())
    }

    /// What was counted of the canary in this step.
    pub fn counted(&self) -> Side {
        self.seen
    }
}
