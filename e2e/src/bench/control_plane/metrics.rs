//! Reads histograms in the Prometheus text format.

use anyhow::{Context, Result};

/// Cumulative buckets of one histogram: upper bound in the metric's unit, count.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram(Vec<(f64, f64)>);

impl Histogram {
    /// The histogram of this name whose lines hold `label`; several that do are added up.
    pub(super) fn parse(text: &str, name: &str, label: &str) -> Result<Self> {
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for line in text.lines().filter(|line| line.starts_with(&format!("{name}_bucket")) && line.contains(label)) {
            let bound = line
                .split("le=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next())
                .context("a bucket without a bound")?;
            let bound: f64 = if bound == "+Inf" { f64::INFINITY } else { bound.parse()? };
            let count: f64 = line.rsplit(' ').next().unwrap_or_default().parse()?;
            match buckets.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, sum)) => *sum += count,
                None => buckets.push((bound, count)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(Self(buckets))
    }

    /// What was added since an earlier reading.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before =
            |bound: f64| earlier.0.iter().find(|(b, _)| b.total_cmp(&bound).is_eq()).map_or(0.0, |(_, count)| *count);
        Self(self.0.iter().map(|(bound, count)| (*bound, count - before(*bound))).collect())
    }

    /// How many values.
    pub(super) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The upper bound of the bucket in which this quantile lies: at most so much.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        self.0.iter().find(|(_, count)| *count >= wanted && *count > 0.0).map_or(f64::INFINITY, |(bound, _)| *bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_and_compared() {
        let early = "a_bucket{x=\"1\",le=\"0.1\"} 5\na_bucket{x=\"1\",le=\"+Inf\"} 5\n";
        let late =
            "a_bucket{x=\"1\",le=\"0.1\"} 6\na_bucket{x=\"1\",le=\"+Inf\"} 105\na_bucket{x=\"2\",le=\"0.1\"} 9\n";
        let histogram =
            Histogram::parse(late, "a", "x=\"1\"").unwrap().since(&Histogram::parse(early, "a", "x=\"1\"").unwrap());
        assert!((histogram.count() - 100.0).abs() < f64::EPSILON);
        assert!((histogram.quantile(0.01) - 0.1).abs() < f64::EPSILON);
        assert!(histogram.quantile(0.99).is_infinite());
    }
}
