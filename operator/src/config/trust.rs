//! What a rotation asks of the registry: whom everybody trusts, and what everybody shows.

use std::sync::Arc;

use fairlead_proxy_api::v1;
use tokio::sync::watch;

use super::registry::Registry;
use crate::ca::authority::{BACKDATE, Leaves, RootId};
use crate::ca::rotation::{Everyone, Fleet, Trust};
use crate::index::Index;

/// Roots that a proxy may name: more than one only where they are cross-signed.
const MAX_LEAF_ROOTS: usize = 4;

/// The pods that the index knows, with what they said to any replica.
pub struct Everywhere {
    /// Who there is.
    pub index: Arc<Index>,
    /// Who said what.
    pub registry: Arc<Registry>,
    /// The name of this replica's pod.
    pub own: String,
    /// The newest bundle that lies in every `ConfigMap` of it.
    pub config_maps: watch::Receiver<u64>,
    /// The newest bundle that webhooks trust.
    pub webhooks: watch::Receiver<u64>,
}

impl Fleet for Everywhere {
    fn everyone(&self) -> Option<Everyone> {
        if !self.index.is_ready() {
            return None;
        }
        let (mut proxies, mut replicas) = self.registry.trust();
        if let Some(own) = self.registry.own_trust() {
            replicas.insert(self.own.clone(), own);
        }
        let said = |pod: crate::model::ObjectName| {
            let trust = proxies.remove(&pod);
            (pod.to_string(), trust)
        };
        let meshed = self.index.meshed().into_iter().map(said).collect();
        let operators = self.index.operators().into_iter().map(|name| {
            let trust = replicas.remove(&name);
            (name, trust)
        });
        Some(Everyone {
            proxies: meshed,
            replicas: operators.collect(),
            config_maps: *self.config_maps.borrow(),
            webhooks: *self.webhooks.borrow(),
        })
    }
}

/// Whether a leaf is to be renewed though its time has not come.
pub(super) fn is_outdated(trust: &Trust, leaves: &Leaves) -> bool {
    let issued = trust.leaf_not_before + BACKDATE.whole_seconds();
    !trust.leaf_roots.iter().any(|root| leaves.roots.contains(root)) || issued < leaves.since.unix_timestamp()
}

pub(super) fn trust_to_wire(trust: &Trust) -> v1::Trust {
    v1::Trust {
        sequence: trust.sequence,
        leaf_roots: trust.leaf_roots.iter().map(|root| root.as_bytes().to_vec()).collect(),
        leaf_not_before: trust.leaf_not_before,
    }
}

/// What is no digest is left out: such a proxy holds the rotation and is named.
pub(super) fn trust_from_wire(trust: &v1::Trust) -> Trust {
    let roots = trust.leaf_roots.iter().take(MAX_LEAF_ROOTS);
    Trust {
        sequence: trust.sequence,
        leaf_roots: roots.filter_map(|root| RootId::from_bytes(root)).collect(),
        leaf_not_before: trust.leaf_not_before,
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::index::tests::build::{index, name, web};

    fn trust(sequence: u64, root: &[u8], not_before: i64) -> Trust {
        Trust { sequence, leaf_roots: vec![RootId::of(root)], leaf_not_before: not_before }
    }

    #[test]
    fn a_leaf_is_outdated_under_another_root_and_from_before_the_moment() {
        let since = OffsetDateTime::from_unix_timestamp(10_000).unwrap();
        let leaves = Leaves { roots: vec![RootId::of(b"b"), RootId::of(b"c")], since };
        assert!(!is_outdated(&trust(1, b"c", 20_000), &leaves));
        assert!(is_outdated(&trust(1, b"a", 20_000), &leaves));
        assert!(is_outdated(&trust(1, b"b", 9_879), &leaves));
        assert!(!is_outdated(&trust(1, b"b", 9_880), &leaves), "it was backdated by two minutes");
    }

    #[test]
    fn what_a_proxy_says_survives_the_wire_and_nonsense_is_left_out() {
        let said = trust(7, b"a", 5);
        assert_eq!(trust_from_wire(&trust_to_wire(&said)), said);
        let nonsense = v1::Trust { leaf_roots: vec![vec![1; 31], vec![2; 32]], ..v1::Trust::default() };
        assert_eq!(trust_from_wire(&nonsense).leaf_roots.len(), 1);
        let many = v1::Trust { leaf_roots: vec![vec![1; 32]; 1000], ..v1::Trust::default() };
        assert_eq!(trust_from_wire(&many).leaf_roots.len(), MAX_LEAF_ROOTS);
    }

    #[tokio::test(start_paused = true)]
    async fn every_pod_with_a_sidecar_counts_whether_it_said_anything_or_not() {
        let (leader, other, index) = (Arc::new(Registry::default()), Registry::default(), Arc::new(index()));
        web(&index);
        let everywhere = Everywhere {
            index: Arc::clone(&index),
            registry: Arc::clone(&leader),
            own: "operator-1".into(),
            config_maps: watch::channel(3).1,
            webhooks: watch::channel(4).1,
        };
        assert!(everywhere.everyone().is_none(), "a part of the cluster would let a rotation pass");
        index.set_ready();
        let everyone = || everywhere.everyone().unwrap();
        let pod = name("web-1-a");
        assert_eq!(everyone().proxies.get(&pod.to_string()), Some(&None));

        let elsewhere = other.begin(pod.clone(), "i".into());
        other.trusts(elsewhere, trust(1, b"a", 0));
        leader.take_share("operator-2".into(), Some(trust_to_wire(&trust(1, b"a", 0))), other.share());
        assert_eq!(everyone().proxies[&pod.to_string()], Some(trust(1, b"a", 0)));
        assert_eq!((everyone().config_maps, everyone().webhooks), (3, 4));

        // It comes over to the leader, and what it says there counts.
        let here = leader.begin(pod.clone(), "i".into());
        leader.trusts(here, trust(2, b"b", 0));
        assert_eq!(everyone().proxies[&pod.to_string()], Some(trust(2, b"b", 0)));
        leader.end(here);
        tokio::time::advance(super::super::registry::SHARE_EXPIRY).await;
        assert_eq!(everyone().proxies[&pod.to_string()], None, "one that is away is waited for");
    }
}
