//! One destination: what the operator said of it, who waits for that, and who holds it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release, SeqCst},
            fence,
        },
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use fairlead_proxy_api::v1;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{
    config::{Programmed, Refused},
    route::{self, Destination, Handle},
};

/// A place in the map of destinations.
#[derive(Debug)]
pub(in crate::config) struct Slot {
    pub(super) address: SocketAddr,
    // Held by the map through this slot, and by connections.
    pub(in crate::config) destination: Handle,
    programmed: Mutex<Programmed>,
    answered: AtomicBool,
    answer: Notify,
    patience_ends: Instant,
    // Has left the map, or is about to: whoever finds it now must ask the map again.
    retired: AtomicBool,
    // Seconds since `Destinations::start`.
    pub(super) last_used: AtomicU64,
}

impl Slot {
    pub(in crate::config) fn new(address: SocketAddr, start: Instant, patience: Duration) -> Self {
        Self {
            address,
            destination: Arc::new(ArcSwap::from_pointee(Destination::PassThrough)),
            programmed: Mutex::default(),
            answered: AtomicBool::new(false),
            answer: Notify::new(),
            patience_ends: Instant::now() + patience,
            retired: AtomicBool::new(false),
            last_used: AtomicU64::new(start.elapsed().as_secs()),
        }
    }

    pub(in crate::config) fn programmed(&self) -> Programmed {
        self.programmed.lock().clone()
    }

    /// Uses `destination` from now on, or says why not and keeps what it had.
    pub(in crate::config) fn apply(&self, version: &str, destination: v1::Destination) -> Result<(), String> {
        let previous = self.destination.load();
        match route::compile(Some(&previous), destination) {
            Ok(compiled) => {
                self.destination.store(Arc::new(compiled));
                *self.programmed.lock() = Programmed { version: version.to_owned(), refused: None };
                self.answered();
                Ok(())
            }
            Err(reason) => {
                self.programmed.lock().refused = Some(Refused { version: version.to_owned(), reason: reason.clone() });
                // There is nothing better to wait for.
                self.answered();
                Err(reason)
            }
        }
    }

    pub(super) fn answered(&self) {
        self.answered.store(true, Release);
        self.answer.notify_waiters();
    }

    /// Waits for the operator's word, but not for ever.
    pub(super) async fn settled(&self) {
        if self.answered.load(Acquire) {
            return;
        }
        let notified = self.answer.notified();
        tokio::pin!(notified);
        // Registered before looking again, so that an answer in between is not missed.
        notified.as_mut().enable();
        if self.answered.load(Acquire) {
            return;
        }
        if tokio::time::timeout_at(self.patience_ends, notified).await.is_err() {
            tracing::debug!(address = %self.address, "the operator has not answered: passing through");
        }
    }

    /// For a connection; `None` if the slot is leaving the map.
    pub(super) fn hold(&self) -> Option<Handle> {
        let handle = self.destination.clone();
        // With the fence in `retire`: either this sees that it is retired, or that sees that it is held.
        fence(SeqCst);
        (!self.retired.load(Relaxed)).then_some(handle)
    }

    pub(super) fn held(&self) -> bool {
        Arc::strong_count(&self.destination) > 1
    }

    /// Fails if somebody holds it. For the one who changes the map.
    pub(super) fn retire(&self) -> bool {
        self.retired.store(true, Relaxed);
        fence(SeqCst);
        let free = !self.held();
        self.retired.store(free, Relaxed);
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot::new(SocketAddr::from(([10, 0, 0, 1], 1)), Instant::now(), Duration::ZERO)
    }

    #[test]
    fn a_retired_slot_is_not_handed_out() {
        let slot = slot();
        let handle = slot.hold().unwrap();
        assert!(!slot.retire());
        drop(handle);
        drop(slot.hold().unwrap());
        assert!(slot.retire());
        assert!(slot.hold().is_none());
    }

    #[test]
    fn nobody_is_left_with_a_destination_that_was_dropped() {
        let slot = slot();
        for _ in 0..2000 {
            let (held, retired) = std::thread::scope(|scope| {
                let holder = scope.spawn(|| slot.hold());
                let retirer = scope.spawn(|| slot.retire());
                (holder.join().unwrap(), retirer.join().unwrap())
            });
            assert!(!(held.is_some() && retired));
            drop(held);
            slot.retired.store(false, Relaxed);
        }
    }
}
