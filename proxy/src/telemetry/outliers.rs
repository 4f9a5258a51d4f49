//! Counts of endpoints that are left out.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::family::Family;
use crate::balance::{health::Cause, set::Event};

label! {
    /// What became of an endpoint that fails.
    OutlierEvent {
        /// Left out for failures in a row.
        Consecutive = "ejected-consecutive-errors",
        /// Left out for its share of failures.
        ErrorRate = "ejected-error-rate",
        /// Left out again, because it failed on trial.
        Trial = "ejected-trial",
        /// Kept, because too many are left out already.
        Kept = "kept",
        /// Back.
        Returned = "returned",
        /// Left out, because checks found it unhealthy.
        Unhealthy = "unhealthy",
        /// Back, because checks found it healthy again.
        Healthy = "healthy",
    }
}

impl From<Event> for OutlierEvent {
    fn from(event: Event) -> Self {
        match event {
            Event::Ejected(Cause::Consecutive) => Self::Consecutive,
            Event::Ejected(Cause::ErrorRate) => Self::ErrorRate,
            Event::Ejected(Cause::Trial) => Self::Trial,
            Event::Kept => Self::Kept,
            Event::Returned => Self::Returned,
            Event::Unhealthy => Self::Unhealthy,
            Event::Healthy => Self::Healthy,
        }
    }
}

/// Of one Service.
#[derive(Debug, Default)]
pub struct Outliers([AtomicU64; OutlierEvent::ALL.len()]);

impl Outliers {
    /// Something happened to an endpoint.
    pub fn count(&self, event: Event) {
        self.0[OutlierEvent::from(event) as usize].fetch_add(1, Relaxed);
    }
}

pub(super) const OUTLIER_EVENTS: Family<OutlierEvent> = Family {
    name: "outlier_events",
    help: "Endpoints that were left out because they fail, or came back",
    fixed: &[],
    label: "event",
    values: OutlierEvent::ALL,
    value: OutlierEvent::as_str,
    counts: |requests| &requests.outliers.0,
};
