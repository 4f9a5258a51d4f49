//! Who called pods in plain within the last hour, as their proxies saw it.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use fairlead_proxy_api::v1;
use tokio::time::Instant;

use crate::model::{ObjectName, canonical};

/// A caller is forgotten after that.
pub(super) const MEMORY: Duration = Duration::from_hours(1);
/// Callers of one pod; a proxy that names more is not believed in more.
const MAX_CALLERS: usize = 256;
/// Pods; the largest meshes have as many.
const MAX_PODS: usize = 10_000;

/// By pod, then address: when it was last said.
#[derive(Debug, Default)]
pub(super) struct PlainCallers(HashMap<ObjectName, HashMap<IpAddr, Instant>>);

impl PlainCallers {
    /// A proxy said that somebody called its pod in plain. True if that is news.
    pub(super) fn note(&mut self, pod: &ObjectName, address: &[u8], at: Instant) -> bool {
        let Some(address) = fairlead_proxy_api::address(address).map(canonical) else { return false };
        if self.0.len() >= MAX_PODS && !self.0.contains_key(pod) {
            return false;
        }
        let callers = self.0.entry(pod.clone()).or_default();
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&address) {
            return false;
        }
        let last = callers.entry(address);
        let news = matches!(last, std::collections::hash_map::Entry::Vacant(_));
        let last = last.or_insert(at);
        *last = at.max(*last);
        news
    }

    /// All that are not forgotten yet, by pod.
    pub(super) fn now(&mut self, now: Instant) -> HashMap<ObjectName, BTreeSet<IpAddr>> {
        self.forget(now);
        self.0.iter().map(|(pod, callers)| (pod.clone(), callers.keys().copied().collect())).collect()
    }

    /// For the replica that leads.
    pub(super) fn of(&self, pod: &ObjectName, now: Instant) -> Vec<v1::PlainCaller> {
        let callers = self.0.get(pod).into_iter().flatten();
        callers
            .map(|(address, at)| {
                let ago = now.saturating_duration_since(*at).as_secs();
                v1::PlainCaller {
                    ip: fairlead_proxy_api::octets(*address),
                    seconds_ago: u32::try_from(ago).unwrap_or(u32::MAX),
                }
            })
            .collect()
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|_, callers| {
            callers.retain(|_, at| now.saturating_duration_since(*at) < MEMORY);
            !callers.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_caller_is_known_for_an_hour_after_it_was_last_named() {
        let pod = ObjectName::new("shop", "web");
        let mut callers = PlainCallers::default();
        assert!(callers.note(&pod, &[10, 0, 0, 1], Instant::now()));
        tokio::time::advance(MEMORY / 2).await;
        assert!(!callers.note(&pod, &[10, 0, 0, 1], Instant::now()), "no news");
        assert!(callers.note(&pod, &[10, 0, 0, 2], Instant::now()));
        assert!(!callers.note(&pod, &[10, 0], Instant::now()), "no address");
        tokio::time::advance(Duration::from_secs(3_599)).await;
        let now = callers.now(Instant::now());
        assert_eq!(now[&pod].iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.2"]);
        let ago: Vec<u32> = callers.of(&pod, Instant::now()).iter().map(|caller| caller.seconds_ago).collect();
        assert_eq!(ago, [3599, 3599]);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(callers.now(Instant::now()).is_empty());
    }

    #[tokio::test]
    async fn a_proxy_that_names_everybody_fills_its_own_share_alone() {
        let mut callers = PlainCallers::default();
        let noisy = ObjectName::new("shop", "noisy");
        for n in 0..2_000_u16 {
            callers.note(&noisy, &[10, 0, (n >> 8) as u8, n as u8], Instant::now());
        }
        assert!(callers.note(&ObjectName::new("shop", "quiet"), &[10, 0, 0, 1], Instant::now()));
        assert_eq!(callers.now(Instant::now())[&noisy].len(), MAX_CALLERS);
    }
}
