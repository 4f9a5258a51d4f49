//! Quantiles of latency from a histogram, with bands that hold however often they are looked at.
//!
//! Howard and Ramdas (arXiv:1906.09712, section 3): for one quantile, a band follows from bounds on the share of answers up to its true value, since
//! these are Bernoulli. A histogram knows such shares at the limits of its buckets only, so the band ends at limits, rounded outwards. Let
//! the true quantile lie in bucket `i`. The share up to the limit of `i` is then at least `share`, and that up to the one before less. Only these
//! two statements must not be refuted wrongly, each gets half of the error, and every other bucket is nothing to be corrected for.

use crate::interval::interval;

/// Where a quantile lies, in the unit of the limits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Band {
    /// It is above this. Zero: nothing is known.
    pub above: f64,
    /// It is at most this. Infinite: nothing is known.
    pub at_most: f64,
}

/// Where the quantile of this `share` (0.99 for p99) lies, but for a probability of `error`. `limits` are the upper ends of the buckets
/// that `counts` are of; the last bucket has slower ones too.
pub fn band(limits: &[f64], counts: &[u64], share: f64, error: f64) -> Band {
    let total: f64 = counts.iter().map(|&count| count as f64).sum();
    let (mut above, mut at_most) = (0.0, f64::INFINITY);
    let mut up_to = 0.0;
    // Of the last bucket nothing is known but where it begins.
    for (&limit, &count) in limits.iter().zip(counts).take(counts.len().saturating_sub(1)) {
        up_to += count as f64;
        // Slow ones are few, which is what the interval is made for.
        let slower = interval(total, total - up_to, error / 2.0);
        if slower.lower > 1.0 - share {
            above = limit;
        }
        if slower.upper <= 1.0 - share {
            at_most = limit;
            break;
        }
    }
    Band { above, at_most }
}

/// The first limit that is no less than `threshold`, and how many answers took longer than that limit. `None` where only the last bucket
/// is as slow: nothing tells what is slower.
pub fn slower(limits: &[f64], counts: &[u64], threshold: f64) -> Option<(f64, u64)> {
    let known = limits.len().min(counts.len()).checked_sub(1)?;
    let bucket = limits[..known].iter().position(|&limit| limit >= threshold)?;
    let slow = counts[bucket + 1..].iter().fold(0u64, |sum, &count| sum.saturating_add(count));
    Some((limits[bucket], slow))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: [f64; 5] = [1.0, 2.0, 4.0, 8.0, 16.0];

    #[test]
    fn nothing_seen_is_nothing_known() {
        assert_eq!(band(&LIMITS, &[0; 5], 0.5, 0.01), Band { above: 0.0, at_most: f64::INFINITY });
        assert_eq!(band(&[], &[], 0.5, 0.01), Band { above: 0.0, at_most: f64::INFINITY });
    }

    #[test]
    fn many_answers_leave_the_bucket() {
        let counts = [4_000, 5_000, 900, 90, 10];
        assert_eq!(band(&LIMITS, &counts, 0.5, 0.01), Band { above: 1.0, at_most: 2.0 });
        assert_eq!(band(&LIMITS, &counts, 0.95, 0.01), Band { above: 2.0, at_most: 4.0 });
        let few = counts.map(|count| count / 100);
        assert_eq!(band(&LIMITS, &few, 0.95, 0.01), Band { above: 1.0, at_most: f64::INFINITY });
    }

    #[test]
    fn of_the_last_bucket_only_its_begin_is_known() {
        assert_eq!(band(&LIMITS, &[0, 0, 0, 0, 1_000], 0.5, 0.01), Band { above: 8.0, at_most: f64::INFINITY });
        assert_eq!(slower(&LIMITS, &[0, 0, 0, 0, 9], 12.0), None);
    }

    #[test]
    fn slow_ones_are_counted_from_the_next_limit_on() {
        assert_eq!(slower(&LIMITS, &[1, 2, 3, 4, 5], 2.0), Some((2.0, 12)));
        assert_eq!(slower(&LIMITS, &[1, 2, 3, 4, 5], 2.1), Some((4.0, 9)));
        assert_eq!(slower(&LIMITS, &[1, 2, 3, u64::MAX, 5], 1.0), Some((1.0, u64::MAX)));
        assert_eq!(slower(&LIMITS, &[], 1.0), None);
    }

    proptest! {
        #[test]
        fn a_band_has_the_bucket_where_the_quantile_was_seen(counts in prop::array::uniform5(0u64..10_000), share in 0.01f64..0.999) {
            let total: u64 = counts.iter().sum();
            prop_assume!(total > 0);
            let mut up_to = 0;
            let bucket = counts.iter().position(|count| { up_to += count; up_to as f64 >= share * total as f64 }).unwrap_or(4);
            let band = band(&LIMITS, &counts, share, 0.01);
            prop_assert!(band.above < LIMITS[bucket] && band.at_most >= LIMITS[bucket], "{band:?} {bucket}");
        }

        #[test]
        fn hostile_counts_make_no_trouble(counts in prop::array::uniform5(any::<u64>()), share: f64) {
            let band = band(&LIMITS, &counts, share, 0.01);
            prop_assert!(!band.above.is_nan() && !band.at_most.is_nan());
        }
    }
}
