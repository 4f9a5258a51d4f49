//! What users read back of `TrafficPolicy` and `PeerAuth`: conditions and Events. (Releases write the status of their Canaries.)
//!
//! # Expected flow
//! [`run`] waits until this replica leads, then looks at every policy whenever the cluster or what proxies said has changed, and
//! writes the statuses that say something new.
//!
//! # Guarantees
//! A status is written only if it changes: nothing in it moves by itself, and times only where a condition flips. What changes a
//! number alone is written at most once a second for each object, all else [`SETTLE`] after the change.
//!
//! # Errors
//! A write that fails is tried again with the next round, at the latest after [`RETRY`].

mod conditions;
mod write;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use fairlead_crds::WorkloadReadiness;
use futures::StreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use tokio::time::{Instant, sleep, sleep_until};

use crate::config::Registry;
use crate::index::{Index, Report};
use crate::leader::Leadership;
use crate::model::{ObjectName, Source, SourceKind, SourceRef};

pub use write::FIELD_MANAGER;
use write::Writer;

/// Proxies acknowledge a change within some tens of milliseconds: so long a change may settle, so that most statuses go from one
/// generation's `Programmed` to the next one's in one write.
const SETTLE: Duration = Duration::from_millis(50);
/// Between two writes of one object that change numbers alone.
const NUMBERS: Duration = Duration::from_secs(1);
/// After a failed write, in any case.
const RETRY: Duration = Duration::from_secs(5);
/// What others did to a status is put right within this.
const RESYNC: Duration = Duration::from_mins(1);
/// Writes at a time.
const WRITES: usize = 8;

/// Keeps statuses true while this replica leads; `instance` is this pod's name. Runs until it is dropped.
pub async fn run(client: Client, index: Arc<Index>, registry: Arc<Registry>, leadership: Leadership, instance: String) {
    let mut is_leader = leadership.is_leader;
    if is_leader.wait_for(|leads| *leads).await.is_err() {
        return;
    }
    index.ready().await;
    let writer = Writer::new(client, instance);
    let mut reports_changed = index.reports_changed();
    let mut registry_changed = registry.changed();
    let mut written = Written::default();
    let mut resync = Instant::now() + RESYNC;
    loop {
        reports_changed.mark_unchanged();
        registry_changed.mark_unchanged();
        let round = written.round(
            index.reports(),
            index.readiness(&registry.called_in_plain()),
            &registry,
            &Time(Timestamp::now()),
        );
        // Made first: a closure over borrowed changes would not be `Send`.
        let writes: Vec<_> = round.changes.iter().map(|change| write(&writer, change)).collect();
        let failed: Vec<Source> =
            futures::stream::iter(writes).buffer_unordered(WRITES).filter_map(std::future::ready).collect().await;
        let mut next = round.next.map_or(resync, |next| next.min(resync));
        if !failed.is_empty() {
            next = next.min(Instant::now() + RETRY);
        }
        written.forget(&failed);
        tokio::select! {
            _ = reports_changed.changed() => sleep(SETTLE).await,
            _ = registry_changed.changed() => sleep(SETTLE).await,
            () = sleep_until(next) => {}
        }
        if Instant::now() >= resync {
            resync = Instant::now() + RESYNC;
            written = Written::default();
        }
    }
}

/// Answers with the object if it could not be written.
async fn write(writer: &Writer, change: &Change) -> Option<Source> {
    let report = &change.report;
    if let Err(error) = writer.status(report, &change.after, &change.readiness).await {
        let kind = report.source.kind.as_str();
        tracing::warn!(kind, object = %report.source.object, error, "a status could not be written: it is tried again");
        return Some(report.source.clone());
    }
    for condition in conditions::transitions(&change.before, &change.after) {
        writer.event(report, condition).await;
    }
    None
}

/// What statuses say by what this replica wrote: the watch tells it a little later.
#[derive(Default)]
struct Written(HashMap<Source, Status>);

struct Status {
    uid: String,
    conditions: Vec<Condition>,
    readiness: Vec<WorkloadReadiness>,
    at: Instant,
}

/// A status that has to say something new.
struct Change {
    report: Report,
    before: Vec<Condition>,
    after: Vec<Condition>,
    readiness: Vec<WorkloadReadiness>,
}

struct Round {
    changes: Vec<Change>,
    /// When a change that can wait is due.
    next: Option<Instant>,
}

