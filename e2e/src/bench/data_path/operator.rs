//! The operator without a cluster: its own authority, index and services, fed with the few objects that two pods and a Service are, and with
//! a reviewer that believes every token.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use fairlead_crds::PeerAuth;
use fairlead_operator::ca::authority::{Authority, Root, Serial, pem, public_key_of};
use fairlead_operator::ca::keeper::{self, State};
use fairlead_operator::ca::service::{IdentityService, Reviewer};
use fairlead_operator::ca::serving::ServingCertificate;
use fairlead_operator::ca::{Pods, SpiffeId};
use fairlead_operator::config::{self, ConfigService};
use fairlead_operator::index::{Index, Settings};
use fairlead_operator::serve::listen::{Limits, Protocol, accept};
use fairlead_operator::serve::{http, tls};
use fairlead_operator::telemetry::{ListenerMetrics, Readiness};
use fairlead_proxy_api::TOKEN_AUDIENCE;
use fairlead_proxy_api::v1::config_server::ConfigServer;
use fairlead_proxy_api::v1::identity_server::IdentityServer;
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use prometheus_client::registry::Registry;
use rcgen::KeyPair;
use serde_json::json;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::lab::{CLIENT, Pair, SERVER, SERVICE};

const TRUST_DOMAIN: &str = "cluster.local";
/// Where pods and Service live.
pub(super) const NAMESPACE: &str = "bench";
/// Where proxies reach it: at their own pod's address.
pub(super) const PORT: u16 = 8443;
/// Two proxies; those of a restart meet their predecessors.
const LIMITS: Limits = Limits { connections: 64, per_address: 32 };

/// Ports of the Service, which are the pods' own, and what its author says of them. HTTP is said nothing of, so proxies tell it from the bytes.
const PORTS: [(u16, Option<&str>); 4] = [(8080, None), (8081, None), (9000, Some("tcp")), (5201, Some("tcp"))];

/// Runs until dropped.
pub(super) struct Operator {
    authority: Arc<Authority>,
    index: Arc<Index>,
    /// Of the policy; the index takes up what has a new one.
    generation: AtomicI64,
    _stop: DropGuard,
}

impl Operator {
    /// Serves in both pods.
    pub(super) async fn start(pair: &Pair) -> Result<Self> {
        let now = OffsetDateTime::now_utc();
        let root = Root::new(&Serial::random()?, now)?;
        let intermediate = root.new_intermediate(&Serial::random()?, now)?;
        let authority = Arc::new(Authority::new(&root, intermediate));
        // Never closed: the services follow it as long as they live.
        let state = watch::Sender::new(State::Ready(Arc::clone(&authority))).subscribe();

        let stop = CancellationToken::new();
        let published = keeper::published(state.clone(), stop.clone()).await.context("the authority is ready")?;
        let roots = published.bundles.clone();
        let serving = Arc::new(ServingCertificate::default());
        let identity = SpiffeId::new(TRUST_DOMAIN, "fairlead-system", "fairlead-operator")?;
        let certified = Readiness::default().condition("serving certificate");
        tokio::spawn(Arc::clone(&serving).run(state.clone(), identity, Vec::new(), certified, stop.clone()));

        let index = Arc::new(Index::new(Settings {
            trust_domain: TRUST_DOMAIN.to_owned(),
            operator_namespace: "fairlead-system".to_owned(),
        }));
        fill(&index)?;
        let mut metrics = Registry::default();
        let identities = IdentityService::new(TRUST_DOMAIN, state, Believes, Arc::clone(&index) as Arc<dyn Pods>);
        let configuration = ConfigService::new(
            Arc::clone(&index),
            Arc::default(),
            config::Metrics::new(&mut metrics),
            published,
            stop.clone(),
        );
        let routes = tonic::service::Routes::new(IdentityServer::new(identities))
            .add_service(ConfigServer::new(configuration))
            .into_axum_router();
        let protocol = Protocol::Tls(tls::follow(serving, roots, TRUST_DOMAIN.parse()?)?);
        for (pod, address) in pair.pods() {
            let socket = pod.enter(move || Ok(std::net::TcpListener::bind((address, PORT))?)).await?;
            socket.set_nonblocking(true)?;
            let listener = TcpListener::from_std(socket)?;
            let metrics = ListenerMetrics::register(&mut metrics, "grpc");
            let connections = accept(listener, protocol.clone(), LIMITS, metrics, stop.clone());
            tokio::spawn(http::run(connections, routes.clone(), stop.clone(), Duration::ZERO));
        }
        Ok(Self { authority, index, generation: AtomicI64::new(1), _stop: stop.drop_guard() })
    }

    /// So many rules for accounts and paths that nobody has, the last of them for the client if it is to be let in.
    pub(super) fn set_rules(&self, count: usize, admits_client: bool) -> Result<()> {
        let rule = |number: usize| {
            let (account, path) = if admits_client && number == count {
                ("client".to_owned(), "/*".to_owned())
            } else {
                (format!("account-{number}"), format!("/path-{number}/*"))
            };
            json!({
                "name": format!("rule-{number}"), "action": "Allow",
                "from": [{"serviceAccounts": [format!("{NAMESPACE}/{account}")]}], "to": [{"paths": [path]}],
            })
        };
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        self.index.apply(peer_auth(generation, &(1..=count).map(rule).collect::<Vec<_>>())?);
        self.index.flush();
        Ok(())
    }

