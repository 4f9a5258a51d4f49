//! What the configuration service tells about itself.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Counters of the configuration service.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub(super) streams: Gauge,
    pub(super) subscriptions: Gauge,
    pub(super) sent: Counter,
    pub(super) acknowledged: Counter,
    pub(super) refused: Counter,
    /// Seconds.
    pub(super) latency: Histogram,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &mut Registry) -> Self {
        // From a debounce alone to far too long; a change should be everywhere within half a second.
        let limits = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0];
        let metrics = Self {
            streams: Gauge::default(),
            subscriptions: Gauge::default(),
            sent: Counter::default(),
            acknowledged: Counter::default(),
            refused: Counter::default(),
            latency: Histogram::new(limits),
        };
        registry.register(
            "config_streams",
            "Proxies with a configuration stream to this replica",
            metrics.streams.clone(),
        );
        registry.register(
            "config_subscriptions",
            "Resources that they are subscribed to, in all",
            metrics.subscriptions.clone(),
        );
        registry.register("config_sent", "Resources sent to proxies", metrics.sent.clone());
        registry.register("config_acknowledged", "Resources that proxies apply", metrics.acknowledged.clone());
        registry.register("config_refused", "Resources that proxies refused", metrics.refused.clone());
        registry.register(
            "config_acknowledge_seconds",
            "From the moment a change was seen until a proxy said that it applies it",
            metrics.latency.clone(),
        );
        metrics
    }
}
