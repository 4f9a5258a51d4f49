//! Verdicts on releases.

use proptest::prelude::*;

use crate::{By, Criterion, Evidence, Tally, Verdict};

const ERROR: f64 = 0.01;
const MARGIN: Criterion = Criterion::Margin(0.005);

fn tally(canary: (u64, u64), stable: (u64, u64)) -> Tally {
    Tally { canary, stable }
}

/// One step, reported in equal parts.
fn after(criteria: &[Criterion], total: Tally, parts: u64) -> Evidence {
    let mut evidence = Evidence::new(criteria, 1, 0);
    for part in 1..=parts {
        let share = |count: u64| (u128::from(count) * u128::from(part) / u128::from(parts)) as u64;
        let pair = |(requests, bad)| (share(requests), share(bad));
        let tally = tally(pair(total.canary), pair(total.stable));
        evidence.observe(0, 1, By::All, &vec![tally; criteria.len()]);
    }
    evidence
}

fn verdict(canary: (u64, u64), stable: (u64, u64)) -> Verdict {
    after(&[MARGIN], tally(canary, stable), 50).verdict(ERROR, By::All)
}

/// The same but for the last digits, which JSON may lose.
fn near(a: &Evidence, b: &Evidence) {
    fn numbers(value: &serde_json::Value) -> Vec<f64> {
        match value {
            serde_json::Value::Number(number) => number.as_f64().into_iter().collect(),
            serde_json::Value::Array(values) => values.iter().flat_map(numbers).collect(),
            serde_json::Value::Object(values) => values.values().flat_map(numbers).collect(),
            other => panic!("{other} is not a number"),
        }
    }
    let (a, b) = (numbers(&serde_json::to_value(a).unwrap()), numbers(&serde_json::to_value(b).unwrap()));
    assert_eq!(a.len(), b.len());
    for (a, b) in a.into_iter().zip(b) {
        assert!((a - b).abs() <= 1e-9 * a.abs().max(1.0), "{a} {b}");
    }
}

#[test]
fn nothing_is_concluded_from_nothing() {
    let evidence = Evidence::new(&[MARGIN], 5, 0);
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::Inconclusive);
    let needed = evidence.still_needed(ERROR, By::All).unwrap();
    assert!((1_000..1_300).contains(&needed), "{needed}");
    assert_eq!(Evidence::new(&[], 5, 0).verdict(ERROR, By::All), Verdict::Inconclusive, "no criterion is no evidence");
}

#[test]
fn a_faultless_canary_passes_after_some_thousand_requests() {
    assert_eq!(verdict((920, 0), (92_000, 0)), Verdict::Inconclusive);
    assert_eq!(verdict((1_100, 0), (11_000, 0)), Verdict::NonInferior);
    assert_eq!(verdict((1_100, 0), (1_100, 0)), Verdict::NonInferior);
}

#[test]
fn a_broken_canary_is_found_within_a_few_requests() {
    assert_eq!(after(&[MARGIN], tally((8, 8), (800, 0)), 8).verdict(ERROR, By::All), Verdict::Regressed(0));
    assert_eq!(verdict((60, 18), (6_000, 6)), Verdict::Regressed(0));
}

#[test]
fn one_large_report_is_evidence_as_well() {
    assert_eq!(
        after(&[MARGIN], tally((10_000, 3_000), (10_000, 10)), 1).verdict(ERROR, By::All),
        Verdict::Regressed(0)
    );
    assert_eq!(after(&[MARGIN], tally((10_000, 0), (10_000, 0)), 1).verdict(ERROR, By::All), Verdict::NonInferior);
}

#[test]
fn a_failing_dependency_of_both_is_not_the_canarys_fault() {
    assert_eq!(verdict((1_000, 300), (10_000, 3_000)), Verdict::Inconclusive);
    let calm = tally((1_000, 0), (10_000, 0));
    let mut evidence = after(&[MARGIN], calm, 50);
    for burst in 1..=20 {
        evidence.observe(0, 1, By::All, &[tally((1_000 + burst * 20, burst * 4), (10_000 + burst * 200, burst * 40))]);
        assert_ne!(evidence.verdict(ERROR, By::All), Verdict::Regressed(0));
    }
}

