//! How many requests the best test of a fixed size needs.
//!
//! No test of the null `p ≥ q + margin` (or `≤`) whose error is at most `α` can have more power against `(p1, q1)` than the test of Neyman and Pearson of
//! any one point of that null against `(p1, q1)`. So the size that this needs at the nearest point is a bound that no fixed-size test
//! gets below. Its statistic is a weighted sum of two binomial counts; the chances are summed, with randomisation at the edge.

use fairlead_judgement::nearest;

/// Sides are cut where what is left has less probability than this.
const NEGLIGIBLE: f64 = 1e-12;

/// Requests of the canary that a test with this error and power needs, if the canary gets `weight` of all.
pub(crate) fn size(margin: f64, (p1, q1): (f64, f64), weight: f64, error: f64, power: f64) -> f64 {
    let ratio = (1.0 - weight) / weight;
    let q0 = nearest(margin, p1, q1, 1.0, ratio);
    let p0 = q0 + margin;
    let enough = |n: f64| best_power((p0, q0), (p1, q1), n, (n * ratio).round(), error) >= power;
    let mut high = 16.0;
    while !enough(high) {
        high *= 2.0;
    }
    let mut low = high / 2.0;
    while high - low > (low * 1e-3).max(1.0) {
        let middle = f64::midpoint(low, high).round();
        if enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// Of the most powerful test at `null` against `other`.
fn best_power(null: (f64, f64), other: (f64, f64), n: f64, stable: f64, error: f64) -> f64 {
    let logit = |p: f64| p.ln() - (-p).ln_1p();
    let (a, b) = (logit(other.0) - logit(null.0), logit(other.1) - logit(null.1));
    let canary = [Binomial::new(n, null.0), Binomial::new(n, other.0)];
    let running = [Binomial::new(stable, null.1), Binomial::new(stable, other.1)];
    // Rejected where `a k + b f` is at least so much.
    let chance = |of: usize, least: f64| -> f64 {
        canary[of].each().map(|(k, chance)| chance * running[of].where_at_least(b, least - a * k)).sum()
    };
    let (k0, k1) = (canary[0].range().0.min(canary[1].range().0), canary[0].range().1.max(canary[1].range().1));
    let (f0, f1) = (running[0].range().0.min(running[1].range().0), running[0].range().1.max(running[1].range().1));
    let ends = |x: f64, low: f64, high: f64| if x > 0.0 { (x * low, x * high) } else { (x * high, x * low) };
    let (of_k, of_f) = (ends(a, k0, k1), ends(b, f0, f1));
    // `low` rejects too often, `high` does not.
    let (mut low, mut high) = (of_k.0 + of_f.0 - 1.0, of_k.1 + of_f.1 + 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if chance(0, middle) > error { low = middle } else { high = middle }
    }
    let (above, with) = (chance(0, high), chance(0, low));
    let share = if with > above { ((error - above) / (with - above)).clamp(0.0, 1.0) } else { 0.0 };
    chance(1, high) + share * (chance(1, low) - chance(1, high))
}

/// A binomial count, where it has any probability to speak of.
pub(crate) struct Binomial {
    first: f64,
    chances: Vec<f64>,
    /// Of this count or a smaller one.
    below: Vec<f64>,
}

impl Binomial {
    pub(crate) fn new(requests: f64, rate: f64) -> Self {
        let mode = (requests * rate).floor();
        let odds = rate / (1.0 - rate);
        let up = |k: f64| (requests - k) / (k + 1.0) * odds;
        let mut chances = std::collections::VecDeque::from([1.0]);
        let (mut first, mut last) = (mode, mode);
        while first > 0.0 && chances[0] > NEGLIGIBLE {
            let next = chances[0] / up(first - 1.0);
            chances.push_front(next);
            first -= 1.0;
        }
        while last < requests && chances[chances.len() - 1] > NEGLIGIBLE {
            let next = chances[chances.len() - 1] * up(last);
            chances.push_back(next);
            last += 1.0;
        }
        let sum: f64 = chances.iter().sum();
        let chances: Vec<f64> = chances.into_iter().map(|chance| chance / sum).collect();
        let below = chances
            .iter()
            .scan(0.0, |sum, chance| {
                *sum += chance;
                Some(*sum)
            })
            .collect();
        Self { first, chances, below }
    }

    fn range(&self) -> (f64, f64) {
        (self.first, self.first + (self.chances.len() - 1) as f64)
    }

    fn each(&self) -> impl Iterator<Item = (f64, f64)> {
        self.chances.iter().enumerate().map(|(index, chance)| (self.first + index as f64, *chance))
    }

    /// The chance of so many or fewer.
    pub(crate) fn up_to(&self, count: f64) -> f64 {
        let index = count.floor() - self.first;
        if index < 0.0 { 0.0 } else { self.below[(index as usize).min(self.below.len() - 1)] }
    }

    /// The chance of a count `f` with `b f ≥ least`.
    fn where_at_least(&self, b: f64, least: f64) -> f64 {
        if b == 0.0 {
            f64::from(u8::from(least <= 0.0))
        } else if b > 0.0 {
            1.0 - self.up_to((least / b).ceil() - 1.0)
        } else {
            self.up_to(least / b)
        }
    }
}
