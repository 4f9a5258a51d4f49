//! Judges a step of a release: is the new version worse than the running one, not worse, or is too little known?
//!
//! [`judge`] is the one call that enters. It sees nothing but cumulative counts of both sides since the step began, so it does not
//! matter in which order or batches they came, how often it is asked, or whether the operator was restarted in between. Why its
//! verdicts are right with the stated confidence is derived in `docs/canary.md`.

use fairlead_crds::{ErrorLimits, VerdictResult};

use super::bounds::{Interval, interval};
use super::counts::Counts;

/// The chance of a wrong promotion, and of a wrong rollback, over a whole release.
const ERROR: f64 = 0.01;

/// What of a chance of error goes to the interval of the canary; the rest goes to that of the running version. Most of it, because
/// the canary's requests are the scarce ones.
const CANARY_SHARE: f64 = 0.8;

/// Where estimates of what is still needed end: with more requests than this nobody wants to be told a number.
const MOST_REQUESTS: f64 = 1e8;

/// What the counts allow to conclude.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// For what happens next.
    pub result: VerdictResult,
    /// The intervals of both failure rates, for people.
    pub evidence: String,
    /// One sentence.
    pub reason: String,
}

/// Judges the counts of a step, of which the release has `steps`.
pub fn judge(canary: &Counts, stable: &Counts, limits: &ErrorLimits, steps: usize) -> Judgement {
    let test = Test {
        margin: limits.margin.fraction(),
        max: limits.max.map(fairlead_crds::Percent::fraction),
        steps: steps.max(1) as f64,
    };
    let observed = Observed::of(canary, stable);
    let result = test.decide(&observed);
    let (canary_rate, stable_rate) = observed.intervals(ERROR);
    let conclusion = match result {
        VerdictResult::Regressed => match limits.max {
            Some(max) if test.too_many(&observed) => {
                format!("; more than the {max} % that may fail at most")
            }
            _ => format!("; worse by more than {} points", limits.margin),
        },
        VerdictResult::NonInferior => String::new(),
        VerdictResult::Inconclusive => match test.still_needed(&observed) {
            Some(needed) => format!("; about {} more will tell", grouped(needed)),
            None => "; at these rates no number of requests tells on which side of the margin it is".to_owned(),
        },
    };
    let reason = format!(
        "{} of {} requests failed; stable {} of {}{conclusion}",
        grouped(canary.failures),
        grouped(canary.requests),
        grouped(stable.failures),
        grouped(stable.requests),
    );
    let evidence = format!("canary {}, stable {}", percent_range(canary_rate), percent_range(stable_rate));
    Judgement { result, evidence, reason }
}

/// Counts as real numbers, so that expected ones can be judged as well.
#[derive(Clone, Copy)]
struct Observed {
    canary: (f64, f64),
    stable: (f64, f64),
}

impl Observed {
    fn of(canary: &Counts, stable: &Counts) -> Self {
        let pair = |counts: &Counts| (counts.requests as f64, counts.failures as f64);
        Self { canary: pair(canary), stable: pair(stable) }
    }

    /// What both would have counted with `canary_requests`, going on as before. A canary that got nothing so far is taken to be
    /// as good as can be.
    fn extended(&self, canary_requests: f64) -> Self {
        let (requests, failures) = self.canary;
        if requests <= 0.0 {
            return Self { canary: (canary_requests, 0.0), stable: self.stable };
        }
        let factor = canary_requests / requests;
        Self { canary: (canary_requests, failures * factor), stable: (self.stable.0 * factor, self.stable.1 * factor) }
    }

    /// The failure rates of canary and stable; both are inside but for a probability of `error`.
    fn intervals(&self, error: f64) -> (Interval, Interval) {
        (
            interval(self.canary.0, self.canary.1, error * CANARY_SHARE),
            interval(self.stable.0, self.stable.1, error * (1.0 - CANARY_SHARE)),
        )
    }
}

struct Test {
    margin: f64,
    max: Option<f64>,
    steps: f64,
}

impl Test {
    fn decide(&self, observed: &Observed) -> VerdictResult {
        // One wrong rollback in any step ends the release: the chance of it is shared by the steps.
        let (canary, stable) = observed.intervals(ERROR / self.steps);
        if canary.lower > stable.upper + self.margin || self.max.is_some_and(|max| canary.lower > max) {
            return VerdictResult::Regressed;
        }
        // A wrong promotion must get every step wrong: each may have the whole chance.
        let (canary, stable) = observed.intervals(ERROR);
        if canary.upper < stable.lower + self.margin && self.max.is_none_or(|max| canary.upper < max) {
            return VerdictResult::NonInferior;
        }
        VerdictResult::Inconclusive
    }

