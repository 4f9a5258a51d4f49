//! What came of a request whose end alone tells, such as a call of gRPC.

use std::sync::Arc;

use tokio::time::Instant;

use super::EndpointSet;
use crate::{balance::Endpoint, telemetry::Requests};

/// Says of a request what came of it, once that is known.
#[derive(Debug)]
pub struct Settle {
    /// Where the endpoint was chosen from.
    pub set: Arc<EndpointSet>,
    /// Who got the request.
    pub endpoint: Arc<Endpoint>,
    /// As picked.
    pub trial: bool,
    /// Counts what becomes of it.
    pub requests: Arc<Requests>,
}

impl Settle {
    /// It is known now.
    pub fn settle(&self, failed: bool, now: Instant) {
        if let Some(event) = self.set.record(&self.endpoint, self.trial, failed, now) {
            tracing::debug!(set = self.set.name, address = %self.endpoint.address, ?event, "an endpoint that fails");
            self.requests.outliers.count(event);
        }
    }
}
