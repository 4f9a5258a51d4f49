//! When a set is fetched again.

use std::time::Duration;

/// After a fetch that succeeded. An issuer announces a key before it signs with it; ten minutes are a common lead.
const RENEW: Duration = Duration::from_secs(300);
/// After the first that failed.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// After the sixth that failed, and each one from then on.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How long to wait after a fetch. `failures`: how many failed in a row up to it, 0: it succeeded; `random` is in 0..1 and keeps replicas and sets apart.
pub(super) fn pause(failures: u32, random: f64) -> Duration {
    let random = random.clamp(0.0, 1.0);
    match failures.checked_sub(1) {
        None => RENEW.mul_f64(0.9 + random / 5.0),
        Some(doublings) => {
            let doubled = FIRST_RETRY.saturating_mul(2_u32.saturating_pow(doublings.min(31)));
            doubled.min(LAST_RETRY).mul_f64(0.5 + random / 2.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_succeeded_is_renewed_and_what_failed_tried_again_ever_more_seldom() {
        let seconds = |failures, random| pause(failures, random).as_secs_f64();
        for (failures, least, most) in
            [(0, 270.0, 330.0), (1, 0.5, 1.0), (2, 1.0, 2.0), (6, 16.0, 32.0), (7, 30.0, 60.0), (u32::MAX, 30.0, 60.0)]
        {
            assert!((seconds(failures, 0.0) - least).abs() < 1e-6, "{failures}");
            assert!((seconds(failures, 1.0) - most).abs() < 1e-6, "{failures}");
        }
    }

    proptest! {
        #[test]
        fn it_is_never_at_once_and_never_long(failures: u32, random in -1.0..2.0) {
            let pause = pause(failures, random);
            prop_assert!(pause >= FIRST_RETRY / 2 && pause <= RENEW.mul_f64(1.1));
        }
    }
}