impl Written {
    /// What has to be written now. Counts as written until [`Written::forget`].
    fn round(
        &mut self,
        reports: Vec<Report>,
        mut readiness: HashMap<ObjectName, Vec<WorkloadReadiness>>,
        registry: &Registry,
        now: &Time,
    ) -> Round {
        let known: HashSet<&Source> = reports.iter().map(|r| &r.source).collect();
        self.0.retain(|source, _| known.contains(source));
        let mut round = Round { changes: Vec::new(), next: None };
        for report in reports {
            let programmed =
                registry.programmed(&SourceRef { source: report.source.clone(), generation: report.generation });
            let written = self.0.get(&report.source).filter(|w| w.uid == report.uid);
            let before = written.map_or(&report.conditions, |w| &w.conditions);
            let after = conditions::next(&report, &programmed, before, now);
            let is_auth = report.source.kind == SourceKind::PeerAuth;
            let ready = readiness.remove(&report.source.object).filter(|_| is_auth).unwrap_or_default();
            if *before == after && *written.map_or(&report.readiness, |w| &w.readiness) == ready {
                continue;
            }
            if let Some(written) = written
                && conditions::only_numbers(before, &after)
                && written.at.elapsed() < NUMBERS
            {
                let due = written.at + NUMBERS;
                round.next = Some(round.next.map_or(due, |next| next.min(due)));
                continue;
            }
            let before = before.clone();
            let (uid, conditions) = (report.uid.clone(), after.clone());
            let status = Status { uid, conditions, readiness: ready.clone(), at: Instant::now() };
            self.0.insert(report.source.clone(), status);
            round.changes.push(Change { report, before, after, readiness: ready });
        }
        round
    }

    /// These were not written after all.
    fn forget(&mut self, sources: &[Source]) {
        for source in sources {
            self.0.remove(source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(uid: &str) -> Report {
        Report {
            source: Source { kind: SourceKind::PeerAuth, object: ObjectName::new("shop", "p") },
            uid: uid.into(),
            generation: 1,
            problem: None,
            kept: None,
            unresolved: Vec::new(),
            conditions: Vec::new(),
            readiness: Vec::new(),
        }
    }

    fn acknowledge(registry: &Registry, proxies: usize) {
        for _ in 0..proxies {
            let pod = ObjectName::new("shop", "pod");
            let stream = registry.begin(pod.clone(), format!("{proxies}"));
            let name = crate::model::ResourceName::Workload(pod);
            let source = SourceRef { source: report("u").source, generation: 1 };
            registry.sent(stream, &name, std::slice::from_ref(&source));
            registry.acknowledged(stream, &name, &[source]);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_status_is_written_once_and_numbers_at_most_each_second() {
        let registry = Registry::default();
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut written = Written::default();
        assert_eq!(written.round(vec![report("u")], HashMap::new(), &registry, &now).changes.len(), 1);
        // The watch has not told of the write yet: the report still says nothing.
        assert!(written.round(vec![report("u")], HashMap::new(), &registry, &now).changes.is_empty());
        acknowledge(&registry, 1);
        let early = written.round(vec![report("u")], HashMap::new(), &registry, &now);
        assert!(early.changes.is_empty());
        sleep_until(early.next.expect("the number is due later")).await;
        let due = written.round(vec![report("u")], HashMap::new(), &registry, &now);
        assert_eq!(due.changes.len(), 1);
        assert!(due.next.is_none());
    }

    #[tokio::test]
    async fn what_failed_is_tried_again() {
        let registry = Registry::default();
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut written = Written::default();
        let first = written.round(vec![report("u")], HashMap::new(), &registry, &now);
        written.forget(&[first.changes[0].report.source.clone()]);
        assert_eq!(written.round(vec![report("u")], HashMap::new(), &registry, &now).changes.len(), 1);
    }

    #[tokio::test]
    async fn an_object_made_anew_has_a_status_of_its_own() {
        let registry = Registry::default();
        let now = Time(Timestamp::UNIX_EPOCH);
        let mut written = Written::default();
        written.round(vec![report("u")], HashMap::new(), &registry, &now);
        assert_eq!(written.round(vec![report("v")], HashMap::new(), &registry, &now).changes.len(), 1);
        written.round(vec![], HashMap::new(), &registry, &now);
        assert!(written.0.is_empty());
    }
}
