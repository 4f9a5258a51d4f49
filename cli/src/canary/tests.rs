//! Requests and watches against an API server that knows one Canary and its Deployment.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Response};
use kube::Client;
use kube::api::ApiResource;
use kube::client::Body;
use serde_json::{Value, from_slice, json};
use tokio::sync::watch::{Receiver, Sender, channel};

use super::follow::Ending;
use super::view::Log;
use super::*;

/// The Canary, and how often it changed.
type Stored = (u64, Value);

/// Clones share what they store.
#[derive(Clone)]
struct Fake {
    canary: Arc<Sender<Stored>>,
    deployment: Arc<Mutex<Value>>,
    /// So many writes find that somebody else was faster.
    conflicts: Arc<Mutex<usize>>,
    /// What an operator makes of a request, a second later.
    operator: Option<fn(&mut Value)>,
}

impl Fake {
    fn new(phase: &str, operator: Option<fn(&mut Value)>) -> Self {
        let canary = json!({
            "apiVersion": "fairlead.dev/v1alpha1",
            "kind": "Canary",
            "metadata": {"namespace": "bookinfo", "name": "reviews", "uid": "one", "generation": 1},
            "spec": {"workloadRef": {"kind": "Deployment", "name": "reviews"}, "steps": [{"weight": 5, "approval": {}}]},
            "status": {
                "observedGeneration": 1,
                "phase": phase,
                "step": {"index": 0, "weight": 5, "since": "2026-11-20T10:00:00Z"},
                "stable": {"revision": "v1"},
                "canary": {"revision": "v2"},
            },
        });
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"namespace": "bookinfo", "name": "reviews", "annotations": {"fairlead.dev/held": "true"}},
            "spec": {"paused": true, "template": {"spec": {"containers": [{"image": "v2"}]}}},
        });
        let conflicts = Arc::new(Mutex::new(0));
        Self {
            canary: Arc::new(channel((1, canary)).0),
            deployment: Arc::new(Mutex::new(deployment)),
            conflicts,
            operator,
        }
    }

    fn target(&self) -> Target {
        let fake = self.clone();
        let service = tower::service_fn(move |request: hyper::Request<Body>| {
            let fake = fake.clone();
            async move { Ok::<_, Infallible>(fake.answer(request).await) }
        });
        let client = Client::new(service, "default");
        let api = |resource: ApiResource| Api::namespaced_with(client.clone(), "bookinfo", &resource);
        Target {
            namespace: "bookinfo".to_owned(),
            name: "reviews".to_owned(),
            canaries: api(ApiResource::erase::<Canary>(&())),
            deployments: api(ApiResource::erase::<k8s_openapi::api::apps::v1::Deployment>(&())),
            program: "fairlead",
        }
    }

    /// As somebody else does.
    fn change(&self, change: impl FnOnce(&mut Value)) {
        self.canary.send_modify(|(version, canary)| {
            *version += 1;
            change(canary);
        });
    }

    fn stored(&self) -> Value {
        versioned(&self.canary.borrow())
    }

    async fn answer(&self, request: hyper::Request<Body>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        let (head, body) = request.into_parts();
        let (path, query) = (head.uri.path().to_owned(), head.uri.query().unwrap_or_default().to_owned());
        if path.contains("/deployments/") {
            return whole(200, &self.deployment.lock().unwrap());
        }
        if head.method == Method::PATCH {
            let patch: Value = from_slice(&body.collect().await.unwrap().to_bytes()).unwrap();
            return self.patch(&patch);
        }
        if path.ends_with("/canaries/reviews") {
            return whole(200, &self.stored());
        }
        assert!(query.contains("fieldSelector=metadata.name%3Dreviews"), "{query}");
        if query.contains("watch=true") {
            return watched(self.canary.subscribe());
        }
        let metadata = json!({"resourceVersion": self.canary.borrow().0.to_string()});
        whole(
            200,
            &json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": "CanaryList", "metadata": metadata, "items": [self.stored()]}),
        )
    }

    fn patch(&self, patch: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
        {
            let mut conflicts = self.conflicts.lock().unwrap();
            if *conflicts > 0 {
                *conflicts -= 1;
                self.change(|_| {});
            }
        }
        if patch["metadata"]["resourceVersion"] != self.stored()["metadata"]["resourceVersion"] {
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 409, "reason": "Conflict", "message": "changed", "metadata": {}});
            return whole(409, &status);
        }
        self.change(|canary| canary["metadata"]["annotations"] = patch["metadata"]["annotations"].clone());
        if let Some(operator) = self.operator {
            let fake = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                fake.change(|canary| {
                    canary["metadata"]["annotations"] = Value::Null;
                    operator(canary);
                });
            });
        }
        whole(200, &self.stored())
    }
}

