//! What is known about an endpoint's speed: a moving average of its latency that rises at once and falls slowly, times the requests
//! that wait for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::limits::InSet;

/// How long it takes for an old observation to lose 63 % of its weight. Long enough that a pause of a few seconds is not forgotten,
/// short enough that a warmed-up endpoint gets its share within half a minute.
const DECAY: Duration = Duration::from_secs(10);

/// What an endpoint that failed to answer at all is taken to cost: as slow as one of the slowest answers that callers wait for, so that
/// an endpoint that fails fast does not attract traffic by it.
const FAILURE_COST: Duration = Duration::from_secs(5);

/// An endpoint without observations and with requests in flight counts as this slow, so that a new endpoint gets one request after
/// the other until the first answer, not all at once.
const UNKNOWN: f64 = 1e6;

/// Shared by all workers; atomics alone. Two updates at the same moment may lose one observation, which the next one makes good.
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicU32,
    // Microseconds, as the bits of an f64; negative: nothing observed.
    average: AtomicU64,
    // Microseconds since `epoch`.
    observed: AtomicU64,
    epoch: Instant,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            average: AtomicU64::new((-1.0_f64).to_bits()),
            observed: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }
}

/// A request that waits for an endpoint, or whose answer still streams; ends on drop.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<Load>,
    /// Since when there is no word of it; `None`: there was.
    waiting: Option<Instant>,
    /// Counts it in its set for as long.
    in_set: Option<InSet>,
}

impl InFlight {
    /// Counts for its set as long.
    #[must_use]
    pub(super) fn within(mut self, in_set: Option<InSet>) -> Self {
        self.in_set = in_set;
        self
    }

    /// The endpoint answered, or failed, and that was observed.
    pub fn heard(&mut self) {
        self.waiting = None;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Relaxed);
        if let Some(since) = self.waiting {
            self.load.abandoned(since, Instant::now());
        }
    }
}

impl Load {
    /// A request begins.
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Relaxed);
        InFlight { load: self.clone(), waiting: Some(Instant::now()), in_set: None }
    }

    /// Requests that wait for it, or whose answers still stream.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// An answer took `latency` (or [`Load::fail`] says there was none).
    pub fn observe(&self, latency: Duration, now: Instant) {
        let latency = latency.as_secs_f64() * 1e6;
        let average = self.average_at(now);
        let next = if latency > average {
            // The peak: believed at once.
            latency
        } else {
            let weight = self.weight_at(now);
            average * weight + latency * (1.0 - weight)
        };
        self.average.store(next.to_bits(), Relaxed);
        self.observed.store(self.micros(now), Relaxed);
    }

    /// There was no answer: connecting failed, or the connection broke.
    pub fn fail(&self, now: Instant) {
        self.observe(FAILURE_COST, now);
    }

    /// A caller waited since `since` and gave up. The answer would have taken longer than that, so an endpoint that never answers does not
    /// become the cheapest because nothing is observed of it.
    fn abandoned(&self, since: Instant, now: Instant) {
        let waited = now.saturating_duration_since(since);
        if waited.as_secs_f64() * 1e6 > self.average_at(now).max(0.0) {
            self.observe(waited, now);
        }
    }

    /// What one more request would cost; only comparisons between endpoints mean something.
    pub fn cost(&self, now: Instant) -> f64 {
        let waiting = f64::from(self.in_flight.load(Relaxed));
        let average = self.average_at(now);
        match (average < 0.0, waiting > 0.0) {
            (true, true) => UNKNOWN * waiting,
            // One with no history is tried first.
            (true, false) => 0.0,
            _ => average * (waiting + 1.0),
        }
    }

    /// Falls with time even if nobody looks, so that an endpoint that was slow once is tried again.
    fn average_at(&self, now: Instant) -> f64 {
        let average = f64::from_bits(self.average.load(Relaxed));
        if average < 0.0 { average } else { average * self.weight_at(now) }
    }

    /// What an observation of the last time weighs at `now`, 0 to 1.
    fn weight_at(&self, now: Instant) -> f64 {
        let age = self.micros(now).saturating_sub(self.observed.load(Relaxed));
        (-(age as f64) / (DECAY.as_secs_f64() * 1e6)).exp()
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_micros() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_peak_is_believed_at_once_and_forgotten_slowly() {
        let load = Arc::new(Load::default());
        let start = load.epoch;
        load.observe(2 * MS, start);
        load.observe(100 * MS, start + MS);
        assert!(load.cost(start + MS) > 90_000.0);
        load.observe(2 * MS, start + 2 * MS);
        assert!(load.cost(start + 2 * MS) > 90_000.0, "one good answer does not undo it");
        let later = start + 4 * DECAY;
        assert!(load.cost(later) < 3_000.0, "{}", load.cost(later));
    }

    #[test]
    fn cost_grows_with_what_waits_and_shrinks_when_it_is_done() {
        let load = Arc::new(Load::default());
        let now = load.epoch;
        load.observe(MS, now);
        let alone = load.cost(now);
        let other = load.begin();
        assert!((load.cost(now) - 2.0 * alone).abs() < 1.0);
        drop(other);
        assert!((load.cost(now) - alone).abs() < f64::EPSILON);
    }

    #[test]
    fn the_unknown_is_tried_first_but_by_one_request_at_a_time() {
        let known = Arc::new(Load::default());
        let now = known.epoch;
        known.observe(20 * MS, now);
        let new = Arc::new(Load::default());
        assert!(new.cost(now) < known.cost(now));
        let _trial = new.begin();
        assert!(new.cost(now) > known.cost(now));
    }

    #[tokio::test(start_paused = true)]
    async fn an_endpoint_that_callers_give_up_on_does_not_look_fast() {
        let (silent, good) = (Arc::new(Load::default()), Arc::new(Load::default()));
        silent.observe(5 * MS, Instant::now());
        let waiting = silent.begin();
        tokio::time::advance(60 * DECAY).await;
        drop(waiting);
        good.observe(5 * MS, Instant::now());
        assert!(silent.cost(Instant::now()) > good.cost(Instant::now()));

        let mut answered = good.begin();
        answered.heard();
        tokio::time::advance(MS).await;
        let before = good.cost(Instant::now());
        tokio::time::advance(DECAY).await;
        drop(answered);
        assert!(good.cost(Instant::now()) < before, "a long answer is not a slow one");
    }

    #[test]
    fn failing_fast_does_not_look_fast() {
        let (failing, slow) = (Arc::new(Load::default()), Arc::new(Load::default()));
        let now = failing.epoch;
        slow.observe(800 * MS, now);
        failing.fail(now);
        assert!(failing.cost(now) > slow.cost(now));
    }
}
