//! Judges a step of a release: is the new version worse than the running one, not worse, or is too little known?
//!
//! The evidence is gathered by `fairlead-judgement` and kept in the Canary's status: [`recall`] takes it up again, [`weigh`] adds what was counted
//! since, [`judge`] says what it allows to conclude, and [`keep`] writes it down. Why verdicts are right with the stated confidence is
//! derived in `docs/canary.md`.

use std::fmt::Write as _;
use std::time::Duration;

use fairlead_crds::{Analysis, ErrorLimits, LatencyLimits, Percent, VerdictResult};
pub use fairlead_judgement::By;
use fairlead_judgement::{Criterion, Evidence, Interval, Tally, Verdict, band, interval};
use serde::{Deserialize, Serialize};

use super::Fresh;
use super::counts::{BUCKETS, Counts, bucket_limit};

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

/// Whether an analysis has limits that need nothing to compare with.
pub fn has_limits(analysis: &Analysis) -> bool {
    rules(analysis).iter().any(|rule| matches!(rule.criterion, Criterion::Max(_)))
}

/// One limit of an analysis.
struct Rule {
    criterion: Criterion,
    bad: Bad,
    /// What follows from its being broken, to follow a semicolon.
    broken: String,
}

/// Which requests are bad.
#[derive(Clone, Copy)]
enum Bad {
    Failed,
    /// Those of later buckets than this one.
    Slow(usize),
}

impl Bad {
    /// Of how many so many.
    fn of(self, counts: &Counts) -> (u64, u64) {
        match self {
            Self::Failed => (counts.requests, counts.failures),
            Self::Slow(bucket) => {
                let sum = |buckets: &[u64]| buckets.iter().fold(0, |sum: u64, count| sum.saturating_add(*count));
                (sum(&counts.latency), sum(&counts.latency[bucket + 1..]))
            }
        }
    }
}

/// The bucket whose limit is the first that is no less; of the last one nobody knows how slow it is.
fn bucket_of(threshold: Duration) -> usize {
    let milliseconds = threshold.as_secs_f64() * 1000.0;
    (0..BUCKETS - 2).find(|bucket| bucket_limit(*bucket) >= milliseconds).unwrap_or(BUCKETS - 2)
}

/// All limits of an analysis.
fn rules(analysis: &Analysis) -> Vec<Rule> {
    let margin = |margin: Percent, bad| Rule {
        criterion: Criterion::Margin(margin.fraction()),
        bad,
        broken: format!("worse by more than {margin} points"),
    };
    let max = |max: Percent, bad| Rule {
        criterion: Criterion::Max(max.fraction()),
        bad,
        broken: match bad {
            Bad::Failed => format!("more than the {max} % that may fail at most"),
            Bad::Slow(_) => format!("more than the {max} % that may be slow at most"),
        },
    };
    let errors = &analysis.errors;
    let mut rules = vec![margin(errors.margin, Bad::Failed)];
    rules.extend(errors.max.map(|limit| max(limit, Bad::Failed)));
    if let Some(latency) = &analysis.latency {
        let slow = Bad::Slow(bucket_of(latency.threshold.as_std()));
        rules.push(margin(latency.margin, slow));
        rules.extend(latency.max.map(|limit| max(limit, slow)));
        rules.extend(latency.quantiles.iter().map(|limit| Rule {
            criterion: Criterion::Max(1.0 - limit.quantile.fraction()),
            bad: Bad::Slow(bucket_of(limit.at_most.as_std())),
            broken: format!("p{} is above that", limit.quantile),
        }));
    }
    rules
}

/// What evidence depends on. How much of it is enough, and how long it may take, does not matter to it.
#[derive(Deserialize, Serialize, PartialEq)]
struct About {
    errors: ErrorLimits,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latency: Option<LatencyLimits>,
}

/// As it lies in the status. Evidence on other limits is none.
#[derive(Deserialize, Serialize)]
struct Kept<E> {
    about: About,
    evidence: E,
}

