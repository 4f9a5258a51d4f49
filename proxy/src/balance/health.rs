//! What answers say of an endpoint's health, and when it is left out for it: one endpoint's part of outlier detection.
//!
//! Everything here is counted with atomics and injected time. Who may be left out beside whom, and when, is the set's business
//! ([`super::set`]).

use std::{
    sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// How long errors are counted against requests: long enough for a share to mean something, short enough to notice within one
/// release's step.
const WINDOW: u64 = 10;

/// How long one request on trial may take before another is tried in its place: its caller may have gone away.
const TRIAL: Duration = Duration::from_secs(5);

/// What makes an endpoint an outlier, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outliers {
    /// So many failures in a row; 0: not looked at.
    pub consecutive: u32,
    /// This share of the requests of ten seconds failed, millionths; 0: not looked at.
    pub error_share: u32,
    /// With fewer requests the share says nothing.
    pub min_requests: u32,
    /// The first time; doubled each time in a row.
    pub base: Duration,
    /// At most.
    pub max: Duration,
    /// Of the set's endpoints, millionths.
    pub max_ejected: u32,
    /// What is asked before the endpoint returns; `None`: one request of a caller is its trial.
    pub probe: Option<http::uri::PathAndQuery>,
}

/// What endpoints are asked, and what answers make of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// With GET.
    pub path: http::uri::PathAndQuery,
    /// From one check of an endpoint to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Bad answers in a row that make an endpoint unhealthy.
    pub unhealthy: u32,
    /// Good ones that make it healthy again.
    pub healthy: u32,
}

/// Why an endpoint is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Too many failures in a row.
    Consecutive,
    /// Too large a share of failures.
    ErrorRate,
    /// It failed again when it was tried.
    Trial,
}

/// One endpoint in one set; shared by the versions of a destination.
#[derive(Debug)]
pub struct Health {
    epoch: Instant,
    consecutive: AtomicU32,
    /// Which ten seconds since the epoch the next two count.
    window: AtomicU64,
    requests: AtomicU32,
    errors: AtomicU32,
    /// Microseconds since the epoch plus one; 0: it is not left out.
    out_until: AtomicU64,
    /// The same; a request is on trial until then.
    trial_until: AtomicU64,
    /// Ejections in a row.
    streak: AtomicU32,
    /// Microseconds since the epoch when it came, or came back.
    since: AtomicU64,
    /// Active checks say so.
    unhealthy: AtomicBool,
    /// Answers to checks in a row that say something else.
    against: AtomicU32,
    /// When the next check is to be made, microseconds since the epoch plus one; 0: none is planned.
    check_at: AtomicU64,
}

