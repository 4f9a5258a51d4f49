//! What goes wrong with requests, for people: a counter by outcome, and the last sentence of each kind for as long as it is news.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use super::RequestError;
use crate::ca::material::BACKDATE;
use crate::ca::secrets::ROOT_SECRET;
use crate::ca::standing::Complaint;
use crate::settings::IssuerRef;

/// So long a failure is told of after it was seen last: proxies try again each minute.
const NEWS: Duration = Duration::from_secs(180);

/// What is measured.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    outcomes: Family<Outcome, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "certificate_requests",
            "Certificates that another authority was asked for, by what became of it",
            metrics.outcomes.clone(),
        );
        metrics
    }
}

pub(super) struct Troubles {
    metrics: Metrics,
    /// By reason.
    last: Mutex<BTreeMap<&'static str, (Instant, String)>>,
}

impl Troubles {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self { metrics, last: Mutex::default() }
    }

    /// `None`: it was signed.
    pub(super) fn note(&self, error: Option<&RequestError>, now: Instant) {
        let outcome = error.map_or("Signed", RequestError::reason);
        self.metrics.outcomes.get_or_create(&Outcome { outcome }).inc();
        // Why there is a pause was told when it began.
        if let Some(error) = error.filter(|error| !matches!(error, RequestError::Paused(_))) {
            let sentence = format!("{error}; certificates that exist are used to their end");
            self.last.lock().insert(error.reason(), (now, sentence));
        }
    }

    /// What was signed begins so long ago; it is used all the same.
    pub(super) fn note_backdated(&self, issuer: &IssuerRef, by: time::Duration, now: Instant) {
        let sentence = format!(
            "{issuer} begins certificates {} minutes before it signs them, and for so long after a request to renew all leaves they are renewed again and again; have it begin them {} minutes earlier at most",
            by.whole_minutes(),
            BACKDATE.whole_minutes(),
        );
        self.last.lock().insert("Backdated", (now, sentence));
    }

    /// One for each kind.
    pub(super) fn complaints(&self, now: Instant) -> Vec<Complaint> {
        let mut last = self.last.lock();
        last.retain(|_, (seen, _)| now.duration_since(*seen) < NEWS);
        let complaint = |(reason, (_, sentence)): (&&'static str, &(Instant, String))| Complaint {
            reason,
            secret: ROOT_SECRET,
            sentence: sentence.clone(),
        };
        last.iter().map(complaint).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_failure_is_told_once_and_for_as_long_as_it_is_seen() {
        let mut registry = Registry::default();
        let troubles = Troubles::new(Metrics::register(&mut registry));
        let identity = crate::ca::authority::tests::identity();
        let denied = |why: &str| RequestError::Denied(identity.clone(), why.to_owned());
        troubles.note(Some(&denied("first")), Instant::now());
        troubles.note(Some(&RequestError::Paused(Duration::from_secs(1))), Instant::now());
        tokio::time::advance(NEWS * 9 / 10).await;
        troubles.note(Some(&denied("second")), Instant::now());
        troubles.note(Some(&RequestError::Gone(identity.clone())), Instant::now());
        troubles.note(None, Instant::now());
        tokio::time::advance(NEWS / 5).await;
        let complaints = troubles.complaints(Instant::now());
        assert_eq!(complaints.iter().map(|c| c.reason).collect::<Vec<_>>(), ["RequestDeleted", "RequestDenied"]);
        assert!(complaints[1].sentence.contains("second"));
        tokio::time::advance(NEWS).await;
        assert!(troubles.complaints(Instant::now()).is_empty());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("certificate_requests_total{outcome=\"RequestDenied\"} 2"), "{text}");
        assert!(text.contains("certificate_requests_total{outcome=\"Signed\"} 1"), "{text}");
    }
}
