//! Counts of what was over a limit of an endpoint set.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::family::Family;

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

pub(super) const OVER_LIMIT: Family<Limit> = Family {
    name: "over_limit",
    help: "Requests and connections that were refused because of a limit of the endpoint set",
    fixed: &[],
    label: "limit",
    values: Limit::ALL,
    value: Limit::as_str,
    counts: |requests| &requests.limited.0,
};
