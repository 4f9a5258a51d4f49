//! When requests are due: evenly, whatever has become of earlier ones.

use std::time::Duration;

/// A constant rate for a bounded time.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    rate: f64,
    total: u64,
}

impl Schedule {
    /// `rate` requests per second, more than zero, for `duration`. The first one is due at once.
    pub fn new(rate: f64, duration: Duration) -> Self {
        Self { rate, total: (rate * duration.as_secs_f64()).round() as u64 }
    }

    /// How many requests there will be.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// When request `index`, counted from zero, is due after the start.
    pub fn at(&self, index: u64) -> Duration {
        Duration::from_secs_f64(index as f64 / self.rate)
    }

    /// How many requests are due when `elapsed` has passed.
    pub fn due(&self, elapsed: Duration) -> u64 {
        // Nanoseconds are rounded both ways; half of one keeps a request due at its own time.
        let passed = (elapsed.as_secs_f64() + 0.5e-9) * self.rate;
        (passed as u64 + 1).min(self.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_decides_how_many_and_when() {
        let schedule = Schedule::new(500.0, Duration::from_secs(2));
        assert_eq!(schedule.total(), 1000);
        assert_eq!(schedule.at(0), Duration::ZERO);
        assert_eq!(schedule.at(250), Duration::from_millis(500));
        assert_eq!(schedule.due(Duration::ZERO), 1);
        assert_eq!(schedule.due(Duration::from_micros(1999)), 1);
        assert_eq!(schedule.due(Duration::from_millis(2)), 2);
        assert_eq!(schedule.due(Duration::from_mins(1)), 1000, "never more than the total");
    }

    #[test]
    fn every_request_is_due_at_its_time() {
        for rate in [0.5, 3.0, 7.7, 333.0, 1000.0] {
            let schedule = Schedule::new(rate, Duration::from_secs(20));
            for index in 0..schedule.total() {
                assert!(schedule.due(schedule.at(index)) > index, "request {index} at {rate}/s would be late");
            }
        }
    }
}
