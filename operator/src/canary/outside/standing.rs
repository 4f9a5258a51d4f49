//! What is done in the background for as long as somebody asks about it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Whoever calls once a minute keeps it: half of that on top, which is what a reconciliation may take.
pub(super) const LAPSES: Duration = Duration::from_secs(90);

/// Work by key. `W` is what is wanted, `S` what is known of it so far.
pub(super) struct Standing<K, W, S>(Mutex<HashMap<K, Entry<W, S>>>);

struct Entry<W, S> {
    wanted: W,
    known: Arc<S>,
    called: Arc<Mutex<Instant>>,
    _work: AbortOnDropHandle<()>,
}

impl<K, W, S> Standing<K, W, S>
where
    K: Clone + Eq + Hash + Send + 'static,
    W: PartialEq + Send + 'static,
    S: Send + Sync + 'static,
{
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    /// Lets the work go on if the same is wanted, and begins it otherwise; what was wanted before is ended then.
    pub(super) fn keep<F>(self: &Arc<Self>, key: &K, wanted: W, begin: impl FnOnce(&W) -> (Arc<S>, F))
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut entries = self.0.lock();
        if let Some(entry) = entries.get(key)
            && entry.wanted == wanted
        {
            *entry.called.lock() = Instant::now();
            return;
        }
        let (known, work) = begin(&wanted);
        let called = Arc::new(Mutex::new(Instant::now()));
        let (standing, its_key, its_call) = (Arc::clone(self), key.clone(), Arc::clone(&called));
        let work = tokio::spawn(async move {
            // What is known stays as long as somebody asks for it.
            let work = async {
                work.await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = work => {}
                () = lapsed(&its_call) => {}
            }
            let mut entries = standing.0.lock();
            // It may be another's by now.
            if entries.get(&its_key).is_some_and(|entry| Arc::ptr_eq(&entry.called, &its_call)) {
                entries.remove(&its_key);
            }
        });
        entries.insert(key.clone(), Entry { wanted, known, called, _work: AbortOnDropHandle::new(work) });
    }

    /// What is known so far. Reading keeps nothing going: whoever still wants to know asks again.
    pub(super) fn known(&self, key: &K) -> Option<Arc<S>> {
        Some(Arc::clone(&self.0.lock().get(key)?.known))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

async fn lapsed(called: &Mutex<Instant>) {
    loop {
        let end = *called.lock() + LAPSES;
        if end <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    type Counting = Standing<&'static str, u32, AtomicU32>;

    /// Counts seconds.
    fn count(standing: &Arc<Counting>, wanted: u32) {
        standing.keep(&"key", wanted, |_| {
            let known = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&known);
            let work = async move {
                loop {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            };
            (known, work)
        });
    }

    async fn seconds(seconds: u64) {
        tokio::time::sleep(Duration::from_millis(seconds * 1000 + 1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_done_as_long_as_somebody_calls() {
        let standing = Counting::new();
        assert!(standing.known(&"key").is_none());
        count(&standing, 1);
        let known = standing.known(&"key").unwrap();
        seconds(80).await;
        count(&standing, 1);
        seconds(80).await;
        assert_eq!(known.load(Ordering::Relaxed), 160, "the second call went on with what the first began");
        assert!(Arc::ptr_eq(&standing.known(&"key").unwrap(), &known));
        seconds(5).await;
        assert_eq!(standing.len(), 1);
        assert!(standing.known(&"key").is_some(), "reading is no call");
        seconds(10).await;
        assert_eq!(standing.len(), 0);
        let end = known.load(Ordering::Relaxed);
        seconds(100).await;
        assert_eq!(known.load(Ordering::Relaxed), end, "nothing is done for nobody");
        assert!(standing.known(&"key").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_wanted_otherwise_begins_anew() {
        let standing = Counting::new();
        count(&standing, 1);
        let first = standing.known(&"key").unwrap();
        seconds(5).await;
        count(&standing, 2);
        seconds(5).await;
        assert_eq!(first.load(Ordering::Relaxed), 5);
        assert_eq!(standing.known(&"key").unwrap().load(Ordering::Relaxed), 5);
        // The first would have lapsed by now, and takes nothing with it.
        count(&standing, 2);
        seconds(86).await;
        assert_eq!(standing.len(), 1);
    }
}
