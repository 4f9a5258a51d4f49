//! Tells the API server whom to trust when it calls our webhooks: the root, as `caBundle` of both configurations.
//!
//! Every replica watches and is ready only once the bundle is right; the leader writes it, whenever it is not (after an installation, or when someone
//! applied another manifest over it).

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, TestOperation};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::ResourceExt as _;
use kube::api::{Api, PatchParams};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::Config;
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ca::TrustBundle;
use crate::ca::material::pem;
use crate::inject::namespaces::WATCH_SECONDS;
use crate::telemetry::Condition;

/// The configurations that `install.yaml` makes.
pub const CONFIGURATIONS: [&str; 2] = ["fairlead-inject", "fairlead-hold"];
/// On both; what we watch.
const SELECTOR: &str = "app.kubernetes.io/part-of=fairlead";
/// After a write that failed.
const RETRY: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Keeps `condition` true to the cluster, and the cluster true to `bundles` while this replica leads, until stopped. Says in `trusted` which bundle
/// webhooks trust.
pub async fn run(
    client: kube::Client,
    mut bundles: watch::Receiver<Arc<TrustBundle>>,
    mut is_leader: watch::Receiver<bool>,
    trusted: watch::Sender<u64>,
    condition: Condition,
    stop: CancellationToken,
) {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client);
    let (store, writer) = reflector::store();
    let stream = watcher(api.clone(), Config::default().labels(SELECTOR).timeout(WATCH_SECONDS)).default_backoff();
    let mut stream = std::pin::pin!(reflector(writer, stream));
    loop {
        let bundle = Arc::clone(&bundles.borrow_and_update());
        let roots = bundle.pem();
        let leads = *is_leader.borrow_and_update();
        let mut failed = false;
        if leads {
            for configuration in CONFIGURATIONS.iter().filter_map(|name| store.get(&ObjectRef::new(name))) {
                if let Some(patch) = repair(&configuration, &roots) {
                    failed |= !write(&api, &configuration.name_any(), &patch).await;
                }
            }
        }
        if state(&store, |configuration| repair(configuration, &roots).is_none()).is_ok() {
            trusted.send_replace(bundle.sequence);
        }
        // Before and after a rotation's step the first root is the one that we serve under: whoever trusts it can call us, also while no replica
        // leads that could write the others.
        let first = bundle.roots.first().map(|root| pem("CERTIFICATE", root)).unwrap_or_default();
        condition.set(state(&store, |configuration| trusts(configuration, &first)));
        tokio::select! {
            () = stop.cancelled() => return,
            changed = bundles.changed() => if changed.is_err() { return },
            changed = is_leader.changed(), if !leads => if changed.is_err() { return },
            event = stream.next() => match event {
                Some(Ok(_)) => (),
                Some(Err(error)) => tracing::warn!(%error, "webhook configurations not watched; trying again"),
                None => return,
            },
            () = tokio::time::sleep(RETRY), if failed => (),
        }
    }
}

async fn write(api: &Api<MutatingWebhookConfiguration>, name: &str, patch: &Patch) -> bool {
    let patch = kube::api::Patch::Json::<()>(patch.clone());
    match tokio::time::timeout(TIMEOUT, api.patch(name, &PatchParams::default(), &patch)).await {
        Ok(Ok(_)) => {
            tracing::info!(configuration = name, "caBundle written");
            true
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, configuration = name, "caBundle not written");
            false
        }
        Err(_) => {
            tracing::warn!(configuration = name, "caBundle not written in time");
            false
        }
    }
}

/// Whether every webhook of a configuration trusts this root, whatever else it trusts.
fn trusts(configuration: &MutatingWebhookConfiguration, root: &str) -> bool {
    let bundles = configuration.webhooks.iter().flatten().map(|webhook| webhook.client_config.ca_bundle.as_ref());
    let holds = |bundle: &k8s_openapi::ByteString| String::from_utf8_lossy(&bundle.0).contains(root);
    !root.is_empty() && bundles.into_iter().all(|bundle| bundle.is_some_and(holds))
}

