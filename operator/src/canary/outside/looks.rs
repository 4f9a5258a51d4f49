//! Numbers that another system measures.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairlead_crds::Metric;
use futures::future::join_all;
use http::header::{self, HeaderValue};
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;

use super::about::{Asked, Look, Names};
use super::metrics::Metrics;
use super::prometheus::{self, QueryError};
use super::secrets::{SecretError, Secrets};
use super::standing::Standing;
use super::turns::{PER_KEY, Turns};
use super::{post, shown};
use crate::outbound::{Error, Location, Outbound};

/// As the API promises.
const EVERY: Duration = Duration::from_secs(10);

/// Of each metric, in order.
type Seen = Mutex<Vec<Look>>;

/// All metrics that are looked at.
pub(super) struct Looks {
    outbound: Outbound,
    secrets: Arc<Secrets>,
    turns: Turns,
    metrics: Metrics,
    standing: Arc<Standing<Asked, (Vec<Metric>, Names), Seen>>,
}

/// Why a look saw nothing.
#[derive(Debug, thiserror::Error)]
enum LookError {
    #[error("{url} {error}")]
    Asked { url: String, error: Error },
    #[error(transparent)]
    Query(#[from] QueryError),
    #[error(transparent)]
    Secret(#[from] SecretError),
}

impl LookError {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Asked { error, .. } => error.outcome(),
            Self::Query(error) => error.outcome(),
            Self::Secret(error) => error.outcome(),
        }
    }
}

impl Looks {
    pub(super) fn new(outbound: Outbound, secrets: Arc<Secrets>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { outbound, secrets, turns: Turns::new(PER_KEY), metrics, standing: Standing::new() })
    }

    pub(super) fn begin(self: &Arc<Self>, asked: &Asked, metrics: &[Metric], names: &Names) {
        self.standing.keep(asked, (metrics.to_vec(), names.clone()), |(metrics, names)| {
            let blank = |metric: &Metric| Look { name: metric.name.clone(), ..Look::default() };
            let seen = Arc::new(Mutex::new(metrics.iter().map(blank).collect()));
            let (all, known, metrics, names) = (Arc::clone(self), Arc::clone(&seen), metrics.clone(), names.clone());
            let looking = async move {
                // Each at its own pace: one that is slow holds up no other.
                join_all(metrics.iter().enumerate().map(|(at, metric)| all.go_on(metric, &names, &known, at))).await;
            };
            (seen, looking)
        });
    }

    pub(super) fn seen(&self, asked: &Asked) -> Vec<Look> {
        self.standing.known(asked).map(|seen| seen.lock().clone()).unwrap_or_default()
    }

    async fn go_on(&self, metric: &Metric, names: &Names, known: &Seen, at: usize) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let turn = self.turns.take(&names.namespace).await;
            let found = self.once(metric, names).await;
            drop(turn);
            if let Some(look) = known.lock().get_mut(at) {
                self.metrics.looked(take(look, metric, found));
            }
        }
    }

    async fn once(&self, metric: &Metric, names: &Names) -> Result<f64, LookError> {
        let prometheus = &metric.prometheus;
        let asked = |error| LookError::Asked { url: shown(&prometheus.url), error };
        let location = api(&prometheus.url).map_err(asked)?;
        let query = prometheus::filled(&prometheus.query, names)?;
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("query", &query).finish();
        let mut request = post("application/x-www-form-urlencoded", form).map_err(asked)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(key) = &prometheus.token {
            // Over http as well: a Prometheus in the cluster often has no certificate, and whoever labelled the token sees the URL.
            let token = self.secrets.read(&names.namespace, key).await?;
            let bearer = HeaderValue::from_maybe_shared(Bytes::from(format!("Bearer {token}")));
            let mut bearer = bearer.map_err(|_| asked(Error::Url("cannot be sent the token")))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        let timeout = prometheus.timeout.as_std();
        let answer =
            self.outbound.body(&location, None, request, prometheus::MAX_ANSWER, timeout).await.map_err(asked)?;
        Ok(prometheus::number(&answer)?)
    }
}

/// Where queries are asked, below what the user says.
fn api(url: &str) -> Result<Location, Error> {
    if url.contains('?') {
        return Err(Error::Url("has a query: write where the API begins"));
    }
    Location::http_or_https(&format!("{}/api/v1/query", url.trim_end_matches('/'))).map_err(Error::Url)
}

/// What a look makes of what was seen before, and what it is for metrics.
fn take(look: &mut Look, metric: &Metric, found: Result<f64, LookError>) -> &'static str {
    match found {
        Ok(value) => {
            let outside = metric.min.is_some_and(|min| value < min) || metric.max.is_some_and(|max| value > max);
            look.value = Some(value);
            look.error = None;
            look.outside_in_a_row = if outside { look.outside_in_a_row.saturating_add(1) } else { 0 };
            if outside { "outside" } else { "inside" }
        }
        Err(error) => {
            look.value = None;
            look.error = Some(error.to_string());
            error.outcome()
        }
    }
}

#[cfg(test)]
mod tests;
