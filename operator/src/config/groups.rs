//! What proxies counted of the two sides of releases, summed.
//!
//! Counters are cumulative since the start of a proxy's instance, so that only the newest of each counts, and a report that comes
//! twice, or by two ways, changes nothing. What an instance counted stays after its end: its requests were made.

use std::collections::HashMap;
use std::time::Duration;

use fairlead_proxy_api::v1;
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::canary::counts::{BUCKETS, Counts};
use crate::canary::{Fresh, began};

/// Counters of one instance in one group, in all. At some 350 bytes each this is 20 MB at the most; a release with 1,000 callers
/// has 2,000 at each step.
const MAX_COUNTS: usize = 50_000;
/// A group that nobody reported on for so long belongs to a release that is over.
const EXPIRY: Duration = Duration::from_hours(24);
/// A group's name has two names of Kubernetes objects in it and some numbers.
const MAX_NAME: usize = 640;

/// Counters by group, then instance.
#[derive(Debug)]
pub(super) struct Groups {
    by_name: HashMap<String, Group>,
    counts: usize,
    /// Since when this process takes evidence, unix seconds.
    began: i64,
    /// Tells these from those of any other process, and from its own of another leadership.
    source: u64,
}

impl Default for Groups {
    fn default() -> Self {
        Self { by_name: HashMap::new(), counts: 0, began: Timestamp::now().as_second(), source: rand::random() }
    }
}

#[derive(Debug)]
struct Group {
    instances: HashMap<String, Reported>,
    reported: Instant,
}

#[derive(Debug)]
struct Reported {
    counts: Counts,
    /// What of it an earlier leader may have taken for evidence.
    before: Counts,
    /// What an earlier leader took may be more: the next report says how much there is.
    stale: bool,
    /// By the proxy itself rather than by another replica.
    here: bool,
}

impl Groups {
    /// Takes the newest counters of an instance. `here`: from the proxy itself.
    pub(super) fn record(&mut self, instance: &str, report: &v1::GroupCounts, here: bool) {
        if report.group.len() > MAX_NAME {
            return;
        }
        let now = Instant::now();
        let counts = counts(report);
        // Of a step that is older than this leadership, an earlier leader knew what is said first.
        let is_older = began(&report.group).is_some_and(|began| began <= self.began);
        if let Some(group) = self.by_name.get_mut(&report.group) {
            group.reported = now;
            if let Some(known) = group.instances.get_mut(instance) {
                // The replica that it was at before may have told an earlier leader more than it told us.
                let moved = here && !known.here;
                known.here |= here;
                // Two ways may differ in how old their news is.
                if counts.requests >= known.counts.requests {
                    known.counts = counts;
                }
                if (moved || known.stale) && is_older {
                    known.before = known.counts;
                }
                known.stale = false;
                return;
            }
        }
        if self.counts >= MAX_COUNTS && !self.make_room(&report.group, now) {
            return;
        }
        let group = self
            .by_name
            .entry(report.group.clone())
            .or_insert_with(|| Group { instances: HashMap::new(), reported: now });
        let before = if is_older { counts } else { Counts::default() };
        group.instances.insert(instance.to_owned(), Reported { counts, before, stale: false, here });
        self.counts += 1;
    }

    /// This process takes evidence from now on, and none of what an earlier leader may have taken: of steps that began before, evidence goes on from the
    /// next report of each instance.
    pub(super) fn take_over(&mut self) {
        self.began = Timestamp::now().as_second();
        self.source = rand::random();
        for reported in self.by_name.values_mut().flat_map(|group| group.instances.values_mut()) {
            reported.before = reported.counts;
            reported.stale = true;
        }
    }

    /// The sum over all instances; `None` where nobody counted anything.
    pub(super) fn sum(&self, group: &str) -> Option<Counts> {
        let group = self.by_name.get(group)?;
        let mut sum = Counts::default();
        for reported in group.instances.values() {
            sum.add(&reported.counts);
        }
        Some(sum)
    }

    /// The sum of what nobody but this process can have taken for evidence.
    pub(super) fn fresh(&self, group: &str) -> Fresh {
        let mut counts = Counts::default();
        for reported in self.by_name.get(group).into_iter().flat_map(|group| group.instances.values()) {
            counts.add(&reported.counts.since(&reported.before));
        }
        Fresh { source: self.source, counts }
    }

    /// What proxies reported here, by instance.
    pub(super) fn reported_here(&self) -> HashMap<&str, Vec<v1::GroupCounts>> {
        let mut by_instance: HashMap<&str, Vec<v1::GroupCounts>> = HashMap::new();
        for (name, group) in &self.by_name {
            for (instance, reported) in group.instances.iter().filter(|(_, r)| r.here) {
                let counts = v1::GroupCounts {
                    group: name.clone(),
                    requests: reported.counts.requests,
                    failures: reported.counts.failures,
                    latency: reported.counts.latency.to_vec(),
                };
                by_instance.entry(instance).or_default().push(counts);
            }
        }
        by_instance
    }

