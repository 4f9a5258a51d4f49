//! The objects, their history, and who reads which of it.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::apply;

/// Everything that is stored.
#[derive(Default)]
pub(super) struct Objects {
    /// By path, such as `/api/v1/namespaces/default/pods/a`.
    pub(super) present: BTreeMap<String, Value>,
    /// All that ever happened; its length is the resource version.
    pub(super) log: Vec<Change>,
    /// What each manager applied last, by path and manager.
    applied: BTreeMap<(String, String), Value>,
}

#[derive(Clone)]
pub(super) struct Change {
    pub(super) path: String,
    pub(super) at: Instant,
    labels: Value,
    /// A line of a watch.
    pub(super) line: Bytes,
}

/// Kinds of patches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Patch {
    Apply,
    Merge,
}

/// What of a query matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Asked {
    pub(super) watch: Option<String>,
    pub(super) limit: Option<usize>,
    pub(super) r#continue: Option<String>,
    pub(super) resource_version: Option<String>,
    pub(super) field_manager: Option<String>,
    label_selector: Option<String>,
    field_selector: Option<String>,
}

impl Objects {
    /// Has an object become what `decide` makes of it; `None`: it goes. What changes nothing leaves no trace, as with a real API server.
    pub(super) fn change(
        &mut self,
        path: &str,
        is_status: bool,
        decide: impl FnOnce(Option<&Value>) -> Result<Option<Value>, StatusCode>,
    ) -> Result<Option<Value>, StatusCode> {
        let before = self.present.get(path);
        let version = (self.log.len() + 1).to_string();
        let (kind, mut object) = match (before, decide(before)?) {
            (None, None) => return Err(StatusCode::NOT_FOUND),
            (Some(before), None) => ("DELETED", before.clone()),
            (Some(before), Some(after)) => {
                let after = apply::settle(before, after, is_status);
                if after == *before {
                    return Ok(Some(after));
                }
                ("MODIFIED", after)
            }
            (None, Some(mut new)) => {
                let metadata = &mut new["metadata"];
                if metadata["uid"].is_null() {
                    metadata["uid"] = json!(format!("uid-{version}"));
                }
                if metadata["generation"].is_null() {
                    metadata["generation"] = json!(1);
                }
                ("ADDED", new)
            }
        };
        object["metadata"]["resourceVersion"] = json!(version);
        let mut line = json!({"type": kind, "object": &object}).to_string();
        line.push('\n');
        let labels = object["metadata"]["labels"].clone();
        self.log.push(Change { path: path.to_owned(), at: Instant::now(), labels, line: line.into() });
        if kind == "DELETED" {
            self.present.remove(path);
            return Ok(None);
        }
        self.present.insert(path.to_owned(), object.clone());
        Ok(Some(object))
    }

    /// A patch of the operator's.
    pub(super) fn patch(
        &mut self,
        path: &str,
        is_status: bool,
        patch: Patch,
        manager: &str,
        body: &Value,
    ) -> Result<Option<Value>, StatusCode> {
        let name = if is_status { format!("{path}/status") } else { path.to_owned() };
        let key = (name, manager.to_owned());
        let last = self.applied.get(&key).filter(|_| patch == Patch::Apply).cloned();
        let changed = self.change(path, is_status, |before| {
            let creates = patch == Patch::Apply && !is_status && body["metadata"]["uid"].is_null();
            let mut object = match before {
                Some(before) => before.clone(),
                None if creates => json!({}),
                None => return Err(StatusCode::NOT_FOUND),
            };
            for field in ["resourceVersion", "uid"] {
                let expected = &body["metadata"][field];
                if !expected.is_null() && *expected != object["metadata"][field] {
                    return Err(StatusCode::CONFLICT);
                }
            }
            if let Some(last) = &last {
                apply::prune(&mut object, last, body);
            }
            apply::merge(&mut object, body);
            Ok(Some(object))
        })?;
        if patch == Patch::Apply {
            self.applied.insert(key, body.clone());
        }
        Ok(changed)
    }

    pub(super) fn list(&self, path: &str, asked: &Asked) -> Value {
        let skip = asked.r#continue.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        let limit = asked.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut found = self
            .present
            .iter()
            .filter(|(at, object)| is_in(at, path) && asked.selects(at, &object["metadata"]["labels"]))
            .map(|(_, object)| object)
            .skip(skip);
        let items: Vec<&Value> = found.by_ref().take(limit).collect();
        let next = found.next().map_or_else(String::new, |_| (skip + items.len()).to_string());
        let version = self.log.len().to_string();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": next}, "items": items})
    }

