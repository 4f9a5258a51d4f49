//! Keys of issuers that have to be fetched: which are wanted, and what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Keys, PeerAuth};
use crate::index::state::State;
use crate::model::FetchedKeys;

impl PeerAuth {
    fn urls(&self) -> impl Iterator<Item = &String> {
        self.in_force.issuers.iter().filter_map(|issuer| match &issuer.keys {
            Keys::Inline(_) => None,
            Keys::Url(url) => Some(url),
        })
    }
}

impl State {
    /// The URLs of all that have to be fetched.
    pub(in crate::index) fn wanted_keys(&self) -> BTreeSet<String> {
        let auths = self.peer_auths.values().flat_map(BTreeMap::values);
        auths.flat_map(PeerAuth::urls).cloned().collect()
    }

    /// They were fetched, or not.
    pub(in crate::index) fn set_keys(&mut self, keys: BTreeMap<String, FetchedKeys>) {
        let before = std::mem::replace(&mut self.keys, keys);
        let changed = |auth: &PeerAuth| auth.urls().any(|url| before.get(url) != self.keys.get(url));
        let namespaces: Vec<String> = self
            .peer_auths
            .iter()
            .filter(|(_, auths)| auths.values().any(changed))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        for namespace in namespaces {
            self.peer_auths_changed(&namespace);
        }
    }

    /// Empty: there are none yet.
    pub(super) fn keys_of(&self, wanted: &Keys) -> Arc<str> {
        match wanted {
            Keys::Inline(keys) => Arc::clone(keys),
            Keys::Url(url) => self.keys.get(url).and_then(|fetched| fetched.keys.clone()).unwrap_or_default(),
        }
    }

    /// Why keys of a policy are not there, or not fresh.
    pub(in crate::index) fn missing_keys(&self, auth: &PeerAuth) -> Vec<String> {
        let problem = |url: &String| match self.keys.get(url) {
            Some(FetchedKeys { error: Some(error), .. }) => Some(format!("jwt: {error}")),
            Some(FetchedKeys { keys: Some(_), error: None }) => None,
            Some(FetchedKeys { keys: None, error: None }) | None => Some(format!("jwt: {url} was not fetched yet")),
        };
        auth.urls().filter_map(problem).collect()
    }
}
