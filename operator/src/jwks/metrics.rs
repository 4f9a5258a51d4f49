//! What fetching tells about itself.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Outcome {
    pub(super) outcome: &'static str,
}

/// Of this replica.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    fetches: Family<Outcome, Counter>,
    wanted: Gauge,
    /// Seconds since 1970; 0: there is none.
    oldest: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "jwks_fetches",
            "Key sets of issuers that were asked for, by outcome: ok, or what went wrong",
            metrics.fetches.clone(),
        );
        registry.register("jwks_wanted", "Key sets of issuers that policies name", metrics.wanted.clone());
        registry.register(
            "jwks_oldest_timestamp_seconds",
            "When the key set was last fetched that was not renewed for longest, in seconds since 1970; 0: there is none",
            metrics.oldest.clone(),
        );
        metrics
    }

    pub(super) fn fetched(&self, outcome: &'static str) {
        self.fetches.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn holding(&self, wanted: usize, oldest: Option<i64>) {
        self.wanted.set(i64::try_from(wanted).unwrap_or(i64::MAX));
        self.oldest.set(oldest.unwrap_or_default());
    }

    #[cfg(test)]
    pub(super) fn count(&self, outcome: &'static str) -> u64 {
        self.fetches.get_or_create(&Outcome { outcome }).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_the_documents_call_them() {
        let mut registry = Registry::with_prefix("fairlead_operator");
        let metrics = Metrics::register(&mut registry);
        metrics.fetched("ok");
        metrics.fetched("timeout");
        metrics.fetched("timeout");
        metrics.holding(2, Some(1_800_000_000));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "fairlead_operator_jwks_fetches_total{outcome=\"ok\"} 1",
            "fairlead_operator_jwks_fetches_total{outcome=\"timeout\"} 2",
            "fairlead_operator_jwks_wanted 2",
            "fairlead_operator_jwks_oldest_timestamp_seconds 1800000000",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        metrics.holding(0, None);
        assert_eq!(metrics.oldest.get(), 0);
    }
}
