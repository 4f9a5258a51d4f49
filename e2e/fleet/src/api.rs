//! As much of an API server as the operator needs to believe that there is a cluster: objects by path, listings in pages, watches, and token
//! reviews that believe every token. It answers in microseconds, so what is measured beside it is the operator.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The largest object that is taken.
const MAX_BODY: usize = 1 << 20;

/// Clones share their objects.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    state: Mutex<Objects>,
    /// The number of changes so far, for those who watch.
    changes: watch::Sender<usize>,
}

#[derive(Default)]
struct Objects {
    /// By path, such as `/api/v1/namespaces/default/pods/a`.
    present: BTreeMap<String, Value>,
    /// All that ever happened; its length is the resource version.
    log: Vec<Change>,
    writes: usize,
}

#[derive(Clone)]
struct Change {
    path: String,
    labels: Value,
    /// A line of a watch.
    line: Bytes,
}

/// What of a query matters here.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Asked {
    watch: Option<String>,
    limit: Option<usize>,
    r#continue: Option<String>,
    resource_version: Option<String>,
    label_selector: Option<String>,
    field_selector: Option<String>,
}

impl Api {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), changes: watch::Sender::new(0) }))
    }

    /// Serves on the loopback; returns its port.
    pub(crate) async fn serve(&self) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the API server's port")?;
        let port = listener.local_addr()?.port();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(port)
    }

    /// Stores an object.
    pub(crate) fn put(&self, path: &str, object: Value) {
        self.change(path, Some(object));
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.state.lock().present.get(path).cloned()
    }

    fn change(&self, path: &str, object: Option<Value>) -> Option<Value> {
        let mut state = self.0.state.lock();
        let version = (state.log.len() + 1).to_string();
        let (kind, mut object, is_gone) = match (object, state.present.remove(path)) {
            (Some(object), None) => ("ADDED", object, false),
            (Some(object), Some(_)) => ("MODIFIED", object, false),
            (None, Some(object)) => ("DELETED", object, true),
            (None, None) => return None,
        };
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(version);
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(format!("uid-{version}"));
        }
        let mut line = json!({"type": kind, "object": &object}).to_string();
        line.push('\n');
        let labels = object["metadata"]["labels"].clone();
        state.log.push(Change { path: path.to_owned(), labels, line: line.into() });
        if !is_gone {
            state.present.insert(path.to_owned(), object.clone());
        }
        // While the state is locked, so that the number never goes back.
        self.0.changes.send_replace(state.log.len());
        (!is_gone).then_some(object)
    }

    /// A write of the operator's.
    fn write(&self, path: &str, object: Option<Value>) -> Response {
        self.0.state.lock().writes += 1;
        match self.change(path, object) {
            Some(object) => success(&object),
            None => success(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        }
    }

    fn list(&self, path: &str, asked: &Asked) -> Value {
        let state = self.0.state.lock();
        let skip = asked.r#continue.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        let limit = asked.limit.filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let mut found = state
            .present
            .iter()
            .filter(|(at, object)| is_in(at, path) && asked.selects(at, &object["metadata"]["labels"]))
            .map(|(_, object)| object)
            .skip(skip);
        let items: Vec<&Value> = found.by_ref().take(limit).collect();
        let next = found.next().map_or_else(String::new, |_| (skip + items.len()).to_string());
        let version = state.log.len().to_string();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version, "continue": next}, "items": items})
    }

    /// What happened to the objects of a listing since then, for as long as somebody reads it.
    fn follow(&self, path: String, asked: Asked) -> Response {
        let since = asked.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        let (api, changes) = (self.clone(), self.0.changes.subscribe());
        let lines = stream::unfold((since, changes), move |(mut seen, mut changes)| {
            let (api, path, asked) = (api.clone(), path.clone(), asked.clone());
            async move {
                loop {
                    let fresh = api.since(&mut seen, &path, &asked);
                    if !fresh.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(fresh)), (seen, changes)));
                    }
                    changes.wait_for(|count| *count > seen).await.ok()?;
                }
            }
        });
        Body::from_stream(lines).into_response()
    }

    fn since(&self, seen: &mut usize, path: &str, asked: &Asked) -> Vec<u8> {
        let state = self.0.state.lock();
        let mut lines = Vec::new();
        for change in state.log.iter().skip(*seen) {
            if is_in(&change.path, path) && asked.selects(&change.path, &change.labels) {
                lines.extend_from_slice(&change.line);
            }
        }
        *seen = state.log.len();
        lines
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
    /// Selectors of one label, or of one name: the operator uses no others.
    fn selects(&self, path: &str, labels: &Value) -> bool {
        let by_label = self.label_selector.as_deref().is_none_or(|selector| match selector.split_once('=') {
            Some((label, value)) => labels[label] == *value,
            None => !labels[selector].is_null(),
        });
        let name = self.field_selector.as_deref().and_then(|selector| selector.strip_prefix("metadata.name="));
        by_label && name.is_none_or(|name| path.rsplit('/').next() == Some(name))
    }
}

