//! Logs, metrics and health.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line, for collectors.
    Json,
    /// For people.
    Text,
}

impl LogFormat {
    /// As the command line takes it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
        }
    }
}

/// Starts logging to the standard output. `filter` is in the syntax of `tracing`: `info`, or `info,fairlead_operator::ca=debug`.
pub fn start_logging(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter)
        .with_context(|| format!("{filter:?} is not a log filter: write for example info,fairlead_operator=debug"))?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter);
    match format {
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
        LogFormat::Text => subscriber.with_ansi(false).try_init(),
    }
    .map_err(|error| anyhow::anyhow!("logging was started twice: {error}"))
}

/// What must hold before the API server and proxies may be sent here.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

/// One condition of [`Readiness`].
#[derive(Clone, Debug)]
pub struct Condition {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// A condition that does not hold yet.
    pub fn condition(&self, name: &'static str) -> Condition {
        let condition = Condition { readiness: self.clone(), name };
        condition.set(Err("not yet".to_owned()));
        condition
    }

    /// The conditions that do not hold, each with its reason; empty: ready.
    pub fn missing(&self) -> Vec<String> {
        self.0
            .lock()
            .iter()
            .filter_map(|(name, state)| state.as_ref().err().map(|reason| format!("{name}: {reason}")))
            .collect()
    }
}

impl Condition {
    /// Whether it holds, or why not.
    pub fn set(&self, state: Result<(), String>) {
        let mut conditions = self.readiness.0.lock();
        if conditions.get(self.name) != Some(&state) {
            match &state {
                Ok(()) => tracing::info!(condition = self.name, "holds"),
                Err(reason) => tracing::info!(condition = self.name, reason, "does not hold"),
            }
            conditions.insert(self.name, state);
        }
    }
}

/// Of one listening socket.
#[derive(Clone, Debug, Default)]
pub struct ListenerMetrics {
    /// Connections closed at once because too many were open.
    pub refused: Counter,
    /// TLS handshakes that failed: foreign or forged certificates, and everything that is not TLS.
    pub failed_handshakes: Counter,
}

impl ListenerMetrics {
    /// `listener` names the socket.
    pub fn register(registry: &mut Registry, listener: &'static str) -> Self {
        let metrics = Self::default();
        let registry = registry.sub_registry_with_label(("listener".into(), listener.into()));
        registry.register(
            "connections_refused",
            "Connections closed at once because too many were open",
            metrics.refused.clone(),
        );
        registry.register("handshakes_failed", "TLS handshakes that failed", metrics.failed_handshakes.clone());
        metrics
    }
}

#[derive(Clone)]
struct Shown {
    readiness: Readiness,
    registry: Arc<Registry>,
}

/// `/live` answers as long as the process does; `/ready` says what is missing; `/metrics` is in the `OpenMetrics` format.
pub fn router(readiness: Readiness, registry: Registry) -> Router {
    Router::new()
        .route("/live", get(async || "live\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Shown { readiness, registry: Arc::new(registry) })
}

async fn ready(State(shown): State<Shown>) -> impl IntoResponse {
    let missing = shown.readiness.missing();
    if missing.is_empty() {
        (StatusCode::OK, "ready\n".to_owned())
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, missing.join("\n") + "\n")
    }
}

async fn metrics(State(shown): State<Shown>) -> impl IntoResponse {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &shown.registry) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")],
            text,
        ),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, [(header::CONTENT_TYPE, "text/plain")], String::new()),
    }
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::Request;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(router: &Router, path: &str) -> (StatusCode, String) {
        let response = router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 16).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn ready_names_what_is_missing() {
        let readiness = Readiness::default();
        let (one, two) = (readiness.condition("index"), readiness.condition("certificate authority"));
        let mut registry = Registry::with_prefix("fairlead_operator");
        ListenerMetrics::register(&mut registry, "grpc").refused.inc();
        let router = router(readiness, registry);
        one.set(Ok(()));
        two.set(Err("Secret fairlead-root is corrupt".to_owned()));
        assert_eq!(
            ask(&router, "/ready").await,
            (StatusCode::SERVICE_UNAVAILABLE, "certificate authority: Secret fairlead-root is corrupt\n".to_owned())
        );
        two.set(Ok(()));
        assert_eq!(ask(&router, "/ready").await, (StatusCode::OK, "ready\n".to_owned()));
        assert_eq!(ask(&router, "/live").await.0, StatusCode::OK);
        for debug in ["/", "/debug/pprof", "/config", "/metrics/"] {
            assert_eq!(ask(&router, debug).await.0, StatusCode::NOT_FOUND, "{debug}");
        }
        let (_, text) = ask(&router, "/metrics").await;
        assert!(text.contains("fairlead_operator_connections_refused_total{listener=\"grpc\"} 1"), "{text}");
    }
}
