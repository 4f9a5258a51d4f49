//! The admission webhooks that the API server calls.
//!
//! [`router`] is the one call that enters: `POST /inject` for pods, `POST /hold` for Deployments that a Canary manages. Nothing in here asks the API server
//! for anything: a pod waits for the answer. [`registration`] tells the API server whom to trust.

pub mod registration;
mod review;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use self::review::{Answer, Request};
use crate::canary::hold;
use crate::inject::events::{Events, Note, owner};
use crate::inject::namespaces::Namespaces;
use crate::inject::{Decision, INJECT_LABEL, NamespaceInfo, Settings, SkipReason, inject};

/// An object has at most 1.5 MiB; a review holds two, and JSON within JSON grows.
const MAX_BODY: usize = 8 * 1024 * 1024;
/// The API server saw a label that called us; our own watch sees it this much later at most.
const LABEL_PATIENCE: Duration = Duration::from_millis(500);
const LABEL_INTERVAL: Duration = Duration::from_millis(10);

/// What the handlers need.
#[derive(Clone)]
pub struct Context {
    /// Written into sidecars.
    pub settings: Arc<Settings>,
    /// Whose labels bear on injection.
    pub namespaces: Namespaces,
    /// Where skipped pods are told.
    pub events: Events,
    /// Counts what was decided.
    pub metrics: Metrics,
}

/// Of the webhooks.
#[derive(Clone, Debug)]
pub struct Metrics {
    decisions: Family<DecisionLabels, Counter>,
    seconds: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    webhook: &'static str,
    decision: &'static str,
}

impl Metrics {
    /// Buckets from 0.1 ms to 0.8 s, each twice the one before: the promise is 10 ms.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics =
            Self { decisions: Family::default(), seconds: Histogram::new(exponential_buckets(0.0001, 2.0, 14)) };
        registry.register("admissions", "Decisions of the webhooks", metrics.decisions.clone());
        registry.register("admission_seconds", "From the whole request to the answer", metrics.seconds.clone());
        metrics
    }

    fn count(&self, webhook: &'static str, decision: &'static str, started: Instant) {
        self.decisions.get_or_create(&DecisionLabels { webhook, decision }).inc();
        self.seconds.observe(started.elapsed().as_secs_f64());
    }
}

/// Serves both webhooks.
pub fn router(context: Context) -> Router {
    Router::new()
        .route("/inject", post(inject_pod))
        .route("/hold", post(hold_deployment))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(context)
}

async fn inject_pod(State(context): State<Context>, body: Bytes) -> Response {
    let started = Instant::now();
    let request = match Request::parse(&body) {
        Ok(request) => request,
        Err(sentence) => return bad_request(&context.metrics, "inject", sentence, started),
    };
    if request.operation != "CREATE" {
        context.metrics.count("inject", "Ignored", started);
        return Json(Answer::allow().to(&request)).into_response();
    }
    let namespace = namespace_of(&context.namespaces, &request).await;
    let decision = inject(request.object(), &namespace, &context.settings);
    let tell = |warning: bool, reason: &str, sentence: &str| {
        // A dry run leaves no trace.
        if !request.dry_run {
            let about = owner(request.object(), &request.namespace);
            context.events.tell(Note { about, warning, reason: reason.to_owned(), sentence: sentence.to_owned() });
        }
    };
    let (name, answer) = match decision {
        Decision::Inject(injection) => {
            let answer = match Answer::patch(&injection.patch) {
                Ok(answer) => answer.audit("decision", "Injected"),
                Err(error) => Answer::deny(&format!("the patch cannot be written: {error}")),
            };
            match injection.warning {
                Some(sentence) => {
                    tell(true, "PodSecurityRefusesSidecar", &sentence);
                    ("Injected", answer.warn(&sentence))
                }
                None => ("Injected", answer),
            }
        }
        Decision::Skip(reason) => {
            let answer = Answer::allow().audit("decision", reason.name());
            if reason.is_worth_telling() {
                let sentence = reason.to_string();
                tell(false, skip_event(reason), &sentence);
                (reason.name(), answer.warn(&sentence))
            } else {
                (reason.name(), answer)
            }
        }
        Decision::Deny(sentence) => ("Denied", Answer::deny(&sentence).audit("decision", "Denied")),
    };
    context.metrics.count("inject", name, started);
    Json(answer.to(&request)).into_response()
}

/// Reasons of Events stand alone in a list, so they say what they are about.
fn skip_event(reason: SkipReason) -> &'static str {
    match reason {
        SkipReason::OptedOut => "SidecarSkippedOptedOut",
        SkipReason::HostNetwork => "SidecarSkippedHostNetwork",
        SkipReason::MirrorPod => "SidecarSkippedStaticPod",
        SkipReason::Windows => "SidecarSkippedWindows",
        SkipReason::NotSelected | SkipReason::AlreadyInjected => "SidecarSkipped",
    }
}