/// Whether an object belongs to a listing, of its namespace or of all: `/api/v1/namespaces/default/pods/a` is in `/api/v1/pods`.
fn is_in(object: &str, listing: &str) -> bool {
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

async fn answer(State(api): State<Api>, method: Method, uri: Uri, Query(asked): Query<Asked>, body: Body) -> Response {
    let path = uri.path().trim_end_matches("/status").to_owned();
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else { return failure(StatusCode::PAYLOAD_TOO_LARGE) };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if path.ends_with("/tokenreviews") {
        return success(&reviewed(&body));
    }
    if method == Method::GET {
        return match api.get(&path) {
            Some(object) => success(&object),
            None if asked.watch.is_some() => api.follow(path, asked),
            None if is_collection(&path) => success(&api.list(&path, &asked)),
            None => failure(StatusCode::NOT_FOUND),
        };
    }
    let present = api.get(&path);
    match (method, present) {
        (Method::POST, _) => {
            let name = body["metadata"]["name"].as_str().unwrap_or("generated");
            let path = format!("{path}/{name}");
            match api.get(&path) {
                // Nobody reads events here, and there would be many of one name.
                _ if path.contains("/events/") => success(&body),
                Some(_) => failure(StatusCode::CONFLICT),
                None => api.write(&path, Some(body)),
            }
        }
        (Method::PATCH, present) => {
            let mut object = present.unwrap_or_else(|| json!({}));
            merge(&mut object, body);
            api.write(&path, Some(object))
        }
        (_, None) => failure(StatusCode::NOT_FOUND),
        (Method::PUT, Some(object))
            if body["metadata"]["resourceVersion"].is_string()
                && body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] =>
        {
            failure(StatusCode::CONFLICT)
        }
        (Method::PUT, Some(_)) => api.write(&path, Some(body)),
        (Method::DELETE, Some(_)) => api.write(&path, None),
        _ => failure(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// Collections have an even number of segments below their group's version where they are of all namespaces, and an odd one in one.
fn is_collection(path: &str) -> bool {
    let segments = path.trim_matches('/').split('/').count();
    let below = segments - if path.starts_with("/apis/") { 3 } else { 2 };
    below % 2 == 1
}

/// RFC 7396, which server-side apply comes down to where nobody else writes.
fn merge(object: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *object = patch;
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            if let Some(fields) = object.as_object_mut() {
                fields.remove(&key);
            }
        } else {
            merge(&mut object[&key], value);
        }
    }
}

/// The middle of a token names the pod; see `proxies`.
fn reviewed(review: &Value) -> Value {
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    let pod = token.split('.').nth(1).unwrap_or_default();
    let namespace = crate::proxies::NAMESPACE;
    let mut review = review.clone();
    review["status"] = json!({
        "authenticated": true,
        "audiences": [fairlead_proxy_api::TOKEN_AUDIENCE],
        "user": {
            "username": format!("system:serviceaccount:{namespace}:default"),
            "extra": {
                "authentication.kubernetes.io/pod-name": [pod],
                "authentication.kubernetes.io/pod-uid": [format!("uid-{pod}")],
            },
        },
    });
    review
}

fn success(object: &Value) -> Response {
    ([("content-type", "application/json")], object.to_string()).into_response()
}

fn failure(code: StatusCode) -> Response {
    let reason = code.canonical_reason().unwrap_or_default().replace(' ', "");
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code.as_u16(), "message": reason});
    (code, [("content-type", "application/json")], status.to_string()).into_response()
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
    fn a_listing_comes_in_pages_and_a_watch_goes_on_from_it() {
        let api = Api::new();
        for name in ["a", "b", "c"] {
            api.put(&format!("/api/v1/namespaces/n/pods/{name}"), json!({"metadata": {"name": name}}));
        }
        let first = api.list("/api/v1/pods", &Asked { limit: Some(2), ..Asked::default() });
        assert_eq!((first["items"].as_array().map(Vec::len), &first["metadata"]["continue"]), (Some(2), &json!("2")));
        let rest = Asked { limit: Some(2), r#continue: Some("2".into()), ..Asked::default() };
        let second = api.list("/api/v1/pods", &rest);
        assert_eq!(
            (second["items"][0]["metadata"]["name"].as_str(), second["metadata"]["continue"].as_str()),
            (Some("c"), Some(""))
        );
        let mut seen = 3;
        api.put("/api/v1/namespaces/n/pods/a", json!({"metadata": {"name": "a"}}));
        let lines = api.since(&mut seen, "/api/v1/pods", &Asked::default());
        assert!(String::from_utf8_lossy(&lines).contains("MODIFIED"));
        assert!(api.since(&mut seen, "/api/v1/pods", &Asked::default()).is_empty());
    }
}
