//! What near endpoints get, and what goes on to those that are farther away.

/// All of the requests.
pub const WHOLE: u64 = 1 << 32;

/// Endpoints that are equally far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Level {
    /// Those that take part.
    pub healthy: u32,
    /// All that there are, with those that are not ready.
    pub all: u32,
}

/// The part of [`WHOLE`] that each level gets, the nearest first.
///
/// A level of which at least `min_healthy` (millionths) is well takes all that comes to it, one of which half as much is well takes half; the
/// rest goes on to the next. Where all of them together cannot take everything, each gets more in the same proportion. With nobody well nobody
/// gets anything; who uses all endpoints then does so on purpose.
pub fn shares(levels: &[Level], min_healthy: u32) -> Vec<u64> {
    let mut left = WHOLE;
    let mut shares: Vec<u64> = levels
        .iter()
        .map(|level| {
            let share = strength(*level, min_healthy).min(left);
            left -= share;
            share
        })
        .collect();
    let taken = WHOLE - left;
    if left > 0 && taken > 0 {
        for share in &mut shares {
            *share = (u128::from(*share) * u128::from(WHOLE) / u128::from(taken)) as u64;
        }
        // What rounding left over: less than one for each level.
        let rest = WHOLE - shares.iter().sum::<u64>();
        if let Some(first) = shares.iter_mut().find(|share| **share > 0) {
            *first += rest;
        }
    }
    shares
}

/// What a level can take of all requests.
fn strength(Level { healthy, all }: Level, min_healthy: u32) -> u64 {
    let needed = u128::from(all.max(healthy)) * u128::from(min_healthy.max(1));
    let there = u128::from(healthy) * 1_000_000;
    match needed {
        0 => 0,
        _ => (u128::from(WHOLE) * there / needed).min(u128::from(WHOLE)) as u64,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(levels: &[(u32, u32)], min_healthy: u32) -> Vec<u64> {
        let levels: Vec<_> = levels.iter().map(|&(healthy, all)| Level { healthy, all }).collect();
        shares(&levels, min_healthy * 10_000).iter().map(|share| (share * 1000 / WHOLE).div_ceil(10)).collect()
    }

    #[test]
    fn what_is_said_with_numbers() {
        for (levels, expected) in [
            // Three of ten may be missing.
            (&[(10, 10), (10, 10)][..], &[100, 0][..]),
            (&[(7, 10), (10, 10)], &[100, 0]),
            // Half of what is needed: half.
            (&[(7, 20), (10, 10)], &[50, 50]),
            (&[(0, 10), (10, 10)], &[0, 100]),
            // The second has to help the first, and the third the second.
            (&[(7, 20), (7, 40), (5, 5)], &[50, 25, 25]),
            // All are weak: what there is carries all.
            (&[(7, 40), (7, 40)], &[50, 50]),
            (&[(1, 10)], &[100]),
            (&[(0, 10), (0, 10)], &[0, 0]),
            (&[], &[]),
            (&[(0, 0), (1, 1)], &[0, 100]),
        ] {
            assert_eq!(percent(levels, 70), expected, "{levels:?}");
        }
        assert_eq!(percent(&[(9, 10), (10, 10)], 100), [90, 10]);
    }

    fn levels() -> impl Strategy<Value = Vec<Level>> {
        let level = (0_u32..2000, 0_u32..2000).prop_map(|(a, b)| Level { healthy: a.min(b), all: a.max(b) });
        prop::collection::vec(level, 0..6)
    }

    proptest! {
        #[test]
        fn shares_add_up_unless_nobody_is_well(levels in levels(), min in 1_u32..=1_000_000) {
            let shares = shares(&levels, min);
            let somebody = levels.iter().any(|level| level.healthy > 0);
            prop_assert_eq!(shares.iter().sum::<u64>(), if somebody { WHOLE } else { 0 });
            for (level, share) in levels.iter().zip(&shares) {
                prop_assert!(level.healthy > 0 || *share == 0, "nothing goes where nobody is well");
            }
        }

        #[test]
        fn all_stays_near_while_enough_are_well(mut levels in levels(), min in 1_u32..=1_000_000, all in 1_u32..2000) {
            let healthy = (u64::from(all) * u64::from(min)).div_ceil(1_000_000) as u32;
            levels.insert(0, Level { healthy, all });
            let shares = shares(&levels, min);
            prop_assert_eq!(shares[0], WHOLE);
        }

        #[test]
        fn what_goes_on_is_what_is_missing(all in 1_u32..2000, healthy in 0_u32..2000, min in 1_u32..=1_000_000, far in 1_u32..2000) {
            let healthy = healthy.min(all);
            let shares = shares(&[Level { healthy, all }, Level { healthy: far, all: far }], min);
            let expected = (f64::from(healthy) / f64::from(all) / (f64::from(min) / 1e6)).min(1.0);
            prop_assert!((shares[0] as f64 / WHOLE as f64 - expected).abs() < 1e-6, "{} for {expected}", shares[0]);
        }

        #[test]
        fn one_more_that_is_well_takes_nothing_from_its_level(levels in levels(), at in any::<prop::sample::Index>(), min in 1_u32..=1_000_000) {
            prop_assume!(!levels.is_empty());
            let at = at.index(levels.len());
            prop_assume!(levels[at].healthy < levels[at].all);
            let before = shares(&levels, min);
            let mut better = levels.clone();
            better[at].healthy += 1;
            // Rounding alone.
            prop_assert!(shares(&better, min)[at] + 8 >= before[at]);
        }
    }
}
