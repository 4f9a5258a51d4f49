//! Counts of what rules refused, and of what they had recorded.

use std::{collections::BTreeMap, fmt::Error};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Rules that are told apart; what more there are count together.
const MAX_RULES: usize = 1_000;

label! {
    /// What a rule did.
    Outcome {
        /// Refused a request or a connection.
        Denied = "denied",
        /// Would have refused it, if it were not only rehearsed.
        WouldDeny = "would-deny",
        /// Had it recorded.
        Audited = "audited",
    }
}

/// By rule. They are few, and who is refused can wait for a lock.
#[derive(Debug, Default)]
pub struct Authorized(Mutex<BTreeMap<(&'static str, String), u64>>);

impl Authorized {
    /// A rule held; what no rule decided is `default`, what came in plain `mtls`.
    pub fn count(&self, outcome: Outcome, rule: &str) {
        let mut counts = self.0.lock();
        let key = (outcome.as_str(), rule.to_owned());
        let room = counts.len() < MAX_RULES || counts.contains_key(&key);
        let key = if room { key } else { (key.0, "other".to_owned()) };
        *counts.entry(key).or_default() += 1;
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder) -> Result<(), Error> {
        let help = "Requests and connections that a rule of a PeerAuth refused or had recorded";
        let mut metric = encoder.encode_descriptor("authorization", help, None, MetricType::Counter)?;
        for ((outcome, rule), count) in &*self.0.lock() {
            let labels = [("outcome", *outcome), ("rule", rule.as_str())];
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, u64>(count, None)?;
        }
        Ok(())
    }
}