    fn too_many(&self, observed: &Observed) -> bool {
        let (canary, _) = observed.intervals(ERROR / self.steps);
        self.max.is_some_and(|max| canary.lower > max)
    }

    /// How many more requests of the canary bring a verdict if both sides go on failing as they do.
    fn still_needed(&self, observed: &Observed) -> Option<u64> {
        let decided = |requests: f64| self.decide(&observed.extended(requests)) != VerdictResult::Inconclusive;
        let seen = observed.canary.0;
        let mut enough = (seen * 2.0).max(16.0);
        while !decided(enough) {
            enough *= 2.0;
            if enough > MOST_REQUESTS {
                return None;
            }
        }
        let mut few = seen;
        while enough - few > (enough * 0.01).max(1.0) {
            let middle = f64::midpoint(few, enough);
            if decided(middle) {
                enough = middle;
            } else {
                few = middle;
            }
        }
        // Two digits: it is an estimate and should look like one.
        let more = (enough - seen).max(1.0);
        let unit = 10f64.powf((more.log10().floor() - 1.0).max(0.0));
        Some(((more / unit).ceil() * unit) as u64)
    }
}

/// `0.00–0.53 %`.
fn percent_range(Interval { lower, upper }: Interval) -> String {
    format!("{:.2}–{:.2} %", lower * 100.0, upper * 100.0)
}

