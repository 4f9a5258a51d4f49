//! `AdmissionReview`, version 1: what the API server asks and how it is answered. The object stays raw JSON, so that fields newer than our types survive.

use std::collections::BTreeMap;

use base64::Engine as _;
use json_patch::Patch;
use serde::Serialize;
use serde_json::Value;

const API_VERSION: &str = "admission.k8s.io/v1";
const KIND: &str = "AdmissionReview";

/// What is to be admitted.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) uid: String,
    pub(super) operation: String,
    pub(super) namespace: String,
    /// Nothing may be left behind by it.
    pub(super) dry_run: bool,
    /// All of it.
    pub(super) raw: Value,
}

impl Request {
    /// The error is a sentence for who sent it.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        let mut asked: Value =
            serde_json::from_slice(body).map_err(|error| format!("the body is not an {KIND}: {error}"))?;
        if asked["apiVersion"] != API_VERSION || asked["kind"] != KIND {
            return Err(format!("the body is not an {KIND} of {API_VERSION}"));
        }
        let raw = asked["request"].take();
        let text = |field: &str| raw[field].as_str().map(str::to_owned);
        let required = |field: &str| text(field).ok_or_else(|| format!("the {KIND} has no request.{field}"));
        Ok(Self {
            uid: required("uid")?,
            operation: required("operation")?,
            namespace: text("namespace").unwrap_or_default(),
            dry_run: raw["dryRun"] == true,
            raw,
        })
    }

    /// What is to be created, or what it shall be after the update.
    pub(super) fn object(&self) -> &Value {
        &self.raw["object"]
    }
}

/// An answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    api_version: &'static str,
    kind: &'static str,
    response: Answer,
}

/// What of an [`Review`] is decided.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    uid: String,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<Refused>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    /// Base64 of the JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    /// What a person at `kubectl` sees.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Refused {
    code: u16,
    message: String,
}

impl Answer {
    /// As it is.
    pub(super) fn allow() -> Self {
        Self { allowed: true, ..Self::default() }
    }

    /// With a change. A patch without operations is none.
    pub(super) fn patch(patch: &Patch) -> Result<Self, serde_json::Error> {
        if patch.0.is_empty() {
            return Ok(Self::allow());
        }
        let json = serde_json::to_vec(patch)?;
        Ok(Self {
            patch_type: Some("JSONPatch"),
            patch: Some(base64::engine::general_purpose::STANDARD.encode(json)),
            ..Self::allow()
        })
    }

    /// Not at all: one sentence.
    pub(super) fn deny(sentence: &str) -> Self {
        Self { status: Some(Refused { code: 422, message: format!("Fairlead: {sentence}") }), ..Self::default() }
    }

    pub(super) fn warn(mut self, sentence: &str) -> Self {
        self.warnings.push(format!("Fairlead: {sentence}"));
        self
    }

    /// `key` is prefixed by the API server with the webhook's name.
    pub(super) fn audit(mut self, key: &'static str, value: &str) -> Self {
        self.audit_annotations.insert(key, value.to_owned());
        self
    }

    pub(super) fn to(self, request: &Request) -> Review {
        Review { api_version: API_VERSION, kind: KIND, response: Self { uid: request.uid.clone(), ..self } }
    }
}
