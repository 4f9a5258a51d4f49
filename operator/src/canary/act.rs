//! Writes what was decided.
//!
//! What is ours alone (the clone, the label, the status) is written by server-side apply. What ends a hold is a merge
//! patch: applying `paused: false` would make the field ours, and then nobody else's.

use fairlead_crds::{CANARY_LABEL, CONFIG_ANNOTATION, Canary, CanaryStatus, REQUEST_ANNOTATION};
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::hold::{HELD, REFUSED};
use super::observe::quote;
use super::plan::Action;
use super::revision::config_of;
use super::{FIELD_MANAGER, clone};

/// What a decision was made about, as it was read.
pub(super) struct Subjects<'a> {
    /// The Canary, whole.
    pub canary: &'a Value,
    /// Its Deployment.
    pub deployment: Option<&'a Value>,
    /// The revision of the Deployment.
    pub revision: &'a str,
    /// How long the clone's pods may take, in seconds, if the Canary says it.
    pub progress_deadline: Option<u64>,
    /// The Deployment `<name>-canary`.
    pub clone: Option<&'a Value>,
}

/// The API of Deployments as raw objects: fields newer than our types survive.
pub(super) fn deployments(client: &Client, namespace: &str) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&());
    Api::namespaced_with(client.clone(), namespace, &resource)
}

/// The API of Canaries as raw objects: one that does not parse does not hide the others.
pub(super) fn canaries(client: &Client, namespace: &str) -> Api<DynamicObject> {
    Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Canary>(&()))
}

/// Persists a status, unless the Canary changed since it was read. Answers the Canary as it is then.
pub(super) async fn persist(client: &Client, canary: &Value, status: &CanaryStatus) -> kube::Result<Value> {
    let metadata = &canary["metadata"];
    let name = metadata["name"].as_str().unwrap_or_default();
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    let body = json!({
        "apiVersion": "fairlead.dev/v1alpha1",
        "kind": "Canary",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": metadata["resourceVersion"]},
        "status": status,
    });
    let written = canaries(client, namespace).patch_status(name, &applying(), &Patch::Apply(body)).await?;
    serde_json::to_value(written).map_err(kube::Error::SerdeError)
}

/// Does one thing. What is gone already, or was never there, is no error.
pub(super) async fn perform(client: &Client, action: &Action, subjects: &Subjects<'_>) -> kube::Result<()> {
    let metadata = &subjects.canary["metadata"];
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    let name = metadata["name"].as_str().unwrap_or_default();
    let deployments = deployments(client, namespace);
    let result = match (action, subjects.deployment) {
        (Action::Manage, Some(deployment)) => {
            let body = json!({
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {
                    "name": deployment["metadata"]["name"],
                    "uid": deployment["metadata"]["uid"],
                    "labels": {CANARY_LABEL: name},
                },
            });
            deployments.patch(named(deployment), &applying(), &Patch::Apply(body)).await.map(drop)
        }
        (Action::ApplyClone { replicas }, Some(deployment)) => {
            let owner = clone::Owner { name, uid: metadata["uid"].as_str().unwrap_or_default() };
            let size = clone::Size { replicas: *replicas, progress_deadline: subjects.progress_deadline };
            let body = clone::manifest(deployment, subjects.revision, size, &owner);
            deployments.patch(&clone::name(named(deployment)), &applying(), &Patch::Apply(body)).await.map(drop)
        }
        (Action::DeleteClone, _) => {
            let Some(clone) = subjects.clone else { return Ok(()) };
            let uid = clone["metadata"]["uid"].as_str().map(str::to_owned);
            // By UID: a namesake that someone made meanwhile stays.
            let params =
                DeleteParams::background().preconditions(kube::api::Preconditions { uid, resource_version: None });
            deployments.delete(named(clone), &params).await.map(drop)
        }
        (Action::Unpause, Some(deployment)) => {
            // The version as it was observed: a template that changed since is not released with it.
            let mut body = json!({
                "metadata": {
                    "resourceVersion": deployment["metadata"]["resourceVersion"],
                    "annotations": {HELD: null, REFUSED: null},
                },
                "spec": {"paused": null},
            });
            let noted = &deployment["spec"]["template"]["metadata"]["annotations"][CONFIG_ANNOTATION];
            if noted.is_string() {
                // Its new pods read what there is now.
                body["spec"]["template"] =
                    json!({"metadata": {"annotations": {CONFIG_ANNOTATION: config_of(subjects.revision)}}});
            }
            deployments.patch(named(deployment), &merging(), &Patch::Merge(body)).await.map(drop)
        }
        (Action::Refuse | Action::Forgive, Some(deployment)) => {
            let refused = (*action == Action::Refuse).then_some(subjects.revision);
            let body = json!({
                "metadata": {
                    "resourceVersion": deployment["metadata"]["resourceVersion"],
                    "annotations": {REFUSED: refused},
                },
            });
            deployments.patch(named(deployment), &merging(), &Patch::Merge(body)).await.map(drop)
        }
        (Action::Restart, Some(deployment)) => {
            // The webhook lets it pass: our own note is no part of a template's revision.
            let note = json!({CONFIG_ANNOTATION: config_of(subjects.revision)});
            let body = json!({
                "metadata": {"resourceVersion": deployment["metadata"]["resourceVersion"]},
                "spec": {"template": {"metadata": {"annotations": note}}},
            });
            deployments.patch(named(deployment), &merging(), &Patch::Merge(body)).await.map(drop)
        }
        (Action::TakeRequest, _) => {
            // The version as it was read: one that was asked for since stays.
            let body = json!({
                "metadata": {
                    "resourceVersion": metadata["resourceVersion"],
                    "annotations": {REQUEST_ANNOTATION: null},
                },
            });
            canaries(client, namespace).patch(name, &merging(), &Patch::Merge(body)).await.map(drop)
        }
        (Action::Release { unpause }, Some(deployment)) => return release(client, deployment, *unpause).await,
        // Asked elsewhere, or of what is not there.
        (Action::Ask(_), _) | (_, None) => Ok(()),
    };
    match result {
        Err(error) if is_not_found(&error) && !matches!(action, Action::ApplyClone { .. }) => Ok(()),
        other => other,
    }
}

/// Takes a Deployment out of the hands of its Canary.
pub(super) async fn release(client: &Client, deployment: &Value, unpause: bool) -> kube::Result<()> {
    let metadata = &deployment["metadata"];
    let mut body = json!({
        "metadata": {
            "resourceVersion": metadata["resourceVersion"],
            "labels": {CANARY_LABEL: null},
            "annotations": {HELD: null, REFUSED: null},
        },
    });
    if unpause {
        body["spec"] = json!({"paused": null});
    }
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    match deployments(client, namespace).patch(named(deployment), &merging(), &Patch::Merge(body)).await {
        Err(error) if is_not_found(&error) => Ok(()),
        result => result.map(drop),
    }
}

/// The object was there no longer.
pub(super) fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// The right to is missing.
pub(super) fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 403)
}

/// What the API server, a quota or a webhook has against an object, in their own words: what the same request meets again.
pub(super) fn refusal(error: &kube::Error) -> Option<String> {
    match error {
        kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => Some(quote(&status.message)),
        _ => None,
    }
}

/// Someone else wrote first.
pub(super) fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn named(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

pub(super) fn applying() -> PatchParams {
    PatchParams::apply(FIELD_MANAGER).force()
}

fn merging() -> PatchParams {
    PatchParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PatchParams::default() }
}
