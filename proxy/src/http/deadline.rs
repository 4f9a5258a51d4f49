//! How long a request may still take, as it travels from pod to pod.
//!
//! Between proxies [`LEFT`] says what is left, in milliseconds, so that clocks need not agree. To an application the inbound proxy says
//! [`DEADLINE`], a time of its own pod's clock: an application that copies the header to what it calls in turn (as it does with headers of
//! traces) has its calls bounded by the same deadline, however long it took itself. gRPC carries what is left in `grpc-timeout`, which its
//! libraries pass on by themselves.
//!
//! A deadline is only ever brought forward: whoever writes a header writes what is left of the earliest deadline that it knows.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::Fields;

/// Milliseconds that are left; from one proxy to the next.
pub const LEFT: HeaderName = HeaderName::from_static("fairlead-timeout");

/// Milliseconds since the Unix epoch by the pod's clock; between an application and its own proxy.
pub const DEADLINE: HeaderName = HeaderName::from_static("fairlead-deadline");

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// What is longer is no deadline: nobody waits for it, and it must not overflow a clock.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The two clocks at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// For timers.
    pub instant: Instant,
    /// As the application sees it.
    pub wall: SystemTime,
}

impl Now {
    /// This moment.
    pub fn read() -> Self {
        Self { instant: Instant::now(), wall: SystemTime::now() }
    }
}

/// Whether a request of the application says anything of a deadline: most do not, and cost no look at the clock.
pub fn is_stated(headers: &Fields, grpc: bool) -> bool {
    headers.contains_key(&DEADLINE) || headers.contains_key(&LEFT) || (grpc && headers.contains_key(&GRPC_TIMEOUT))
}

/// The deadline of a request of the pod's own application: by the header that it was given with a request, or by gRPC's. Takes both of the
/// mesh's headers away.
pub fn of_application(headers: &mut Fields, grpc: bool, now: Now) -> Option<Instant> {
    let wall = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let own = least(headers, &DEADLINE, |text| {
        let at = Duration::from_millis(number(text)?);
        Some(at.saturating_sub(wall))
    });
    let grpcs = if grpc { least(headers, &GRPC_TIMEOUT, grpc_timeout) } else { None };
    forget(headers);
    own.into_iter().chain(grpcs).min().and_then(|left| after(now.instant, left))
}

/// The deadline of a request that a proxy sent which proved who it is. Takes both of the mesh's headers away.
pub fn of_proxy(headers: &mut Fields, now: Instant) -> Option<Instant> {
    let left = least(headers, &LEFT, |text| Some(Duration::from_millis(number(text)?)));
    forget(headers);
    left.and_then(|left| after(now, left))
}

/// Takes away what nobody vouches for.
pub fn forget(headers: &mut Fields) {
    headers.remove(&LEFT);
    headers.remove(&DEADLINE);
}

