//! Latencies in buckets whose width grows with the value: quantiles within 2 %, in a fixed 12 KiB.

use std::time::Duration;

/// Buckets for each power of two.
const SUB: usize = 64;
/// Powers of two: values to 2^29 µs, about nine minutes; the largest bucket takes what is beyond.
const POWERS: usize = 24;

/// Counts of latencies, in microseconds.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    max: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: vec![0; SUB * POWERS].into_boxed_slice(), total: 0, max: Duration::ZERO }
    }
}

impl Histogram {
    /// Counts one latency.
    pub fn record(&mut self, latency: Duration) {
        let bucket = bucket(latency.as_micros()).min(self.counts.len() - 1);
        self.counts[bucket] += 1;
        self.total += 1;
        self.max = self.max.max(latency);
    }

    /// The latency that this share (0 to 1) of all did not exceed; `None` if none was counted.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.total == 0 {
            return None;
        }
        let rank = ((share * self.total as f64).ceil() as u64).clamp(1, self.total);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank && bucket + 1 < self.counts.len() {
                return Some(Duration::from_micros(upper(bucket)).min(self.max));
            }
        }
        Some(self.max)
    }

    /// The largest latency; `None` if none was counted.
    pub fn max(&self) -> Option<Duration> {
        (self.total > 0).then_some(self.max)
    }
}

/// Values below [`SUB`] have buckets of their own; above, the first six bits after the leading one choose.
fn bucket(micros: u128) -> usize {
    let micros = u64::try_from(micros).unwrap_or(u64::MAX);
    if micros < SUB as u64 {
        return micros as usize;
    }
    let power = micros.ilog2() - SUB.ilog2();
    let position = (micros >> power) as usize - SUB;
    SUB * (power as usize + 1) + position
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let power = bucket / SUB - 1;
    let position = bucket % SUB;
    ((SUB + position + 1) as u64) * (1 << power) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_lies_in_its_bucket() {
        for micros in (0..10_000).chain([65_535, 65_536, 1_000_000, 400_000_000]) {
            let bucket = bucket(micros);
            let (below, top) = (bucket.checked_sub(1).map(upper), upper(bucket));
            let micros = u64::try_from(micros).unwrap();
            assert!(micros <= top && below.is_none_or(|below| below < micros), "{micros} in bucket {bucket}");
            assert!(top - micros <= micros / 64 + 1, "{micros} is told as {top}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for millis in 1..=100 {
            histogram.record(Duration::from_millis(millis));
        }
        let millis = |share| histogram.quantile(share).unwrap().as_secs_f64() * 1000.0;
        assert!((millis(0.50) - 50.0).abs() < 1.0, "{}", millis(0.50));
        assert!((millis(0.99) - 99.0).abs() < 2.0, "{}", millis(0.99));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_millis(100)));
        assert_eq!(histogram.max(), Some(Duration::from_millis(100)));
    }

    #[test]
    fn the_longest_latencies_are_kept() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::from_secs(100_000));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_secs(100_000)));
    }
}
