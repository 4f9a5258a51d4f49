//! The destinations that this pod talks to, and no others.
//!
//! # Expected flow
//!
//! The data path calls [`Destinations::get`] for each captured connection. The first call for an address makes a slot and wakes the
//! stream, which subscribes; the caller waits a bounded time for the answer. From then on a call is one hash lookup in a snapshot, and
//! the [`Handle`] it returns follows every later version.
//!
//! # Guarantees
//!
//! - No lock and no wait once an address is known, from any thread.
//! - A destination whose handle somebody holds is never dropped: a connection that lives for days still follows configuration.
//! - At most [`MAX_DESTINATIONS`] slots. Beyond, the least recently used that nobody holds makes room; if all are held, further
//!   addresses pass through unconfigured, and are counted.
//! - Until the operator has answered for an address, it passes through: bytes reach the address itself, in plain. Whatever demands
//!   authentication refuses them there.

mod slot;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use fairlead_proxy_api::v1;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

pub(super) use self::slot::Slot;
use super::{Programmed, canonical};
use crate::route::{Destination, Handle};

/// How many destinations a proxy keeps. Pods that talk to more at once are scanners or gateways; a slot with a hundred endpoints takes
/// some 20 KiB.
pub const MAX_DESTINATIONS: usize = 1000;
/// A destination that nobody used for so long is unsubscribed: longer than the pause between two runs of most periodic work.
const IDLE: Duration = Duration::from_secs(600);
/// How long the first connection to an address waits for the operator, which usually answers within milliseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// The same where the operator has been away for a while: long enough only for an answer that is on its way.
const PATIENCE_AWAY: Duration = Duration::from_millis(250);
/// An operator that restarts, or whose replica was replaced, is back within this; until then callers are as patient as with one that
/// is there.
const RESTART: Duration = Duration::from_secs(10);

pub(super) type Slots = HashMap<SocketAddr, Arc<Slot>>;

/// All destinations of this proxy. Shared by every worker thread and the stream.
#[derive(Debug)]
pub struct Destinations {
    slots: ArcSwap<Slots>,
    // Serialises changes of the map, which are rare: a new address, a sweep.
    change: Mutex<()>,
    changed: Notify,
    start: Instant,
    // Milliseconds since `start`, plus one; 0: the operator is there.
    away_since: AtomicU64,
    overflowed: AtomicU64,
}

impl Default for Destinations {
    fn default() -> Self {
        Self::new()
    }
}

impl Destinations {
    /// Without any, and the operator not there yet.
    pub fn new() -> Self {
        Self {
            slots: ArcSwap::default(),
            change: Mutex::new(()),
            changed: Notify::new(),
            start: Instant::now(),
            away_since: AtomicU64::new(1),
            overflowed: AtomicU64::new(0),
        }
    }

    /// What `address` leads to, in its newest version for as long as the handle is held. Waits for the operator at the first call for an
    /// address, 2 s at most; where there is no answer by then, the handle passes through until one comes.
    pub async fn get(&self, address: SocketAddr) -> Handle {
        let address = canonical(address);
        let found = self.slots.load().get(&address).and_then(|slot| {
            let handle = slot.hold()?;
            let now = self.start.elapsed().as_secs();
            // Threads would fight for the cache line if each connection wrote.
            if slot.last_used.load(Relaxed) != now {
                slot.last_used.store(now, Relaxed);
            }
            Some((slot.clone(), handle))
        });
        let (slot, handle) = found.unwrap_or_else(|| self.insert(address));
        slot.settled().await;
        handle
    }

    fn insert(&self, address: SocketAddr) -> (Arc<Slot>, Handle) {
        let (slot, handle) = {
            let _one = self.change.lock();
            let slots = self.slots.load();
            // Another thread may have been faster.
            if let Some(slot) = slots.get(&address)
                && let Some(handle) = slot.hold()
            {
                return (slot.clone(), handle);
            }
            let slot = Arc::new(Slot::new(address, self.start, self.patience()));
            let handle = slot.destination.clone();
            let mut next = Slots::clone(&slots);
            if next.len() >= MAX_DESTINATIONS && !make_room(&mut next) {
                if self.overflowed.fetch_add(1, Relaxed) == 0 {
                    tracing::warn!(
                        %address,
                        "{MAX_DESTINATIONS} destinations are in use at once: further ones pass through unconfigured"
                    );
                }
                slot.answered();
                return (slot, handle);
            }
            next.insert(address, slot.clone());
            self.slots.store(Arc::new(next));
            (slot, handle)
        };
        self.changed.notify_one();
        (slot, handle)
    }

