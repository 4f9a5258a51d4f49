//! Judges a step of a release: is the new version worse than the running one, not worse, or is too little known?
//!
//! The evidence is gathered by `fairlead-judgement` and kept in the Canary's status: [`recall`] takes it up again, [`weigh`] adds what was counted
//! since, [`judge`] says what it allows to conclude, and [`keep`] writes it down. Why verdicts are right with the stated confidence is
//! derived in `docs/canary.md`.

use fairlead_crds::{ErrorLimits, Percent, VerdictResult};
use fairlead_judgement::{Criterion, Evidence, Interval, Tally, Verdict, interval};

use super::Fresh;
use super::counts::Counts;

/// The chance of a wrong promotion, and of a wrong rollback, over a whole release.
const ERROR: f64 = 0.01;

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

/// The evidence as it was kept, or none yet: at the begin of a release, where limits were changed, or where it was kept in a form
/// that is not read any more. `step` numbers the split.
pub fn recall(kept: Option<&str>, limits: &ErrorLimits, steps: usize, step: i64) -> Evidence {
    let criteria = criteria(limits);
    let kept = kept.and_then(|kept| serde_json::from_str::<Evidence>(kept).ok());
    kept.filter(|evidence| evidence.is_about(&criteria))
        .unwrap_or_else(|| Evidence::new(&criteria, u32::try_from(steps).unwrap_or(u32::MAX), step))
}

/// Takes what was counted since the last time.
pub fn weigh(evidence: &mut Evidence, limits: &ErrorLimits, step: i64, canary: &Fresh, stable: &Fresh) {
    let pair = |counts: &Counts| (counts.requests, counts.failures);
    let tally = Tally { canary: pair(&canary.counts), stable: pair(&stable.counts) };
    evidence.observe(step, canary.source, &vec![tally; criteria(limits).len()]);
}

/// For the next [`recall`].
pub fn keep(evidence: &Evidence) -> Option<String> {
    serde_json::to_string(evidence).ok()
}

/// Judges a step by the evidence; the counts of both sides are for people.
pub fn judge(evidence: &Evidence, canary: &Counts, stable: &Counts, limits: &ErrorLimits) -> Judgement {
    let verdict = evidence.verdict(ERROR);
    let (result, conclusion) = match verdict {
        Verdict::Regressed(criterion) => {
            let conclusion = match (criterion, limits.max) {
                (1, Some(max)) => format!("; more than the {max} % that may fail at most"),
                _ => format!("; worse by more than {} points", limits.margin),
            };
            (VerdictResult::Regressed, conclusion)
        }
        Verdict::NonInferior => (VerdictResult::NonInferior, String::new()),
        Verdict::Inconclusive => {
            let conclusion = match evidence.still_needed(ERROR) {
                Some(needed) => format!("; about {} more will tell", grouped(needed)),
                None => "; at these rates no number of requests tells on which side of the margin it is".to_owned(),
            };
            (VerdictResult::Inconclusive, conclusion)
        }
    };
    let reason = format!(
        "{} of {} requests failed; stable {} of {}{conclusion}",
        grouped(canary.failures),
        grouped(canary.requests),
        grouped(stable.failures),
        grouped(stable.requests),
    );
    // Together they hold with the confidence of the release.
    let rate = |counts: &Counts| interval(counts.requests as f64, counts.failures as f64, ERROR / 2.0);
    let evidence = format!("canary {}, stable {}", percent_range(rate(canary)), percent_range(rate(stable)));
    Judgement { result, evidence, reason }
}

