//! What proxies counted of one side of one step: requests, failures and a histogram of latency.

/// How many buckets a histogram of latency has, as `GroupCounts` of the wire contract states it.
pub const BUCKETS: usize = 40;

/// Cumulative counts since the step began, summed over proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// All of them.
    pub requests: u64,
    /// Answered 5xx, with a failed gRPC status, or not at all.
    pub failures: u64,
    /// How many answers took at most [`bucket_limit`] of each bucket and longer than that of the one before; the last bucket also
    /// has all slower ones.
    pub latency: [u64; BUCKETS],
}

impl Default for Counts {
    fn default() -> Self {
        Self { requests: 0, failures: 0, latency: [0; BUCKETS] }
    }
}

/// The upper end of bucket `index`, in milliseconds: 0.25 ms times the square root of two for each bucket.
pub fn bucket_limit(index: usize) -> f64 {
    0.25 * (index as f64 / 2.0).exp2()
}

impl Counts {
    /// Adds what another proxy counted. Saturates: a sum that ran over must not look like little.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.failures = self.failures.saturating_add(other.failures);
        for (sum, count) in self.latency.iter_mut().zip(other.latency) {
            *sum = sum.saturating_add(count);
        }
    }

    /// What came since `before`.
    pub fn since(&self, before: &Self) -> Self {
        let mut since = Self {
            requests: self.requests.saturating_sub(before.requests),
            failures: self.failures.saturating_sub(before.failures),
            latency: self.latency,
        };
        for (count, before) in since.latency.iter_mut().zip(before.latency) {
            *count = count.saturating_sub(before);
        }
        since
    }

    /// The smallest bucket limit, in milliseconds, that at least `share` (0 to 1) of the answers kept. `None` without answers.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let total: u128 = self.latency.iter().map(|&count| u128::from(count)).sum();
        if total == 0 {
            return None;
        }
        let wanted = (total as f64 * share).ceil().max(1.0) as u128;
        let mut seen = 0;
        let bucket = self.latency.iter().position(|&count| {
            seen += u128::from(count);
            seen >= wanted
        });
        Some(bucket_limit(bucket.unwrap_or(BUCKETS - 1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(latency: &[(usize, u64)]) -> Counts {
        let mut counts = Counts::default();
        for &(bucket, count) in latency {
            counts.latency[bucket] = count;
        }
        counts
    }

    #[test]
    fn quantiles_are_the_limits_of_the_buckets_they_fall_into() {
        let counts = with(&[(2, 98), (4, 1), (10, 1)]);
        let milliseconds = |share| counts.quantile(share).unwrap();
        for (share, expected) in [(0.0, 0.5), (0.5, 0.5), (0.98, 0.5), (0.99, 1.0), (1.0, 8.0)] {
            assert!((milliseconds(share) - expected).abs() < 1e-9, "{share}: {}", milliseconds(share));
        }
    }

    #[test]
    fn nothing_answered_has_no_quantile() {
        assert_eq!(Counts { requests: 3, failures: 3, ..Counts::default() }.quantile(0.5), None);
    }

    #[test]
    fn buckets_grow_by_the_square_root_of_two() {
        assert!((bucket_limit(0) - 0.25).abs() < 1e-12);
        assert!((bucket_limit(2) - 0.5).abs() < 1e-12);
        assert!((bucket_limit(BUCKETS - 1) - 185_363.8).abs() < 0.1);
    }

    #[test]
    fn sums_saturate() {
        let mut sum = Counts { requests: u64::MAX - 1, ..with(&[(0, u64::MAX)]) };
        sum.add(&Counts { requests: 5, ..with(&[(0, 1), (1, u64::MAX)]) });
        assert_eq!(sum.requests, u64::MAX);
        assert!(sum.quantile(0.99).is_some());
    }
}