    /// Forgets groups that are over, and if there are none the one that was quiet for longest; never `wanted`.
    fn make_room(&mut self, wanted: &str, now: Instant) -> bool {
        let before = self.counts;
        self.by_name.retain(|name, group| name == wanted || now - group.reported < EXPIRY);
        let quietest = self
            .by_name
            .iter()
            .filter(|(name, _)| *name != wanted)
            .min_by_key(|(_, group)| group.reported)
            .map(|(name, _)| name.clone());
        self.recount();
        if self.counts == before
            && let Some(name) = quietest
        {
            tracing::warn!(group = name, "too many counters of releases: the quietest group is forgotten");
            self.by_name.remove(&name);
            self.recount();
        }
        self.counts < MAX_COUNTS
    }

    fn recount(&mut self) {
        self.counts = self.by_name.values().map(|g| g.instances.len()).sum();
    }
}

/// What is said is read so that it cannot contradict itself.
fn counts(report: &v1::GroupCounts) -> Counts {
    let mut counts =
        Counts { requests: report.requests, failures: report.failures.min(report.requests), latency: [0; BUCKETS] };
    for (bucket, count) in counts.latency.iter_mut().zip(&report.latency) {
        *bucket = *count;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(group: &str, requests: u64, failures: u64) -> v1::GroupCounts {
        v1::GroupCounts { group: group.into(), requests, failures, latency: vec![requests] }
    }

    #[tokio::test]
    async fn the_newest_of_each_instance_counts_once() {
        let mut groups = Groups::default();
        groups.record("a", &report("g", 5, 1), true);
        groups.record("a", &report("g", 9, 2), true);
        groups.record("a", &report("g", 7, 1), false);
        groups.record("b", &report("g", 1, 0), false);
        groups.record("b", &report("other", 100, 0), true);
        let sum = groups.sum("g").unwrap();
        assert_eq!((sum.requests, sum.failures, sum.latency[0]), (10, 2, 10));
        assert_eq!(groups.sum("unknown"), None);
        let here = groups.reported_here();
        assert_eq!(here["a"].len(), 1);
        assert_eq!(here["b"].len(), 1, "what another replica said is not said again");
    }

    #[tokio::test]
    async fn a_standby_that_takes_over_counts_nothing_that_its_predecessor_took() {
        let mut groups = Groups { began: 0, ..Groups::default() };
        let group = format!("shop/reviews/v2/0/{}/canary", Timestamp::now().as_second() - 10);
        let source = groups.fresh(&group).source;
        // One is here, one at the replica that led, whose share is a little old, and one is not known yet.
        groups.record("here", &report(&group, 100, 0), true);
        groups.record("there", &report(&group, 100, 0), false);
        groups.take_over();
        assert_eq!(groups.fresh(&group).counts.requests, 0);
        assert_ne!(groups.fresh(&group).source, source);
        groups.record("here", &report(&group, 110, 0), true);
        groups.record("there", &report(&group, 100, 0), false);
        groups.record("there", &report(&group, 140, 0), true);
        groups.record("late", &report(&group, 500, 0), true);
        assert_eq!(groups.fresh(&group).counts.requests, 0);
        for (instance, requests) in [("here", 111), ("there", 142), ("late", 504)] {
            groups.record(instance, &report(&group, requests, 0), true);
        }
        assert_eq!(groups.fresh(&group).counts.requests, 1 + 2 + 4);
        // A step that begins under it is its own from the first request on, wherever a proxy is connected.
        let next = format!("shop/reviews/v2/1/{}/canary", groups.began + 10);
        groups.record("there", &report(&next, 30, 0), false);
        groups.record("there", &report(&next, 40, 0), true);
        assert_eq!(groups.fresh(&next).counts.requests, 40);
    }

    #[tokio::test]
    async fn what_a_predecessor_may_have_seen_is_not_fresh() {
        let mut groups = Groups::default();
        let [older, newer] = [-10, 10].map(|since| format!("shop/reviews/v2/0/{}/canary", groups.began + since));
        for (group, first, second) in [(&older, 0, 20), (&newer, 30, 50)] {
            groups.record("a", &report(group, 30, 3), true);
            assert_eq!(groups.fresh(group).counts.requests, first);
            groups.record("a", &report(group, 50, 5), true);
            assert_eq!(groups.fresh(group).counts.requests, second);
            assert_eq!(groups.sum(group).unwrap().requests, 50);
        }
        assert_eq!(groups.fresh("unknown").counts, Counts::default());
    }

    #[tokio::test]
    async fn contradictions_are_cut() {
        let mut groups = Groups::default();
        let mut odd = report("g", 1, 7);
        odd.latency = vec![1; 1000];
        groups.record("a", &odd, true);
        assert_eq!(groups.sum("g").unwrap().failures, 1);
        groups.record("a", &report(&"x".repeat(1000), 1, 0), true);
        assert_eq!(groups.by_name.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_table_forgets_what_was_quiet_for_longest() {
        let mut groups = Groups::default();
        groups.record("a", &report("old", 1, 0), true);
        tokio::time::advance(Duration::from_secs(1)).await;
        for i in 0..MAX_COUNTS {
            groups.record(&format!("i{i}"), &report("busy", 1, 0), true);
        }
        assert_eq!(groups.counts, MAX_COUNTS);
        assert_eq!(groups.sum("old"), None);
        assert_eq!(groups.sum("busy").unwrap().requests, MAX_COUNTS as u64);
        groups.record("one more", &report("busy", 1, 0), true);
        assert_eq!(groups.counts, MAX_COUNTS, "nothing else is there to forget");
    }
}