    /// What a proxy believes, PEM.
    pub(super) fn roots(&self) -> String {
        self.authority.trust_bundle().pem()
    }

    /// A certificate chain and its key as files, for a proxy that does not ask for them itself.
    pub(super) fn certify(&self, account: &str, folder: &Path) -> Result<(PathBuf, PathBuf)> {
        let key = KeyPair::generate()?;
        let public = public_key_of(&key).context("the key is on P-256")?;
        let identity = SpiffeId::new(TRUST_DOMAIN, NAMESPACE, account)?;
        let leaf = self.authority.issue(&public, &identity, &[], &Serial::random()?, OffsetDateTime::now_utc())?;
        let chain: String = leaf.chain.iter().map(|der| pem("CERTIFICATE", der)).collect();
        let (chain_file, key_file) = (folder.join(format!("{account}.crt")), folder.join(format!("{account}.key")));
        std::fs::write(&chain_file, chain)?;
        std::fs::write(&key_file, key.serialize_pem())?;
        Ok((chain_file, key_file))
    }
}

/// The identity of a service account, as certificates name it.
pub(super) fn identity(account: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}/ns/{NAMESPACE}/sa/{account}")
}

/// The UID of a pod, which is named like its service account.
pub(super) fn uid(pod: &str) -> String {
    format!("uid-{pod}")
}

/// Takes the middle of a token for the pod's name.
struct Believes;

impl Reviewer for Believes {
    async fn review(&self, token: &str) -> Result<TokenReviewStatus, String> {
        let pod = token.split('.').nth(1).ok_or("not a token")?;
        let extra = |key: &str, value: String| (format!("authentication.kubernetes.io/{key}"), vec![value]);
        Ok(TokenReviewStatus {
            authenticated: Some(true),
            audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
            error: None,
            user: Some(UserInfo {
                username: Some(format!("system:serviceaccount:{NAMESPACE}:{pod}")),
                extra: Some(BTreeMap::from([extra("pod-name", pod.to_owned()), extra("pod-uid", uid(pod))])),
                ..UserInfo::default()
            }),
        })
    }
}

fn fill(index: &Index) -> Result<()> {
    let pod = |name: &str, address: Ipv4Addr| {
        serde_json::from_value::<Pod>(json!({
            "metadata": {"namespace": NAMESPACE, "name": name, "uid": uid(name), "labels": {"app": name}},
            "spec": {
                "serviceAccountName": name,
                "initContainers": [{"name": fairlead_operator::index::PROXY_CONTAINER, "restartPolicy": "Always"}],
                "containers": [{"name": "app", "ports": PORTS.map(|(port, _)| json!({"containerPort": port}))}],
            },
            "status": {
                "phase": "Running", "podIPs": [{"ip": address}], "conditions": [{"type": "Ready", "status": "True"}],
            },
        }))
    };
    index.apply(pod("client", CLIENT)?);
    index.apply(pod("server", SERVER)?);
    let name = |port: u16| format!("port-{port}");
    index.apply(serde_json::from_value::<Service>(json!({
        "metadata": {"namespace": NAMESPACE, "name": "server"},
        "spec": {
            "clusterIP": SERVICE, "clusterIPs": [SERVICE],
            "ports": PORTS.map(|(port, protocol)| json!({"name": name(port), "port": port, "appProtocol": protocol})),
        },
    }))?);
    index.apply(serde_json::from_value::<EndpointSlice>(json!({
        "metadata": {"namespace": NAMESPACE, "name": "server-1", "labels": {"kubernetes.io/service-name": "server"}},
        "addressType": "IPv4",
        "ports": PORTS.map(|(port, _)| json!({"name": name(port), "port": port})),
        "endpoints": [{
            "addresses": [SERVER], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": "server", "uid": uid("server")},
        }],
    }))?);
    index.apply(peer_auth(1, &[])?);
    index.set_ready();
    Ok(())
}

fn peer_auth(generation: i64, rules: &[serde_json::Value]) -> Result<DeserializeGuard<PeerAuth>> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "PeerAuth",
        "metadata": {"namespace": NAMESPACE, "name": "strict", "generation": generation},
        "spec": {"mtls": {"mode": "Strict"}, "rules": rules},
    }))?)
}

/// As `host:port`, for the proxy of the pod with this address.
pub(super) fn address(pod: Ipv4Addr) -> String {
    SocketAddr::new(IpAddr::V4(pod), PORT).to_string()
}

#[cfg(test)]
mod tests {
    use fairlead_operator::model::{Body, Destination, Protocol, ResourceName};

    use super::*;

    #[test]
    fn the_service_leads_to_the_servers_pod() {
        let index = Index::new(Settings { trust_domain: TRUST_DOMAIN.into(), operator_namespace: "none".into() });
        fill(&index).unwrap();
        let at = |port| {
            let name = ResourceName::Destination { caller: NAMESPACE.into(), address: (SERVICE, port).into() };
            match index.get(&name).body {
                Body::Destination(Destination::Service(service)) => service,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(at(8080).endpoint_sets[0].endpoints[0].identity, identity("server"));
        assert_eq!((at(8081).protocol, at(9000).protocol), (Protocol::Detect, Protocol::Opaque));
    }
}
