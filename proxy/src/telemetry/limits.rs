//! Counts of what was over a limit of an endpoint set.

use std::{
    fmt::Error,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Direction, Requests};

label! {
    /// A limit of an endpoint set, in the words of the API.
    Limit {
        /// Connections that are open.
        Connections = "connections",
        /// Requests that wait for one.
        PendingRequests = "pendingRequests",
        /// Requests in flight.
        Requests = "requests",
    }
}

/// Of one Service.
#[derive(Debug, Default)]
pub struct Limited([AtomicU64; Limit::ALL.len()]);

impl Limited {
    /// A request, or a connection of the application, found no room.
    pub fn count(&self, limit: Limit) {
        self.0[limit as usize].fetch_add(1, Relaxed);
    }
}

/// Writes out what was counted, if anything.
pub(super) fn encode<'a>(
    encoder: &mut DescriptorEncoder,
    services: impl Iterator<Item = (Direction, &'a str, &'a Requests)>,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(
        "over_limit",
        "Requests and connections that were refused because of a limit of the endpoint set",
        None,
        MetricType::Counter,
    )?;
    for (direction, service, requests) in services {
        for (count, limit) in requests.limited.0.iter().zip(Limit::ALL) {
            let labels = [("direction", direction.as_str()), ("service", service), ("limit", limit.as_str())];
            let count = count.load(Relaxed);
            if count > 0 {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
    }
    Ok(())
}
