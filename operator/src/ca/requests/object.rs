//! `CertificateRequest` of cert-manager, as far as it is of interest here: what we write, and what its status says.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, GroupVersionKind, ObjectMeta};
use kube::core::Object;
use serde::{Deserialize, Serialize};

use super::Ask;
use crate::ca::authority::pem;
use crate::settings::IssuerRef;

/// On each that we make; what leftovers are found by.
pub(super) const LABEL: &str = "fairlead.dev/certificate-request";
/// Whom it is for: the names of identities are longer than labels may be.
const IDENTITY: &str = "fairlead.dev/identity";
/// Of the texts of others that are told on.
const MAX_MESSAGE: usize = 256;
/// Of a certificate with its chain, encoded.
const MAX_ANSWER: usize = 64 * 1024;
/// Twice what a request is waited for, and some more for clocks that differ: whoever waits has given up.
const LEFTOVER_SECONDS: i64 = 300;

pub(super) type CertificateRequest = Object<Spec, Status>;

/// It is written and never read again: whoever completes it (cert-manager's webhook leaves out what is `false`) may change how it is spelled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Spec {
    /// PEM in base64.
    request: String,
    duration: String,
    #[serde(rename = "isCA")]
    is_ca: bool,
    usages: Vec<String>,
    #[serde(skip_deserializing)]
    issuer_ref: Option<IssuerRef>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Status {
    conditions: Vec<Condition>,
    /// PEM in base64.
    certificate: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Condition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    reason: String,
    message: String,
}

pub(super) fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", "CertificateRequest"))
}

/// What is created; the API server completes its name.
pub(super) fn of(ask: &Ask, issuer: &IssuerRef) -> CertificateRequest {
    let resource = resource();
    let mut request = CertificateRequest::new(
        "",
        &resource,
        Spec {
            request: STANDARD.encode(pem("CERTIFICATE REQUEST", &ask.csr)),
            duration: format!("{}s", ask.lifetime.as_secs()),
            is_ca: false,
            usages: ["digital signature", "server auth", "client auth"].map(str::to_owned).to_vec(),
            issuer_ref: Some(issuer.clone()),
        },
    );
    request.metadata = ObjectMeta {
        generate_name: Some("fairlead-".to_owned()),
        labels: Some(
            [(LABEL, "leaf"), ("app.kubernetes.io/part-of", "fairlead")].map(|(k, v)| (k.into(), v.into())).into(),
        ),
        annotations: Some([(IDENTITY.to_owned(), ask.identity.to_string())].into()),
        ..ObjectMeta::default()
    };
    request
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not decided; what was said so far.
    Pending(String),
    /// An approver said no.
    Denied(String),
    /// The issuer cannot make anything of it.
    Invalid(String),
    /// The issuer gave up.
    Failed(String),
    /// PEM, not looked at yet.
    Signed(Vec<u8>),
}

/// Reads the status.
pub(super) fn verdict(request: &CertificateRequest) -> Verdict {
    let status = request.status.clone().unwrap_or_default();
    let find = |type_: &str| status.conditions.iter().find(|condition| condition.type_ == type_);
    let holds = |type_: &str| find(type_).filter(|condition| condition.status == "True");
    if let Some(denied) = holds("Denied") {
        return Verdict::Denied(bounded(&denied.message));
    }
    if let Some(invalid) = holds("InvalidRequest") {
        return Verdict::Invalid(bounded(&invalid.message));
    }
    let Some(ready) = find("Ready") else {
        let approved = holds("Approved").is_some();
        return Verdict::Pending(if approved { "approved, and not signed" } else { "nobody approved it" }.to_owned());
    };
    match (ready.status.as_str(), ready.reason.as_str()) {
        ("True", _) => {
            let certificate = status.certificate.filter(|text| text.len() <= MAX_ANSWER);
            match certificate.and_then(|text| STANDARD.decode(text).ok()) {
                Some(pem) => Verdict::Signed(pem),
                None => Verdict::Failed("it is Ready without a certificate that can be read".to_owned()),
            }
        }
        (_, "Denied") => Verdict::Denied(bounded(&ready.message)),
        (_, "Failed") => Verdict::Failed(bounded(&ready.message)),
        _ => Verdict::Pending(bounded(&format!("{}: {}", ready.reason, ready.message))),
    }
}

/// Whether nobody waits for it any more, at `now` (unix seconds).
pub(super) fn is_leftover(request: &CertificateRequest, now: i64) -> bool {
    let made: Option<Timestamp> = request.metadata.creation_timestamp.as_ref().map(|time| time.0);
    made.is_some_and(|made| now.saturating_sub(made.as_second()) > LEFTOVER_SECONDS)
}

/// Of somebody else: cut, and on one line.
pub(super) fn bounded(text: &str) -> String {
    text.chars().take(MAX_MESSAGE).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn with(status: &serde_json::Value) -> Verdict {
        let object = json!({
            "apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest",
            "metadata": {"name": "fairlead-1"},
            "spec": {
                "request": "", "duration": "1h0m0s", "username": "operator", "groups": [], "extra": {"a": ["b"]},
                "issuerRef": {"kind": "Issuer", "name": "a", "new": true},
            },
            "status": status,
        });
        verdict(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn the_status_says_how_far_it_is() {
        let condition = |type_: &str, status: &str, reason: &str, message: &str| json!({"type": type_, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-11-20T10:00:00Z"});
        let of = |conditions: &[serde_json::Value]| with(&json!({"conditions": conditions}));
        let approved = condition("Approved", "True", "cert-manager.io", "approved");
        assert_eq!(with(&json!({})), Verdict::Pending("nobody approved it".into()));
        assert_eq!(of(std::slice::from_ref(&approved)), Verdict::Pending("approved, and not signed".into()));
        let pending = condition("Ready", "False", "Pending", "the Issuer is not ready");
        assert_eq!(of(&[approved.clone(), pending]), Verdict::Pending("Pending: the Issuer is not ready".into()));
        let denied = condition("Denied", "True", "policy.cert-manager.io", "no policy");
        let ready = condition("Ready", "False", "Denied", "denied by an approver");
        assert_eq!(of(&[denied]), Verdict::Denied("no policy".into()));
        assert_eq!(of(&[ready]), Verdict::Denied("denied by an approver".into()));
        let invalid = condition("InvalidRequest", "True", "x", "cannot\ndecode");
        assert_eq!(of(&[approved.clone(), invalid]), Verdict::Invalid("cannot decode".into()));
        let failed = condition("Ready", "False", "Failed", &"x".repeat(1000));
        assert_eq!(of(&[approved.clone(), failed]), Verdict::Failed("x".repeat(MAX_MESSAGE)));

        let ready = condition("Ready", "True", "Issued", "");
        let certificate = |text: String| with(&json!({"conditions": [approved, ready], "certificate": text}));
        assert_eq!(certificate(STANDARD.encode("PEM")), Verdict::Signed(b"PEM".to_vec()));
        assert!(matches!(certificate("%".into()), Verdict::Failed(_)));
        assert!(matches!(certificate("A".repeat(MAX_ANSWER + 1)), Verdict::Failed(_)));
        assert!(matches!(of(&[condition("Ready", "True", "Issued", "")]), Verdict::Failed(_)));
    }
}