/// In an order that [`judge`] relies on.
fn criteria(limits: &ErrorLimits) -> Vec<Criterion> {
    let max = limits.max.map(|max: Percent| Criterion::Max(max.fraction()));
    [Some(Criterion::Margin(limits.margin.fraction())), max].into_iter().flatten().collect()
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
    use proptest::prelude::*;

    use super::VerdictResult::{Inconclusive, NonInferior, Regressed};
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        Counts { requests, failures, ..Counts::default() }
    }

    fn limits(max: Option<f64>) -> ErrorLimits {
        ErrorLimits { max: max.map(|max| Percent::try_from(max).unwrap()), ..ErrorLimits::default() }
    }

    /// What is judged in the end of a step that is reported in equal parts, by an operator that begins anew each time.
    fn after(canary: (u64, u64), stable: (u64, u64), limits: &ErrorLimits) -> Judgement {
        const PARTS: u64 = 40;
        let part =
            |(requests, failures): (u64, u64), part: u64| counts(requests * part / PARTS, failures * part / PARTS);
        let mut kept = None;
        let mut evidence = recall(None, limits, 5, 7);
        for at in 1..=PARTS {
            evidence = recall(kept.as_deref(), limits, 5, 7);
            let fresh = |side| Fresh { source: 1, counts: part(side, at) };
            weigh(&mut evidence, limits, 7, &fresh(canary), &fresh(stable));
            kept = keep(&evidence);
        }
        judge(&evidence, &part(canary, PARTS), &part(stable, PARTS), limits)
    }

    #[test]
    fn nothing_is_concluded_from_nothing() {
        let judgement = after((0, 0), (0, 0), &limits(None));
        assert_eq!(judgement.result, Inconclusive);
        assert_eq!(judgement.evidence, "canary 0.00–100.00 %, stable 0.00–100.00 %");
        let reason = judgement.reason;
        assert!(reason.starts_with("0 of 0 requests failed; stable 0 of 0; about 1,"), "{reason}");
    }

    #[test]
    fn good_ones_pass_and_bad_ones_do_not() {
        let good = after((1_200, 0), (12_000, 0), &limits(None));
        assert_eq!(
            (good.result, good.reason.as_str()),
            (NonInferior, "0 of 1,200 requests failed; stable 0 of 12,000")
        );
        let bad = after((60, 40), (6_000, 0), &limits(None));
        assert_eq!(bad.result, Regressed);
        assert_eq!(bad.reason, "40 of 60 requests failed; stable 0 of 6,000; worse by more than 0.5 points");
    }

    #[test]
    fn the_limit_that_is_broken_is_named() {
        let judgement = after((1_000, 900), (0, 0), &limits(Some(5.0)));
        assert_eq!(judgement.result, Regressed);
        assert_eq!(
            judgement.reason,
            "900 of 1,000 requests failed; stable 0 of 0; more than the 5 % that may fail at most"
        );
        assert_eq!(after((1_000, 900), (0, 0), &limits(None)).result, Inconclusive);
    }

    #[test]
    fn at_the_margin_no_number_is_promised() {
        let judgement = after((10_000, 150), (10_000, 100), &limits(None));
        assert_eq!(judgement.result, Inconclusive);
        let reason = judgement.reason;
        assert!(reason.ends_with("no number of requests tells on which side of the margin it is"), "{reason}");
    }

    #[test]
    fn what_was_kept_is_gone_on_from_unless_limits_changed_or_it_is_nonsense() {
        let mut evidence = recall(None, &limits(None), 5, 7);
        let fresh = |counts| Fresh { source: 1, counts };
        weigh(&mut evidence, &limits(None), 7, &fresh(counts(100, 90)), &fresh(counts(100, 0)));
        let kept = keep(&evidence).unwrap();
        assert!(kept.len() < 16_384, "{} are more than the status has room for", kept.len());
        let recalled = |kept: &str, limits: &ErrorLimits| {
            judge(&recall(Some(kept), limits, 5, 7), &Counts::default(), &Counts::default(), limits).result
        };
        assert_eq!(recalled(&kept, &limits(None)), Regressed);
        assert_eq!(recalled(&kept, &limits(Some(5.0))), Inconclusive);
        assert_eq!(recalled("{", &limits(None)), Inconclusive);
    }

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (4_985, "4,985"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_proxies_report_never_breaks_it(a: u64, b: u64, c: u64, d: u64) {
            let limits = limits(Some(1.0));
            let mut evidence = recall(None, &limits, 20, 1);
            let fresh = |counts| Fresh { source: 1, counts };
            weigh(&mut evidence, &limits, 1, &fresh(counts(a, b)), &fresh(counts(c, d)));
            let judgement = judge(&evidence, &counts(a, b), &counts(c, d), &limits);
            prop_assert!(judgement.reason.len() < 512 && judgement.evidence.len() < 256);
        }
    }
}
