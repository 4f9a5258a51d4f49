//! As much of an API server as the operator needs to believe that there is a cluster: objects by path with their status apart, listings in pages, watches,
//! patches and server-side apply, and token reviews that believe every token. It answers in microseconds, so what is measured beside it is the
//! operator; and it counts what it is asked.

mod apply;
mod objects;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::objects::{Asked, Objects, Patch, is_collection, kind_of};

/// The largest object that is taken.
const MAX_BODY: usize = 1 << 20;

/// Clones share their objects.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

struct Inner {
    objects: Mutex<Objects>,
    requests: Mutex<Requests>,
    /// The number of changes so far, for those who watch.
    changes: watch::Sender<usize>,
}

/// What the operator asked since the start, by kind of object; of an event as well, which is not stored. Token reviews are not counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Requests {
    pub(crate) writes: BTreeMap<String, u64>,
    pub(crate) reads: BTreeMap<String, u64>,
}

impl Requests {
    /// Those that came after `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        let since = |now: &BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let more = now.iter().map(|(kind, count)| (kind.clone(), count - before.get(kind).unwrap_or(&0)));
            more.filter(|(_, count)| *count > 0).collect()
        };
        Self { writes: since(&self.writes, &before.writes), reads: since(&self.reads, &before.reads) }
    }
}

impl Api {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Inner { objects: Mutex::default(), requests: Mutex::default(), changes: watch::Sender::new(0) }))
    }

    /// Serves on the loopback; returns its port.
    pub(crate) async fn serve(&self) -> Result<u16> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the API server's port")?;
        let port = listener.local_addr()?.port();
        let router = Router::new().fallback(answer).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(port)
    }

    /// Stores an object as somebody other than the operator would; of one that is there all but the status.
    pub(crate) fn put(&self, path: &str, object: Value) {
        // Refused by nobody.
        let _ = self.change(|objects| objects.change(path, false, |_| Ok(Some(object))));
    }

    /// Changes an object that is there.
    pub(crate) fn edit(&self, path: &str, edit: impl FnOnce(&mut Value)) -> Result<()> {
        let edited = self.change(|objects| {
            objects.change(path, false, |before| {
                let mut object = before.cloned().ok_or(StatusCode::NOT_FOUND)?;
                edit(&mut object);
                Ok(Some(object))
            })
        });
        edited.map(drop).map_err(|_| anyhow::anyhow!("{path} is not there"))
    }

    /// Writes the status of an object, if it is there still.
    pub(crate) fn put_status(&self, path: &str, status: Value) {
        let _ = self.change(|objects| {
            objects.change(path, true, |before| {
                let mut object = before.cloned().ok_or(StatusCode::NOT_FOUND)?;
                object["status"] = status;
                Ok(Some(object))
            })
        });
    }

    /// Takes an object away, if it is there.
    pub(crate) fn remove(&self, path: &str) {
        let _ = self.change(|objects| objects.change(path, false, |_| Ok(None)));
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.objects.lock().present.get(path).cloned()
    }

    /// What was asked so far.
    pub(crate) fn requests(&self) -> Requests {
        self.0.requests.lock().clone()
    }

    /// The number of changes so far.
    pub(crate) fn changes(&self) -> usize {
        self.0.objects.lock().log.len()
    }

    /// The paths, of those that are wanted, that changed since change number `seen`, which it moves on; waits until there is a change.
    pub(crate) async fn changed(&self, seen: &mut usize, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut changes = self.0.changes.subscribe();
        // The sender lives as long as this.
        let _ = changes.wait_for(|count| *count > *seen).await;
        let objects = self.0.objects.lock();
        let paths = objects.log.iter().skip(*seen).map(|change| &change.path).filter(|path| wanted(path));
        let paths = paths.cloned().collect();
        *seen = objects.log.len();
        paths
    }

    /// When an object first was so since change number `from`, and the object as it was then; waits for it until `deadline`.
    pub(crate) async fn when(
        &self,
        path: &str,
        from: usize,
        deadline: Instant,
        is: impl Fn(&Value) -> bool,
    ) -> Result<(Instant, Value)> {
        let mut changes = self.0.changes.subscribe();
        let mut seen = from;
        loop {
            let fresh: Vec<_> = {
                let objects = self.0.objects.lock();
                let fresh = objects.log.iter().skip(seen).filter(|change| change.path == path).cloned().collect();
                seen = objects.log.len();
                fresh
            };
            for change in fresh {
                let object = change.object();
                if is(&object) {
                    return Ok((change.at, object));
                }
            }
            if timeout_at(deadline, changes.wait_for(|count| *count > seen)).await.is_err() {
                bail!("{path} did not become what was waited for; it is {}", self.get(path).unwrap_or_default());
            }
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Objects) -> T) -> T {
        let mut objects = self.0.objects.lock();
        let result = change(&mut objects);
        // While the objects are locked, so that the number never goes back.
        self.0.changes.send_if_modified(|count| std::mem::replace(count, objects.log.len()) != objects.log.len());
        result
    }

    /// What happened to the objects of a listing since then, for as long as somebody reads it.
    fn follow(&self, path: String, asked: Asked) -> Response {
        let since = asked.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0);
        let (api, changes) = (self.clone(), self.0.changes.subscribe());
        let lines = stream::unfold((since, changes), move |(mut seen, mut changes)| {
            let (api, path, asked) = (api.clone(), path.clone(), asked.clone());
            async move {
                loop {
                    let fresh = api.0.objects.lock().since(&mut seen, &path, &asked);
                    if !fresh.is_empty() {
                        return Some((Ok::<_, Infallible>(Bytes::from(fresh)), (seen, changes)));
                    }
                    changes.wait_for(|count| *count > seen).await.ok()?;
                }
            }
        });
        Body::from_stream(lines).into_response()
    }

    fn count(&self, method: &Method, path: &str) {
        let mut requests = self.0.requests.lock();
        let counts = if *method == Method::GET { &mut requests.reads } else { &mut requests.writes };
        *counts.entry(kind_of(path).to_owned()).or_default() += 1;
    }
}