impl Health {
    /// Of an endpoint that comes at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            consecutive: AtomicU32::new(0),
            window: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            errors: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
            trial_until: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            since: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
            against: AtomicU32::new(0),
            check_at: AtomicU64::new(0),
        }
    }

    /// A request was answered well.
    pub(super) fn succeeded(&self, now: Instant) {
        if self.consecutive.load(Relaxed) != 0 {
            self.consecutive.store(0, Relaxed);
        }
        self.count(now);
    }

    /// A request failed; whether that makes an outlier of the endpoint.
    pub(super) fn failed(&self, outliers: &Outliers, now: Instant) -> Option<Cause> {
        let in_a_row = self.consecutive.fetch_add(1, Relaxed) + 1;
        let requests = self.count(now);
        let errors = self.errors.fetch_add(1, Relaxed) + 1;
        if outliers.consecutive > 0 && in_a_row >= outliers.consecutive {
            return Some(Cause::Consecutive);
        }
        let share = u64::from(errors) * 1_000_000 >= u64::from(outliers.error_share) * u64::from(requests);
        (outliers.error_share > 0 && requests >= outliers.min_requests && share).then_some(Cause::ErrorRate)
    }

    /// Counts a request; how many there are in this window.
    fn count(&self, now: Instant) -> u32 {
        let window = self.micros(now) / 1_000_000 / WINDOW;
        let old = self.window.load(Relaxed);
        if old != window && self.window.compare_exchange(old, window, Relaxed, Relaxed).is_ok() {
            self.requests.store(0, Relaxed);
            self.errors.store(0, Relaxed);
        }
        self.requests.fetch_add(1, Relaxed) + 1
    }

    /// The evidence begins anew.
    pub(super) fn forget(&self) {
        self.consecutive.store(0, Relaxed);
        self.requests.store(0, Relaxed);
        self.errors.store(0, Relaxed);
    }

    /// Left out from now on.
    pub(super) fn eject(&self, outliers: &Outliers, now: Instant) {
        let micros = self.micros(now);
        let streak = self.streak.load(Relaxed);
        let last = doubled(outliers, streak.saturating_sub(1));
        // One that has been well for twice as long as it was left out begins anew.
        let well = Duration::from_micros(micros.saturating_sub(self.since.load(Relaxed)));
        let streak = if !self.is_out() && well > 2 * last { 0 } else { streak };
        let until = micros + doubled(outliers, streak).as_micros() as u64;
        self.streak.store(streak.saturating_add(1), Relaxed);
        self.out_until.store(until + 1, Relaxed);
        self.trial_until.store(0, Relaxed);
        self.forget();
    }

    /// Back among the others.
    pub(super) fn back(&self, now: Instant) {
        self.forget();
        self.since.store(self.micros(now), Relaxed);
        self.trial_until.store(0, Relaxed);
        self.out_until.store(0, Relaxed);
    }

    /// Whether it is left out.
    pub fn is_out(&self) -> bool {
        self.out_until.load(Relaxed) != 0
    }

    /// When it may be tried, if it is left out.
    pub(super) fn due(&self) -> Option<Instant> {
        let until = self.out_until.load(Relaxed);
        let after = until.max(self.trial_until.load(Relaxed));
        (until != 0).then(|| self.epoch + Duration::from_micros(after - 1))
    }

    /// Whether the caller is the one who tries it now.
    pub(super) fn claim(&self, now: Instant) -> bool {
        let micros = self.micros(now) + 1;
        let (until, claimed) = (self.out_until.load(Relaxed), self.trial_until.load(Relaxed));
        let next = micros + TRIAL.as_micros() as u64;
        until != 0
            && until <= micros
            && claimed <= micros
            && self.trial_until.compare_exchange(claimed, next, Relaxed, Relaxed).is_ok()
    }

    /// For how long it has been there, or been back.
    pub(super) fn age(&self, now: Instant) -> Duration {
        Duration::from_micros(self.micros(now).saturating_sub(self.since.load(Relaxed)))
    }

    /// Whether active checks find it unhealthy.
    pub fn is_unhealthy(&self) -> bool {
        self.unhealthy.load(Relaxed)
    }

    /// Whether it is to be checked now; then the next check is planned. The first comes at any moment of an interval, and the others a
    /// tenth of it earlier or later, so that neither endpoints are asked together nor callers ask together.
    pub(super) fn claim_check(&self, check: &Check, random: u64, now: Instant) -> bool {
        let (micros, interval) = (self.micros(now) + 1, check.interval.as_micros() as u64);
        let at = self.check_at.load(Relaxed);
        let due = at != 0 && at <= micros;
        if at == 0 {
            self.check_at.store(micros + random % interval.max(1), Relaxed);
        } else if due {
            self.check_at.store(micros + interval * 9 / 10 + random % (interval / 5).max(1), Relaxed);
        }
        due
    }

    /// A check was answered; the state that it changed to, if it did: whether it is healthy.
    pub(super) fn checked(&self, check: &Check, well: bool, now: Instant) -> Option<bool> {
        if well != self.is_unhealthy() {
            self.against.store(0, Relaxed);
            return None;
        }
        let needed = if well { check.healthy } else { check.unhealthy };
        if self.against.fetch_add(1, Relaxed) + 1 < needed {
            return None;
        }
        self.against.store(0, Relaxed);
        if well {
            self.since.store(self.micros(now), Relaxed);
        }
        self.unhealthy.store(!well, Relaxed);
        Some(well)
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_micros() as u64
    }
}

