//! Bounds on a rate that hold however often they are looked at: what people are shown beside a verdict.
//!
//! [`interval`] is the one call that enters. Of `n` requests `f` failed; the interval contains the true rate at every moment at
//! once with probability at least `1 - error`, for requests that fail independently at one rate. It has every rate `r` for which
//! `M / L(r) < 1 / error`, where `L(r) = r^f (1 - r)^(n - f)` is the likelihood and `M` its mean over a mixture of Beta distributions: at the true
//! rate that ratio is a martingale of mean 1 (Robbins 1970; Howard and others, arXiv:1810.08240, section 3.2).

use libm::lgamma;

/// What rates are thought likely before anything is seen: shares of Beta distributions, `(share, a, b)`. The first is for versions
/// that hardly ever fail, which is what most releases look like and where every saved request counts; the last is for anything.
const PRIOR: [(f64, f64, f64); 3] = [(0.5, 0.5, 1000.0), (0.25, 0.5, 50.0), (0.25, 0.5, 0.5)];

/// Halvings of the range in which a bound is searched: the error left is below 1e-18.
const HALVINGS: usize = 60;

/// A range of rates, each from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// The rate is hardly lower.
    pub lower: f64,
    /// The rate is hardly higher.
    pub upper: f64,
}

/// Where the rate lies of which `failures` of `requests` are a sample, but for a probability of `error`. Real numbers are taken, so
/// that estimates can be made with expected counts; `failures` above `requests` count as all of them.
pub fn interval(requests: f64, failures: f64, error: f64) -> Interval {
    if requests <= 0.0 {
        return Interval { lower: 0.0, upper: 1.0 };
    }
    let failures = failures.clamp(0.0, requests);
    let successes = requests - failures;
    let log_likelihood = |rate: f64| {
        let failed = if failures > 0.0 { failures * rate.ln() } else { 0.0 };
        let answered = if successes > 0.0 { successes * (-rate).ln_1p() } else { 0.0 };
        failed + answered
    };
    // A rate is refuted when the mixture explains the counts 1/error times better than the rate does.
    let refuted = log_mixture(failures, successes) + error.ln();
    let seen = failures / requests;
    Interval {
        lower: if failures > 0.0 { search(seen, 0.0, |rate| log_likelihood(rate) > refuted) } else { 0.0 },
        upper: if successes > 0.0 { search(seen, 1.0, |rate| log_likelihood(rate) > refuted) } else { 1.0 },
    }
}

/// The last rate on the way from `from` to `to` that `holds`; it holds up to some point and not after it. Rounded outwards.
fn search(from: f64, to: f64, holds: impl Fn(f64) -> bool) -> f64 {
    let (mut inside, mut outside) = (from, to);
    for _ in 0..HALVINGS {
        let middle = f64::midpoint(inside, outside);
        if holds(middle) {
            inside = middle;
        } else {
            outside = middle;
        }
    }
    outside
}

/// The logarithm of the probability that [`PRIOR`] gives to a sequence with these counts.
fn log_mixture(failures: f64, successes: f64) -> f64 {
    let terms = PRIOR.map(|(share, a, b)| share.ln() + ln_beta(a + failures, b + successes) - ln_beta(a, b));
    let largest = terms.into_iter().fold(f64::NEG_INFINITY, f64::max);
    largest + terms.into_iter().map(|term| (term - largest).exp()).sum::<f64>().ln()
}

fn ln_beta(a: f64, b: f64) -> f64 {
    lgamma(a) + lgamma(b) - lgamma(a + b)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn near(value: f64, expected: f64, tolerance: f64) {
        assert!((value - expected).abs() <= tolerance, "{value} is not {expected}");
    }

    /// The mixture is a probability: over all sequences of one length it sums to one.
    #[test]
    fn the_mixture_is_a_distribution() {
        let length = 12u32;
        let binomial = |k: u32| (0..k).fold(1.0, |product, i| product * f64::from(length - i) / f64::from(i + 1));
        let sum: f64 = (0..=length).map(|k| binomial(k) * log_mixture(f64::from(k), f64::from(length - k)).exp()).sum();
        near(sum, 1.0, 1e-12);
    }

    #[test]
    fn nothing_seen_rules_nothing_out() {
        assert_eq!(interval(0.0, 0.0, 0.01), Interval { lower: 0.0, upper: 1.0 });
    }

    #[test]
    fn a_thousand_good_answers_leave_little_room() {
        let Interval { lower, upper } = interval(1_000.0, 0.0, 0.01);
        near(lower, 0.0, 0.0);
        // ln(100) + ln(2) + ln(2)/2, over a thousand.
        near(upper, 0.0056, 0.0002);
    }

    #[test]
    fn only_failures_leave_the_upper_end_open() {
        let Interval { lower, upper } = interval(20.0, 20.0, 0.01);
        assert!(lower > 0.6, "{lower}");
        near(upper, 1.0, 0.0);
    }

    proptest! {
        #[test]
        fn the_seen_rate_is_inside_and_the_bounds_are_rates(requests in 1u32..2_000_000, share in 0.0f64..=1.0, error in 1e-6f64..0.5) {
            let failures = (f64::from(requests) * share).floor();
            let Interval { lower, upper } = interval(f64::from(requests), failures, error);
            let seen = failures / f64::from(requests);
            prop_assert!(0.0 <= lower && lower <= seen && seen <= upper && upper <= 1.0, "{lower} {seen} {upper}");
        }

        #[test]
        fn more_certainty_is_a_wider_interval(requests in 1u32..100_000, share in 0.0f64..=1.0) {
            let failures = (f64::from(requests) * share).floor();
            let loose = interval(f64::from(requests), failures, 0.1);
            let strict = interval(f64::from(requests), failures, 0.001);
            prop_assert!(strict.lower <= loose.lower && loose.upper <= strict.upper);
        }

        #[test]
        fn one_more_failure_moves_both_ends_up(requests in 2u32..100_000, share in 0.0f64..1.0) {
            let failures = (f64::from(requests) * share).floor().min(f64::from(requests) - 1.0);
            let fewer = interval(f64::from(requests), failures, 0.01);
            let more = interval(f64::from(requests), failures + 1.0, 0.01);
            prop_assert!(fewer.lower <= more.lower && fewer.upper <= more.upper, "{fewer:?} {more:?}");
        }

        #[test]
        fn whatever_is_counted_the_bounds_are_numbers(requests: u64, failures: u64) {
            let Interval { lower, upper } = interval(requests as f64, failures as f64, 0.01);
            prop_assert!((0.0..=1.0).contains(&lower) && (0.0..=1.0).contains(&upper));
        }
    }
}
