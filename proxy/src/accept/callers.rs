//! How many connections each caller holds, so that no single one can hold them all.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;

/// Connections by address; those that hold none are not remembered.
#[derive(Debug, Default)]
pub(super) struct Callers(Mutex<HashMap<IpAddr, usize>>);

/// One connection of a caller; given back on drop.
#[derive(Debug)]
pub(super) struct Place {
    callers: Arc<Callers>,
    caller: IpAddr,
}

impl Callers {
    /// `None`: this caller holds `limit` connections already.
    pub(super) fn admit(self: &Arc<Self>, caller: IpAddr, limit: usize) -> Option<Place> {
        // IPv4 callers of a socket for both families.
        let caller = caller.to_canonical();
        let mut held = self.0.lock();
        match held.entry(caller) {
            Entry::Occupied(held) if *held.get() >= limit => return None,
            Entry::Occupied(mut held) => *held.get_mut() += 1,
            Entry::Vacant(vacant) => {
                vacant.insert(1);
            }
        }
        Some(Place { callers: self.clone(), caller })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.callers.0.lock();
        if let Entry::Occupied(mut held) = held.entry(self.caller) {
            *held.get_mut() -= 1;
            if *held.get() == 0 {
                held.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_is_held_to_its_limit_and_forgotten_when_it_is_gone() {
        let callers = Arc::new(Callers::default());
        let admit = |caller: &str| callers.admit(caller.parse().unwrap(), 2);
        let first = admit("10.0.0.1").unwrap();
        let _mapped = admit("::ffff:10.0.0.1").unwrap();
        assert!(admit("10.0.0.1").is_none());
        let other = admit("10.0.0.2").unwrap();
        drop(first);
        assert!(admit("10.0.0.1").is_some());
        drop(other);
        assert_eq!(callers.0.lock().len(), 1);
    }
}
