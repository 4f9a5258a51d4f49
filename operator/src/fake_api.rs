//! An API server for unit tests: objects by path, optimistic locking, and the failures that matter.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use http::{Method, Request, Response};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};

type Hook = Box<dyn FnOnce(&FakeApi) + Send>;
type OnCreate = Arc<dyn Fn(&mut Value) + Send + Sync>;

/// Clones share their objects.
#[derive(Clone, Default)]
pub(crate) struct FakeApi(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: usize,
    down: bool,
    /// After so many writes nothing is answered any more.
    dies_after: Option<usize>,
    refused: Option<(String, u16)>,
    before_write: Option<Hook>,
    /// What a controller makes at once of what is created below a path.
    on_create: Option<(String, OnCreate)>,
}

impl FakeApi {
    pub(crate) fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Stores an object as someone else would.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        object["metadata"]["name"] = json!(path.rsplit('/').next());
        state.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().objects.get(path).cloned()
    }

    pub(crate) fn remove(&self, path: &str) {
        self.0.lock().objects.remove(path);
    }

    /// While down, everything is answered 503.
    pub(crate) fn set_down(&self, down: bool) {
        self.0.lock().down = down;
    }

    /// After so many writes in all everything is answered 503: to the process that wrote, it is as if it had died there.
    pub(crate) fn die_after(&self, writes: usize) {
        self.0.lock().dies_after = Some(writes);
    }

    /// Answers again.
    pub(crate) fn revive(&self) {
        self.0.lock().dies_after = None;
    }

    /// PATCH of this object is answered so, until it is another one's turn.
    pub(crate) fn refuse(&self, refused: Option<(&str, u16)>) {
        self.0.lock().refused = refused.map(|(path, code)| (path.to_owned(), code));
    }

    /// Runs once, before the next POST, PUT or PATCH takes effect.
    pub(crate) fn before_next_write(&self, hook: impl FnOnce(&Self) + Send + 'static) {
        self.0.lock().before_write = Some(Box::new(hook));
    }

    /// Whatever is created below this path from now on is changed so in the same moment, as by a quick controller.
    pub(crate) fn on_create(&self, path: &str, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.0.lock().on_create = Some((path.to_owned(), Arc::new(change)));
    }

    /// The names of what lies right below this path.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let prefix = format!("{path}/");
        self.0.lock().objects.keys().filter_map(|path| path.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    /// How many requests changed something.
    pub(crate) fn writes(&self) -> usize {
        self.0.lock().writes
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body: Value = serde_json::from_slice(&body.collect_bytes().await.unwrap()).unwrap_or_default();
        // A status is kept in its object.
        let path = head.uri.path().trim_end_matches("/status").to_owned();
        if head.method != Method::GET {
            let hook = self.0.lock().before_write.take();
            if let Some(hook) = hook {
                hook(self);
            }
        }
        let dead = {
            let state = self.0.lock();
            state.down || state.dies_after.is_some_and(|after| state.writes >= after)
        };
        if dead {
            return failure(503, "ServiceUnavailable");
        }
        // Only listings have a page size.
        if let Some(query) = head.uri.query().filter(|query| query.contains("limit=")) {
            return success(&self.list(&path, query));
        }
        let refused = self.0.lock().refused.clone().filter(|(refused, _)| *refused == path);
        if let Some((_, code)) = refused.filter(|_| head.method == Method::PATCH) {
            return failure(code, "exceeded quota: count/deployments.apps");
        }
        let present = self.get(&path);
        let stored = |path: &str, object: Value| {
            self.put(path, object);
            self.0.lock().writes += 1;
            success(&self.get(path).unwrap())
        };
        match (head.method, present) {
            (Method::GET, Some(object)) => success(&object),
            (Method::GET | Method::PUT | Method::DELETE, None) => failure(404, "NotFound"),
            (Method::POST, _) => {
                let mut body = body;
                let on_create = self.0.lock().on_create.clone();
                if let Some((_, change)) = on_create.filter(|(below, _)| *below == path) {
                    change(&mut body);
                }
                let name = match (body["metadata"]["name"].as_str(), body["metadata"]["generateName"].as_str()) {
                    (Some(name), _) if !name.is_empty() => name.to_owned(),
                    (_, prefix) => format!("{}{}", prefix.unwrap(), self.0.lock().version),
                };
                let path = format!("{path}/{name}");
                if self.get(&path).is_some() { failure(409, "AlreadyExists") } else { stored(&path, body) }
            }
            (Method::PUT, Some(object)) => {
                if body["metadata"]["resourceVersion"] == object["metadata"]["resourceVersion"] {
                    stored(&path, body)
                } else {
                    failure(409, "Conflict")
                }
            }
            (Method::PATCH, Some(object))
                if body["metadata"]["resourceVersion"].is_string()
                    && body["metadata"]["resourceVersion"] != object["metadata"]["resourceVersion"] =>
            {
                failure(409, "Conflict")
            }
            (Method::PATCH, present) => {
                let kind = head.headers[http::header::CONTENT_TYPE].to_str().unwrap().to_owned();
                let mut object = present.unwrap_or_else(|| json!({"metadata": {}}));
                if kind == "application/json-patch+json" {
                    let patch: json_patch::Patch = serde_json::from_value(body).unwrap();
                    if json_patch::patch(&mut object, &patch).is_err() {
                        return failure(422, "Invalid");
                    }
                } else {
                    if kind == "application/apply-patch+yaml" && body["status"].is_object() {
                        // Whoever applied it before applies it now, and what is left out goes.
                        object["status"] = Value::Null;
                    }
                    json_patch::merge(&mut object, &body);
                }
                stored(&path, object)
            }
            (Method::DELETE, Some(object)) => {
                self.remove(&path);
                self.0.lock().writes += 1;
                success(&object)
            }
            (method, _) => panic!("no test needs {method} {path}"),
        }
    }

    /// The objects right below `path` that have the label, if one is asked for.
    fn list(&self, path: &str, query: &str) -> Value {
        let selector = query.split('&').find_map(|pair| pair.strip_prefix("labelSelector="));
        let label = selector.map(|text| text.replace("%2F", "/").replace("%3D", "="));
        let label = label.as_deref().and_then(|text| text.split_once('='));
        let prefix = format!("{path}/");
        let state = self.0.lock();
        let below =
            state.objects.iter().filter(|(path, _)| path.strip_prefix(&prefix).is_some_and(|rest| !rest.contains('/')));
        let items: Vec<_> = below
            .map(|(_, object)| object)
            .filter(|object| label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value))
            .collect();
        json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items})
    }
}

fn success(object: &Value) -> Response<Body> {
    Response::new(Body::from(serde_json::to_vec(object).unwrap()))
}

fn failure(code: u16, reason: &str) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code});
    let mut response = success(&status);
    *response.status_mut() = http::StatusCode::from_u16(code).unwrap();
    response
}
