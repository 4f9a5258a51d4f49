//! How many tries after the first a target gets, so that one which fails altogether is not loaded with tries besides.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use tokio::time::Instant;

/// Seconds that are looked back on: a burst of failures, such as an endpoint that crashes with everything it had in flight, must find the
/// budget of quieter seconds.
const WINDOW: u32 = 10;

/// Requests and retries of the last seconds, of one target; shared by all workers and by the versions of a configuration.
#[derive(Debug)]
pub struct Traffic {
    epoch: Instant,
    slots: [Slot; WINDOW as usize],
}

#[derive(Debug, Default)]
struct Slot {
    /// Which second since the epoch it counts, plus one; 0: none yet.
    second: AtomicU32,
    requests: AtomicU32,
    retries: AtomicU32,
}

/// The bound on retries of one target.
#[derive(Debug)]
pub struct Budget {
    /// Of the window's requests; millionths.
    pub share: u32,
    /// Besides, for each second of the window.
    pub min_per_second: u32,
    /// What is counted.
    pub traffic: Arc<Traffic>,
}

impl Default for Traffic {
    fn default() -> Self {
        Self { epoch: Instant::now(), slots: Default::default() }
    }
}

impl Traffic {
    fn second(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.epoch).as_secs() as u32 + 1
    }

    fn slot(&self, second: u32) -> &Slot {
        let slot = &self.slots[(second % WINDOW) as usize];
        let old = slot.second.load(Relaxed);
        // Counts that another thread makes between these lines are lost: once a second, and a handful.
        if old != second && slot.second.compare_exchange(old, second, Relaxed, Relaxed).is_ok() {
            slot.requests.store(0, Relaxed);
            slot.retries.store(0, Relaxed);
        }
        slot
    }
}

impl Budget {
    /// A request begins.
    pub fn request(&self, now: Instant) {
        self.traffic.slot(self.traffic.second(now)).requests.fetch_add(1, Relaxed);
    }

    /// Whether there may be one more try; if so it is counted.
    pub fn withdraw(&self, now: Instant) -> bool {
        let second = self.traffic.second(now);
        let own = self.traffic.slot(second);
        own.retries.fetch_add(1, Relaxed);
        let (mut requests, mut retries) = (0_u64, 0_u64);
        for slot in &self.traffic.slots {
            let counted = slot.second.load(Relaxed);
            if counted > 0 && counted <= second && second - counted < WINDOW {
                requests += u64::from(slot.requests.load(Relaxed));
                retries += u64::from(slot.retries.load(Relaxed));
            }
        }
        let allowed = requests * u64::from(self.share) / 1_000_000 + u64::from(self.min_per_second) * u64::from(WINDOW);
        let granted = retries <= allowed;
        if !granted {
            own.retries.fetch_sub(1, Relaxed);
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn budget(percent: u32, min_per_second: u32) -> (Budget, Instant) {
        let traffic = Arc::new(Traffic::default());
        let epoch = traffic.epoch;
        (Budget { share: percent * 10_000, min_per_second, traffic }, epoch)
    }

    #[test]
    fn a_share_of_the_requests_may_be_tried_again() {
        let (budget, now) = budget(20, 0);
        assert!(!budget.withdraw(now), "nothing was asked for yet");
        (0..10).for_each(|_| budget.request(now));
        assert_eq!((0..10).filter(|_| budget.withdraw(now)).count(), 2);
        let later = now + Duration::from_secs(9);
        assert!(!budget.withdraw(later), "those two still count");
        budget.request(now + Duration::from_secs(11));
        assert!(!budget.withdraw(now + Duration::from_secs(11)), "the ten no longer do");
    }

    #[test]
    fn callers_with_few_requests_can_try_again_as_well() {
        let (budget, now) = budget(0, 2);
        assert_eq!((0..100).filter(|_| budget.withdraw(now)).count(), 20);
        assert!(!budget.withdraw(now + Duration::from_secs(9)));
        assert!(budget.withdraw(now + Duration::from_secs(10)));
    }

    #[test]
    fn a_silence_of_any_length_is_no_budget() {
        let (budget, now) = budget(100, 0);
        budget.request(now);
        for days in [1, 49, 4000] {
            assert!(!budget.withdraw(now + Duration::from_secs(days * 86_400)));
        }
    }

    proptest! {
        /// Whatever comes: with each retry that is granted, those of the last ten seconds stay within what their requests allow.
        #[test]
        fn no_window_holds_more_than_its_budget(
            percent in 0_u32..=100,
            min in 0_u32..5,
            events in prop::collection::vec((0_u64..1500, prop::bool::ANY), 1..400),
        ) {
            let (budget, epoch) = budget(percent, min);
            let mut now = epoch;
            let mut log: Vec<(u32, bool)> = Vec::new();
            for (millis, retry) in events {
                now += Duration::from_millis(millis);
                let second = budget.traffic.second(now);
                if !retry {
                    budget.request(now);
                    log.push((second, false));
                    continue;
                }
                if !budget.withdraw(now) {
                    continue;
                }
                log.push((second, true));
                let of = |kind: bool| log.iter().filter(|(s, k)| *k == kind && second - s < WINDOW).count() as u64;
                prop_assert!(of(true) <= of(false) * u64::from(percent) / 100 + u64::from(min * WINDOW));
            }
        }
    }
}
