//! Counters that each Service has, by one label.

use std::{
    fmt::Error,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::{Direction, Requests};

/// What such a metric is called, and where its counts are.
pub(super) struct Family<L: 'static> {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// The same for all of its series.
    pub(super) fixed: &'static [(&'static str, &'static str)],
    pub(super) label: &'static str,
    /// The label's values, in the order of the counts.
    pub(super) values: &'static [L],
    pub(super) value: fn(L) -> &'static str,
    pub(super) counts: fn(&Requests) -> &[AtomicU64],
}

impl<L: Copy> Family<L> {
    /// Writes out what was counted, if anything.
    pub(super) fn encode<'a>(
        &self,
        encoder: &mut DescriptorEncoder,
        services: impl Iterator<Item = (Direction, &'a str, &'a Requests)>,
    ) -> Result<(), Error> {
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, MetricType::Counter)?;
        for (direction, service, requests) in services {
            for (count, value) in (self.counts)(requests).iter().zip(self.values) {
                let count = count.load(Relaxed);
                if count > 0 {
                    let mut labels = vec![("direction", direction.as_str()), ("service", service)];
                    labels.extend(self.fixed);
                    labels.push((self.label, (self.value)(*value)));
                    metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
                }
            }
        }
        Ok(())
    }
}