impl Default for Health {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

/// How long the ejection after `streak` others in a row takes.
fn doubled(outliers: &Outliers, streak: u32) -> Duration {
    outliers.base.saturating_mul(2_u32.saturating_pow(streak.min(31))).min(outliers.max)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn outliers() -> Outliers {
        Outliers {
            consecutive: 5,
            error_share: 500_000,
            min_requests: 20,
            base: 10 * SECOND,
            max: 60 * SECOND,
            max_ejected: 500_000,
            probe: None,
        }
    }

    #[test]
    fn failures_in_a_row_count_and_one_success_ends_the_row() {
        let now = Instant::now();
        let (health, outliers) = (Health::new(now), outliers());
        assert!((0..4).all(|_| health.failed(&outliers, now).is_none()));
        health.succeeded(now);
        assert!((0..4).all(|_| health.failed(&outliers, now).is_none()));
        assert_eq!(health.failed(&outliers, now), Some(Cause::Consecutive));
    }

    #[test]
    fn a_share_of_failures_counts_once_there_are_enough_requests() {
        let now = Instant::now();
        let (health, outliers) = (Health::new(now), outliers());
        for _ in 0..9 {
            health.succeeded(now);
            assert_eq!(health.failed(&outliers, now), None);
        }
        health.succeeded(now);
        assert_eq!(health.failed(&outliers, now), Some(Cause::ErrorRate));
        // The next ten seconds begin with nothing.
        health.succeeded(now + 10 * SECOND);
        assert_eq!(health.failed(&outliers, now + 10 * SECOND), None);
    }

    #[test]
    fn ejections_in_a_row_double_up_to_the_maximum_and_good_times_end_the_row() {
        let mut now = Instant::now();
        let (health, outliers) = (Health::new(now), outliers());
        for seconds in [10, 20, 40, 60, 60] {
            health.eject(&outliers, now);
            assert_eq!(health.due(), Some(now + seconds * SECOND));
            now += seconds * SECOND;
            assert!(health.claim(now), "due");
        }
        health.back(now);
        health.eject(&outliers, now + 30 * SECOND);
        assert_eq!(health.due(), Some(now + 90 * SECOND), "it was well for too short a time");
        health.back(now + 90 * SECOND);
        now += 300 * SECOND;
        health.eject(&outliers, now);
        assert_eq!(health.due(), Some(now + 10 * SECOND));
    }

    fn check() -> Check {
        Check {
            path: http::uri::PathAndQuery::from_static("/"),
            interval: 5 * SECOND,
            timeout: SECOND,
            unhealthy: 3,
            healthy: 2,
        }
    }

    #[test]
    fn answers_in_a_row_change_the_state_and_others_begin_the_row_anew() {
        let now = Instant::now();
        let (health, check) = (Health::new(now), check());
        let changes: Vec<_> = [false, false, true, false, false, false, false, true, false, true, true, true]
            .map(|well| health.checked(&check, well, now))
            .into();
        let expected: Vec<_> = [(5, false), (10, true)].into();
        let found: Vec<_> = (0..).zip(changes).filter_map(|(n, change)| Some((n, change?))).collect();
        assert_eq!(found, expected);
        assert!(!health.is_unhealthy());
    }

    #[test]
    fn checks_come_once_in_an_interval_and_not_all_together() {
        let check = check();
        for random in [0, 7_777_777, u64::MAX] {
            let start = Instant::now();
            let health = Health::new(start);
            let mut made = Vec::new();
            for tenth in 0..600 {
                let now = start + tenth * SECOND / 10;
                if health.claim_check(&check, random, now) {
                    made.push(now);
                }
            }
            assert!(made[0] <= start + 5 * SECOND + SECOND / 10);
            let pauses = made.windows(2).map(|pair| pair[1] - pair[0]);
            assert!(pauses.clone().all(|p| p >= 4500 * SECOND / 1000 && p <= 5600 * SECOND / 1000), "{made:?}");
            // A minute in pauses of 4.5 to 5.6 seconds.
            assert!((10..=14).contains(&made.len()), "{made:?}");
        }
    }

    #[test]
    fn one_is_tried_by_one_at_a_time() {
        let now = Instant::now();
        let (health, outliers) = (Health::new(now), outliers());
        assert!(!health.claim(now), "it is not left out");
        health.eject(&outliers, now);
        assert!(!health.claim(now + 9 * SECOND), "not due");
        let due = now + 10 * SECOND;
        assert!(health.claim(due) && !health.claim(due));
        assert!(health.claim(due + TRIAL), "the first was never heard of again");
    }
}
