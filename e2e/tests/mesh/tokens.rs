//! Whom the API server vouches for: the operator's own service for certificates, asked with tokens of a real API server. Pods are made that no node
//! runs: a token needs no more.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairlead_e2e::kit::{Mesh, TempNamespace, eventually, text};
use fairlead_operator::ca::authority::{Authority, Root, Serial};
use fairlead_operator::ca::keeper::State;
use fairlead_operator::ca::service::{ApiReviewer, IdentityService};
use fairlead_operator::ca::{PeerAddress, PodInfo, Pods};
use fairlead_proxy_api::v1::CertifyRequest;
use fairlead_proxy_api::v1::identity_server::Identity as _;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, PostParams};
use rcgen::{CertificateParams, KeyPair};
use serde_json::json;
use time::OffsetDateTime;
use tokio::sync::watch;
use tonic::Code;

const OURS: &str = "fairlead.dev";
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

/// Every pod of any name: what the index would say is tested elsewhere, here the API server has the word.
struct AnyPod(String);

impl Pods for AnyPod {
    fn find(&self, _: &str, _: &str) -> Option<PodInfo> {
        let service_account = "app".to_owned();
        Some(PodInfo { uid: self.0.clone(), service_account, ips: vec![ADDRESS], terminating: false })
    }
}

struct World {
    mesh: Mesh,
    namespace: TempNamespace,
    authority: watch::Receiver<State>,
}

impl World {
    async fn new() -> Result<Self> {
        let mesh = Mesh::connect().await?;
        let namespace = TempNamespace::plain(&mesh, "tokens").await?;
        let now = OffsetDateTime::now_utc();
        let root = Root::new(&Serial::random()?, now)?;
        let intermediate = root.new_intermediate(&Serial::random()?, now)?;
        let authority = watch::channel(State::Ready(Arc::new(Authority::new(&root, intermediate)))).1;
        Ok(Self { mesh, namespace, authority })
    }

    fn accounts(&self) -> Api<ServiceAccount> {
        Api::namespaced(self.mesh.client(), self.namespace.name())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.mesh.client(), self.namespace.name())
    }

    async fn make_account(&self) -> Result<()> {
        let account = serde_json::from_value(json!({"metadata": {"name": "app"}}))?;
        self.accounts().create(&PostParams::default(), &account).await?;
        Ok(())
    }

    /// Makes a pod and says its UID.
    async fn make_pod(&self) -> Result<String> {
        let pod = serde_json::from_value(json!({
            "metadata": {"name": "pod"},
            "spec": {"serviceAccountName": "app", "schedulerName": "nobody", "containers": [{"name": "app", "image": "none"}]},
        }))?;
        eventually("the pod to be taken", || async {
            let pod = self.pods().create(&PostParams::default(), &pod).await?;
            pod.metadata.uid.context("a pod without a UID")
        })
        .await
    }

    async fn token(&self, audience: Option<&str>, pod: Option<&str>) -> Result<String> {
        let bound = pod.map(|uid| BoundObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some("pod".to_owned()),
            uid: Some(uid.to_owned()),
        });
        let audiences = audience.map(str::to_owned).into_iter().collect();
        let spec = TokenRequestSpec { audiences, bound_object_ref: bound, ..TokenRequestSpec::default() };
        let request = TokenRequest { spec, ..TokenRequest::default() };
        let issued = self.accounts().create_token_request("app", &PostParams::default(), &request).await?;
        Ok(issued.status.context("no token")?.token)
    }

    /// What the service says to this token, shown by the pod of this UID.
    async fn certify(&self, token: &str, uid: &str) -> Result<Result<(), (Code, String)>> {
        let reviewer = ApiReviewer::new(self.mesh.client());
        let pods = Arc::new(AnyPod(uid.to_owned()));
        let service = IdentityService::new("cluster.local", self.authority.clone(), reviewer, pods);
        let csr = CertificateParams::default().serialize_request(&KeyPair::generate()?)?.der().to_vec();
        let mut request = tonic::Request::new(CertifyRequest { csr, token: token.to_owned() });
        request.extensions_mut().insert(PeerAddress((ADDRESS, 40_000).into()));
        let answer = service.certify(request).await;
        Ok(answer.map(drop).map_err(|status| (status.code(), status.message().to_owned())))
    }

    async fn assert_refused(&self, what: &str, token: &str, uid: &str) -> Result<()> {
        // The API server remembers for ten seconds whom it believed.
        eventually(&format!("{what} to be refused"), || async {
            let answer = self.certify(token, uid).await?;
            ensure!(matches!(answer, Err((Code::Unauthenticated, _))), "{answer:?}");
            Ok(())
        })
        .await
    }
}

#[tokio::test]
async fn tokens_of_live_pods_alone_get_a_certificate() -> Result<()> {
    let world = World::new().await?;
    world.make_account().await?;
    let uid = world.make_pod().await?;
    let token = world.token(Some(OURS), Some(&uid)).await?;
    ensure!(world.certify(&token, &uid).await? == Ok(()), "a good token: {:?}", world.certify(&token, &uid).await?);

    for (what, audience, pod) in [
        ("a token of another audience", Some("vault"), Some(uid.as_str())),
        ("a token for the API server", None, Some(uid.as_str())),
        ("a token that is bound to no pod", Some(OURS), None),
    ] {
        let token = world.token(audience, pod).await?;
        world.assert_refused(what, &token, &uid).await?;
    }
    world.assert_refused("a legacy token from a Secret", &legacy(&world).await?, &uid).await?;

    // Its pod goes, and another of the same name comes.
    world.pods().delete("pod", &DeleteParams::default().grace_period(0)).await?;
    world.assert_refused("a token of a deleted pod", &token, &uid).await?;
    let next = world.make_pod().await?;
    world.assert_refused("a token of the pod that had this name before", &token, &next).await?;
    let token = world.token(Some(OURS), Some(&next)).await?;
    ensure!(world.certify(&token, &next).await? == Ok(()), "a good token of the second pod");

    // Its account goes, and another of the same name comes.
    world.accounts().delete("app", &DeleteParams::default()).await?;
    world.assert_refused("a token of a deleted account", &token, &next).await?;
    world.make_account().await?;
    world.assert_refused("a token of the account that had this name before", &token, &next).await
}

/// As accounts had them before Kubernetes 1.24: for ever, and of no pod.
async fn legacy(world: &World) -> Result<String> {
    let namespace = world.namespace.name();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "legacy", "namespace": namespace, "annotations": {"kubernetes.io/service-account.name": "app"}},
    });
    world.mesh.apply(&secret.to_string()).await?;
    let encoded = eventually("the legacy token", || async {
        let secret = world.mesh.get("Secret", namespace, "legacy").await?.context("no Secret")?;
        let token = text(&secret["data"]["token"]);
        ensure!(!token.is_empty(), "it has no token yet");
        Ok(token)
    })
    .await?;
    Ok(String::from_utf8(STANDARD.decode(encoded)?)?)
}
