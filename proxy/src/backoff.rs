//! How long to wait before trying again.

use std::time::Duration;

/// Doubles from `base` with each failed `attempt` (counted from 0) up to `max`, then takes between half and all of it: `random` is in
/// 0..1 and keeps a thousand proxies from coming back in the same instant.
pub fn delay(attempt: u32, base: Duration, max: Duration, random: f64) -> Duration {
    let doubled = base.saturating_mul(2_u32.saturating_pow(attempt.min(31)));
    doubled.min(max).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_maximum_with_jitter() {
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(delay(0, base, max, 1.0), base);
        assert_eq!(delay(0, base, max, 0.0), base / 2);
        assert_eq!(delay(3, base, max, 1.0), base * 8);
        assert_eq!(delay(6, base, max, 1.0), max);
        assert_eq!(delay(u32::MAX, base, max, 0.0), max / 2);
    }
}
