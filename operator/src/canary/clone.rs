//! The Deployment that runs a new version beside the stable one.

use fairlead_crds::CLONE_OF_LABEL;
use serde_json::{Map, Value, json};

use super::TEMPLATE;

/// What of the user's Deployment the clone has as well: how its pods are started and when that is given up.
const ALIKE: [&str; 3] = ["strategy", "minReadySeconds", "progressDeadlineSeconds"];

/// The name of a Deployment's clone. At most 63 characters, because the schema takes at most 56 for the Deployment's.
pub(super) fn name(deployment: &str) -> String {
    format!("{deployment}-canary")
}

/// How a clone runs.
#[derive(Clone, Copy)]
pub(super) struct Size {
    /// How many pods.
    pub replicas: i64,
    /// How long they may take to become ready, in seconds, if not as long as the Deployment's own.
    pub progress_deadline: Option<u64>,
}

/// The Canary that a clone belongs to.
pub(super) struct Owner<'a> {
    /// `metadata.name`.
    pub name: &'a str,
    /// `metadata.uid`.
    pub uid: &'a str,
}

/// The clone of a Deployment with the template that it holds. The pods keep the app's labels, so that its network policies, budgets
/// and dashboards cover them; one label more tells them apart and keeps the two Deployments' selectors from claiming each other's.
/// The Canary owns it, so that it goes with it. No other label is taken along: those of delivery tools would claim it for them.
pub(super) fn manifest(deployment: &Value, revision: &str, size: Size, owner: &Owner<'_>) -> Value {
    let source = deployment["metadata"]["name"].as_str().unwrap_or_default();
    let mut spec: Map<String, Value> = Map::new();
    for field in ALIKE {
        if let Some(value) = deployment["spec"].get(field).filter(|value| !value.is_null()) {
            spec.insert(field.to_owned(), value.clone());
        }
    }
    spec.insert("replicas".to_owned(), json!(size.replicas));
    if let Some(seconds) = size.progress_deadline {
        spec.insert("progressDeadlineSeconds".to_owned(), json!(seconds));
    }
    let mut selector = object(&deployment["spec"]["selector"]);
    entry(&mut selector, "matchLabels").insert(CLONE_OF_LABEL.to_owned(), json!(source));
    let mut template = object(&deployment["spec"]["template"]);
    let metadata = entry(&mut template, "metadata");
    metadata.retain(|_, value| !value.is_null());
    entry(metadata, "labels").insert(CLONE_OF_LABEL.to_owned(), json!(source));
    entry(metadata, "annotations").insert(TEMPLATE.to_owned(), json!(revision));
    spec.insert("selector".to_owned(), Value::Object(selector));
    spec.insert("template".to_owned(), Value::Object(template));
    // Nobody rolls a clone back.
    spec.insert("revisionHistoryLimit".to_owned(), json!(0));
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": name(source),
            "namespace": deployment["metadata"]["namespace"],
            "labels": {CLONE_OF_LABEL: source, "app.kubernetes.io/managed-by": "fairlead"},
            "annotations": {TEMPLATE: revision},
            "ownerReferences": [{
                "apiVersion": "fairlead.dev/v1alpha1",
                "kind": "Canary",
                "name": owner.name,
                "uid": owner.uid,
                "controller": true,
            }],
        },
        "spec": spec,
    })
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

/// The object under `key`, made where it is absent or null.
fn entry<'a>(map: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let value = map.entry(key).or_insert_with(|| json!({}));
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deployment() -> Value {
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "reviews", "namespace": "bookinfo", "uid": "d1",
                "labels": {"app.kubernetes.io/instance": "argo", "fairlead.dev/canary": "reviews"},
            },
            "spec": {
                "replicas": 3,
                "paused": true,
                "progressDeadlineSeconds": 60,
                "strategy": {"type": "RollingUpdate"},
                "selector": {"matchLabels": {"app": "reviews"}},
                "template": {
                    "metadata": {"creationTimestamp": null, "labels": {"app": "reviews", "version": "v2"}},
                    "spec": {"containers": [{"name": "reviews", "image": "reviews:v2", "someNewField": {"a": 1}}]},
                },
            },
        })
    }

    #[test]
    fn it_runs_the_template_under_the_apps_labels_and_one_more() {
        let clone = manifest(
            &deployment(),
            "abc",
            Size { replicas: 3, progress_deadline: None },
            &Owner { name: "reviews", uid: "c1" },
        );
        assert_eq!(clone["metadata"]["name"], "reviews-canary");
        assert_eq!(
            clone["metadata"]["labels"],
            json!({CLONE_OF_LABEL: "reviews", "app.kubernetes.io/managed-by": "fairlead"})
        );
        assert_eq!(clone["metadata"]["ownerReferences"][0]["uid"], "c1");
        assert_eq!(
            clone["spec"],
            json!({
                "replicas": 3,
                "progressDeadlineSeconds": 60,
                "strategy": {"type": "RollingUpdate"},
                "revisionHistoryLimit": 0,
                "selector": {"matchLabels": {"app": "reviews", CLONE_OF_LABEL: "reviews"}},
                "template": {
                    "metadata": {
                        "labels": {"app": "reviews", "version": "v2", CLONE_OF_LABEL: "reviews"},
                        "annotations": {TEMPLATE: "abc"},
                    },
                    "spec": {"containers": [{"name": "reviews", "image": "reviews:v2", "someNewField": {"a": 1}}]},
                },
            })
        );
    }

    #[test]
    fn it_has_the_size_and_the_patience_that_are_asked_for() {
        let size = Size { replicas: 1, progress_deadline: Some(120) };
        let clone = manifest(&deployment(), "abc", size, &Owner { name: "reviews", uid: "c1" });
        assert_eq!((&clone["spec"]["replicas"], &clone["spec"]["progressDeadlineSeconds"]), (&json!(1), &json!(120)));
    }

    #[test]
    fn the_longest_name_still_fits() {
        assert_eq!(name(&"d".repeat(56)).len(), 63);
    }
}
