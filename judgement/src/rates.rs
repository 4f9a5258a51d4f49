//! How often requests to the running version go badly, as far as earlier blocks tell: what bets on the next block are built on.
//!
//! A hidden Markov model: the rate is one of a grid, stays, and now and then jumps anywhere (fixed share; Herbster and Warmuth, "Tracking the
//! best expert", 1998). So a burst of errors is expected, and recognised within a block, without a forgetting that would lose what many calm
//! blocks taught. Whatever it believes, the evidence stays valid: it only ever looks back.

use serde::{Deserialize, Serialize};

use crate::block::Side;

/// Rates that are considered: halves from 1/2 down to 1/65,536.
pub(crate) const GRID: usize = 16;

/// The chance of a jump from one block to the next: so small that what is believed of calm blocks stays sharp, since who takes the rate for half
/// of what it is bets twice too much.
const JUMP: f64 = 1e-4;

/// How likely each rate is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Rates([f64; GRID]);

/// The rate at a place of the grid, lowest first.
pub(crate) fn rate(place: usize) -> f64 {
    (place as f64 - GRID as f64).exp2()
}

/// What is thought before anything is seen: most versions hardly ever fail.
fn prior(place: usize) -> f64 {
    /// Each rate is by this less likely than half of it.
    const FALL: f64 = 0.85;
    (1.0 - FALL) / (1.0 - FALL.powf(GRID as f64)) * FALL.powf(place as f64)
}

impl Default for Rates {
    fn default() -> Self {
        Self(std::array::from_fn(prior))
    }
}

impl Rates {
    /// `(rate, how likely it is)`.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (f64, f64)> {
        self.0.iter().enumerate().map(|(place, share)| (rate(place), *share))
    }

    /// Learns from a block.
    pub(crate) fn learn(&mut self, stable: &Side) {
        let logs: [f64; GRID] = std::array::from_fn(|place| {
            let rate = rate(place);
            self.0[place].max(f64::MIN_POSITIVE).ln() + stable.bad * rate.ln() + stable.good() * (-rate).ln_1p()
        });
        let largest = logs.into_iter().fold(f64::NEG_INFINITY, f64::max);
        let weights = logs.map(|log| (log - largest).exp());
        let sum: f64 = weights.iter().sum();
        for (place, (share, weight)) in self.0.iter_mut().zip(weights).enumerate() {
            *share = (1.0 - JUMP) * weight / sum + JUMP * prior(place);
        }
    }
}
