//! Counts of tries after the first.

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
    /// What a try failed by.
    TryFailed {
        /// There was no connection, or the endpoint did not take the request: certainly nothing was done.
        Refused = "refused",
        /// The connection ended before the answer.
        Broke = "broke",
        /// The time for one try did.
        Late = "late",
        /// The answer says so.
        Answered = "answered",
    }
}

label! {
    /// Why a try that could have followed did not.
    NoTry {
        /// The target's budget was spent.
        Budget = "budget",
        /// The body is too long to be kept.
        Body = "body",
        /// The deadline would pass before.
        Deadline = "deadline",
    }
}

/// Of one Service.
#[derive(Debug, Default)]
pub struct Tries {
    made: [AtomicU64; TryFailed::ALL.len()],
    refused: [AtomicU64; NoTry::ALL.len()],
}

impl Tries {
    /// Another try follows one that failed so.
    pub fn again(&self, failed: TryFailed) {
        self.made[failed as usize].fetch_add(1, Relaxed);
    }

    /// None does.
    pub fn no_more(&self, why: NoTry) {
        self.refused[why as usize].fetch_add(1, Relaxed);
    }
}

/// Writes out what was counted, if anything.
pub(super) fn encode<'a>(
    encoder: &mut DescriptorEncoder,
    services: impl Iterator<Item = (Direction, &'a str, &'a Requests)> + Clone,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(
        "retries",
        "Tries after the first, by what the one before failed by",
        None,
        MetricType::Counter,
    )?;
    for (direction, service, requests) in services.clone() {
        for (count, cause) in requests.tries.made.iter().zip(TryFailed::ALL) {
            let labels = [("direction", direction.as_str()), ("service", service), ("cause", cause.as_str())];
            let count = count.load(Relaxed);
            if count > 0 {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
    }
    let mut metric = encoder.encode_descriptor(
        "retries_refused",
        "Tries that the route allows and that were not made",
        None,
        MetricType::Counter,
    )?;
    for (direction, service, requests) in services {
        for (count, reason) in requests.tries.refused.iter().zip(NoTry::ALL) {
            let labels = [("direction", direction.as_str()), ("service", service), ("reason", reason.as_str())];
            let count = count.load(Relaxed);
            if count > 0 {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
    }
    Ok(())
}
