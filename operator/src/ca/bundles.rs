//! The trust bundle as a `ConfigMap` in every namespace that has sidecars: it is how a proxy knows the operator before it has a certificate.
//!
//! The leader keeps it there, and restores it where someone changed or deleted it. Where the label goes away it stays: pods that run may still mount it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::ResourceExt as _;
use kube::api::{Api, ObjectMeta, PartialObjectMeta, Patch, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::TrustBundle;
use crate::inject::INJECT_LABEL;
use crate::inject::namespaces::{Namespaces, WATCH_SECONDS};

/// The name of the `ConfigMap`.
pub const TRUST_BUNDLE_NAME: &str = "fairlead-trust-bundle";
/// Its key: the roots, PEM.
pub const TRUST_BUNDLE_KEY: &str = "ca.crt";

const MANAGER: &str = "fairlead-operator";
const TIMEOUT: Duration = Duration::from_secs(5);
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Keeps the `ConfigMap`s until stopped, and says in `everywhere` which bundle lies in all of them. For the leader alone.
pub async fn run(
    client: kube::Client,
    namespaces: Namespaces,
    mut bundles: watch::Receiver<Arc<TrustBundle>>,
    everywhere: watch::Sender<u64>,
    stop: CancellationToken,
) {
    let (pods, pods_writer) = reflector::store();
    let labelled = Config::default().labels(&format!("{INJECT_LABEL}=enabled")).timeout(WATCH_SECONDS);
    let pod_events =
        reflector(pods_writer, watcher(Api::<PartialObjectMeta<Pod>>::all(client.clone()), labelled).default_backoff());
    let (maps, maps_writer) = reflector::store();
    let named = Config::default().fields(&format!("metadata.name={TRUST_BUNDLE_NAME}")).timeout(WATCH_SECONDS);
    let map_events = reflector(maps_writer, watcher(Api::<ConfigMap>::all(client.clone()), named).default_backoff());
    let (mut pod_events, mut map_events) = (std::pin::pin!(pod_events), std::pin::pin!(map_events));
    let mut namespace_changes = namespaces.changes();
    // What the watches have not listed yet may lack the bundle.
    let mut listed = (false, false);
    loop {
        let present_bundle = Arc::clone(&bundles.borrow_and_update());
        let bundle = present_bundle.pem();
        let mut failed = false;
        let lacking =
            outdated(&namespaces.live(), &namespaces_of(&pods), |namespace| present(&maps, namespace), &bundle);
        for namespace in &lacking {
            failed |= !write(&client, namespace, &bundle).await;
        }
        // Told by the watch, not by the answer to the write: so whoever undid it is seen.
        if listed == (true, true) && lacking.is_empty() {
            everywhere.send_replace(present_bundle.sequence);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = bundles.changed() => if changed.is_err() { return },
            changed = namespace_changes.changed() => if changed.is_err() { return },
            event = pod_events.next() => listed.0 |= is_listed(event.as_ref()),
            event = map_events.next() => listed.1 |= is_listed(event.as_ref()),
            () = tokio::time::sleep(RETRY), if failed => (),
        }
    }
}

/// Whether a watch has everything by this event.
fn is_listed<K>(event: Option<&watcher::Result<watcher::Event<K>>>) -> bool {
    if let Some(Err(error)) = event {
        tracing::warn!(%error, "trust bundles not watched; trying again");
    }
    matches!(event, Some(Ok(watcher::Event::InitDone)))
}

fn namespaces_of(pods: &Store<PartialObjectMeta<Pod>>) -> BTreeSet<String> {
    pods.state().iter().filter_map(|pod| pod.namespace()).collect()
}

fn present(maps: &Store<ConfigMap>, namespace: &str) -> Option<String> {
    maps.get(&ObjectRef::new(TRUST_BUNDLE_NAME).within(namespace))?.data.as_ref()?.get(TRUST_BUNDLE_KEY).cloned()
}

/// The namespaces that need `bundle` written: of the live ones those labelled, or with a labelled pod, that do not have it.
fn outdated(
    live: &[(String, bool)],
    with_pods: &BTreeSet<String>,
    present: impl Fn(&str) -> Option<String>,
    bundle: &str,
) -> Vec<String> {
    let wanted = live.iter().filter(|(name, enabled)| *enabled || with_pods.contains(name)).map(|(name, _)| name);
    wanted.filter(|name| present(name).as_deref() != Some(bundle)).cloned().collect()
}

async fn write(client: &kube::Client, namespace: &str, bundle: &str) -> bool {
    let map = ConfigMap {
        metadata: ObjectMeta {
            name: Some(TRUST_BUNDLE_NAME.to_owned()),
            labels: Some(BTreeMap::from([("app.kubernetes.io/part-of".to_owned(), "fairlead".to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(TRUST_BUNDLE_KEY.to_owned(), bundle.to_owned())])),
        ..ConfigMap::default()
    };
    let api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let params = PatchParams::apply(MANAGER).force();
    match tokio::time::timeout(TIMEOUT, api.patch(TRUST_BUNDLE_NAME, &params, &Patch::Apply(&map))).await {
        Ok(Ok(_)) => {
            tracing::info!(namespace, "trust bundle written");
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, namespace, "trust bundle not written");
            false
        }
        Err(_) => {
            tracing::warn!(namespace, "trust bundle not written in time");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake_api::FakeApi;

    #[test]
    fn labelled_namespaces_and_those_of_labelled_pods_get_what_they_lack() {
        let live = [("a", true), ("b", true), ("c", false), ("d", false), ("e", true)]
            .map(|(name, enabled)| (name.to_owned(), enabled));
        let with_pods = BTreeSet::from(["d".to_owned(), "being-deleted".to_owned()]);
        let present = |name: &str| match name {
            "a" => Some("bundle".to_owned()),
            "b" => Some("tampered".to_owned()),
            _ => None,
        };
        assert_eq!(outdated(&live, &with_pods, present, "bundle"), ["b", "d", "e"]);
    }

    #[tokio::test]
    async fn a_bundle_is_written_or_the_failure_seen() {
        let api = FakeApi::default();
        assert!(write(&api.client(), "bookinfo", "roots").await);
        let map = api.get("/api/v1/namespaces/bookinfo/configmaps/fairlead-trust-bundle").unwrap();
        assert_eq!(map["data"]["ca.crt"], "roots");
        api.set_down(true);
        assert!(!write(&api.client(), "bookinfo", "roots").await);
    }
}
