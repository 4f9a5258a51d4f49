//! cert-manager as far as the mesh sees it: the definition of `CertificateRequest`, and a controller that approves and signs. It has a root of its
//! own, keeps what requests ask for, and remembers what it signed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fairlead_e2e::kit::{Mesh, OPERATOR_NAMESPACE, eventually, text};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams};
use parking_lot::Mutex;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;
use tokio::task::AbortHandle;

const DEFINITION: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certificaterequests.cert-manager.io}
spec:
  group: cert-manager.io
  scope: Namespaced
  names: {kind: CertificateRequest, listKind: CertificateRequestList, plural: certificaterequests, singular: certificaterequest}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";
/// How often it looks for requests.
const LOOK: Duration = Duration::from_millis(100);

/// What was signed: the URI of the request, and how long it asked for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Signed {
    pub(crate) identity: String,
    pub(crate) duration: String,
}

/// Ends when dropped; its definition has to be removed.
pub(crate) struct Issuer {
    root: String,
    signed: Arc<Mutex<Vec<Signed>>>,
    task: AbortHandle,
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Issuer {
    pub(crate) async fn start(mesh: &Mesh) -> Result<Self> {
        mesh.apply(DEFINITION).await?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = around(Duration::from_secs(24 * 3600));
        let root = params.self_signed(&key)?.pem();
        let signer = rcgen::Issuer::new(params, key);
        let signed = Arc::default();
        let requests = Api::namespaced_with(mesh.client(), OPERATOR_NAMESPACE, &resource());
        eventually("the definition to be served", || async { Ok(requests.list(&ListParams::default()).await?) })
            .await?;
        let task = tokio::spawn(run(requests, signer, root.clone(), Arc::clone(&signed))).abort_handle();
        Ok(Self { root, signed, task })
    }

    /// PEM.
    pub(crate) fn root(&self) -> &str {
        &self.root
    }

    pub(crate) fn signed(&self) -> Vec<Signed> {
        self.signed.lock().clone()
    }

    /// Removes the definition, and all requests with it; none may be left by then.
    pub(crate) async fn remove(self, mesh: &Mesh) -> Result<()> {
        let requests: Api<DynamicObject> = Api::namespaced_with(mesh.client(), OPERATOR_NAMESPACE, &resource());
        let left = requests.list(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} requests were left behind");
        let words = ["delete", "customresourcedefinition", "certificaterequests.cert-manager.io"];
        mesh.kubectl().run(&words).await?.ok()?;
        Ok(())
    }
}

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"))
}

fn around(life: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - Duration::from_secs(60), now + life)
}

async fn run(
    requests: Api<DynamicObject>,
    signer: rcgen::Issuer<'static, KeyPair>,
    root: String,
    signed: Arc<Mutex<Vec<Signed>>>,
) {
    loop {
        // An operator that dies takes its requests back at any moment; what fails is tried again.
        if let Err(error) = pass(&requests, &signer, &root, &signed).await {
            eprintln!("the issuer: {error:#}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn pass(
    requests: &Api<DynamicObject>,
    signer: &rcgen::Issuer<'static, KeyPair>,
    root: &str,
    signed: &Mutex<Vec<Signed>>,
) -> Result<()> {
    for request in requests.list(&ListParams::default()).await?.items {
        if !request.data["status"]["certificate"].is_null() {
            continue;
        }
        let (certificate, what) = sign(&request, signer)?;
        let now = OffsetDateTime::now_utc().format(&time::format_description::well_known::Rfc3339)?;
        let condition = |kind: &str, reason: &str| serde_json::json!({"type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": now});
        let status = serde_json::json!({"status": {
            "conditions": [condition("Approved", "test"), condition("Ready", "Issued")],
            "certificate": STANDARD.encode(certificate),
            "ca": STANDARD.encode(root),
        }});
        let name = request.metadata.name.context("a request without a name")?;
        requests.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        signed.lock().push(what);
    }
    Ok(())
}

/// As an issuer of cert-manager does: names as the request has them, usages and life as its object does.
fn sign(request: &DynamicObject, signer: &rcgen::Issuer<'static, KeyPair>) -> Result<(String, Signed)> {
    let spec = &request.data["spec"];
    let pem = STANDARD.decode(text(&spec["request"])).context("spec.request")?;
    let mut asked = CertificateSigningRequestParams::from_pem(&String::from_utf8(pem)?)?;
    let duration = text(&spec["duration"]);
    let seconds = duration.strip_suffix('s').and_then(|seconds| seconds.parse().ok()).context("spec.duration")?;
    let uris = asked.params.subject_alt_names.iter().filter_map(|name| match name {
        SanType::URI(uri) => Some(uri.to_string()),
        _ => None,
    });
    let identity = uris.collect::<Vec<_>>().join(" ");
    (asked.params.not_before, asked.params.not_after) = around(Duration::from_secs(seconds));
    asked.params.is_ca = IsCa::ExplicitNoCa;
    asked.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    asked.params.use_authority_key_identifier_extension = true;
    Ok((asked.signed_by(signer)?.pem(), Signed { identity, duration }))
}
