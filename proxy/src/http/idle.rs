//! Streams on which nothing moves any more.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// When something of a request or of its response last moved, and how long nothing may.
#[derive(Debug)]
pub struct Activity {
    limit: Duration,
    epoch: Instant,
    // Microseconds since `epoch`.
    last: AtomicU64,
}

impl Activity {
    /// From now on.
    pub fn new(limit: Duration) -> Arc<Self> {
        Arc::new(Self { limit, epoch: Instant::now(), last: AtomicU64::new(0) })
    }

    /// Something moved.
    pub fn moved(&self) {
        self.last.store(self.epoch.elapsed().as_micros() as u64, Relaxed);
    }

    fn ends(&self) -> Instant {
        self.epoch + Duration::from_micros(self.last.load(Relaxed)) + self.limit
    }
}

/// Ends when nothing has moved for as long as may be.
#[derive(Debug)]
pub struct Idle {
    activity: Arc<Activity>,
    // Set for what was the end when it was last looked at: moving costs no timer.
    timer: Pin<Box<Sleep>>,
}

impl Idle {
    /// Watches.
    pub fn of(activity: Arc<Activity>) -> Self {
        let timer = Box::pin(sleep_until(activity.ends()));
        Self { activity, timer }
    }

    /// Something moved.
    pub fn moved(&self) {
        self.activity.moved();
    }
}

impl Future for Idle {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let ends = self.activity.ends();
            if ends <= Instant::now() {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rest_is_counted_from_the_last_movement() {
        let second = Duration::from_secs(1);
        let activity = Activity::new(3 * second);
        let began = Instant::now();
        let idle = tokio::spawn(Idle::of(activity.clone()));
        for _ in 0..5 {
            tokio::time::sleep(2 * second).await;
            assert!(!idle.is_finished());
            activity.moved();
        }
        idle.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), 13);
    }
}
