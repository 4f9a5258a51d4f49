//! The labels of namespaces, kept at hand: a webhook has no time to ask for them.

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::ResourceExt as _;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{INJECT_LABEL, NamespaceInfo};

/// Watches can die without a word; the API server ends them after this many seconds, and we begin again.
pub(crate) const WATCH_SECONDS: u32 = 200;

/// A reflection of all namespaces (metadata alone).
#[derive(Clone)]
pub struct Namespaces {
    store: Store<PartialObjectMeta<Namespace>>,
    changed: watch::Receiver<u64>,
}

impl Namespaces {
    /// Begins to watch, until stopped.
    pub fn watch(client: kube::Client, stop: CancellationToken) -> Self {
        let (store, writer) = reflector::store();
        let stream =
            watcher(Api::<PartialObjectMeta<Namespace>>::all(client), Config::default().timeout(WATCH_SECONDS))
                .default_backoff();
        let (changes, changed) = watch::channel(0);
        tokio::spawn(stop.run_until_cancelled_owned(async move {
            let mut stream = std::pin::pin!(reflector(writer, stream));
            while let Some(event) = stream.next().await {
                match event {
                    Ok(_) => changes.send_modify(|count| *count += 1),
                    Err(error) => tracing::warn!(%error, "namespaces not watched; trying again"),
                }
            }
        }));
        Self { store, changed }
    }

    /// Returns when the first list has arrived.
    pub async fn synced(&self) {
        // Fails only when the watch was stopped.
        let _ = self.store.wait_until_ready().await;
    }

    /// Wakes whenever a namespace may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }

    /// What is known of one namespace.
    pub fn find(&self, name: &str) -> Option<NamespaceInfo> {
        self.store
            .get(&ObjectRef::new(name))
            .map(|namespace| NamespaceInfo { name: name.to_owned(), labels: namespace.labels().clone() })
    }

    /// The names of those that take new objects (none is being deleted), and whether they are labelled for injection.
    pub fn live(&self) -> Vec<(String, bool)> {
        let live = self.store.state().into_iter().filter(|namespace| namespace.metadata.deletion_timestamp.is_none());
        live.map(|namespace| {
            let enabled = namespace.labels().get(INJECT_LABEL).is_some_and(|value| value == "enabled");
            (namespace.name_any(), enabled)
        })
        .collect()
    }

    /// Of these namespaces, for tests.
    #[cfg(test)]
    pub(crate) fn fixed(namespaces: &[(&str, &[(&str, &str)])]) -> Self {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&kube::runtime::watcher::Event::Init);
        for (name, labels) in namespaces {
            let labels: std::collections::BTreeMap<_, _> =
                labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            let metadata =
                kube::api::ObjectMeta { name: Some((*name).to_owned()), labels: Some(labels), ..Default::default() };
            let namespace = PartialObjectMeta { types: None, metadata, _phantom: std::marker::PhantomData };
            writer.apply_watcher_event(&kube::runtime::watcher::Event::InitApply(namespace));
        }
        writer.apply_watcher_event(&kube::runtime::watcher::Event::InitDone);
        Self { store, changed: watch::channel(0).1 }
    }
}