async fn answer(
    State(api): State<Api>,
    method: Method,
    uri: Uri,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let (path, is_status) = match uri.path().strip_suffix("/status") {
        Some(path) => (path.to_owned(), true),
        None => (uri.path().to_owned(), false),
    };
    let Ok(body) = axum::body::to_bytes(body, MAX_BODY).await else { return failure(StatusCode::PAYLOAD_TOO_LARGE) };
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if path.ends_with("/tokenreviews") {
        return success(&reviewed(&body));
    }
    api.count(&method, &path);
    if method == Method::GET {
        return match api.get(&path) {
            Some(object) => success(&object),
            None if asked.watch.is_some() => api.follow(path, asked),
            None if is_collection(&path) => success(&api.0.objects.lock().list(&path, &asked)),
            None => failure(StatusCode::NOT_FOUND),
        };
    }
    // Nobody reads events here, and there would be many of one name.
    if kind_of(&path) == "events" {
        return success(&body);
    }
    let changed = match method {
        Method::POST => {
            let name = body["metadata"]["name"].as_str().unwrap_or("generated");
            let path = format!("{path}/{name}");
            api.change(|objects| {
                objects.change(&path, false, |present| match present {
                    Some(_) => Err(StatusCode::CONFLICT),
                    None => Ok(Some(body)),
                })
            })
        }
        Method::PUT => api.change(|objects| {
            objects.change(&path, is_status, |present| {
                let present = present.ok_or(StatusCode::NOT_FOUND)?;
                let version = &body["metadata"]["resourceVersion"];
                if !version.is_null() && *version != present["metadata"]["resourceVersion"] {
                    return Err(StatusCode::CONFLICT);
                }
                Ok(Some(body))
            })
        }),
        Method::PATCH => {
            let manager = asked.field_manager.as_deref().unwrap_or_default();
            let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            match kind {
                Some("application/apply-patch+yaml") => Ok(Patch::Apply),
                Some("application/merge-patch+json") => Ok(Patch::Merge),
                _ => Err(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            }
            .and_then(|kind| api.change(|objects| objects.patch(&path, is_status, kind, manager, &body)))
        }
        Method::DELETE => api.change(|objects| {
            objects.change(&path, false, |present| {
                let present = present.ok_or(StatusCode::NOT_FOUND)?;
                let uid = &body["preconditions"]["uid"];
                if uid.is_null() || *uid == present["metadata"]["uid"] { Ok(None) } else { Err(StatusCode::CONFLICT) }
            })
        }),
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    };
    match changed {
        Ok(Some(object)) => success(&object),
        Ok(None) => success(&json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
        Err(code) => failure(code),
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
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_becomes_of_an_object_can_be_waited_for() {
        let api = Api::new();
        let path = "/apis/apps/v1/namespaces/n/deployments/d";
        api.put(path, json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}}));
        let from = api.changes();
        let deadline = Instant::now() + Duration::from_secs(10);
        let ready = |object: &Value| object["status"]["ready"] == 1;
        let (seen, ()) = tokio::join!(api.when(path, from, deadline, ready), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            api.put_status(path, json!({"ready": 1}));
            api.put(path, json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}}));
        });
        let (at, object) = seen.unwrap();
        assert_eq!((deadline - at, &object["spec"]["replicas"]), (Duration::from_secs(7), &json!(1)));
        assert_eq!(api.get(path).unwrap()["status"], json!({"ready": 1}), "only its own door changes a status");
        assert!(api.when(path, api.changes(), deadline, ready).await.is_err());
    }

    #[test]
    fn requests_are_those_that_came_since() {
        let api = Api::new();
        let count = |method, path| api.count(&method, path);
        count(Method::GET, "/api/v1/pods");
        let before = api.requests();
        count(Method::GET, "/api/v1/namespaces/n/services/s");
        count(Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/n/leases/l");
        let since = api.requests().since(&before);
        assert_eq!(since.reads.into_iter().collect::<Vec<_>>(), [("services".to_owned(), 1)]);
        assert_eq!(since.writes.into_iter().collect::<Vec<_>>(), [("leases".to_owned(), 1)]);
    }
}