fn state(
    store: &Store<MutatingWebhookConfiguration>,
    is_right: impl Fn(&MutatingWebhookConfiguration) -> bool,
) -> Result<(), String> {
    for name in CONFIGURATIONS {
        match store.get(&ObjectRef::new(name)) {
            None => {
                return Err(format!(
                    "MutatingWebhookConfiguration {name} does not exist: apply manifests/install.yaml"
                ));
            }
            Some(configuration) if !is_right(&configuration) => {
                return Err(format!("MutatingWebhookConfiguration {name} does not trust this mesh's root yet"));
            }
            Some(_) => (),
        }
    }
    Ok(())
}

/// What makes every webhook of a configuration trust `pem`; `None` where all do. It names each webhook, so that it fails where the list changed meanwhile.
fn repair(configuration: &MutatingWebhookConfiguration, pem: &str) -> Option<Patch> {
    let mut operations = Vec::new();
    for (index, webhook) in configuration.webhooks.iter().flatten().enumerate() {
        if webhook.client_config.ca_bundle.as_ref().is_some_and(|bundle| bundle.0 == pem.as_bytes()) {
            continue;
        }
        let path = |rest: &[&str]| {
            PointerBuf::from_tokens(["webhooks", &index.to_string()].into_iter().chain(rest.iter().copied()))
        };
        let value = serde_json::to_value(k8s_openapi::ByteString(pem.as_bytes().to_vec())).ok()?;
        operations
            .push(PatchOperation::Test(TestOperation { path: path(&["name"]), value: webhook.name.clone().into() }));
        operations.push(PatchOperation::Add(AddOperation { path: path(&["clientConfig", "caBundle"]), value }));
    }
    (!operations.is_empty()).then_some(Patch(operations))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, WebhookClientConfig};

    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhook = |(index, bundle): (usize, Option<&str>)| MutatingWebhook {
            name: format!("webhook-{index}.fairlead.dev"),
            client_config: WebhookClientConfig {
                ca_bundle: bundle.map(|bundle| k8s_openapi::ByteString(bundle.as_bytes().to_vec())),
                ..WebhookClientConfig::default()
            },
            ..MutatingWebhook::default()
        };
        MutatingWebhookConfiguration {
            webhooks: Some(bundles.iter().copied().enumerate().map(webhook).collect()),
            ..MutatingWebhookConfiguration::default()
        }
    }

    fn repaired(configuration: &MutatingWebhookConfiguration) -> MutatingWebhookConfiguration {
        let mut value = serde_json::to_value(configuration).unwrap();
        json_patch::patch(&mut value, &repair(configuration, "root").unwrap()).unwrap();
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn every_webhook_comes_to_trust_the_root() {
        for bundles in [&[None, None][..], &[Some("root"), None], &[Some("old"), Some("root")]] {
            let repaired = repaired(&configuration(bundles));
            assert_eq!(repair(&repaired, "root"), None);
            assert_eq!(repaired, configuration(&vec![Some("root"); bundles.len()]));
        }
    }

    #[test]
    fn another_root_beside_ours_takes_no_readiness_away() {
        assert!(trusts(&configuration(&[Some("old root"), Some("root")]), "root"));
        for bundles in [&[None, Some("root")][..], &[Some("old")], &[Some("")]] {
            assert!(!trusts(&configuration(bundles), "root"), "{bundles:?}");
        }
        assert!(!trusts(&configuration(&[Some("root")]), ""));
    }

    #[test]
    fn a_list_that_changed_meanwhile_is_not_patched() {
        let patch = repair(&configuration(&[None]), "root").unwrap();
        let mut other = serde_json::to_value(configuration(&[None])).unwrap();
        other["webhooks"][0]["name"] = "someone-elses".into();
        assert!(json_patch::patch(&mut other, &patch).is_err());
    }
}