#[test]
fn without_stable_traffic_the_margin_refuses_nothing_but_can_be_kept() {
    assert_eq!(verdict((3_000, 2_000), (0, 0)), Verdict::Inconclusive);
    assert_eq!(verdict((3_000, 0), (0, 0)), Verdict::NonInferior, "no running version does better than never failing");
    let both = [MARGIN, Criterion::Max(0.05)];
    assert_eq!(after(&both, tally((3_000, 2_000), (0, 0)), 50).verdict(ERROR, By::All), Verdict::Regressed(1));
}

#[test]
fn a_limit_refuses_what_is_no_worse_than_stable_and_must_itself_be_proved() {
    let bad_both = tally((10_000, 1_000), (100_000, 10_000));
    assert_eq!(after(&[MARGIN, Criterion::Max(0.05)], bad_both, 50).verdict(ERROR, By::All), Verdict::Regressed(1));
    let good = tally((1_200, 0), (10_000, 0));
    assert_eq!(after(&[MARGIN, Criterion::Max(0.001)], good, 50).verdict(ERROR, By::All), Verdict::Inconclusive);
    assert_eq!(after(&[MARGIN, Criterion::Max(0.05)], good, 50).verdict(ERROR, By::All), Verdict::NonInferior);
}

#[test]
fn evidence_against_is_kept_over_steps_and_evidence_for_is_not() {
    let mut evidence = Evidence::new(&[MARGIN], 5, 10);
    evidence.observe(10, 1, By::All, &[tally((1_200, 0), (12_000, 0))]);
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::NonInferior);
    evidence.observe(20, 1, By::All, &[Tally::default()]);
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::Inconclusive);
    // What is good at a small weight and bad at a larger one is found there.
    for part in 1..=10 {
        evidence.observe(20, 1, By::All, &[tally((part * 20, part * 10), (part * 200, 0))]);
    }
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::Regressed(0));
    evidence.observe(30, 1, By::All, &[Tally::default()]);
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::Regressed(0), "a proof stays one");
}

#[test]
fn a_canary_that_turns_bad_within_a_long_step_is_found() {
    let mut evidence = after(&[MARGIN], tally((20_000, 20), (20_000, 20)), 400);
    let needed = (1..200).find(|&more| {
        evidence.observe(0, 1, By::All, &[tally((20_000 + more, 20 + more), (20_000 + more, 20))]);
        evidence.verdict(ERROR, By::All) == Verdict::Regressed(0)
    });
    assert!(needed.is_some_and(|needed| needed <= 200), "{needed:?}");
}

#[test]
fn no_request_is_counted_twice() {
    let mut once = Evidence::new(&[MARGIN], 1, 0);
    let mut often = once.clone();
    for n in 1..100u64 {
        let tally = tally((n * 10, n / 10), (n * 90, n));
        once.observe(0, 1, By::All, &[tally]);
        for _ in 0..3 {
            often.observe(0, 1, By::All, &[tally]);
        }
    }
    assert_eq!(once, often);
}

#[test]
fn another_source_goes_on_from_what_it_knows() {
    let mut evidence = after(&[MARGIN], tally((500, 0), (5_000, 0)), 50);
    let before = evidence.clone();
    // It knows of fewer callers, or of more: neither is news.
    for (source, counted) in [(2, tally((300, 0), (4_000, 0))), (3, tally((900, 90), (9_000, 0)))] {
        assert!(!evidence.observe(0, source, By::All, &[counted]));
        assert_eq!(evidence.verdict(ERROR, By::All), before.verdict(ERROR, By::All));
    }
    assert!(evidence.observe(0, 3, By::All, &[tally((1_000, 190), (10_000, 0))]));
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::Regressed(0));
    // Of a step that nobody took anything of all is news.
    let mut next = before.clone();
    assert!(next.observe(1, 2, By::All, &[tally((300, 200), (3_000, 0))]));
    assert_eq!(next.verdict(ERROR, By::All), Verdict::Regressed(0));
}

