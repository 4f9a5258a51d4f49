//! Callers that keep an exchange waiting: bodies that come slowly or not at all, and answers that nobody takes.
//!
//! A caller has a store of patience. Waiting for it uses the store up, and each byte that it moves fills it again, up to where it began; so a
//! pause is as good as steady slowness, and what the other side takes its time for costs the caller nothing. A clock is set only where somebody
//! waits, and once: moving costs none.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Method;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Version;

/// How long callers may keep the proxy waiting where no policy says it.
#[derive(Clone, Copy, Debug)]
pub struct Waits {
    /// For the rest of a request's body, before there is an answer. The longest pause that uploads of good clients make; servers commonly give
    /// a minute.
    pub body: Duration,
    /// Until some of an answer is taken that is ready for the caller. Longer: kernels and libraries tell of what was read in pieces of megabytes, and who
    /// reads to work with it may be at work.
    pub answer: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { body: Duration::from_secs(5 * 60), answer: Duration::from_secs(15 * 60) }
    }
}

/// Whether silence is part of what a request is for: of a tunnel, or of a stream of gRPC, which its peers watch over themselves.
pub fn may_rest(method: &Method, version: Version, grpc: impl FnOnce() -> bool) -> bool {
    *method == Method::CONNECT || (version == Version::Http2 && grpc())
}

/// What a body whose length is stated has to bring on average: it is there already, and any network carries more. 1 MB takes three hours at most
/// that way.
const STATED: Duration = Duration::from_millis(10);

/// The same where the length is not known, in chunks or over a stream: what is being made while it is sent may be sparse.
const OPEN: Duration = Duration::from_secs(1);

/// The store, without a clock.
#[derive(Debug)]
struct Pace {
    full: Duration,
    left: Duration,
    /// What one byte is worth.
    byte: Duration,
    /// The caller is waited for.
    since: Option<Instant>,
}

impl Pace {
    fn new(full: Duration, byte: Duration) -> Self {
        Self { full, left: full, byte, since: None }
    }

    /// When it will be used up if nothing moves.
    fn waits(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.left
    }

    /// So many bytes moved, or nobody waits any more.
    fn moved(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now().saturating_duration_since(since));
        }
        if self.left < self.full {
            let worth = self.byte.saturating_mul(u32::try_from(bytes).unwrap_or(u32::MAX));
            self.left = self.left.saturating_add(worth).min(self.full);
        }
    }
}

/// The patience with one caller in one direction.
#[derive(Debug)]
pub struct Patience {
    pace: Pace,
    clock: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    fn new(pace: Pace) -> Self {
        Self { pace, clock: None }
    }

    /// With who sends a body.
    pub fn with_body(full: Duration, stated: bool) -> Self {
        Self::new(Pace::new(full, if stated { STATED } else { OPEN }))
    }

    /// So many bytes moved.
    pub fn moved(&mut self, bytes: u64) {
        self.pace.moved(bytes, Instant::now);
    }

    /// The caller is waited for; ready when that was too long.
    pub fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ends = self.pace.waits(Instant::now());
        let clock = self.clock.get_or_insert_with(|| Box::pin(sleep_until(ends)));
        if clock.deadline() > ends {
            clock.as_mut().reset(ends);
        }
        while clock.as_mut().poll(cx).is_ready() {
            if Instant::now() >= ends {
                return Poll::Ready(());
            }
            clock.as_mut().reset(ends);
        }
        Poll::Pending
    }
}

/// The patience with who is sent an answer; there is none, and no clock, until it has to be waited for. Whatever is taken will do.
#[derive(Debug, Default)]
pub struct Taking(Option<Patience>);

impl Taking {
    /// Some was taken, or there is nothing to take.
    pub fn moved(&mut self) {
        if let Some(patience) = &mut self.0 {
            patience.moved(1);
        }
    }

    /// What there is is not taken; ready when that was so for too long. `None`: for as long as the caller likes.
    pub fn poll_over(&mut self, cx: &mut Context<'_>, full: Option<Duration>) -> Poll<()> {
        let Some(full) = full else { return Poll::Pending };
        self.0.get_or_insert_with(|| Patience::new(Pace::new(full, full))).poll_over(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::time::{sleep, timeout};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long a caller lasts that moves so many bytes every so often; `None`: for a day at least.
    fn lasts(mut pace: Pace, bytes: u64, every: Duration) -> Option<Duration> {
        let began = Instant::now();
        let mut now = began;
        while now - began < 24 * 3600 * SECOND {
            let ends = pace.waits(now);
            if ends <= now + every {
                return Some(ends - began);
            }
            now += every;
            pace.moved(bytes, || now);
        }
        None
    }

    #[test]
    fn who_is_too_slow_lasts_little_longer_than_who_is_silent() {
        let Waits { body, answer } = Waits::default();
        for (what, byte, bytes, every, expected) in [
            ("nothing at all", STATED, 0, 3600, Some(300)),
            ("a byte every ten seconds", STATED, 1, 10, Some(300)),
            ("the same in chunks", OPEN, 1, 10, Some(333)),
            ("silence after much", STATED, 1 << 30, 301, Some(300)),
            ("pauses of nearly five minutes", STATED, 30_000, 299, None),
            ("a slow phone", STATED, 1000, 1, None),
            ("a log that somebody follows", OPEN, 80, 60, None),
        ] {
            let lasted = lasts(Pace::new(body, byte), bytes, every * SECOND);
            assert_eq!(lasted.map(|lasted| lasted.as_secs()), expected, "{what}");
        }
        for (bytes, every, expected) in [(0, 3600, Some(900)), (1, 899, None), (1 << 30, 901, Some(900))] {
            let lasted = lasts(Pace::new(answer, answer), bytes, every * SECOND);
            assert_eq!(lasted.map(|lasted| lasted.as_secs()), expected, "{bytes} bytes every {every} s");
        }
    }

    proptest! {
        #[test]
        fn no_course_lasts_longer_than_its_bytes_are_worth(
            course in prop::collection::vec((0_u64..20_000, 0_u32..400, 0_u32..400), 0..60),
        ) {
            let full = 300 * SECOND;
            let mut pace = Pace::new(full, STATED);
            let mut now = Instant::now();
            let (mut moved, mut waited) = (0, Duration::ZERO);
            for (bytes, wait, busy) in course {
                let wait = wait * SECOND;
                let ends = pace.waits(now);
                prop_assert!(ends <= now + full, "never more than at first");
                if ends <= now + wait {
                    waited += ends - now;
                    break;
                }
                now += wait;
                waited += wait;
                moved += bytes;
                pace.moved(bytes, || now);
                // The other side has the word, which costs nothing.
                let left = pace.left;
                now += busy * SECOND;
                prop_assert_eq!(pace.waits(now) - now, left);
                pace.moved(0, || now);
            }
            prop_assert!(waited <= full + STATED.saturating_mul(moved as u32));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_is_set_for_who_waits_and_runs_out_once() {
        let mut patience = Patience::with_body(10 * SECOND, true);
        for _ in 0..5 {
            let over = poll_fn(|cx| patience.poll_over(cx));
            assert!(timeout(8 * SECOND, over).await.is_err());
            // A byte is worth ten milliseconds.
            patience.moved(800);
            // While nobody waits for the caller.
            sleep(3600 * SECOND).await;
        }
        let silent = Instant::now();
        poll_fn(|cx| patience.poll_over(cx)).await;
        assert_eq!(silent.elapsed().as_secs(), 10);
    }
}
