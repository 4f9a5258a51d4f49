//! Is the canary's rate more than `margin` above the running version's? Two e-processes, one for each answer.
//!
//! An e-process is the capital of somebody who bets against a hypothesis at odds that are fair or worse if it holds: it starts at 1, and by Ville's
//! inequality it *ever* reaches `1/α` with probability at most `α` if the hypothesis holds. Here each is split among bettors
//! that expect different canaries; a sum of capitals is a capital.

use serde::{Deserialize, Serialize};

use crate::block::Block;
use crate::capital::{BROKE, FIRST_STEP, add_in_logs, sum_of_logs};
use crate::rates::Rates;
use crate::ratio::{Null, Ratio};

/// What one bettor keeps out of every bet: a block that nobody expected (the first of a burst of errors) costs at most the logarithm of
/// this, whatever is in it.
const ABSTAINED: f64 = 0.03;

/// Rates that are less likely than this are not bet on; their share is kept.
const UNLIKELY: f64 = 0.01;

/// Requests of the canary after which its block is closed although the running version got none.
const ALONE: f64 = 64.0;

/// A block is closed when both sides have this share of what they had before it, within [`BLOCK`]: fewer would waste what the larger
/// side knows, more would be looked at late.
const GROWTH: f64 = 1.0 / 32.0;

/// The least and the most that both sides must have before a block is closed.
const BLOCK: (f64, f64) = (1.0, 32.0);

/// Bettors for a good canary: as good as stable, and what is seen.
const GOOD: [f64; 2] = [0.75, 0.25];

/// Differences that bettors on a bad canary expect, from twice the margin to 0.9.
const FIXED: usize = 6;

/// Their capitals, and of the one that bets on what is seen.
const BAD: [f64; FIXED + 1] = [0.3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.2];

/// Evidence on one criterion of a release, which outlives the process that gathers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    margin: f64,
    rates: Rates,
    /// Blocks of this step that are judged.
    seen: Block,
    /// What came since.
    open: Block,
    /// Logarithms of capitals against [`Null::Worse`]; anew with each step.
    good: [f64; GOOD.len()],
    /// And against [`Null::NotWorse`], over the whole release.
    bad: [f64; BAD.len()],
    /// What of the latter is not given out yet.
    reserve: f64,
    /// And to how many steps it will be.
    steps_left: u32,
}

impl Comparison {
    /// At the begin of the first of `steps`; `margin` is a difference of rates.
    pub fn new(margin: f64, steps: u32) -> Self {
        let margin = if margin.is_finite() { margin.clamp(1e-6, 1.0) } else { 1.0 };
        let steps_left = steps.max(1) - 1;
        let first = if steps_left == 0 { 1.0 } else { FIRST_STEP };
        Self {
            margin,
            rates: Rates::default(),
            seen: Block::default(),
            open: Block::default(),
            good: GOOD.map(f64::ln),
            bad: BAD.map(|share| (first * share).ln()),
            reserve: 1.0 - first,
            steps_left,
        }
    }

    /// The margin that it is about.
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// The next step begins: whether the canary is good is asked anew, what speaks against it is kept.
    pub fn begin_step(&mut self) {
        self.seen = Block::default();
        self.open = Block::default();
        self.good = GOOD.map(f64::ln);
        if self.steps_left > 0 {
            let part = self.reserve / f64::from(self.steps_left);
            self.steps_left -= 1;
            self.reserve -= part;
            for (capital, share) in self.bad.iter_mut().zip(BAD) {
                *capital = add_in_logs(*capital, (part * share).ln());
            }
        }
    }

    /// Takes what was counted since the last call, each request once. Says whether the evidence changed: it does with whole blocks.
    pub fn observe(&mut self, counted: &Block) -> bool {
        self.open.add(&counted.sound());
        let least = (GROWTH * self.seen.smaller()).clamp(BLOCK.0, BLOCK.1);
        let both = self.open.smaller() >= least;
        let alone = self.open.stable.requests <= 0.0 && self.open.canary.requests >= ALONE.max(least);
        if both || alone {
            let block = std::mem::take(&mut self.open);
            self.bet(&block);
        }
        both || alone
    }

    /// The logarithm of the evidence that the canary is not worse, in this step.
    pub fn for_good(&self) -> f64 {
        sum_of_logs(&self.good)
    }

    /// The logarithm of the evidence that it is worse, in the whole release.
    pub fn for_bad(&self) -> f64 {
        add_in_logs(sum_of_logs(&self.bad), self.reserve.ln())
    }

    /// What was counted in this step.
    pub fn counted(&self) -> Block {
        let mut all = self.seen;
        all.add(&self.open);
        all
    }

    fn bet(&mut self, block: &Block) {
        let (margin, rates) = (self.margin, &self.rates);
        let gain = |capital: &mut f64, null: Null, difference: f64| {
            if *capital > BROKE {
                *capital += ln_factor(null, margin, difference, rates, block);
            }
        };
        gain(&mut self.good[0], Null::Worse, 0.0);
        gain(&mut self.good[1], Null::Worse, learned(&self.seen, 0.0, margin));
        let fixed = differences(margin);
        for (capital, difference) in self.bad.iter_mut().zip(fixed) {
            gain(capital, Null::NotWorse, difference);
        }
        gain(&mut self.bad[FIXED], Null::NotWorse, learned(&self.seen, fixed[0], fixed[0]));
        self.rates.learn(&block.stable);
        self.seen.add(block);
    }
}

/// From twice the margin to 0.9, in equal ratios; for margins that leave less room, between margin and 1.
fn differences(margin: f64) -> [f64; FIXED] {
    let first = (2.0 * margin).min(f64::midpoint(margin, 1.0));
    let last = f64::max(0.9, margin + 0.9 * (1.0 - margin));
    std::array::from_fn(|place| first * (last / first).powf(place as f64 / (FIXED - 1) as f64))
}

/// The difference of rates that was seen, drawn to the `expected` one as by a normal prior with this `spread`.
fn learned(seen: &Block, expected: f64, spread: f64) -> f64 {
    let (p, q) = (seen.canary.rate(), seen.stable.rate());
    let variance = p * (1.0 - p) / (seen.canary.requests + 1.0) + q * (1.0 - q) / (seen.stable.requests + 1.0);
    let trust = spread * spread / (spread * spread + variance);
    expected + trust * (p - q - expected)
}

/// The logarithm of what a bettor on this `difference` makes of one unit of capital.
fn ln_factor(null: Null, margin: f64, difference: f64, rates: &Rates, block: &Block) -> f64 {
    let mut kept = 1.0;
    // Logarithm of the largest, and the sum of all relative to it.
    let (mut largest, mut sum) = (0.0, 0.0);
    for (rate, likely) in rates.iter().filter(|(_, likely)| *likely >= UNLIKELY) {
        let canary = (rate + difference).max(0.1 * rate);
        let Some(ratio) = Ratio::new(null, margin, (canary, rate), block.canary.requests, block.stable.requests) else {
            continue;
        };
        let share = likely * (1.0 - ABSTAINED);
        kept -= share;
        let log = ratio.of(block);
        if log > largest {
            sum = sum * f64::exp(largest - log) + share;
            largest = log;
        } else {
            sum += share * (log - largest).exp();
        }
    }
    largest + (sum + kept.max(0.0) * (-largest).exp()).ln()
}
