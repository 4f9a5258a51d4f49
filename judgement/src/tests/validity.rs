//! Under the null the expectation of what a block multiplies the evidence by is at most one: summed exactly, for every pair of rates on a grid.

use proptest::prelude::*;

use crate::block::{Block, Side};
use crate::comparison::Comparison;
use crate::limit::Limit;
use crate::ratio::{Null, Ratio};

/// Rounding of some hundred additions.
const ROUNDING: f64 = 1e-9;

const RATES: [f64; 15] = [0.0, 1e-6, 1e-4, 1e-3, 0.005, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 0.9999, 1.0];

/// Pairs of rates of canary and stable for which the null holds, the boundary with them.
fn null_grid(null: Null, margin: f64) -> Vec<(f64, f64)> {
    let pairs = RATES.into_iter().flat_map(|q| {
        let boundary = std::iter::once(q + margin).filter(|p| *p <= 1.0);
        RATES.into_iter().chain(boundary).map(move |p| (p, q))
    });
    pairs
        .filter(|(p, q)| match null {
            Null::Worse => *p >= q + margin,
            Null::NotWorse => *p <= q + margin,
        })
        .collect()
}

/// The chance of `bad` among `requests`.
fn binomial(requests: u32, bad: u32, rate: f64) -> f64 {
    let ways = (0..bad).fold(1.0, |ways, i| ways * f64::from(requests - i) / f64::from(i + 1));
    ways * rate.powi(bad.cast_signed()) * (1.0 - rate).powi((requests - bad).cast_signed())
}

fn block((n, k): (u32, u32), (stable, f): (u32, u32)) -> Block {
    let side = |requests, bad| Side { requests: f64::from(requests), bad: f64::from(bad) };
    Block { canary: side(n, k), stable: side(stable, f) }
}

/// What all outcomes of a block of these sizes are worth, by bad requests of canary and stable.
fn values((n, stable): (u32, u32), value: impl Fn(&Block) -> f64) -> Vec<Vec<f64>> {
    (0..=n).map(|k| (0..=stable).map(|f| value(&block((n, k), (stable, f)))).collect()).collect()
}

/// The expectation of these.
fn expectation((n, stable): (u32, u32), (p, q): (f64, f64), values: &[Vec<f64>]) -> f64 {
    let of_stable: Vec<f64> = (0..=stable).map(|f| binomial(stable, f, q)).collect();
    let of_row = |row: &[f64]| -> f64 { row.iter().zip(&of_stable).map(|(value, chance)| value * chance).sum() };
    values.iter().zip(0..=n).map(|(row, k)| binomial(n, k, p) * of_row(row)).sum()
}

#[test]
fn the_ratio_of_a_block_is_fair_under_the_whole_null() {
    for null in [Null::Worse, Null::NotWorse] {
        for margin in [0.0001, 0.005, 0.1, 0.6] {
            for sizes in [(1, 0), (1, 1), (1, 9), (9, 1), (3, 40), (12, 12)] {
                for (p1, q1) in RATES.into_iter().flat_map(|p| RATES.map(|q| (p, q))) {
                    let Some(ratio) = Ratio::new(null, margin, (p1, q1), f64::from(sizes.0), f64::from(sizes.1)) else {
                        continue;
                    };
                    let values = values(sizes, |block| ratio.of(block).exp());
                    for rates in null_grid(null, margin) {
                        let mean = expectation(sizes, rates, &values);
                        assert!(
                            mean <= 1.0 + ROUNDING,
                            "{mean} for {null:?} {margin} {sizes:?} {rates:?} against {p1} {q1}"
                        );
                    }
                }
            }
        }
    }
}

/// The same for blocks of any size, whose expectation is a product of powers.
#[test]
fn it_is_fair_for_very_large_and_unequal_blocks() {
    for null in [Null::Worse, Null::NotWorse] {
        for margin in [0.0001, 0.005, 0.1] {
            for (n, stable) in [(1e3, 1e3), (1.0, 1e9), (1e9, 1.0), (1e6, 1e3), (1e12, 1e12)] {
                for (p1, q1) in RATES.into_iter().flat_map(|p| RATES.map(|q| (p, q))) {
                    let Some(ratio) = Ratio::new(null, margin, (p1, q1), n, stable) else { continue };
                    let one = |bad: bool, canary: bool| {
                        let side = Side { requests: 1.0, bad: f64::from(u8::from(bad)) };
                        let none = Side::default();
                        let block = if canary {
                            Block { canary: side, stable: none }
                        } else {
                            Block { canary: none, stable: side }
                        };
                        ratio.of(&block).exp_m1()
                    };
                    for (p, q) in null_grid(null, margin) {
                        let of_one =
                            |rate: f64, canary| (rate * one(true, canary) + (1.0 - rate) * one(false, canary)).ln_1p();
                        let log = n * of_one(p, true) + stable * of_one(q, false);
                        // What a double cannot tell from nothing, that many times.
                        assert!(
                            log <= (n + stable) * 1e-15 + ROUNDING,
                            "{log} for {null:?} {margin} {n} {stable} {p} {q} {p1} {q1}"
                        );
                    }
                }
            }
        }
    }
}

