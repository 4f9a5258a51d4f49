//! Faults that a role shows on purpose, so that a release can go wrong in front of an audience.

use std::time::Duration;

use crate::units;

/// How often and how slowly a role answers. Without flags: never wrong, never late.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Fault {
    /// Share of requests that are answered 500, in percent.
    #[arg(long, value_name = "PERCENT", env = "BOOKINFO_ERROR_RATE", default_value = "0", value_parser = units::percent)]
    pub error_rate: f64,
    /// Time that every answer is held back, such as 300ms.
    #[arg(long, value_name = "DURATION", env = "BOOKINFO_LATENCY", default_value = "0s", value_parser = units::duration)]
    pub latency: Duration,
}

impl Fault {
    /// No fault at all.
    pub const NONE: Self = Self { error_rate: 0.0, latency: Duration::ZERO };

    /// Whether the request that drew this number fails. `draw` is uniform in 0.0..1.0.
    pub fn fails(&self, draw: f64) -> bool {
        draw * 100.0 < self.error_rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_a_share_of_the_draws() {
        let failed = |rate| {
            let fault = Fault { error_rate: rate, ..Fault::NONE };
            (0..1000).filter(|i| fault.fails(f64::from(*i) / 1000.0)).count()
        };
        assert_eq!(failed(0.0), 0);
        assert_eq!(failed(20.0), 200);
        assert_eq!(failed(0.5), 5);
        assert_eq!(failed(100.0), 1000);
    }
}