    /// What happened to the objects of a listing since change number `seen`, which it moves on.
    pub(super) fn since(&self, seen: &mut usize, path: &str, asked: &Asked) -> Vec<u8> {
        let mut lines = Vec::new();
        for change in self.log.iter().skip(*seen) {
            if is_in(&change.path, path) && asked.selects(&change.path, &change.labels) {
                lines.extend_from_slice(&change.line);
            }
        }
        *seen = self.log.len();
        lines
    }
}

impl Change {
    /// The object as it became, or as it was when it went.
    pub(super) fn object(&self) -> Value {
        let mut event: Value = serde_json::from_slice(&self.line).unwrap_or_default();
        event["object"].take()
    }
}

impl Clone for Asked {
    fn clone(&self) -> Self {
        Self {
            label_selector: self.label_selector.clone(),
            field_selector: self.field_selector.clone(),
            ..Self::default()
        }
    }
}

impl Asked {
    /// Selectors of one name, or of labels that are there or have one value: the operator uses no others.
    fn selects(&self, path: &str, labels: &Value) -> bool {
        let by_label = self.label_selector.as_deref().is_none_or(|selectors| {
            selectors.split(',').all(|selector| match selector.split_once('=') {
                Some((label, value)) => labels[label] == *value.trim_start_matches('='),
                None => !labels[selector].is_null(),
            })
        });
        let name = self.field_selector.as_deref().and_then(|selector| selector.strip_prefix("metadata.name="));
        by_label && name.is_none_or(|name| path.rsplit('/').next() == Some(name))
    }
}

/// Whether an object belongs to a listing, of its namespace or of all: `/api/v1/namespaces/default/pods/a` is in `/api/v1/pods`.
pub(super) fn is_in(object: &str, listing: &str) -> bool {
    let Some((collection, _)) = object.rsplit_once('/') else { return false };
    if collection == listing {
        return true;
    }
    let (Some((group, kind)), Some((of, wanted))) = (collection.rsplit_once('/'), listing.rsplit_once('/')) else {
        return false;
    };
    let namespaced = group.rsplit_once("/namespaces/").map(|(group, _)| group);
    kind == wanted && namespaced == Some(of)
}

/// Collections have an even number of segments below their group's version where they are of all namespaces, and an odd one in one.
pub(super) fn is_collection(path: &str) -> bool {
    below(path).count() % 2 == 1
}

/// The plural of a path's kind.
pub(super) fn kind_of(path: &str) -> &str {
    let mut below = below(path);
    match (below.next(), below.nth(1)) {
        (Some("namespaces"), Some(kind)) => kind,
        (kind, _) => kind.unwrap_or_default(),
    }
}

