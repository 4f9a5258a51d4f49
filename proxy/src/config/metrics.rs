//! What is counted about configuration and identity.

use prometheus_client::{
    metrics::{counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

/// Clones share the same numbers.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// 1 while the stream to the operator is up.
    pub connected: Gauge,
    /// Streams begun.
    pub streams: Counter,
    /// Versions taken.
    pub applied: Counter,
    /// Versions refused.
    pub refused: Counter,
    /// Destinations known.
    pub destinations: Gauge,
    /// Unix time at which the proxy's certificate ends.
    pub certificate_expiry: Gauge,
}

impl Metrics {
    /// Makes them part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "operator_connected",
            "Whether the configuration stream to the operator is up",
            self.connected.clone(),
        );
        registry.register("config_streams", "Configuration streams begun", self.streams.clone());
        registry.register(
            "config_versions_applied",
            "Versions of configuration that were put to use",
            self.applied.clone(),
        );
        registry.register(
            "config_versions_refused",
            "Versions of configuration that this proxy refused",
            self.refused.clone(),
        );
        registry.register("config_destinations", "Destinations that this proxy knows", self.destinations.clone());
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When this proxy's certificate ends, as Unix time",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
    }
}