/// `4,985`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use fairlead_crds::Percent;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::SmallRng};

    use super::VerdictResult::{Inconclusive, NonInferior, Regressed};
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        Counts { requests, failures, ..Counts::default() }
    }

    fn limits(max: Option<f64>) -> ErrorLimits {
        ErrorLimits { max: max.map(|max| Percent::try_from(max).unwrap()), ..ErrorLimits::default() }
    }

    fn verdict(canary: (u64, u64), stable: (u64, u64)) -> VerdictResult {
        judge(&counts(canary.0, canary.1), &counts(stable.0, stable.1), &limits(None), 5).result
    }

    #[test]
    fn nothing_is_concluded_from_nothing() {
        let judgement = judge(&counts(0, 0), &counts(0, 0), &limits(None), 5);
        assert_eq!(judgement.result, Inconclusive);
        assert_eq!(judgement.reason, "0 of 0 requests failed; stable 0 of 0; about 1,200 more will tell");
        assert_eq!(judgement.evidence, "canary 0.00–100.00 %, stable 0.00–100.00 %");
    }

    #[test]
    fn a_faultless_canary_passes_after_some_twelve_hundred_requests() {
        assert_eq!(verdict((1_100, 0), (100_000, 0)), Inconclusive);
        assert_eq!(verdict((1_200, 0), (100_000, 0)), NonInferior);
        assert_eq!(verdict((1_200, 0), (1_200, 0)), NonInferior);
        assert_eq!(verdict((1_200, 0), (0, 0)), NonInferior);
    }

    #[test]
    fn a_broken_canary_is_found_within_a_few_requests() {
        assert_eq!(verdict((6, 6), (600, 0)), Regressed);
        assert_eq!(verdict((40, 12), (4_000, 4)), Regressed);
    }

    #[test]
    fn a_failing_dependency_of_both_is_not_the_canarys_fault() {
        assert_eq!(verdict((1_000, 300), (10_000, 3_000)), Inconclusive);
        assert_eq!(verdict((400_000, 120_000), (4_000_000, 1_200_000)), NonInferior);
    }

    #[test]
    fn without_stable_traffic_only_the_absolute_limit_can_refuse() {
        assert_eq!(verdict((1_000, 900), (0, 0)), Inconclusive);
        let judgement = judge(&counts(1_000, 900), &counts(0, 0), &limits(Some(5.0)), 5);
        assert_eq!(judgement.result, Regressed);
        assert_eq!(
            judgement.reason,
            "900 of 1,000 requests failed; stable 0 of 0; more than the 5 % that may fail at most"
        );
    }

    #[test]
    fn the_absolute_limit_refuses_what_is_no_worse_than_stable_and_must_itself_be_proved() {
        let both_fail = (counts(10_000, 1_000), counts(100_000, 10_000));
        assert_eq!(judge(&both_fail.0, &both_fail.1, &limits(Some(5.0)), 5).result, Regressed);
        let good = (counts(1_200, 0), counts(10_000, 0));
        assert_eq!(judge(&good.0, &good.1, &limits(Some(0.1)), 5).result, Inconclusive);
        assert_eq!(judge(&good.0, &good.1, &limits(Some(5.0)), 5).result, NonInferior);
    }

    #[test]
    fn the_estimate_is_what_it_takes() {
        let canary = counts(400, 1);
        let stable = counts(4_000, 8);
        let judgement = judge(&canary, &stable, &limits(None), 5);
        assert_eq!(judgement.result, Inconclusive);
        let needed =
            Test { margin: 0.005, max: None, steps: 5.0 }.still_needed(&Observed::of(&canary, &stable)).unwrap();
        let factor = (400 + needed) as f64 / 400.0;
        let later = |count: u64| (count as f64 * factor) as u64;
        assert_eq!(verdict((later(400), later(1)), (later(4_000), later(8))), NonInferior, "after {needed} more");
        let early = |count: u64| (count as f64 * (1.0 + (factor - 1.0) * 0.7)) as u64;
        assert_eq!(verdict((early(400), early(1)), (early(4_000), early(8))), Inconclusive, "{needed} are too many");
    }

    #[test]
    fn at_the_margin_no_number_is_promised() {
        let judgement = judge(&counts(10_000, 150), &counts(10_000, 100), &limits(None), 5);
        assert_eq!(judgement.result, Inconclusive);
        assert!(
            judgement.reason.ends_with("no number of requests tells on which side of the margin it is"),
            "{}",
            judgement.reason
        );
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (4_985, "4,985"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    proptest! {
        /// More failures never make a canary look better, nor fewer worse.
        #[test]
        fn verdicts_follow_the_failures(requests in 1u64..50_000, share in 0.0f64..0.2, stable in 0u64..500) {
            let failures = (requests as f64 * share) as u64;
            let rank = |failures| match verdict((requests, failures), (50_000, stable)) {
                NonInferior => 0,
                Inconclusive => 1,
                Regressed => 2,
            };
            prop_assert!(rank(failures) <= rank((failures + 1).min(requests)));
        }

        #[test]
        fn what_proxies_report_never_breaks_it(a: u64, b: u64, c: u64, d: u64) {
            let judgement = judge(&counts(a, b), &counts(c, d), &limits(Some(1.0)), 20);
            prop_assert!(judgement.reason.len() < 512 && judgement.evidence.len() < 256);
        }
    }

    /// Failures among `requests` of which each fails with probability `rate`.
    fn sample(random: &mut SmallRng, requests: u64, rate: f64) -> u64 {
        if rate <= 0.0 {
            return 0;
        }
        let mut failures = 0;
        let mut position = 0.0;
        loop {
            // The distance to the next failure is geometric.
            let uniform: f64 = random.random();
            position += ((1.0 - uniform).ln() / (-rate).ln_1p()).floor() + 1.0;
            if position > requests as f64 {
                return failures;
            }
            failures += 1;
        }
    }

    /// Looks at one step after every batch until there is a verdict.
    fn step(random: &mut SmallRng, canary_rate: f64, stable_rate: f64, batches: usize) -> VerdictResult {
        let (mut canary, mut stable) = (counts(0, 0), counts(0, 0));
        for _ in 0..batches {
            canary.requests += 50;
            canary.failures += sample(random, 50, canary_rate);
            stable.requests += 200;
            stable.failures += sample(random, 200, stable_rate);
            let verdict = Test { margin: 0.005, max: None, steps: 1.0 }.decide(&Observed::of(&canary, &stable));
            if verdict != Inconclusive {
                return verdict;
            }
        }
        Inconclusive
    }

    /// Of 300 simulated steps, how many ended with this verdict.
    fn frequency(seed: u64, canary_rate: f64, stable_rate: f64, batches: usize, verdict: VerdictResult) -> usize {
        let mut random = SmallRng::seed_from_u64(seed);
        (0..300).filter(|_| step(&mut random, canary_rate, stable_rate, batches) == verdict).count()
    }

    #[test]
    fn looking_after_every_batch_rolls_back_at_most_one_in_a_hundred_wrongly() {
        // On the margin, where the mistake is likeliest. The whole chance of error is given to this one step.
        let wrong = frequency(1, 0.015, 0.01, 60, Regressed);
        assert!(wrong <= 3, "{wrong} of 300 were rolled back");
    }

    #[test]
    fn looking_after_every_batch_promotes_at_most_one_in_a_hundred_wrongly() {
        for (seed, stable_rate) in [(2, 0.0), (3, 0.01)] {
            let wrong = frequency(seed, stable_rate + 0.005, stable_rate, 60, NonInferior);
            assert!(wrong <= 3, "{wrong} of 300 were promoted, stable at {stable_rate}");
        }
    }

    #[test]
    fn good_and_bad_canaries_are_told_apart_in_good_time() {
        let promoted = frequency(4, 0.0005, 0.0005, 100, NonInferior);
        assert!(promoted >= 285, "{promoted} of 300 good ones were promoted within 5,000 requests");
        let refused = frequency(5, 0.05, 0.001, 20, Regressed);
        assert!(refused >= 285, "{refused} of 300 bad ones were rolled back within 1,000 requests");
    }
}
