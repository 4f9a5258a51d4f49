//! Who may ask now.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests of a kind at once.
pub(super) const IN_ALL: usize = 32;
/// For one namespace: users say how long an answer may take, so that some would otherwise take all turns for as long as they like.
pub(super) const PER_KEY: usize = 8;

/// Bounds what is done at once, in all and for each key.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    per_key: usize,
    of: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// As long as it is held.
pub(super) struct Turn {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
}

impl Turns {
    pub(super) fn new(per_key: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(IN_ALL)), per_key, of: Mutex::default() }
    }

    /// Whoever waits for its own key keeps no turn from the others. `None` never happens: nobody closes a semaphore.
    pub(super) async fn take(&self, key: &str) -> Option<Turn> {
        let own = self.of(key).acquire_owned().await.ok()?;
        let all = Arc::clone(&self.all).acquire_owned().await.ok()?;
        Some(Turn { _all: all, _own: own })
    }

    fn of(&self, key: &str) -> Arc<Semaphore> {
        let mut of = self.of.lock();
        if let Some(semaphore) = of.get(key).and_then(Weak::upgrade) {
            return semaphore;
        }
        of.retain(|_, semaphore| semaphore.strong_count() > 0);
        let semaphore = Arc::new(Semaphore::new(self.per_key));
        of.insert(key.to_owned(), Arc::downgrade(&semaphore));
        semaphore
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn nobody_takes_them_all() {
        let turns = Turns::new(PER_KEY);
        let mut held = Vec::new();
        for _ in 0..PER_KEY {
            held.push(turns.take("greedy").now_or_never().unwrap());
        }
        assert!(turns.take("greedy").now_or_never().is_none());
        for namespace in ["a", "b", "c"] {
            for _ in 0..PER_KEY {
                held.push(turns.take(namespace).now_or_never().unwrap());
            }
        }
        assert_eq!(held.len(), IN_ALL);
        assert!(turns.take("late").now_or_never().is_none());
        held.pop();
        assert!(turns.take("late").now_or_never().is_some());
        held.clear();
        assert!(turns.take("greedy").now_or_never().is_some());
        assert_eq!(turns.of.lock().len(), 1, "those that nobody holds are forgotten");
    }
}
