//! What a pod may ask of its own sidecar, by annotation. Everything is parsed strictly: these values reach capture rules and the
//! proxy's command line, and a pod that asks for something we do not understand must not run with something else.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

const SKIP_INBOUND: &str = "fairlead.dev/skip-inbound-ports";
const SKIP_OUTBOUND: &str = "fairlead.dev/skip-outbound-ports";
const PROXY_LOG: &str = "fairlead.dev/proxy-log";
const DRAIN_TIMEOUT: &str = "fairlead.dev/drain-timeout";

/// Entries of a port list: each becomes an interval in a rule.
const MAX_PORTS: usize = 64;
/// Bytes of a log filter.
const MAX_LOG_FILTER: usize = 256;
/// Longer than any pod's grace period makes sense.
const MAX_DRAIN: Duration = Duration::from_secs(3600);

/// The annotations of a pod, read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PodOptions {
    /// As `fairlead-proxy init` takes it: `80,9000-9010`.
    pub(super) skip_inbound_ports: Option<String>,
    pub(super) skip_outbound_ports: Option<String>,
    pub(super) log: Option<String>,
    pub(super) drain_timeout: Option<Duration>,
}

impl PodOptions {
    /// `annotations` is `metadata.annotations`, or null. The error is one sentence that names the annotation and the fix.
    pub(super) fn parse(annotations: &Value) -> Result<Self, String> {
        let read = |name: &str| annotations[name].as_str();
        Ok(Self {
            skip_inbound_ports: read(SKIP_INBOUND).map(|text| ports(SKIP_INBOUND, text)).transpose()?,
            skip_outbound_ports: read(SKIP_OUTBOUND).map(|text| ports(SKIP_OUTBOUND, text)).transpose()?,
            log: read(PROXY_LOG).map(log_filter).transpose()?,
            drain_timeout: read(DRAIN_TIMEOUT).map(drain_timeout).transpose()?,
        })
    }
}

fn ports(annotation: &str, text: &str) -> Result<String, String> {
    let invalid = |entry: &str| {
        format!(
            "annotation {annotation}: {entry:?} is not a port or a range of ports from 1 to 65535: write for example \"3306,9000-9010\""
        )
    };
    if text.split(',').count() > MAX_PORTS {
        return Err(format!("annotation {annotation} lists more than {MAX_PORTS} ports: join neighbours to ranges"));
    }
    let mut list = String::new();
    for entry in text.split(',').map(str::trim) {
        let (first, last) = entry.split_once('-').unwrap_or((entry, entry));
        let (first, last) = (port(first).ok_or_else(|| invalid(entry))?, port(last).ok_or_else(|| invalid(entry))?);
        if first > last {
            return Err(invalid(entry));
        }
        if !list.is_empty() {
            list.push(',');
        }
        // Writing to a String cannot fail.
        let _ = if first == last { write!(list, "{first}") } else { write!(list, "{first}-{last}") };
    }
    Ok(list)
}

/// Digits alone: `u16::from_str` would take a sign.
fn port(text: &str) -> Option<u16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

fn log_filter(text: &str) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_directive = |directive: &str| {
        let (target, level) = directive.rsplit_once('=').unwrap_or(("fairlead", directive));
        let is_target =
            !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_:".contains(&byte));
        is_target && LEVELS.contains(&level)
    };
    if text.len() <= MAX_LOG_FILTER && text.split(',').all(is_directive) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "annotation {PROXY_LOG}: {text:?} is not a log filter: write a level (off, error, warn, info, debug, trace) or \"info,fairlead_proxy::http=debug\""
    ))
}

/// A Gateway API duration: up to four numbers of at most five digits with the units h, m, s, ms.
fn drain_timeout(text: &str) -> Result<Duration, String> {
    duration(text).filter(|duration| !duration.is_zero() && *duration <= MAX_DRAIN).ok_or_else(|| {
        format!("annotation {DRAIN_TIMEOUT}: {text:?} is not a duration above 0 and up to 1h: write for example \"30s\" or \"1m30s\"")
    })
}

fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 5 {
            return None;
        }
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let letters = tail.bytes().take_while(u8::is_ascii_lowercase).count();
        let (unit, tail) = tail.split_at(letters);
        total += match unit {
            "h" => Duration::from_secs(number * 3600),
            "m" => Duration::from_secs(number * 60),
            "s" => Duration::from_secs(number),
            "ms" => Duration::from_millis(number),
            _ => return None,
        };
        rest = tail;
        if rest.is_empty() {
            return Some(total);
        }
    }
    None
}

/// The simplest form, that any reader of durations takes.
pub(super) fn duration_text(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reads_ports_and_ranges_to_their_plainest_form() {
        assert_eq!(ports(SKIP_INBOUND, "3306"), Ok("3306".to_owned()));
        assert_eq!(ports(SKIP_INBOUND, "1, 0080,9000-9010,5-5"), Ok("1,80,9000-9010,5".to_owned()));
    }

    #[test]
    fn refuses_other_lists_by_name() {
        let many = vec!["1"; 65].join(",");
        for text in ["", ",", "1,", "0", "65536", "-1", "+1", "5-1", "1-2-3", "1;2", "http", "1\n2", "$(X)", "٣", &many]
        {
            let refusal = ports(SKIP_OUTBOUND, text).unwrap_err();
            assert!(refusal.contains("fairlead.dev/skip-outbound-ports"), "{text:?}: {refusal}");
        }
    }

    #[test]
    fn reads_log_filters_of_levels_and_targets() {
        for text in ["info", "info,fairlead_proxy::http=debug", "off,h2=trace"] {
            assert_eq!(log_filter(text), Ok(text.to_owned()));
        }
        for text in ["", "loud", "info,", "a=b", "[span{x=y}]=info", "$(POD_UID)", "=info", &"info,".repeat(80)] {
            assert!(log_filter(text).unwrap_err().contains("fairlead.dev/proxy-log"), "{text:?}");
        }
    }

    #[test]
    fn reads_durations_of_the_gateway_api() {
        for (text, millis) in [("30s", 30_000), ("250ms", 250), ("1m30s", 90_000), ("1h", 3_600_000), ("0h5s", 5_000)] {
            assert_eq!(drain_timeout(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "s", "0s", "-1s", "1.5s", "1d", "2h", "999999s", "1s1s1s1s1s", "30 s", "30S"] {
            assert!(drain_timeout(text).unwrap_err().contains("fairlead.dev/drain-timeout"), "{text:?}");
        }
        assert_eq!(duration_text(Duration::from_secs(90)), "90s");
        assert_eq!(duration_text(Duration::from_millis(1250)), "1250ms");
    }

    #[test]
    fn a_pod_without_annotations_has_no_options() {
        assert_eq!(PodOptions::parse(&Value::Null), Ok(PodOptions::default()));
        assert_eq!(PodOptions::parse(&json!({"other": "x"})), Ok(PodOptions::default()));
    }
}