/// The evidence as it was kept, or none yet: at the begin of a release, and where limits were changed or it was kept in a form that is not read any
/// more; then nothing that was counted before is judged by the new limits. `step` numbers the split.
pub fn recall(kept: Option<&str>, analysis: &Analysis, steps: usize, step: i64) -> Evidence {
    let criteria: Vec<_> = rules(analysis).iter().map(|rule| rule.criterion).collect();
    let anew = || Evidence::new(&criteria, u32::try_from(steps).unwrap_or(u32::MAX), step);
    let Some(kept) = kept else { return anew() };
    let kept = serde_json::from_str::<Kept<Evidence>>(kept).ok();
    kept.filter(|kept| kept.about == about(analysis) && kept.evidence.is_about(&criteria))
        .map_or_else(|| anew().amid(), |kept| kept.evidence)
}

fn about(analysis: &Analysis) -> About {
    About { errors: analysis.errors.clone(), latency: analysis.latency.clone() }
}

/// Takes what was counted since the last time.
pub fn weigh(evidence: &mut Evidence, analysis: &Analysis, by: By, step: i64, canary: &Fresh, stable: &Fresh) {
    let tally = |rule: &Rule| Tally { canary: rule.bad.of(&canary.counts), stable: rule.bad.of(&stable.counts) };
    let tallies: Vec<_> = rules(analysis).iter().map(tally).collect();
    evidence.observe(step, canary.source, by, &tallies);
}

/// For the next [`recall`].
pub fn keep(evidence: &Evidence, analysis: &Analysis) -> Option<String> {
    serde_json::to_string(&Kept { about: about(analysis), evidence }).ok()
}

/// Judges a step by the evidence; the counts of both sides are for people.
pub fn judge(evidence: &Evidence, by: By, canary: &Counts, stable: &Counts, analysis: &Analysis) -> Judgement {
    let error = 1.0 - analysis.confidence.fraction();
    let rules = rules(analysis);
    let compared = |bad| compared(bad, by, canary, stable);
    let mut reason = compared(Bad::Failed);
    // What is slow by the threshold; a quantile is told only where it is what decides.
    if let Some(slow) = rules.iter().map(|rule| rule.bad).find(|bad| matches!(bad, Bad::Slow(_))) {
        let _ = write!(reason, ", {}", compared(slow));
    }
    let result = match evidence.verdict(error, by) {
        Verdict::Regressed(index) => {
            if let Some(rule) = rules.get(index) {
                reason = format!("{}; {}", compared(rule.bad), rule.broken);
            }
            VerdictResult::Regressed
        }
        Verdict::NonInferior => VerdictResult::NonInferior,
        Verdict::Inconclusive => {
            // With several limits, which one is open is not plain.
            let open = evidence.weakest(by).and_then(|index| rules.get(index)).filter(|_| rules.len() > 1);
            let about = open.map(|rule| format!(" whether it is {}", rule.broken)).unwrap_or_default();
            match evidence.still_needed(error, by) {
                Some(needed) => {
                    let _ = write!(reason, "; about {} more will tell{about}", grouped(needed));
                }
                None => {
                    let _ = write!(
                        reason,
                        "; at these rates no number of requests tells{}",
                        if about.is_empty() { " on which side of the margin it is" } else { &about }
                    );
                }
            }
            VerdictResult::Inconclusive
        }
    };
    Judgement { result, evidence: ranges(by, canary, stable, error), reason }
}

/// `3 of 400 requests failed`.
pub fn seen(canary: &Counts) -> String {
    compared(Bad::Failed, By::Limits, canary, &Counts::default())
}

