//! What asking and telling tells about itself.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Of this replica.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    checks: Family<Outcome, Counter>,
    looks: Family<Outcome, Counter>,
    notifications: Family<Outcome, Counter>,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "canary_checks",
            "Times that checks of releases were asked, by outcome: passed, refused, or what went wrong",
            metrics.checks.clone(),
        );
        registry.register(
            "canary_looks",
            "Looks at metrics of releases, by outcome: inside, outside, or what went wrong",
            metrics.looks.clone(),
        );
        registry.register(
            "canary_notifications",
            "Notifications about releases, by outcome: delivered, dropped (too many waited), or what went wrong last",
            metrics.notifications.clone(),
        );
        metrics
    }

    pub(super) fn checked(&self, outcome: &'static str) {
        self.checks.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn looked(&self, outcome: &'static str) {
        self.looks.get_or_create(&Outcome { outcome }).inc();
    }

    pub(super) fn told(&self, outcome: &'static str) {
        self.notifications.get_or_create(&Outcome { outcome }).inc();
    }

    #[cfg(test)]
    pub(super) fn notifications(&self, outcome: &'static str) -> u64 {
        self.notifications.get_or_create(&Outcome { outcome }).get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_what_the_documents_call_them() {
        let mut registry = Registry::with_prefix("fairlead_operator");
        let metrics = Metrics::register(&mut registry);
        metrics.checked("passed");
        metrics.looked("outside");
        metrics.told("delivered");
        metrics.told("delivered");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "fairlead_operator_canary_checks_total{outcome=\"passed\"} 1",
            "fairlead_operator_canary_looks_total{outcome=\"outside\"} 1",
            "fairlead_operator_canary_notifications_total{outcome=\"delivered\"} 2",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
    }
}
