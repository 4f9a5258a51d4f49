//! Says in the log who was refused, without letting callers fill it.

use std::{collections::HashMap, net::IpAddr, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

/// One line per caller in this time.
const EVERY: Duration = Duration::from_secs(60);

/// How many callers are remembered; with more, the log is silent until some are forgotten. The metric counts them all.
const MAX_CALLERS: usize = 256;

/// Callers that the log has named lately.
#[derive(Debug, Default)]
pub struct Refusals(Mutex<HashMap<IpAddr, Instant>>);

impl Refusals {
    /// Whether `caller` should be named in the log now.
    pub fn worth_a_line(&self, caller: IpAddr, now: Instant) -> bool {
        let mut named = self.0.lock();
        if let Some(last) = named.get(&caller)
            && now.saturating_duration_since(*last) < EVERY
        {
            return false;
        }
        if named.len() >= MAX_CALLERS {
            named.retain(|_, last| now.saturating_duration_since(*last) < EVERY);
        }
        if named.len() >= MAX_CALLERS {
            return false;
        }
        named.insert(caller, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(n: u16) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn a_caller_is_named_once_a_minute() {
        let refusals = Refusals::default();
        let now = Instant::now();
        assert!(refusals.worth_a_line(caller(1), now));
        assert!(!refusals.worth_a_line(caller(1), now + EVERY / 2));
        assert!(refusals.worth_a_line(caller(2), now));
        assert!(refusals.worth_a_line(caller(1), now + EVERY));
    }

    #[test]
    fn many_callers_do_not_fill_the_memory_or_the_log() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let lines = (0..1000).filter(|n| refusals.worth_a_line(caller(*n), now)).count();
        assert_eq!(lines, MAX_CALLERS);
        assert!(refusals.worth_a_line(caller(999), now + EVERY));
    }
}