/// The API server calls us for a pod without a label of its own only where it saw the label on the namespace. Where our watch did not see it yet, we wait;
/// a namespace that we do not know at all is a new one, and has it.
async fn namespace_of(namespaces: &Namespaces, request: &Request) -> NamespaceInfo {
    let deadline = Instant::now() + LABEL_PATIENCE;
    let has_own_label = request.object()["metadata"]["labels"][INJECT_LABEL].is_string();
    loop {
        match namespaces.find(&request.namespace) {
            Some(namespace)
                if has_own_label || namespace.labels.contains_key(INJECT_LABEL) || Instant::now() >= deadline =>
            {
                return namespace;
            }
            None if has_own_label || Instant::now() >= deadline => {
                let labels = [(INJECT_LABEL.to_owned(), "enabled".to_owned())].into();
                return NamespaceInfo { name: request.namespace.clone(), labels };
            }
            _ => tokio::time::sleep(LABEL_INTERVAL).await,
        }
    }
}

async fn hold_deployment(State(context): State<Context>, body: Bytes) -> Response {
    let started = Instant::now();
    let request = match Request::parse(&body) {
        Ok(request) => request,
        Err(sentence) => return bad_request(&context.metrics, "hold", sentence, started),
    };
    let (name, answer) = match hold::review(&request.raw) {
        Some(patch) => match Answer::patch(&patch) {
            Ok(answer) => ("Held", answer.audit("decision", "Held")),
            Err(error) => ("Denied", Answer::deny(&format!("the patch cannot be written: {error}"))),
        },
        None => ("Passed", Answer::allow()),
    };
    context.metrics.count("hold", name, started);
    Json(answer.to(&request)).into_response()
}

