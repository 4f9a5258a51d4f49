//! The likelihood ratio of one block, against the point of the null hypothesis that is hardest to tell from the alternative.
//!
//! For blocks of two binomial counts this is the growth-rate optimal e-variable of Turner, Ly and Grünwald (arXiv:2106.02693), with the null about a
//! difference of rates of Turner and Grünwald (arXiv:2203.09785). Let `p`, `q` be the rates of canary and stable in the block, `n`, `N` its sizes, and
//! `(p0, q0)` with `p0 = q0 + margin` the point of the boundary with the least `n KL(p1, p0) + N KL(q1, q0)`. Each request of the
//! canary counts `1 + a (x - p0)`, each of the running version `1 + b (x - q0)`, where `x` is 1 for a bad one and 0 else,
//! `a = (p1 - p0) / (p0 (1 - p0))`, and `b` likewise. At the least point `n a + N b = 0`. So the expectation of the product is
//!
//! > `(1 + a (p - p0))^n (1 + b (q - q0))^N  ≤  exp(n a (p - p0) + N b (q - q0))  =  exp(n a ((p - q) - margin))`,
//!
//! which is at most one wherever `a` and `(p - q) - margin` have opposite signs: under the null. Only `n a + N b = 0`, the sign of `a` and
//! the boundary enter, so an imprecise `q0` costs power and never validity: [`Ratio::new`] computes `b` from `a`. With rates that differ from
//! request to request the same holds for their averages over the block, as `ln(1 + x) ≤ x` is applied to each request.

use crate::block::Block;

/// What is to be refuted, about the rates of canary `p` and stable `q` of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Null {
    /// `p ≥ q + margin`: the canary is worse. Refuted by a good canary.
    Worse,
    /// `p ≤ q + margin`: the canary is not worse. Refuted by a bad one.
    NotWorse,
}

/// Rates are kept this far from 0 and 1, where logarithms end.
const EDGE: f64 = 1e-9;

/// Steps of the search for the nearest point of the null: Newton's, halvings where they leave the bracket.
const STEPS: usize = 24;

/// How near is near enough, relative to the rate; what is left costs power of the second order.
const NEAR: f64 = 1e-3;

/// What each request of a block multiplies the evidence by; logarithms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    canary_bad: f64,
    canary_good: f64,
    stable_bad: f64,
    stable_good: f64,
}

impl Ratio {
    /// For a block with so many requests of canary and stable, and an alternative `(p1, q1)`. `None` where there is nothing to bet
    /// on: the alternative is of the null, or the side that could speak is empty.
    pub(crate) fn new(null: Null, margin: f64, (p1, q1): (f64, f64), canary: f64, stable: f64) -> Option<Self> {
        // A smaller margin makes more of `Worse`, so it stays on the safe side; of `NotWorse` nothing is outside.
        let margin = match null {
            Null::Worse => margin.min(1.0 - 1e-6),
            Null::NotWorse if margin < 1.0 - 1e-6 => margin,
            Null::NotWorse => return None,
        };
        let (p1, q1) = (p1.clamp(EDGE, 1.0 - EDGE), q1.clamp(EDGE, 1.0 - EDGE));
        let outside = match null {
            Null::Worse => p1 < q1 + margin,
            Null::NotWorse => p1 > q1 + margin,
        };
        if !outside || canary <= 0.0 {
            return None;
        }
        if stable <= 0.0 {
            // Nothing is known of the running version, which may then never fail.
            let alone = null == Null::Worse && p1 < margin;
            return alone.then(|| {
                let (canary_bad, canary_good) = ((p1 / margin).ln(), (-p1).ln_1p() - (-margin).ln_1p());
                Self { canary_bad, canary_good, stable_bad: 0.0, stable_good: 0.0 }
            });
        }
        let q0 = nearest(margin, p1, q1, canary, stable).clamp(EDGE, 1.0 - margin - EDGE);
        let p0 = q0 + margin;
        let a = (p1 - p0) / (p0 * (1.0 - p0));
        if (null == Null::Worse) != (a < 0.0) {
            return None;
        }
        let b = -a * canary / stable;
        // Where the nearest point was not quite met, factors could become negative: then less is bet.
        let most = 0.999_999 / if b > 0.0 { q0 } else { 1.0 - q0 };
        let scale = (most / b.abs()).min(1.0);
        let (a, b) = (a * scale, b * scale);
        Some(Self {
            canary_bad: (a * (1.0 - p0)).ln_1p(),
            canary_good: (-a * p0).ln_1p(),
            stable_bad: (b * (1.0 - q0)).ln_1p(),
            stable_good: (-b * q0).ln_1p(),
        })
    }

    /// The logarithm of what the block multiplies the evidence by.
    pub(crate) fn of(&self, block: &Block) -> f64 {
        self.canary_bad * block.canary.bad
            + self.canary_good * block.canary.good()
            + self.stable_bad * block.stable.bad
            + self.stable_good * block.stable.good()
    }
}

/// The `q0` of the least `n KL(p1, q0 + margin) + N KL(q1, q0)`: the root of its derivative, which times its denominators is
/// a cubic that falls from plus to minus between the rate of the one side and that of the other.
pub fn nearest(margin: f64, p1: f64, q1: f64, n: f64, stable: f64) -> f64 {
    let (mut low, mut high) = if p1 - margin < q1 { (p1 - margin, q1) } else { (q1, p1 - margin) };
    low = low.max(0.0);
    high = high.min(1.0 - margin);
    // Scaled, so that hostile sizes stay numbers.
    let share = n / (n + stable);
    let rest = 1.0 - share;
    // Where both had the spread that they have at the alternative.
    let (spread_p, spread_q) = (p1 * (1.0 - p1) * rest, q1 * (1.0 - q1) * share);
    let mut at = q1 + (p1 - q1 - margin) * spread_q / (spread_p + spread_q);
    for _ in 0..STEPS {
        if !(at > low && at < high) {
            at = f64::midpoint(low, high);
        }
        let p0 = at + margin;
        let (in_q, in_p) = (at * (1.0 - at), p0 * (1.0 - p0));
        let value = share * (p1 - p0) * in_q + rest * (q1 - at) * in_p;
        if value > 0.0 {
            low = at;
        } else {
            high = at;
        }
        let slope = share * ((p1 - p0) * (1.0 - 2.0 * at) - in_q) + rest * ((q1 - at) * (1.0 - 2.0 * p0) - in_p);
        let next = at - value / slope;
        let moved = (next - at).abs();
        at = next;
        if moved <= NEAR * at || high - low <= NEAR * low {
            break;
        }
    }
    if at > low && at < high { at } else { f64::midpoint(low, high) }
}