/// The segments below a group's version.
fn below(path: &str) -> impl Iterator<Item = &str> {
    path.trim_matches('/').split('/').skip(if path.starts_with("/apis/") { 3 } else { 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_in_the_listings_of_their_namespace_and_of_all() {
        let pod = "/api/v1/namespaces/default/pods/a";
        assert!(is_in(pod, "/api/v1/namespaces/default/pods") && is_in(pod, "/api/v1/pods"));
        assert!(
            !is_in(pod, "/api/v1/namespaces/other/pods")
                && !is_in(pod, "/api/v1/services")
                && !is_in(pod, "/apis/x/v1/pods")
        );
        assert!(is_in("/api/v1/namespaces/default", "/api/v1/namespaces"));
        let auth = "/apis/fairlead.dev/v1alpha1/namespaces/a/peerauths/b";
        assert!(is_in(auth, "/apis/fairlead.dev/v1alpha1/peerauths"));
        for collection in [
            "/api/v1/pods",
            "/api/v1/namespaces/a/pods",
            "/apis/apps/v1/deployments",
            "/apis/apps/v1/namespaces/a/deployments",
        ] {
            assert!(is_collection(collection) && !is_collection(&format!("{collection}/x")), "{collection}");
        }
    }

    #[test]
    fn a_path_tells_its_kind() {
        for (path, kind) in [
            ("/api/v1/namespaces/a", "namespaces"),
            ("/api/v1/namespaces/a/pods/b", "pods"),
            ("/api/v1/nodes/a", "nodes"),
            ("/apis/fairlead.dev/v1alpha1/canaries", "canaries"),
            ("/apis/apps/v1/namespaces/a/deployments/b", "deployments"),
        ] {
            assert_eq!(kind_of(path), kind, "{path}");
        }
    }

    const CANARY: &str = "/apis/fairlead.dev/v1alpha1/namespaces/n/canaries/c";

    fn with_canary() -> Objects {
        let mut objects = Objects::default();
        let canary = json!({"metadata": {"name": "c"}, "spec": {"steps": []}});
        objects.change(CANARY, false, |_| Ok(Some(canary))).unwrap();
        objects
    }

    #[test]
    fn a_status_that_is_applied_replaces_what_was_applied_before() {
        let mut objects = with_canary();
        let mut applied = |status: Value| {
            let body = json!({"metadata": {"name": "c"}, "status": status});
            objects.patch(CANARY, true, Patch::Apply, "m", &body).unwrap().unwrap()
        };
        let first = applied(json!({"phase": "Progressing", "canary": {"revision": "2"}}));
        assert_eq!((&first["metadata"]["generation"], &first["spec"]), (&json!(1), &json!({"steps": []})));
        let second = applied(json!({"phase": "Initialized"}));
        assert_eq!(second["status"], json!({"phase": "Initialized"}));
        let again = applied(json!({"phase": "Initialized"}));
        assert_eq!(again["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"], "nothing changed");
        assert_eq!(objects.log.len(), 3);
    }

    #[test]
    fn a_merge_patch_takes_nothing_away_that_was_applied() {
        let mut objects = with_canary();
        let applied = json!({"metadata": {"name": "c", "labels": {"a": "1"}}});
        objects.patch(CANARY, false, Patch::Apply, "m", &applied).unwrap();
        let merged = json!({"metadata": {"annotations": {"b": "2"}}});
        let metadata = &objects.patch(CANARY, false, Patch::Merge, "m", &merged).unwrap().unwrap()["metadata"];
        assert_eq!((&metadata["name"], &metadata["labels"]["a"]), (&json!("c"), &json!("1")));
    }

    #[test]
    fn who_read_an_older_version_does_not_write() {
        let mut objects = with_canary();
        let stale = json!({"metadata": {"resourceVersion": "0"}, "spec": {}});
        assert_eq!(objects.patch(CANARY, false, Patch::Merge, "m", &stale), Err(StatusCode::CONFLICT));
        let other = format!("{CANARY}-2");
        let body = json!({"metadata": {"name": "c-2"}});
        assert_eq!(objects.patch(&other, false, Patch::Merge, "m", &body), Err(StatusCode::NOT_FOUND));
        assert_eq!(objects.patch(&other, true, Patch::Apply, "m", &body), Err(StatusCode::NOT_FOUND));
        assert!(objects.patch(&other, false, Patch::Apply, "m", &body).is_ok(), "to apply is to create");
    }

    #[test]
    fn a_listing_comes_in_pages_and_a_watch_goes_on_from_it() {
        let mut objects = Objects::default();
        let put = |objects: &mut Objects, name: &str, label: &str| {
            let pod = json!({"metadata": {"name": name, "labels": {"app": label}}});
            objects.change(&format!("/api/v1/namespaces/n/pods/{name}"), false, |_| Ok(Some(pod))).unwrap();
        };
        for name in ["a", "b", "c"] {
            put(&mut objects, name, "x");
        }
        let first = objects.list("/api/v1/pods", &Asked { limit: Some(2), ..Asked::default() });
        assert_eq!((first["items"].as_array().map(Vec::len), &first["metadata"]["continue"]), (Some(2), &json!("2")));
        let rest = Asked { limit: Some(2), r#continue: Some("2".into()), ..Asked::default() };
        let second = objects.list("/api/v1/pods", &rest);
        assert_eq!(
            (second["items"][0]["metadata"]["name"].as_str(), second["metadata"]["continue"].as_str()),
            (Some("c"), Some(""))
        );
        let mut seen = 3;
        put(&mut objects, "a", "y");
        let lines = objects.since(&mut seen, "/api/v1/pods", &Asked::default());
        assert!(String::from_utf8_lossy(&lines).contains("MODIFIED"));
        assert!(objects.since(&mut seen, "/api/v1/pods", &Asked::default()).is_empty());
        let selected = Asked { label_selector: Some("app=x,app".into()), ..Asked::default() };
        assert_eq!(objects.list("/api/v1/pods", &selected)["items"].as_array().map(Vec::len), Some(2));
    }
}