fn bad_request(metrics: &Metrics, webhook: &'static str, sentence: String, started: Instant) -> Response {
    metrics.count(webhook, "Malformed", started);
    (StatusCode::BAD_REQUEST, sentence).into_response()
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use base64::Engine as _;
    use fairlead_crds::CANARY_LABEL;
    use json_patch::Patch;
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tower::ServiceExt as _;

    use super::*;

    fn context() -> (Context, mpsc::Receiver<Note>) {
        let (events, notes) = Events::channel();
        let namespaces = Namespaces::fixed(&[
            ("bookinfo", &[(INJECT_LABEL, "enabled")]),
            ("strict", &[(INJECT_LABEL, "enabled"), ("pod-security.kubernetes.io/enforce", "restricted")]),
            ("plain", &[]),
        ]);
        let settings = Settings {
            image: "proxy".into(),
            image_pull_policy: "IfNotPresent".into(),
            version: "0.1.0".into(),
            operator_address: "operator:8443".into(),
            operator_identity: "spiffe://cluster.local/ns/fairlead-system/sa/fairlead-operator".into(),
            trust_domain: "cluster.local".into(),
            proxy_log: "info".into(),
            proxy_access_log: "off".parse().unwrap(),
            proxy_log_format: "json".into(),
        };
        let metrics = Metrics::register(&mut Registry::default());
        (Context { settings: Arc::new(settings), namespaces, events, metrics }, notes)
    }

    async fn post_raw(context: &Context, path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
        let request = axum::http::Request::post(path).body(body.into()).unwrap();
        let response = router(context.clone()).oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), MAX_BODY).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or_else(|_| String::from_utf8_lossy(&body).into_owned().into()))
    }

    fn review(namespace: &str, operation: &str, object: impl Into<Value>, dry_run: bool) -> String {
        let request = json!({"uid": "u-1", "operation": operation, "namespace": namespace, "object": object.into(), "oldObject": null, "dryRun": dry_run, "newer": {}});
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
    }

    async fn ask(context: &Context, path: &str, review: String) -> Value {
        let (status, answer) = post_raw(context, path, review).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(
            (&answer["apiVersion"], &answer["kind"]),
            (&json!("admission.k8s.io/v1"), &json!("AdmissionReview"))
        );
        assert_eq!(answer["response"]["uid"], "u-1");
        answer["response"].clone()
    }

    fn pod() -> Value {
        json!({"metadata": {"generateName": "a-"}, "spec": {"containers": [{"name": "app"}]}})
    }

    fn patched(mut object: Value, answer: &Value) -> Value {
        let patch = base64::engine::general_purpose::STANDARD.decode(answer["patch"].as_str().unwrap()).unwrap();
        let patch: Patch = serde_json::from_slice(&patch).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
        object
    }

    #[tokio::test]
    async fn a_pod_is_patched() {
        let (context, mut notes) = context();
        let answer = ask(&context, "/inject?timeout=5s", review("bookinfo", "CREATE", pod(), false)).await;
        assert_eq!((&answer["allowed"], &answer["patchType"]), (&json!(true), &json!("JSONPatch")));
        assert_eq!(patched(pod(), &answer)["spec"]["initContainers"][1]["name"], "fairlead-proxy");
        assert!(notes.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_dry_run_is_answered_the_same_and_leaves_no_event() {
        let (context, mut notes) = context();
        let mut skipped = pod();
        skipped["spec"]["hostNetwork"] = json!(true);
        for (namespace, object) in [("bookinfo", pod()), ("bookinfo", skipped), ("strict", pod())] {
            let dry = ask(&context, "/inject", review(namespace, "CREATE", object.clone(), true)).await;
            assert!(notes.try_recv().is_err());
            assert_eq!(dry, ask(&context, "/inject", review(namespace, "CREATE", object, false)).await);
            while notes.try_recv().is_ok() {}
        }
    }

    #[tokio::test]
    async fn a_skipped_pod_runs_and_its_owner_is_told_why() {
        let (context, mut notes) = context();
        let mut skipped = pod();
        skipped["spec"]["hostNetwork"] = json!(true);
        let answer = ask(&context, "/inject", review("bookinfo", "CREATE", skipped, false)).await;
        assert_eq!(answer["allowed"], true);
        assert!(answer["patch"].is_null());
        assert!(answer["warnings"][0].as_str().unwrap().contains("hostNetwork"));
        assert_eq!(answer["auditAnnotations"]["decision"], "HostNetwork");
        assert_eq!(notes.try_recv().unwrap().reason, "SidecarSkippedHostNetwork");
    }

    #[tokio::test]
    async fn a_sidecar_that_pod_security_will_refuse_is_announced() {
        let (context, mut notes) = context();
        let answer = ask(&context, "/inject", review("strict", "CREATE", pod(), false)).await;
        assert!(answer["warnings"][0].as_str().unwrap().contains("NET_ADMIN"));
        assert!(notes.try_recv().unwrap().warning);
    }

    #[tokio::test]
    async fn an_invalid_annotation_denies_the_pod_with_a_sentence() {
        let (context, _notes) = context();
        let mut invalid = pod();
        invalid["metadata"]["annotations"] = json!({"fairlead.dev/drain-timeout": "soon"});
        let answer = ask(&context, "/inject", review("bookinfo", "CREATE", invalid, false)).await;
        assert_eq!(answer["allowed"], false);
        let sentence = answer["status"]["message"].as_str().unwrap();
        assert!(sentence.contains("fairlead.dev/drain-timeout") && sentence.contains("30s"), "{sentence}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_whose_label_our_watch_missed_is_the_api_servers_to_know() {
        let (context, _notes) = context();
        let answer = ask(&context, "/inject", review("just-made", "CREATE", pod(), false)).await;
        assert!(answer["patch"].is_string());
        let answer = ask(&context, "/inject", review("plain", "CREATE", pod(), false)).await;
        assert!(answer["patch"].is_null());
        let mut own = pod();
        own["metadata"]["labels"] = json!({INJECT_LABEL: "enabled"});
        let answer = ask(&context, "/inject", review("plain", "CREATE", own, false)).await;
        assert!(answer["patch"].is_string());
    }

    #[tokio::test]
    async fn a_changed_template_is_held_and_other_changes_pass() {
        let (context, _notes) = context();
        let deployment = |image: &str, replicas: u32| {
            let template = json!({"spec": {"containers": [{"name": "app", "image": image}]}});
            json!({"metadata": {"name": "reviews", "labels": {CANARY_LABEL: "reviews"}}, "spec": {"replicas": replicas, "template": template}})
        };
        let update = |old: Value, new: Value| {
            let kind = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
            let request = json!({"uid": "u-1", "kind": kind, "operation": "UPDATE", "namespace": "bookinfo", "oldObject": old, "object": new});
            json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).to_string()
        };
        let answer = ask(&context, "/hold", update(deployment("v1", 1), deployment("v2", 1))).await;
        assert_eq!(patched(deployment("v2", 1), &answer)["spec"]["paused"], true);
        assert_eq!(answer["auditAnnotations"]["decision"], "Held");
        let answer = ask(&context, "/hold", update(deployment("v1", 1), deployment("v1", 5))).await;
        assert_eq!((&answer["allowed"], &answer["patch"]), (&json!(true), &Value::Null));
    }

    #[tokio::test]
    async fn what_is_no_review_gets_400_and_what_is_too_long_413() {
        let (context, _notes) = context();
        for path in ["/inject", "/hold"] {
            for body in [
                "",
                "{",
                "[]",
                "{}",
                r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"1","operation":"CREATE"}}"#,
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
                r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":1}}"#,
            ] {
                assert_eq!(post_raw(&context, path, body).await.0, StatusCode::BAD_REQUEST, "{path} {body}");
            }
            assert_eq!(post_raw(&context, path, vec![b' '; MAX_BODY + 1]).await.0, StatusCode::PAYLOAD_TOO_LARGE);
        }
    }
}