fn versioned((version, canary): &Stored) -> Value {
    let mut canary = canary.clone();
    canary["metadata"]["resourceVersion"] = json!(version.to_string());
    canary
}

fn whole(status: u16, body: &Value) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    Response::builder().status(status).body(Full::from(body.to_string()).boxed_unsync()).unwrap()
}

/// What changes from now on.
fn watched(mut canary: Receiver<Stored>) -> Response<UnsyncBoxBody<Bytes, Infallible>> {
    canary.mark_unchanged();
    let events = futures::stream::unfold(canary, |mut canary| async move {
        canary.changed().await.ok()?;
        let object = versioned(&canary.borrow_and_update());
        Some((json!({"type": "MODIFIED", "object": object}).to_string() + "\n", canary))
    });
    let body = StreamBody::new(events.map(|event| Ok(Frame::data(Bytes::from(event)))));
    Response::new(body.boxed_unsync())
}

fn asked(line: &str) -> Asked {
    let args = crate::args::parse(["fairlead", "canary", "approve", line].map(Into::into));
    let crate::args::Command::Canary { command: Command::Approve(asked) } = args.command else { panic!("{line}") };
    asked
}

#[tokio::test(start_paused = true)]
async fn a_request_is_written_and_waited_for() {
    let fake = Fake::new("WaitingApproval", Some(|canary| canary["status"]["phase"] = json!("Promoting")));
    *fake.conflicts.lock().unwrap() = 2;
    let (text, is_done) = ask(&fake.target(), Request::Approve, &asked("reviews")).await.unwrap();
    assert!(is_done);
    assert!(text.starts_with("bookinfo/reviews: the operator has heard approve: Promoting, step 1 of 1 for"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_hears_is_an_error_that_says_what_to_do() {
    let fake = Fake::new("WaitingApproval", None);
    let error = ask(&fake.target(), Request::Approve, &asked("reviews")).await.unwrap_err().to_string();
    assert!(error.contains("within 30 seconds. Does the operator run? fairlead check says so"), "{error}");
    assert_eq!(fake.stored()["metadata"]["annotations"], json!({REQUEST_ANNOTATION: "approve"}));
    let error = ask(&fake.target(), Request::Abort, &asked("reviews")).await.unwrap_err().to_string();
    assert!(error.contains("approve was asked for and is not answered yet"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn one_that_makes_no_sense_is_not_written() {
    let fake = Fake::new("Succeeded", None);
    ask(&fake.target(), Request::Approve, &asked("reviews")).await.unwrap_err();
    *fake.conflicts.lock().unwrap() = 100;
    fake.change(|canary| canary["status"]["phase"] = json!("Holding"));
    let error = ask(&fake.target(), Request::Approve, &asked("reviews")).await.unwrap_err().to_string();
    assert!(error.contains("changes faster than it can be asked"), "{error}");
    assert_eq!(fake.stored()["metadata"]["annotations"], Value::Null);
}

async fn waited(fake: &Fake, patience: u64) -> Result<Ending> {
    let target = fake.target();
    let canary = target.canary().await?;
    let workload = target.workload(&canary).await?;
    let follow = Follow::applied(&canary, workload.as_ref());
    let show = Show::Log(Log::default(), Box::new(io::sink()));
    match watch::look_on(&target, workload, Some((follow, Duration::from_secs(patience))), show).await? {
        Watched::Ended(ending) => Ok(ending),
        Watched::Interrupted => bail!("interrupted"),
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_right_after_a_change_learns_how_its_release_ended() {
    let fake = Fake::new("Initialized", None);
    fake.change(|canary| canary["status"]["canary"] = Value::Null);
    let operator = {
        let fake = fake.clone();
        async move {
            tokio::time::sleep(Duration::from_secs(40)).await;
            fake.change(|canary| {
                canary["status"]["phase"] = json!("Progressing");
                canary["status"]["canary"] = json!({"revision": "v2"});
            });
            tokio::time::sleep(Duration::from_secs(400)).await;
            fake.deployment.lock().unwrap()["spec"]["paused"] = Value::Null;
            fake.change(|canary| {
                canary["status"]["phase"] = json!("Succeeded");
                canary["status"]["stable"] = json!({"revision": "v2"});
                canary["status"]["canary"] = Value::Null;
                canary["status"]["history"] =
                    json!([{"revision": "v2", "outcome": "Succeeded", "reason": "well", "finished": "2026-11-20T10:07:00Z"}]);
            });
        }
    };
    let (ending, ()) = tokio::join!(waited(&fake, 3600), operator);
    let ending = ending.unwrap();
    assert!(ending.promoted && ending.sentence == "revision v2 was promoted: well", "{ending:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_is_told_for_what() {
    let error = waited(&Fake::new("Progressing", None), 5).await.unwrap_err().to_string();
    assert_eq!(error, "bookinfo/reviews: it took longer than --timeout: revision v2 is being released (Progressing)");
}
