//! Counts of answers that were not sent to their end, because nothing moved.

use std::{
    fmt::Error,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Direction, Requests};
use crate::http::Reason;

label! {
    /// What was waited for.
    CutOff {
        /// Anything at all of the request or the answer.
        Silence = "silence",
        /// That the caller takes what there is of the answer.
        Unread = "unread",
    }
}

/// Of one Service.
#[derive(Debug, Default)]
pub struct CutOffs([AtomicU64; CutOff::ALL.len()]);

impl CutOffs {
    /// An answer was cut off.
    pub fn count(&self, cause: CutOff) {
        self.0[cause as usize].fetch_add(1, Relaxed);
    }
}

/// Writes out what was counted, if anything.
pub(super) fn encode<'a>(
    encoder: &mut DescriptorEncoder,
    services: impl Iterator<Item = (Direction, &'a str, &'a Requests)>,
) -> Result<(), Error> {
    let mut metric = encoder.encode_descriptor(
        "cut_off",
        "Answers that had begun and were cut off, because nothing moved for too long",
        None,
        MetricType::Counter,
    )?;
    for (direction, service, requests) in services {
        for (count, cause) in requests.cut_off.0.iter().zip(CutOff::ALL) {
            let labels = [
                ("direction", direction.as_str()),
                ("service", service),
                ("reason", Reason::IdleTimeout.as_str()),
                ("cause", cause.as_str()),
            ];
            let count = count.load(Relaxed);
            if count > 0 {
                metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
    }
    Ok(())
}
