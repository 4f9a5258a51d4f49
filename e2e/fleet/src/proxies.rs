//! Simulated proxies: the code by which a real one comes to its certificate and follows its configuration, without any traffic.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use fairlead_proxy::config::Metrics;
use fairlead_proxy::config::persist::StateDir;
use fairlead_proxy::config::stream::{self, Connection, Store, Stream};
use fairlead_proxy::identity::certify::Certifier;
use fairlead_proxy::identity::{Identity, Operator, SpiffeId, TrustDomain, renew};
use fairlead_proxy_api::v1;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::api::Api;
use crate::arrival::POLICY_PROXIES;
use crate::operator;

/// Where their pods are.
pub(crate) const NAMESPACE: &str = "fleet";
const TRUST_DOMAIN: &str = "cluster.local";

/// One of them.
pub(crate) struct Proxy {
    pub(crate) number: u32,
    pub(crate) store: Store,
    /// When it had its certificate, and its first configuration.
    pub(crate) certified: Instant,
    pub(crate) configured: Instant,
}

/// What they have in common.
#[derive(Clone)]
pub(crate) struct Start {
    operator: SpiffeId,
    trust_domain: TrustDomain,
    folder: Arc<Path>,
}

impl Start {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let trust_domain: TrustDomain = TRUST_DOMAIN.parse()?;
        let operator = SpiffeId::new(TRUST_DOMAIN, operator::NAMESPACE, "fairlead-operator")?;
        Ok(Self { operator, trust_domain, folder: folder.into() })
    }

    /// Runs the proxy of this number for as long as this program does; returns when it is configured.
    pub(crate) async fn run(self, number: u32) -> Result<Proxy> {
        let pod = name(number);
        let token_path = self.folder.join(&pod);
        std::fs::write(&token_path, format!("fleet.{pod}.token"))?;
        let operator = Operator {
            // Each of these addresses is this machine, and who connects to one comes from it.
            address: format!("{}:{}", address(number), operator::PORT),
            identity: self.operator.clone(),
            trust_domain: self.trust_domain.clone(),
            bundle_path: self.folder.join(operator::ROOTS),
        };
        let own = SpiffeId::new(TRUST_DOMAIN, NAMESPACE, "default")?;
        let certifier = Certifier { operator: operator.clone(), own, token_path };
        let issue = async move |known: Option<Arc<_>>| certifier.certify(known.as_deref()).await;
        let issued = renew::first(issue, rand::random).await;
        let certified = Instant::now();
        let identity = Identity::new(self.trust_domain.clone(), issued.leaf, issued.bundle)
            .context("the certificate cannot be used")?;
        let store = Store {
            identity: Arc::new(identity),
            workload: Arc::default(),
            destinations: Arc::default(),
            telemetry: Arc::default(),
            metrics: Metrics::default(),
        };
        let hello = v1::Hello {
            pod_namespace: NAMESPACE.to_owned(),
            pod_uid: format!("uid-{pod}"),
            pod_name: pod,
            proxy_version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: format!("{:032x}", rand::random::<u128>()),
        };
        let (following, stream) = (store.clone(), Stream { operator, hello });
        tokio::spawn(async move {
            let connection = watch::Sender::new(Connection::Away { reason: String::new() });
            // No such folder: nothing is kept for a restart that there will not be.
            let nowhere = StateDir::new("/nonexistent".into());
            stream::run(&stream, &following, &nowhere, &connection, rand::random).await;
        });
        let _ = store.workload.known().wait_for(|known| *known).await;
        Ok(Proxy { number, store, certified, configured: Instant::now() })
    }
}

/// All pods appear, and their proxies start, at one moment; returns when all are configured.
pub(crate) async fn begin(api: &Api, start: &Start, count: u32) -> Result<Vec<Proxy>> {
    let mut starting = JoinSet::new();
    for number in 0..count {
        let (path, pod) = pod(number);
        api.put(&path, pod);
        starting.spawn(start.clone().run(number));
    }
    let mut proxies = Vec::new();
    while let Some(proxy) = starting.join_next().await {
        proxies.push(proxy??);
    }
    Ok(proxies)
}

fn name(number: u32) -> String {
    format!("pod-{number}")
}

/// In 10.250.0.0/16.
pub(crate) fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0afa_0000 | number)
}

/// The pod of a proxy, its path first; the first hundred are what policies of this program select.
fn pod(number: u32) -> (String, Value) {
    let name = name(number);
    let group = if number < POLICY_PROXIES { "few" } else { "many" };
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": NAMESPACE, "name": name, "uid": format!("uid-{name}"), "labels": {"group": group}},
        "spec": {
            "serviceAccountName": "default",
            "initContainers": [{"name": "fairlead-proxy", "image": "none", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "image": "none", "ports": [{"containerPort": 8080}]}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": address(number)}], "conditions": [{"type": "Ready", "status": "True"}]},
    });
    (format!("/api/v1/namespaces/{NAMESPACE}/pods/{name}"), pod)
}
