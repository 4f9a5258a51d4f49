//! What the two sides of a release answered, as this proxy saw it: the evidence a Canary is judged by.
//!
//! The data path asks [`Groups::get`] once per endpoint and then counts without a lock; the configuration stream calls
//! [`Groups::changed`] for each report.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use fairlead_proxy_api::{LATENCY_BUCKETS, v1};
use parking_lot::Mutex;

/// How many groups are kept. A release makes two per step; a proxy that outlives a hundred steps forgets those that no endpoint
/// carries any more.
pub const MAX_GROUPS: usize = 256;

/// Counters of one group; they only grow.
#[derive(Debug)]
pub struct Group {
    requests: AtomicU64,
    failures: AtomicU64,
    latency: [AtomicU64; LATENCY_BUCKETS],
}

/// All groups of this instance of the proxy.
#[derive(Debug, Default)]
pub struct Groups(Mutex<HashMap<Arc<str>, Arc<Group>>>);

/// What one reader has been told already.
#[derive(Debug, Default)]
pub struct Reported(HashMap<String, (u64, u64)>);

impl Group {
    fn new() -> Self {
        Self {
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            latency: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// An attempt was answered after `latency`, or not answered (`None`).
    pub fn count(&self, failed: bool, latency: Option<Duration>) {
        if let Some(latency) = latency {
            self.latency[bucket(latency)].fetch_add(1, Relaxed);
        }
        if failed {
            self.failures.fetch_add(1, Relaxed);
        }
        // Last, so that a reader never sees more failures than requests for long.
        self.requests.fetch_add(1, Relaxed);
    }

    fn read(&self, name: &str) -> v1::GroupCounts {
        v1::GroupCounts {
            group: name.to_owned(),
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            latency: self.latency.iter().map(|n| n.load(Relaxed)).collect(),
        }
    }
}

/// The first bucket whose bound, 0.25 ms × 2^(i/2), is not below `latency`; the last takes all that is slower.
fn bucket(latency: Duration) -> usize {
    let ratio = latency.as_secs_f64() / 0.000_25;
    if ratio <= 1.0 {
        return 0;
    }
    // The tiny step back keeps exact bounds in their own bucket in spite of rounding.
    let index = (2.0 * ratio.log2() - 1e-9).ceil();
    (index as usize).min(LATENCY_BUCKETS - 1)
}

impl Groups {
    /// The counters of `name`; `None` where there are [`MAX_GROUPS`] in use already.
    pub fn get(&self, name: &Arc<str>) -> Option<Arc<Group>> {
        let mut groups = self.0.lock();
        if let Some(group) = groups.get(name) {
            return Some(group.clone());
        }
        if groups.len() >= MAX_GROUPS {
            // Only endpoints hold groups: what nobody else holds belongs to a step that is over.
            groups.retain(|_, group| Arc::strong_count(group) > 1);
        }
        if groups.len() >= MAX_GROUPS {
            tracing::warn!(group = %name, "too many release groups: requests of this one are not counted");
            return None;
        }
        let group = Arc::new(Group::new());
        groups.insert(name.clone(), group.clone());
        Some(group)
    }

    /// The groups that counted something since `reported` was brought up to date, each with all its counters since the start; brings
    /// it up to date. A fresh `Reported` (a new stream to the operator) gets every group.
    pub fn changed(&self, reported: &mut Reported) -> Vec<v1::GroupCounts> {
        let groups = self.0.lock();
        reported.0.retain(|name, _| groups.contains_key(name.as_str()));
        groups
            .iter()
            .map(|(name, group)| group.read(name))
            .filter(|now| {
                let seen = (now.requests, now.failures);
                seen.0 > 0 && reported.0.insert(now.group.clone(), seen) != Some(seen)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn buckets_follow_the_layout_of_the_contract() {
        for index in 0..LATENCY_BUCKETS {
            let bound = 0.000_25 * 2_f64.powf(index as f64 / 2.0);
            assert_eq!(bucket(Duration::from_secs_f64(bound * 0.999)), index);
            let next = (index + 1).min(LATENCY_BUCKETS - 1);
            assert_eq!(bucket(Duration::from_secs_f64(bound * 1.001)), next);
        }
        assert_eq!(bucket(Duration::ZERO), 0);
        assert_eq!(bucket(MS / 2), 2, "an exact bound belongs to its bucket");
        assert_eq!(bucket(Duration::from_secs(3600)), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn a_report_holds_what_changed_and_is_cumulative() {
        let groups = Groups::default();
        let stable = groups.get(&"stable".into()).unwrap();
        let canary = groups.get(&"canary".into()).unwrap();
        let mut reported = Reported::default();
        assert!(groups.changed(&mut reported).is_empty());

        stable.count(false, Some(MS));
        canary.count(true, None);
        assert_eq!(groups.changed(&mut reported).len(), 2);
        assert!(groups.changed(&mut reported).is_empty());

        stable.count(true, Some(MS));
        let report = groups.changed(&mut reported);
        assert_eq!(report.len(), 1);
        assert_eq!((report[0].requests, report[0].failures), (2, 1));
        assert_eq!(report[0].latency.iter().sum::<u64>(), 2);

        let everything = groups.changed(&mut Reported::default());
        assert_eq!(everything.len(), 2, "a new stream is told everything");
    }

    #[test]
    fn groups_are_bounded_and_those_of_past_steps_make_room() {
        let groups = Groups::default();
        let held: Vec<_> = (0..MAX_GROUPS).map(|n| groups.get(&format!("{n}").into()).unwrap()).collect();
        assert!(groups.get(&"more".into()).is_none());
        drop(held);
        assert!(groups.get(&"more".into()).is_some());
    }
}