/// Tells the next pod. `proxy`: one receives it that will believe it; others are told by gRPC's own header alone.
pub fn tell_next(headers: &mut Fields, deadline: Instant, now: Instant, grpc: bool, proxy: bool) {
    let left = deadline.saturating_duration_since(now);
    headers.remove(&LEFT);
    if proxy {
        headers.insert(LEFT, HeaderValue::from(left.as_millis() as u64));
    }
    if grpc {
        let micros = left.as_micros();
        // At most 8 digits, says the protocol. Rounded down, because a deadline is never extended.
        let text = match micros {
            0..100_000_000 => format!("{micros}u"),
            _ if micros / 1000 < 100_000_000 => format!("{}m", micros / 1000),
            _ => format!("{}S", (micros / 1_000_000).min(99_999_999)),
        };
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

/// Tells the pod's own application.
pub fn tell_application(headers: &mut Fields, deadline: Instant, now: Now) {
    let wall = now.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let at = wall + deadline.saturating_duration_since(now.instant);
    headers.insert(DEADLINE, HeaderValue::from(at.as_millis() as u64));
}

fn after(now: Instant, left: Duration) -> Option<Instant> {
    (left <= LONGEST).then(|| now + left)
}

/// The least of what the lines of a header say; lines that cannot be read say nothing.
fn least(headers: &Fields, name: &HeaderName, read: impl Fn(&str) -> Option<Duration>) -> Option<Duration> {
    headers.get_all(name).filter_map(|line| read(std::str::from_utf8(line).ok()?)).min()
}

/// Digits alone: no sign, no space.
fn number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// As the gRPC specification writes it: up to 8 digits and a unit.
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 {
        return None;
    }
    let number = number(digits)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Now {
        Now { instant: Instant::now(), wall: UNIX_EPOCH + Duration::from_millis(1_700_000_000_123) }
    }

    fn headers(lines: &[(&'static str, &str)]) -> Fields {
        let map: HeaderMap =
            lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect();
        map.into()
    }

    #[test]
    fn what_an_application_was_told_bounds_what_it_calls() {
        let now = now();
        let mut inbound = Fields::default();
        tell_application(&mut inbound, now.instant + 2 * SECOND, now);
        // The application takes half a second, then calls with the same header.
        let later = Now { instant: now.instant + SECOND / 2, wall: now.wall + SECOND / 2 };
        let deadline = of_application(&mut inbound, false, later).unwrap();
        assert_eq!(deadline, now.instant + 2 * SECOND);
        assert!(inbound.iter().next().is_none(), "the next pod's application gets its own");
    }

    #[test]
    fn a_deadline_that_has_passed_has_passed() {
        let now = now();
        let mut lines = headers(&[("fairlead-deadline", "1600000000000")]);
        assert_eq!(of_application(&mut lines, false, now), Some(now.instant));
    }

    #[test]
    fn the_earliest_counts() {
        let now = now();
        let mut lines =
            headers(&[("fairlead-deadline", "1700000005123"), ("grpc-timeout", "3S"), ("grpc-timeout", "x")]);
        assert_eq!(of_application(&mut lines.clone(), true, now), Some(now.instant + 3 * SECOND));
        assert_eq!(of_application(&mut lines, false, now), Some(now.instant + 5 * SECOND));
        let mut twice = headers(&[("fairlead-timeout", "7000"), ("fairlead-timeout", "2000")]);
        assert_eq!(of_proxy(&mut twice, now.instant), Some(now.instant + 2 * SECOND));
    }

    #[test]
    fn nonsense_is_no_deadline_and_does_not_travel() {
        let now = now();
        for text in ["", "-1", "+5", "5s", " 5", "99999999999999999999", "18446744073709551615"] {
            let mut lines = headers(&[("fairlead-timeout", text), ("fairlead-deadline", text)]);
            assert_eq!(of_proxy(&mut lines.clone(), now.instant), None, "{text:?}");
            assert_eq!(of_application(&mut lines, false, now), None, "{text:?}");
            assert!(lines.iter().next().is_none());
        }
        for text in ["", "S", "123456789S", "5", "5x", "-5S", "５S"] {
            assert_eq!(grpc_timeout(text), None, "{text:?}");
        }
    }

    #[test]
    fn strangers_are_told_in_grpcs_words_alone() {
        let now = now().instant;
        let mut lines = Fields::default();
        tell_next(&mut lines, now + SECOND, now, true, false);
        assert_eq!(lines.get(&GRPC_TIMEOUT).unwrap(), b"1000000u");
        assert!(!lines.contains_key(&LEFT));
        tell_next(&mut lines, now + 3600 * SECOND, now, true, true);
        assert_eq!(lines.get(&GRPC_TIMEOUT).unwrap(), b"3600000m");
        assert_eq!(lines.get(&LEFT).unwrap(), b"3600000");
    }

    proptest! {
        #[test]
        fn a_hop_never_extends(left in 0_u64..LONGEST.as_micros() as u64, grpc: bool) {
            let now = now();
            let deadline = now.instant + Duration::from_micros(left);
            let mut lines = Fields::default();
            tell_next(&mut lines, deadline, now.instant, grpc, true);
            let next = of_proxy(&mut lines.clone(), now.instant).unwrap();
            prop_assert!(next <= deadline && deadline - next < 2 * SECOND);
            if grpc {
                let next = of_application(&mut lines, true, now).unwrap();
                prop_assert!(next <= deadline && deadline - next < 2 * SECOND);
            }
        }

        #[test]
        fn any_header_is_read_without_a_panic(text in "\\PC{0,24}") {
            if let Ok(value) = HeaderValue::from_str(&text) {
                let mut lines = Fields::default();
                for name in [LEFT, DEADLINE, GRPC_TIMEOUT] {
                    lines.insert(name, value.clone());
                }
                let now = now();
                of_application(&mut lines.clone(), true, now);
                of_proxy(&mut lines, now.instant);
            }
        }
    }
}
