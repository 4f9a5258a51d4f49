//! Keeps what is wanted fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fetch::FetchError;
use super::metrics::Metrics;
use super::schedule::pause;
use super::{Fetched, KeySet, Source};

/// Sets that are fetched. What comes later waits until one is not wanted any more, so nobody loses keys because others ask for more.
const MAX_SETS: usize = 100;
/// Fetches at the same time.
const AT_ONCE: usize = 2;

const TOO_MANY: &str = "too many key sets are asked for: at most 100 different URLs are fetched";

/// What became of each wanted set.
pub type KeySetsNow = Arc<BTreeMap<Source, KeySet>>;

/// Which sets are wanted, and what became of them.
#[derive(Debug)]
pub struct KeySets {
    wanted: watch::Sender<BTreeSet<Source>>,
    published: watch::Sender<KeySetsNow>,
    metrics: Metrics,
}

/// What is known of a set, and when it is fetched next.
#[derive(Debug)]
struct Kept {
    set: KeySet,
    /// `None`: it is being fetched.
    due: Option<Instant>,
    failures: u32,
    /// Of the last fetch.
    outcome: &'static str,
}

impl KeySets {
    /// Nothing is wanted yet.
    pub fn new(metrics: Metrics) -> Self {
        Self { wanted: watch::Sender::default(), published: watch::Sender::default(), metrics }
    }

    /// All that are wanted now; those that are not among them are forgotten.
    pub fn want(&self, sources: BTreeSet<Source>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != sources;
            *wanted = sources;
            changed
        });
    }

    /// What became of them. It changes with keys and errors; that a set was fetched again and is the same changes [`Fetched::at`] alone, and wakes
    /// nobody.
    pub fn follow(&self) -> watch::Receiver<KeySetsNow> {
        self.published.subscribe()
    }

    /// Fetches until stopped. `fetch` is [`super::Fetcher::fetch`], `random` in 0..1.
    pub async fn run<F, R>(&self, fetch: F, random: impl Fn() -> f64, stop: CancellationToken)
    where
        F: Fn(Source) -> R,
        R: Future<Output = Result<Arc<str>, FetchError>>,
    {
        let mut wanted = self.wanted.subscribe();
        let mut kept: BTreeMap<Source, Kept> = BTreeMap::new();
        let mut running = FuturesUnordered::new();
        loop {
            let over = reconcile(&mut kept, &wanted.borrow_and_update());
            while running.len() < AT_ONCE
                && let Some(source) = next_due(&mut kept, Instant::now())
            {
                let fetching = fetch(source.clone());
                running.push(async move { (source, fetching.await) });
            }
            self.publish(&kept, over);
            let next = kept.values().filter_map(|kept| kept.due).min().filter(|_| running.len() < AT_ONCE);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = wanted.changed() => if changed.is_err() { return },
                Some((source, result)) = running.next() => {
                    self.metrics.fetched(result.as_ref().map_or_else(FetchError::outcome, |_| "ok"));
                    // Nobody may want it any more.
                    if let Some(kept) = kept.get_mut(&source) {
                        kept.take(&source.url, result, SystemTime::now());
                        kept.due = Some(Instant::now() + pause(kept.failures, random()));
                    }
                }
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
        }
    }

    fn publish(&self, kept: &BTreeMap<Source, Kept>, over: Vec<Source>) {
        let oldest = kept.values().filter_map(|kept| kept.set.fetched.as_ref()).map(|fetched| fetched.at).min();
        let oldest = oldest.and_then(|at| i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_secs()).ok());
        self.metrics.holding(kept.len() + over.len(), oldest);
        let mut next: BTreeMap<_, _> = kept.iter().map(|(source, kept)| (source.clone(), kept.set.clone())).collect();
        next.extend(
            over.into_iter().map(|source| (source, KeySet { fetched: None, error: Some(TOO_MANY.to_owned()) })),
        );
        self.published.send_if_modified(|published| {
            let news = !same(published, &next);
            if news || **published != next {
                *published = Arc::new(next);
            }
            news
        });
    }
}

/// But for when they were fetched.
fn same(a: &BTreeMap<Source, KeySet>, b: &BTreeMap<Source, KeySet>) -> bool {
    let keys = |set: &KeySet| set.fetched.as_ref().map(|fetched| Arc::clone(&fetched.keys));
    a.len() == b.len()
        && a.iter()
            .zip(b)
            .all(|((a_source, a), (b_source, b))| a_source == b_source && a.error == b.error && keys(a) == keys(b))
}

/// Forgets what is not wanted, and takes what is as long as there is room; what is left over is returned.
fn reconcile(kept: &mut BTreeMap<Source, Kept>, wanted: &BTreeSet<Source>) -> Vec<Source> {
    kept.retain(|source, _| wanted.contains(source));
    let mut over = Vec::new();
    for source in wanted {
        if kept.contains_key(source) {
            continue;
        }
        if kept.len() < MAX_SETS {
            kept.insert(source.clone(), Kept::new());
        } else {
            over.push(source.clone());
        }
    }
    over
}

/// The one that waits for longest; it is being fetched from now on.
fn next_due(kept: &mut BTreeMap<Source, Kept>, now: Instant) -> Option<Source> {
    let due = kept.iter_mut().filter(|(_, kept)| kept.due.is_some_and(|due| due <= now));
    let (source, kept) = due.min_by_key(|(_, kept)| kept.due)?;
    kept.due = None;
    Some(source.clone())
}

impl Kept {
    fn new() -> Self {
        Self { set: KeySet::default(), due: Some(Instant::now()), failures: 0, outcome: "" }
    }

    /// One line for each change of outcome; the metric counts all.
    fn take(&mut self, url: &str, result: Result<Arc<str>, FetchError>, now: SystemTime) {
        let outcome = result.as_ref().map_or_else(FetchError::outcome, |_| "ok");
        let changed = outcome != self.outcome;
        self.outcome = outcome;
        match result {
            Ok(keys) => {
                if changed {
                    tracing::info!(url, "key set fetched");
                }
                self.failures = 0;
                self.set = KeySet { fetched: Some(Fetched { keys, at: now }), error: None };
            }
            Err(error) => {
                let kept = if self.set.fetched.is_some() { "; the last good keys stay in force" } else { "" };
                let sentence = format!("{url} {error}{kept}");
                if changed {
                    tracing::warn!(url, outcome, kept = self.set.fetched.is_some(), %error, "key set not fetched; trying again");
                }
                self.failures = self.failures.saturating_add(1);
                self.set.error = Some(sentence);
            }
        }
    }
}

#[cfg(test)]
mod tests;
