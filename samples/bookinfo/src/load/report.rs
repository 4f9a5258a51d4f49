//! What the load generator counts, and the JSON that it prints.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::histogram::Histogram;

/// Failures that are told with their reason; the rest is only counted.
const MAX_ERRORS: usize = 20;
/// Versions that are told apart; further ones are counted as `other`. The names come from the peer.
const MAX_VERSIONS: usize = 32;
const MAX_REASON: usize = 300;

/// How one request ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// A complete answer.
    Answer {
        /// The status.
        status: u16,
        /// What the version header said, if the answer had one.
        version: Option<String>,
        /// The proxy's reason, if the answer was made by a proxy of the mesh.
        proxy: Option<String>,
    },
    /// No answer, or a part of one, and why.
    Failure(String),
}

/// Counts of a run.
#[derive(Debug, Default)]
pub struct Report {
    /// Requests that were started.
    pub sent: u64,
    /// Requests that were due but not started, because all connections were in use.
    pub dropped: u64,
    /// Requests sent again on a fresh connection, because a kept one had closed before any answer.
    pub retried_stale: u64,
    ok: u64,
    failed: u64,
    status: BTreeMap<u16, u64>,
    versions: BTreeMap<String, Tally>,
    errors: Vec<(Duration, String)>,
    latency: Histogram,
}

#[derive(Debug, Default)]
struct Tally {
    ok: u64,
    failed: u64,
}

impl Report {
    /// Counts the end of one request. `after` is the time since the start, `latency` since the request was due.
    pub fn record(&mut self, outcome: Outcome, after: Duration, latency: Duration) {
        self.latency.record(latency);
        match outcome {
            Outcome::Answer { status, version, proxy } => {
                let ok = (200..300).contains(&status);
                *self.status.entry(status).or_default() += 1;
                let tally = self.tally(version.as_deref());
                if ok {
                    tally.ok += 1;
                    self.ok += 1;
                } else {
                    tally.failed += 1;
                    let version = version.as_deref().unwrap_or("no version");
                    let proxy = proxy.map(|reason| format!(", made by the proxy: {reason}")).unwrap_or_default();
                    self.fail(after, &format!("status {status} from {version}{proxy}"));
                }
            }
            Outcome::Failure(reason) => self.fail(after, &reason),
        }
    }

    fn fail(&mut self, after: Duration, reason: &str) {
        self.failed += 1;
        if self.errors.len() < MAX_ERRORS {
            self.errors.push((after, reason.chars().take(MAX_REASON).collect()));
        }
    }

    fn tally(&mut self, version: Option<&str>) -> &mut Tally {
        let name: String = version.unwrap_or("none").chars().take(64).collect();
        let known = self.versions.contains_key(&name) || self.versions.len() < MAX_VERSIONS;
        self.versions.entry(if known { name } else { "other".into() }).or_default()
    }

    /// One line of the output. `event` is `progress` or `summary`.
    pub fn json(&self, event: &str, elapsed: Duration) -> Value {
        let millis = |latency: Option<Duration>| latency.map(|latency| (latency.as_secs_f64() * 1e5).round() / 100.0);
        let versions: BTreeMap<_, _> = self
            .versions
            .iter()
            .map(|(name, tally)| (name, json!({ "ok": tally.ok, "failed": tally.failed })))
            .collect();
        let status: BTreeMap<_, _> = self.status.iter().map(|(status, count)| (status.to_string(), count)).collect();
        let errors: Vec<_> = self
            .errors
            .iter()
            .map(|(after, reason)| json!({ "after_ms": after.as_millis() as u64, "reason": reason }))
            .collect();
        json!({
            "event": event,
            "elapsed_ms": elapsed.as_millis() as u64,
            "sent": self.sent,
            "ok": self.ok,
            "failed": self.failed,
            "dropped": self.dropped,
            "retried_stale": self.retried_stale,
            "status": status,
            "versions": versions,
            "errors": errors,
            "latency_ms": {
                "p50": millis(self.latency.quantile(0.5)),
                "p99": millis(self.latency.quantile(0.99)),
                "max": millis(self.latency.max()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, version: Option<&str>) -> Outcome {
        Outcome::Answer { status, version: version.map(str::to_owned), proxy: None }
    }

    #[test]
    fn counts_are_by_status_and_by_version() {
        let mut report = Report { sent: 4, ..Report::default() };
        let second = Duration::from_secs(1);
        report.record(answer(200, Some("v1")), second, second);
        report.record(answer(204, Some("v3")), second, second);
        report.record(answer(500, Some("v3")), second, second);
        let proxy = Some("NoEndpoints".to_owned());
        report.record(Outcome::Answer { status: 503, version: None, proxy }, second, second);
        let json = report.json("summary", second);
        assert_eq!((&json["ok"], &json["failed"]), (&json!(2), &json!(2)));
        assert_eq!(json["status"], json!({"200": 1, "204": 1, "500": 1, "503": 1}));
        assert_eq!(
            json["versions"],
            json!({"v1": {"ok": 1, "failed": 0}, "v3": {"ok": 1, "failed": 1}, "none": {"ok": 0, "failed": 1}})
        );
        assert_eq!(json["errors"][0], json!({"after_ms": 1000, "reason": "status 500 from v3"}));
        assert_eq!(json["errors"][1]["reason"], "status 503 from no version, made by the proxy: NoEndpoints");
        assert_eq!(json["latency_ms"]["p99"], 1000.0);
    }

    #[test]
    fn what_the_peer_names_is_bounded() {
        let mut report = Report::default();
        for i in 0..100 {
            report.record(answer(500, Some(&format!("v{i}"))), Duration::ZERO, Duration::ZERO);
        }
        let json = report.json("summary", Duration::ZERO);
        assert_eq!(json["errors"].as_array().unwrap().len(), MAX_ERRORS);
        assert_eq!(json["versions"].as_object().unwrap().len(), MAX_VERSIONS + 1);
        assert_eq!(json["versions"]["other"]["failed"], 100 - MAX_VERSIONS);
        assert_eq!(json["failed"], 100);
    }

    #[test]
    fn nothing_counted_is_told_as_such() {
        assert_eq!(Report::default().json("progress", Duration::ZERO)["latency_ms"]["p50"], Value::Null);
    }
}