    fn patience(&self) -> Duration {
        let away = match self.away_since.load(Relaxed) {
            0 => None,
            since => Some(self.start.elapsed().saturating_sub(Duration::from_millis(since - 1))),
        };
        patience(away)
    }

    /// The stream says whether the operator is there.
    pub(super) fn set_operator(&self, there: bool) {
        let now = self.start.elapsed().as_millis() as u64 + 1;
        if there {
            self.away_since.store(0, Relaxed);
        } else {
            // Away since the first time that it was missed.
            let _ = self.away_since.compare_exchange(0, now, Relaxed, Relaxed);
        }
    }

    /// Puts back what was known before a restart; nobody waits for it. Ignored beyond the bound.
    pub fn restore(&self, address: SocketAddr, version: &str, destination: v1::Destination) -> Result<(), String> {
        let address = canonical(address);
        let slot = Slot::new(address, self.start, Duration::ZERO);
        slot.apply(version, destination)?;
        let _one = self.change.lock();
        let slots = self.slots.load();
        if slots.len() < MAX_DESTINATIONS && !slots.contains_key(&address) {
            let mut next = Slots::clone(&slots);
            next.insert(address, Arc::new(slot));
            self.slots.store(Arc::new(next));
        }
        Ok(())
    }

    /// Forgets what nobody has used for [`IDLE`]. To be called every minute or so.
    pub(super) fn sweep(&self) {
        let _one = self.change.lock();
        let now = self.start.elapsed().as_secs();
        let slots = self.slots.load();
        let mut next = Slots::clone(&slots);
        next.retain(|_, slot| {
            if slot.held() {
                slot.last_used.store(now, Relaxed);
                return true;
            }
            let idle = now.saturating_sub(slot.last_used.load(Relaxed));
            idle < IDLE.as_secs() || !slot.retire()
        });
        if next.len() < slots.len() {
            self.slots.store(Arc::new(next));
            self.changed.notify_one();
        }
    }

    /// What should be subscribed now.
    pub(super) fn wanted(&self) -> Arc<Slots> {
        self.slots.load_full()
    }

    /// Returns when [`wanted`](Self::wanted) may have changed. For the stream alone.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// How many connections found no room ([`MAX_DESTINATIONS`]).
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    /// Everything as it stands, by address. For `/config`.
    pub fn list(&self) -> Vec<(SocketAddr, Programmed, Arc<Destination>)> {
        let slots = self.slots.load();
        let mut list: Vec<_> = slots
            .values()
            .map(|slot| {
                let destination = slot.destination.load_full();
                (slot.address, slot.programmed(), destination)
            })
            .collect();
        list.sort_by_key(|(address, ..)| *address);
        list
    }

