//! Writes statuses and Events.

use std::time::Duration;

use fairlead_crds::{GROUP, PeerAuth, TrafficPolicy, WorkloadReadiness};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::index::Report;
use crate::model::SourceKind;

/// The field manager of all statuses but those of Canaries.
pub const FIELD_MANAGER: &str = "fairlead-status";
/// For one call.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Writes statuses and Events.
#[derive(Clone)]
pub(super) struct Writer {
    client: Client,
    recorder: Recorder,
}

impl Writer {
    /// `instance` is this pod's name.
    pub(super) fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "fairlead.dev/status".to_owned(), instance: Some(instance) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, recorder }
    }

    /// Puts `conditions` into the status of the object that `report` is about, and `readiness` into that of a `PeerAuth`. The error is a
    /// sentence.
    pub(super) async fn status(
        &self,
        report: &Report,
        conditions: &[Condition],
        readiness: &[WorkloadReadiness],
    ) -> Result<(), String> {
        let mut status = json!({"observedGeneration": report.generation, "conditions": conditions});
        if !readiness.is_empty() {
            status["readiness"] = json!(readiness);
        }
        match report.source.kind {
            SourceKind::TrafficPolicy => self.patch::<TrafficPolicy>(report, status).await,
            SourceKind::PeerAuth => self.patch::<PeerAuth>(report, status).await,
            SourceKind::Canary => Ok(()),
        }
    }

    async fn patch<K>(&self, report: &Report, status: Value) -> Result<(), String>
    where
        K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let object = &report.source.object;
        let api: Api<kube::core::PartialObjectMeta<K>> = Api::namespaced(self.client.clone(), &object.namespace);
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            // The UID has the API server refuse what was meant for an object of this name that is gone.
            "metadata": {"name": object.name, "uid": report.uid},
            "status": status,
        });
        // Forced: these fields are this controller's alone.
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let patch = Patch::Apply(&patch);
        match timeout(TIMEOUT, api.patch_status(&object.name, &params, &patch)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer in time".to_owned()),
        }
    }

    /// Tells of a condition that changed. An Event that cannot be written is not worth a second try: the status says the same.
    pub(super) async fn event(&self, report: &Report, condition: &Condition) {
        let object = &report.source.object;
        let reference = ObjectReference {
            api_version: Some(format!("{GROUP}/v1alpha1")),
            kind: Some(report.source.kind.as_str().to_owned()),
            namespace: Some(object.namespace.clone()),
            name: Some(object.name.clone()),
            uid: Some(report.uid.clone()),
            ..ObjectReference::default()
        };
        let type_ = if condition.status == "True" || condition.reason == "Pending" {
            EventType::Normal
        } else {
            EventType::Warning
        };
        // A message has at most 1,024 characters, an Event's note as many bytes.
        let mut note = condition.message.clone();
        note.truncate(note.floor_char_boundary(1024));
        let event = Event {
            type_,
            reason: condition.reason.clone(),
            note: Some(note),
            action: condition.type_.clone(),
            secondary: None,
        };
        let published = timeout(TIMEOUT, self.recorder.publish(&event, &reference)).await;
        if !matches!(published, Ok(Ok(()))) {
            tracing::debug!(%object, reason = condition.reason, "an Event was not written");
        }
    }
}