#[test]
fn a_restart_changes_nothing() {
    let criteria = [MARGIN, Criterion::Max(0.02)];
    let mut whole = Evidence::new(&criteria, 3, 5);
    let mut interrupted = whole.clone();
    for n in 1..200u64 {
        let tally = tally((n * 3, n / 40), (n * 20, n / 10));
        whole.observe(5, 1, By::All, &[tally; 2]);
        interrupted = serde_json::from_str(&serde_json::to_string(&interrupted).unwrap()).unwrap();
        interrupted.observe(5, 1, By::All, &[tally; 2]);
    }
    near(&whole, &interrupted);
    assert!(whole.is_about(&criteria) && !whole.is_about(&criteria[..1]));
    let size = serde_json::to_string(&whole).unwrap().len();
    assert!(size < 3_000, "{size} bytes in an object's status");
}

#[test]
fn the_estimate_is_what_it_takes() {
    let at = |canary: u64| after(&[MARGIN], tally((canary, canary / 400), (canary * 10, canary / 50)), 50);
    let evidence = at(400);
    assert_eq!(evidence.verdict(ERROR, By::All), Verdict::Inconclusive);
    let needed = evidence.still_needed(ERROR, By::All).unwrap();
    assert_eq!(at(400 + needed * 5 / 4).verdict(ERROR, By::All), Verdict::NonInferior, "{needed} more");
    assert_eq!(at(400 + needed * 3 / 4).verdict(ERROR, By::All), Verdict::Inconclusive, "{needed} more");
}

#[test]
fn at_the_margin_no_number_is_promised() {
    assert_eq!(after(&[MARGIN], tally((10_000, 150), (10_000, 100)), 50).still_needed(ERROR, By::All), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_proxies_report_never_breaks_it(reports in prop::collection::vec(any::<[u64; 5]>(), 1..6), error: f64) {
        let mut evidence = Evidence::new(&[MARGIN, Criterion::Max(0.01), Criterion::Margin(1.0)], 3, 0);
        for [a, b, c, d, step] in reports {
            evidence.observe((step % 3).cast_signed(), 1, By::All, &[tally((a, b), (c, d)), tally((b, a), (d, c)), tally((a, c), (b, d))]);
            let _ = evidence.verdict(error, By::All);
            near(&serde_json::from_str(&serde_json::to_string(&evidence).unwrap()).unwrap(), &evidence);
        }
        let _ = evidence.still_needed(ERROR, By::All);
    }
}

#[test]
fn without_a_counterpart_limits_alone_judge() {
    let both = [MARGIN, Criterion::Max(0.05)];
    let judged = |canary| {
        let mut evidence = Evidence::new(&both, 3, 0);
        for part in 1..=50 {
            let (requests, bad): (u64, u64) = canary;
            evidence.observe(0, 1, By::Limits, &[tally((requests * part / 50, bad * part / 50), (0, 0)); 2]);
        }
        evidence
    };
    // Three in a hundred fail: far more than the margin above what fails never, and less than the limit.
    let good = judged((3_000, 90));
    assert_eq!(good.verdict(ERROR, By::Limits), Verdict::NonInferior);
    assert_eq!(good.verdict(ERROR, By::All), Verdict::Inconclusive, "the comparison was told nothing");
    assert_eq!(good.weakest(By::All), Some(0));
    assert_eq!(good.weakest(By::Limits), Some(1));
    assert_eq!(judged((100, 60)).verdict(ERROR, By::Limits), Verdict::Regressed(1));
    assert!(judged((20, 0)).still_needed(ERROR, By::Limits).is_some());
    assert_eq!(Evidence::new(&[MARGIN], 3, 0).verdict(ERROR, By::Limits), Verdict::Inconclusive);
    // The next step is compared again, and what was counted before it says nothing of that.
    let mut next = good.clone();
    next.observe(9, 1, By::All, &[tally((1_200, 0), (12_000, 0)); 2]);
    assert_eq!(next.verdict(ERROR, By::All), Verdict::NonInferior);
}