/// Where the shares of failed requests lie, and the p99, which all hold together with the confidence of the release.
fn ranges(by: By, canary: &Counts, stable: &Counts, error: f64) -> String {
    let sides = match by {
        By::All => vec![("canary", canary), ("stable", stable)],
        By::Limits => vec![("canary", canary)],
    };
    let each = error / (2 * sides.len()) as f64;
    let rates = sides.iter().map(|(name, counts)| {
        format!("{name} {}", percent_range(interval(counts.requests as f64, counts.failures as f64, each)))
    });
    let mut text = rates.collect::<Vec<_>>().join(", ");
    let limits: Vec<f64> = (0..BUCKETS).map(bucket_limit).collect();
    let bands: Vec<_> = sides.iter().map(|(name, counts)| (name, band(&limits, &counts.latency, 0.99, each))).collect();
    // Before there are some hundred answers nothing is known of where so rare ones lie.
    if bands.iter().all(|(_, band)| band.at_most.is_finite()) {
        let bands = bands.iter().map(|(name, band)| format!("{name} {}", range(band.above, band.at_most)));
        let _ = write!(text, "; p99 {}", bands.collect::<Vec<_>>().join(", "));
    }
    text
}

/// `11–16 ms`.
fn range(above: f64, at_most: f64) -> String {
    let at_most = milliseconds(at_most);
    if above > 0.0 {
        format!("{}–{at_most}", milliseconds(above).trim_end_matches(" ms"))
    } else {
        format!("≤ {at_most}")
    }
}

/// `3 of 400 requests failed; stable 0 of 4,000`.
fn compared(bad: Bad, by: By, canary: &Counts, stable: &Counts) -> String {
    let ((all, of_them), (all_stable, of_stable)) = (bad.of(canary), bad.of(stable));
    let what = match bad {
        Bad::Failed => "requests failed".to_owned(),
        Bad::Slow(bucket) => format!("answers took more than {}", milliseconds(bucket_limit(bucket))),
    };
    let mut text = format!("{} of {} {what}", grouped(of_them), grouped(all));
    if by == By::All {
        let _ = write!(text, "; stable {} of {}", grouped(of_stable), grouped(all_stable));
    }
    text
}