    /// Shows each as it is used now.
    pub fn each(&self, mut show: impl FnMut(&Destination)) {
        self.slots.load().values().for_each(|slot| show(&slot.destination.load()));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.load().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// How long a first caller waits, by how long the operator has been away.
fn patience(away: Option<Duration>) -> Duration {
    match away {
        Some(away) if away > RESTART => PATIENCE_AWAY,
        _ => PATIENCE,
    }
}

/// Takes the least recently used slot out that nobody holds.
fn make_room(slots: &mut Slots) -> bool {
    let mut idle: Vec<_> =
        slots.values().filter(|slot| !slot.held()).map(|slot| (slot.last_used.load(Relaxed), slot.address)).collect();
    idle.sort_unstable();
    // Between looking and taking somebody may have come: then the next one.
    for (_, address) in idle {
        if slots.get(&address).is_some_and(|slot| slot.retire()) {
            slots.remove(&address);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Refused;

    fn address(n: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], n))
    }

    fn pass_through() -> v1::Destination {
        v1::Destination { kind: Some(v1::destination::Kind::PassThrough(v1::PassThrough {})) }
    }

    fn pod() -> v1::Destination {
        v1::Destination {
            kind: Some(v1::destination::Kind::Pod(v1::Endpoint {
                ip: vec![10, 0, 0, 1],
                port: 1,
                ..Default::default()
            })),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_caller_waits_for_the_answer_and_the_next_does_not() {
        let destinations = Destinations::new();
        let answer = async {
            destinations.changed().await;
            let slot = destinations.wanted()[&address(1)].clone();
            tokio::time::sleep(Duration::from_millis(5)).await;
            slot.apply("1", pod()).unwrap();
        };
        let start = Instant::now();
        let (handle, ()) = tokio::join!(destinations.get(address(1)), answer);
        assert_eq!(start.elapsed(), Duration::from_millis(5));
        assert!(matches!(**handle.load(), Destination::Pod(_)));
        destinations.get(address(1)).await;
        assert_eq!(start.elapsed(), Duration::from_millis(5));
    }

    #[tokio::test(start_paused = true)]
    async fn without_an_answer_it_passes_through_after_a_bounded_wait_until_one_comes() {
        let destinations = Destinations::new();
        destinations.set_operator(true);
        let start = Instant::now();
        let handle = destinations.get(address(1)).await;
        assert_eq!(start.elapsed(), PATIENCE);
        assert!(matches!(**handle.load(), Destination::PassThrough));
        // One patience per address, not per connection.
        destinations.get(address(1)).await;
        assert_eq!(start.elapsed(), PATIENCE);
        destinations.wanted()[&address(1)].apply("1", pod()).unwrap();
        assert!(matches!(**handle.load(), Destination::Pod(_)));
    }

    #[test]
    fn patience_is_shorter_with_an_operator_that_is_long_gone() {
        assert_eq!(patience(None), PATIENCE);
        assert_eq!(patience(Some(Duration::from_secs(3))), PATIENCE);
        assert_eq!(patience(Some(Duration::from_secs(60))), PATIENCE_AWAY);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_compile_is_refused_and_the_previous_stays() {
        let destinations = Destinations::new();
        destinations.restore(address(1), "1", pod()).unwrap();
        let handle = destinations.get(address(1)).await;
        let slot = destinations.wanted()[&address(1)].clone();
        let reason = slot.apply("2", v1::Destination::default()).unwrap_err();
        assert!(matches!(**handle.load(), Destination::Pod(_)));
        let programmed = slot.programmed();
        assert_eq!(programmed.version, "1");
        let version = "2".to_owned();
        assert_eq!(programmed.refused, Some(Refused { version, reason }));
        slot.apply("3", pass_through()).unwrap();
        assert_eq!(slot.programmed().refused, None);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_destinations_are_forgotten_and_held_ones_never() {
        let destinations = Destinations::new();
        for n in 1..=2 {
            destinations.restore(address(n), "1", pass_through()).unwrap();
        }
        let held = destinations.get(address(1)).await;
        drop(destinations.get(address(2)).await);
        tokio::time::advance(IDLE.saturating_sub(Duration::from_secs(1))).await;
        destinations.sweep();
        assert_eq!(destinations.len(), 2);
        tokio::time::advance(Duration::from_secs(1)).await;
        destinations.sweep();
        assert_eq!(destinations.wanted().keys().collect::<Vec<_>>(), [&address(1)]);
        drop(held.clone());
        tokio::time::advance(2 * IDLE).await;
        destinations.sweep();
        assert_eq!(destinations.len(), 1);
        drop(held);
        tokio::time::advance(2 * IDLE).await;
        destinations.sweep();
        assert!(destinations.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_is_bounded_by_dropping_the_least_recently_used() {
        let destinations = Destinations::new();
        let mut held = Vec::new();
        for n in 0..MAX_DESTINATIONS as u16 {
            destinations.restore(address(n), "1", pass_through()).unwrap();
            held.push(destinations.get(address(n)).await);
        }
        let extra = destinations.get(address(5000)).await;
        assert!(matches!(**extra.load(), Destination::PassThrough));
        assert_eq!(destinations.len(), MAX_DESTINATIONS);
        assert_eq!(destinations.overflowed(), 1);

        tokio::time::advance(Duration::from_secs(5)).await;
        destinations.get(address(8)).await;
        // Now 7 and 8 are free, and 7 was used longer ago.
        held.drain(7..=8);
        destinations.set_operator(true);
        destinations.get(address(5001)).await;
        let wanted = destinations.wanted();
        assert_eq!(wanted.len(), MAX_DESTINATIONS);
        assert!(wanted.contains_key(&address(5001)));
        assert!(!wanted.contains_key(&address(7)), "the least recently used");
        assert!(wanted.contains_key(&address(8)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_address_has_one_slot_however_it_is_spelled() {
        let destinations = Destinations::new();
        destinations.restore(address(1), "1", pod()).unwrap();
        let mapped = SocketAddr::new("::ffff:10.0.0.1".parse().unwrap(), 1);
        let handle = destinations.get(mapped).await;
        assert!(matches!(**handle.load(), Destination::Pod(_)));
        assert_eq!(destinations.len(), 1);
    }
}
