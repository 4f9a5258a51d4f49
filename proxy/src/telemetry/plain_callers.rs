//! Who came in plain: the operator tells whom mutual TLS would cut off.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use parking_lot::Mutex;

/// Addresses that are remembered until they were told. Who has more plain callers than that need not read all their names.
const MAX_CALLERS: usize = 256;

/// Callers that proved nothing and were let in.
#[derive(Debug, Default)]
pub struct PlainCallers(Arc<Mutex<HashMap<IpAddr, Caller>>>);

#[derive(Debug, Default)]
struct Caller {
    connections: u32,
    told: bool,
}

/// One of their connections; counts until dropped.
#[derive(Debug)]
pub struct PlainConnection {
    callers: Arc<Mutex<HashMap<IpAddr, Caller>>>,
    address: IpAddr,
}

impl PlainCallers {
    /// A connection begins. `None`: there are too many callers already.
    pub fn begin(&self, address: IpAddr) -> Option<PlainConnection> {
        let mut callers = self.0.lock();
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&address) {
            return None;
        }
        let caller = callers.entry(address).or_default();
        caller.connections += 1;
        caller.told = false;
        drop(callers);
        Some(PlainConnection { callers: Arc::clone(&self.0), address })
    }

    /// Who came since the last time; with `again` also who is still connected.
    pub fn take(&self, again: bool) -> Vec<IpAddr> {
        let mut callers = self.0.lock();
        let mut taken = Vec::new();
        callers.retain(|address, caller| {
            if !caller.told || again {
                taken.push(*address);
            }
            caller.told = true;
            caller.connections > 0
        });
        taken.sort_unstable();
        taken
    }
}

impl Drop for PlainConnection {
    fn drop(&mut self) {
        let mut callers = self.callers.lock();
        if let Some(caller) = callers.get_mut(&self.address) {
            caller.connections -= 1;
            if caller.connections == 0 && caller.told {
                callers.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> IpAddr {
        IpAddr::from([10, 0, (n >> 8) as u8, n as u8])
    }

    #[test]
    fn a_caller_is_told_once_and_again_while_it_is_connected() {
        let callers = PlainCallers::default();
        let first = callers.begin(address(1));
        drop(callers.begin(address(2)));
        assert_eq!(callers.take(false), [address(1), address(2)]);
        assert!(callers.take(false).is_empty());
        assert_eq!(callers.take(true), [address(1)]);
        drop(callers.begin(address(1)));
        assert_eq!(callers.take(false), [address(1)], "it came once more");
        drop(first);
        assert!(callers.take(true).is_empty());
        assert!(callers.0.lock().is_empty());
    }

    #[test]
    fn there_is_a_bound() {
        let callers = PlainCallers::default();
        let open: Vec<_> = (0..1000).map(|n| callers.begin(address(n))).collect();
        assert_eq!(open.iter().flatten().count(), MAX_CALLERS);
        assert_eq!(callers.take(false).len(), MAX_CALLERS);
    }
}
