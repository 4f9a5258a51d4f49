//! How often one caller may ask.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Callers that are remembered; whoever asks while it is full of others who asked just now is let in unremembered: the limit protects the
/// authority from a broken pod, it is not what keeps strangers out.
const MAX_CALLERS: usize = 16_384;

/// A token bucket per caller.
#[derive(Debug)]
pub(super) struct RateLimit<K> {
    burst: u32,
    /// The time in which one spent token comes back.
    refill: Duration,
    /// For each caller the time at which its bucket will be full again.
    full_at: Mutex<HashMap<K, Instant>>,
}

impl<K: Eq + Hash> RateLimit<K> {
    pub(super) fn new(burst: u32, refill: Duration) -> Self {
        Self { burst, refill, full_at: Mutex::default() }
    }

    /// Takes a token, if there is one.
    pub(super) fn allow(&self, caller: K) -> bool {
        let now = Instant::now();
        let mut full_at = self.full_at.lock();
        let spent_until = full_at.get(&caller).copied().unwrap_or(now).max(now) + self.refill;
        if spent_until > now + self.refill * self.burst {
            return false;
        }
        if full_at.len() >= MAX_CALLERS {
            full_at.retain(|_, full_at| *full_at > now);
        }
        if full_at.len() < MAX_CALLERS || full_at.contains_key(&caller) {
            full_at.insert(caller, spent_until);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_one_per_refill_for_each_caller_alone() {
        let limit = RateLimit::new(3, Duration::from_secs(10));
        assert_eq!((0..5).map(|_| limit.allow("a")).collect::<Vec<_>>(), [true, true, true, false, false]);
        assert!(limit.allow("b"));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(limit.allow("a"));
        assert!(!limit.allow("a"));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..4).filter(|_| limit.allow("a")).count(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_bounded() {
        let limit = RateLimit::new(1, Duration::from_secs(10));
        for caller in 0..2 * MAX_CALLERS {
            assert!(limit.allow(caller));
        }
        assert_eq!(limit.full_at.lock().len(), MAX_CALLERS);
        assert!(!limit.allow(0));
        tokio::time::advance(Duration::from_secs(11)).await;
        assert!(limit.allow(MAX_CALLERS + 1));
        assert_eq!(limit.full_at.lock().len(), 1);
    }
}