/// `0.71 ms`, `362 ms`.
fn milliseconds(value: f64) -> String {
    if value < 10.0 { format!("{value:.2} ms") } else { format!("{value:.0} ms") }
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
    use fairlead_crds::QuantileLimit;
    use proptest::prelude::*;

    use super::VerdictResult::{Inconclusive, NonInferior, Regressed};
    use super::*;

    fn counts(requests: u64, failures: u64) -> Counts {
        Counts { requests, failures, ..Counts::default() }
    }

    fn limits(max: Option<f64>) -> Analysis {
        let errors = ErrorLimits { max: max.map(|max| Percent::try_from(max).unwrap()), ..ErrorLimits::default() };
        Analysis { errors, ..Analysis::default() }
    }

    fn percent(value: f64) -> Percent {
        Percent::try_from(value).unwrap()
    }

    /// The most that can be asked.
    fn with_latency() -> Analysis {
        let quantile =
            |quantile, at_most: &str| QuantileLimit { quantile: percent(quantile), at_most: at_most.parse().unwrap() };
        let latency = LatencyLimits {
            threshold: "250ms".parse().unwrap(),
            margin: percent(1.0),
            max: Some(percent(10.0)),
            quantiles: vec![
                quantile(50.0, "90ms"),
                quantile(90.0, "300ms"),
                quantile(99.0, "1s"),
                quantile(99.9, "2s"),
            ],
        };
        Analysis { latency: Some(latency), ..limits(Some(5.0)) }
    }

    /// What is judged in the end of a step that is reported in equal parts, by an operator that begins anew each time.
    fn after(canary: (u64, u64), stable: (u64, u64), limits: &Analysis) -> Judgement {
        const PARTS: u64 = 40;
        let part =
            |(requests, failures): (u64, u64), part: u64| counts(requests * part / PARTS, failures * part / PARTS);
        let mut kept = None;
        let mut evidence = recall(None, limits, 5, 7);
        for at in 1..=PARTS {
            evidence = recall(kept.as_deref(), limits, 5, 7);
            let fresh = |side| Fresh { source: 1, counts: part(side, at) };
            weigh(&mut evidence, limits, By::All, 7, &fresh(canary), &fresh(stable));
            kept = keep(&evidence, limits);
        }
        judge(&evidence, By::All, &part(canary, PARTS), &part(stable, PARTS), limits)
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
        weigh(&mut evidence, &limits(None), By::All, 7, &fresh(counts(100, 90)), &fresh(counts(100, 0)));
        let kept = keep(&evidence, &limits(None)).unwrap();
        assert!(kept.len() < 16_384, "{} are more than the status has room for", kept.len());
        let recalled = |kept: &str, limits: &Analysis| {
            judge(&recall(Some(kept), limits, 5, 7), By::All, &Counts::default(), &Counts::default(), limits).result
        };
        assert_eq!(recalled(&kept, &limits(None)), Regressed);
        assert_eq!(recalled(&kept, &limits(Some(5.0))), Inconclusive);
        assert_eq!(recalled("{", &limits(None)), Inconclusive);
    }

    /// A step of 4,000 and 40,000 requests of which these shares are slow.
    fn slow(canary: f64, stable: f64, limits: &Analysis) -> Judgement {
        let side = |requests: u64, share: f64, part: u64| {
            let requests = requests * part / 40;
            let slow = (requests as f64 * share) as u64;
            let mut counts = Counts { requests, ..Counts::default() };
            (counts.latency[10], counts.latency[22]) = (requests - slow, slow);
            counts
        };
        let mut evidence = recall(None, limits, 5, 7);
        let sides = |part| (side(4_000, canary, part), side(40_000, stable, part));
        for part in 1..=40 {
            let (canary, stable) = sides(part);
            let fresh = |counts| Fresh { source: 1, counts };
            weigh(&mut evidence, limits, By::All, 7, &fresh(canary), &fresh(stable));
        }
        let (canary, stable) = sides(40);
        judge(&evidence, By::All, &canary, &stable, limits)
    }

    #[test]
    fn a_slow_version_is_found_and_the_limit_that_it_broke_is_named() {
        let threshold = |max: Option<f64>, quantiles: &[(f64, &str)]| {
            let quantiles = quantiles.iter().map(|(quantile, at_most)| QuantileLimit {
                quantile: percent(*quantile),
                at_most: at_most.parse().unwrap(),
            });
            let latency = LatencyLimits {
                threshold: "250ms".parse().unwrap(),
                margin: percent(1.0),
                max: max.map(percent),
                quantiles: quantiles.collect(),
            };
            Analysis { latency: Some(latency), ..Analysis::default() }
        };
        let by_margin = slow(0.05, 0.01, &threshold(None, &[]));
        assert_eq!(by_margin.result, Regressed);
        assert_eq!(
            by_margin.reason,
            "200 of 4,000 answers took more than 256 ms; stable 400 of 40,000; worse by more than 1 points"
        );
        let good = slow(0.01, 0.01, &threshold(None, &[]));
        assert_eq!(good.result, NonInferior);
        assert_eq!(
            good.reason,
            "0 of 4,000 requests failed; stable 0 of 40,000, 40 of 4,000 answers took more than 256 ms; stable 400 of 40,000"
        );
        let by_max = slow(0.2, 0.2, &threshold(Some(10.0), &[]));
        assert_eq!(by_max.result, Regressed);
        assert!(by_max.reason.ends_with("; more than the 10 % that may be slow at most"), "{}", by_max.reason);
        let by_quantile = slow(0.2, 0.2, &threshold(None, &[(90.0, "300ms")]));
        assert_eq!(by_quantile.result, Regressed);
        assert_eq!(
            by_quantile.reason,
            "800 of 4,000 answers took more than 362 ms; stable 8,000 of 40,000; p90 is above that"
        );
        // Without limits nothing of it is judged.
        assert_eq!(slow(0.5, 0.01, &Analysis::default()).result, NonInferior);
    }

    #[test]
    fn less_confidence_takes_fewer_requests() {
        let bold = Analysis { confidence: percent(90.0), ..Analysis::default() };
        assert_eq!(after((700, 0), (7_000, 0), &bold).result, NonInferior);
        assert_eq!(after((700, 0), (7_000, 0), &Analysis::default()).result, Inconclusive);
    }

    #[test]
    fn another_threshold_begins_anew() {
        let (before, mut after) = (with_latency(), with_latency());
        after.latency.as_mut().unwrap().threshold = "260ms".parse().unwrap();
        let mut evidence = recall(None, &before, 5, 7);
        let fresh = |counts| Fresh { source: 1, counts };
        weigh(&mut evidence, &before, By::All, 7, &fresh(counts(100, 90)), &fresh(counts(100, 0)));
        let kept = keep(&evidence, &before).unwrap();
        assert!(kept.len() < 16_384, "{} are more than the status has room for", kept.len());
        assert_eq!(recall(Some(&kept), &before, 5, 7), evidence);
        // What was counted before the change was looked at already, and is not judged by it.
        let mut anew = recall(Some(&kept), &after, 5, 7);
        weigh(&mut anew, &after, By::All, 7, &fresh(counts(100, 90)), &fresh(counts(100, 0)));
        assert_eq!(judge(&anew, By::All, &counts(100, 90), &counts(100, 0), &after).result, Inconclusive);
        // More confidence is wanted of the same evidence.
        let bolder = Analysis { confidence: percent(99.9), ..before.clone() };
        assert_eq!(recall(Some(&kept), &bolder, 5, 7), evidence);
        let patient = Analysis { step_deadline: "2h".parse().unwrap(), ..before.clone() };
        assert_eq!(recall(Some(&kept), &patient, 5, 7), evidence);
    }

    #[test]
    fn thresholds_are_limits_of_buckets() {
        for (threshold, limit) in
            [("1ms", 1.0), ("250ms", 256.0), ("256ms", 256.0), ("300ms", 362.04), ("2m", 131_072.0)]
        {
            let bucket = bucket_of(threshold.parse::<fairlead_crds::Duration>().unwrap().as_std());
            assert!((bucket_limit(bucket) - limit).abs() < 0.01, "{threshold}: {}", bucket_limit(bucket));
        }
        assert_eq!(bucket_of(Duration::MAX), BUCKETS - 2);
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
        fn whatever_the_limits_are_what_was_kept_is_gone_on_from(margin in 0.01f64..100.0, quantile in 1.0f64..99.99) {
            let mut analysis = with_latency();
            analysis.errors.margin = percent(margin);
            analysis.latency.as_mut().unwrap().quantiles[0].quantile = percent(quantile);
            let mut evidence = recall(None, &analysis, 5, 7);
            let fresh = |counts| Fresh { source: 1, counts };
            weigh(&mut evidence, &analysis, By::All, 7, &fresh(counts(100, 9)), &fresh(counts(1_000, 3)));
            prop_assert_eq!(recall(keep(&evidence, &analysis).as_deref(), &analysis, 5, 7), evidence);
        }

        #[test]
        fn what_proxies_report_never_breaks_it(a: u64, b: u64, c: u64, d: u64) {
            let limits = with_latency();
            let mut evidence = recall(None, &limits, 20, 1);
            let fresh = |counts| Fresh { source: 1, counts };
            weigh(&mut evidence, &limits, By::All, 1, &fresh(counts(a, b)), &fresh(counts(c, d)));
            let judgement = judge(&evidence, By::All, &counts(a, b), &counts(c, d), &limits);
            prop_assert!(judgement.reason.len() < 512 && judgement.evidence.len() < 256);
        }
    }
}