/// After any history, as far as one is reached here.
fn histories() -> Vec<Vec<Block>> {
    vec![
        vec![],
        vec![block((40, 0), (400, 0)); 30],
        vec![block((40, 2), (400, 20)); 30],
        vec![block((40, 20), (400, 0)); 2],
        vec![block((40, 0), (400, 300)); 3],
        [vec![block((40, 0), (400, 0)); 30], vec![block((40, 10), (400, 100)); 5]].concat(),
    ]
}

#[test]
fn both_e_processes_are_fair_after_any_history() {
    for history in histories() {
        for margin in [0.005, 0.2] {
            let mut before = Comparison::new(margin, 3);
            for block in &history {
                before.observe(block);
            }
            let after = |block: &Block| {
                let mut after = before.clone();
                after.observe(block);
                after
            };
            // Large enough to be closed at once.
            for sizes in [(32, 32), (40, 36)] {
                let good = values(sizes, |block| (after(block).for_good() - before.for_good()).exp());
                let bad = values(sizes, |block| (after(block).for_bad() - before.for_bad()).exp());
                for rates in null_grid(Null::Worse, margin) {
                    let mean = expectation(sizes, rates, &good);
                    assert!(mean <= 1.0 + ROUNDING, "{mean} for {rates:?} after {history:?}");
                }
                for rates in null_grid(Null::NotWorse, margin) {
                    let mean = expectation(sizes, rates, &bad);
                    assert!(mean <= 1.0 + ROUNDING, "{mean} for {rates:?} after {history:?}");
                }
            }
        }
    }
}

#[test]
fn both_e_processes_of_a_limit_are_fair() {
    for max in [0.001, 0.05, 0.5, 0.99] {
        let before = Limit::new(max, 2);
        for rate in RATES.into_iter().chain([max]) {
            let mean = |value: fn(&Limit) -> f64| -> f64 {
                let after = |k| {
                    let mut after = before.clone();
                    after.observe(&block((20, k), (0, 0)).canary);
                    (value(&after) - value(&before)).exp()
                };
                (0..=20).map(|k| binomial(20, k, rate) * after(k)).sum()
            };
            assert!(rate < max || mean(Limit::for_good) <= 1.0 + ROUNDING, "{rate} {max}");
            assert!(rate > max || mean(Limit::for_bad) <= 1.0 + ROUNDING, "{rate} {max}");
        }
    }
}

proptest! {
    /// Within a block rates may differ from request to request: only their averages must be as the null says.
    #[test]
    fn rates_may_change_within_a_block(
        canary in prop::collection::vec(0.0f64..1.0, 1..12),
        stable in prop::collection::vec(0.0f64..1.0, 1..30),
        alternative in (0.0f64..1.0, 0.0f64..1.0),
        margin in 0.0001f64..0.9,
    ) {
        let mean = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64;
        let null = if mean(&canary) >= mean(&stable) + margin { Null::Worse } else { Null::NotWorse };
        if let Some(ratio) = Ratio::new(null, margin, alternative, canary.len() as f64, stable.len() as f64) {
            let bad = Side { requests: 1.0, bad: 1.0 };
            let good = Side { requests: 1.0, bad: 0.0 };
            let none = Side::default();
            let of = |canary, stable| ratio.of(&Block { canary, stable }).exp();
            let product: f64 = canary.iter().map(|p| p * of(bad, none) + (1.0 - p) * of(good, none)).product::<f64>()
                * stable.iter().map(|q| q * of(none, bad) + (1.0 - q) * of(none, good)).product::<f64>();
            prop_assert!(product <= 1.0 + ROUNDING, "{product}");
        }
    }

    /// One more bad request of the canary in the last block never speaks for it, one of the running version never against it.
    #[test]
    fn bad_requests_speak_against_the_side_that_has_them(k in 0u32..60, f in 0u32..300, history in 0usize..6) {
        let mut before = Comparison::new(0.005, 1);
        for block in &histories()[history] {
            before.observe(block);
        }
        let after = |k, f| {
            let mut after = before.clone();
            after.observe(&block((60, k), (300, f)));
            (after.for_good(), after.for_bad())
        };
        let (seen, canary, stable) = (after(k, f), after((k + 1).min(60), f), after(k, (f + 1).min(300)));
        prop_assert!(canary.0 <= seen.0 + ROUNDING && canary.1 >= seen.1 - ROUNDING, "{seen:?} {canary:?}");
        prop_assert!(stable.0 >= seen.0 - ROUNDING && stable.1 <= seen.1 + ROUNDING, "{seen:?} {stable:?}");
    }

    #[test]
    fn whatever_is_counted_the_evidence_is_a_number(counts: [f64; 4], more: [u64; 4], margin: f64) {
        let mut comparison = Comparison::new(margin, 2);
        let mut limit = Limit::new(margin, 2);
        let [requests, bad, stable, stable_bad] = counts;
        let strange = Block { canary: Side { requests, bad }, stable: Side { requests: stable, bad: stable_bad } };
        let large = Block { canary: Side::counted(more[0], more[1]), stable: Side::counted(more[2], more[3]) };
        for block in [large, strange, large] {
            comparison.observe(&block);
            limit.observe(&block.canary);
            comparison.begin_step();
            limit.begin_step();
            for value in [comparison.for_good(), comparison.for_bad(), limit.for_good(), limit.for_bad()] {
                prop_assert!(!value.is_nan() && value > f64::NEG_INFINITY, "{value}");
            }
        }
    }
}
