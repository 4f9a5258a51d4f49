//! The reconciler against an API server in memory.

use std::sync::atomic::{AtomicBool, Ordering};

use fairlead_crds::{CONFIG_ANNOTATION, Check, CheckPhase, Metric, Notify};
use parking_lot::Mutex;
use serde_json::{Value, json};

mod deaths;
mod passages;

use super::*;
use crate::canary::hold::{HELD, REFUSED};
use crate::canary::outside::{Asked, CheckAnswer, CheckBody, Look, Names, Told};
use crate::canary::{Acknowledgements, Counts, Fresh};
use crate::fake_api::FakeApi;

const CANARY: &str = "/apis/fairlead.dev/v1alpha1/namespaces/shop/canaries/reviews";
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/reviews";
const CLONE: &str = "/apis/apps/v1/namespaces/shop/deployments/reviews-canary";

/// Proxies that count what the test says under whatever name, and acknowledge everything unless they hang.
#[derive(Default)]
struct Proxies {
    counts: Mutex<(Counts, Counts)>,
    /// They acknowledge nothing.
    behind: AtomicBool,
}

impl Evidence for Proxies {
    fn counts(&self, group: &str) -> Option<Counts> {
        let counts = self.counts.lock();
        Some(if group.ends_with("/canary") { counts.0 } else { counts.1 })
    }

    fn take_over(&self) {}

    fn fresh(&self, group: &str) -> Fresh {
        Fresh { source: 1, counts: self.counts(group).unwrap_or_default() }
    }
}

/// Nobody is asked, and nobody answers.
impl World for Proxies {
    fn check(&self, _: &Asked, _: CheckPhase, _: &[Check], _: &CheckBody) {}

    fn answer(&self, _: &Asked, _: CheckPhase) -> Option<CheckAnswer> {
        None
    }

    fn look(&self, _: &Asked, _: &[Metric], _: &Names) {}

    fn seen(&self, _: &Asked) -> Vec<Look> {
        Vec::new()
    }

    fn tell(&self, _: &[Notify], _: &Told) {}
}

impl Programmed for Proxies {
    fn acknowledgements(&self, _: &str, _: &str, _: i64) -> Acknowledgements {
        Acknowledgements { proxies: 1, acknowledged: usize::from(!self.behind.load(Ordering::Relaxed)), refused: None }
    }
}

struct Cluster {
    api: FakeApi,
    proxies: Arc<Proxies>,
    releases: Arc<Releases>,
}

impl Cluster {
    fn new() -> Self {
        let api = FakeApi::default();
        api.put("/api/v1/namespaces/shop", json!({"metadata": {"labels": {"fairlead.dev/inject": "enabled"}}}));
        api.put(DEPLOYMENT, deployment("v1"));
        api.put(
            CANARY,
            json!({
                "apiVersion": "fairlead.dev/v1alpha1",
                "kind": "Canary",
                "metadata": {"namespace": "shop", "uid": "c1", "generation": 1, "creationTimestamp": "2026-11-20T10:00:00Z"},
                "spec": {"workloadRef": {"kind": "Deployment", "name": "reviews"}, "steps": [{"weight": 50}]},
            }),
        );
        let proxies = Arc::new(Proxies::default());
        let releases = Releases::new(api.client(), proxies.clone(), proxies.clone(), proxies.clone(), None);
        Self { api, proxies, releases }
    }

    async fn reconcile(&self) -> Result<Again, Error> {
        self.releases.reconcile(&("shop".to_owned(), "reviews".to_owned())).await
    }

    /// Until nothing is written any more.
    async fn settle(&self) {
        for _ in 0..20 {
            let writes = self.api.writes();
            self.reconcile().await.unwrap();
            if self.api.writes() == writes {
                return;
            }
        }
        panic!("it never comes to rest: {:?}", self.status());
    }

    fn status(&self) -> Value {
        self.api.get(CANARY).unwrap()["status"].clone()
    }

    /// What the Deployment controller would do.
    fn roll_out(&self, path: &str) {
        let mut object = self.api.get(path).unwrap();
        let replicas = object["spec"]["replicas"].clone();
        object["status"] = json!({"replicas": replicas, "updatedReplicas": replicas, "availableReplicas": replicas, "observedGeneration": 1});
        object["metadata"]["generation"] = json!(1);
        self.api.put(path, object);
    }

    /// The user applies another image, and the webhook does its part.
    fn apply(&self, image: &str) {
        let old = self.api.get(DEPLOYMENT).unwrap();
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["containers"][0]["image"] = json!(image);
        let request = json!({"operation": "UPDATE", "kind": {"kind": "Deployment"}, "oldObject": old, "object": new});
        if let Some(patch) = crate::canary::hold::review(&request) {
            json_patch::patch(&mut new, &patch).unwrap();
        }
        self.api.put(DEPLOYMENT, new);
    }

    /// Comes to rest in this phase, as the one that is being released.
    async fn bring(&self, phase: &str) {
        self.settle().await;
        if phase == "Initialized" {
            return;
        }
        self.apply("v2");
        self.settle().await;
        if phase == "Starting" {
            return;
        }
        self.roll_out(CLONE);
        self.settle().await;
        match phase {
            "Suspended" => {
                let mut canary = self.api.get(CANARY).unwrap();
                canary["spec"]["suspend"] = json!(true);
                self.api.put(CANARY, canary);
            }
            "Holding" => {
                let mut canary = self.api.get(CANARY).unwrap();
                canary["spec"]["steps"][0]["hold"] = json!("1h");
                self.api.put(CANARY, canary);
                self.count((100_000, 10), (100_000, 10));
            }
            "Promoting" | "Succeeded" => self.count((100_000, 10), (100_000, 10)),
            "RollingBack" | "Failed" => self.count((1_000, 900), (100_000, 0)),
            _ => {}
        }
        if phase == "RollingBack" {
            // The decision alone, and what follows from it first.
            self.reconcile().await.unwrap();
            self.proxies.behind.store(true, Ordering::Relaxed);
        }
        self.settle().await;
        if phase == "Succeeded" {
            self.roll_out(DEPLOYMENT);
            self.settle().await;
        }
        assert_eq!(self.status()["phase"], phase);
    }

    /// The user deletes the Canary; its clone is left to the garbage collector.
    async fn delete(&self) {
        self.api.remove(CANARY);
        assert_eq!(self.reconcile().await.unwrap(), Again::Never);
        let writes = self.api.writes();
        assert_eq!(self.reconcile().await.unwrap(), Again::Never);
        assert_eq!(self.api.writes(), writes, "the second time there is nothing to do");
    }

    fn assert_released(&self, phase: &str, paused: bool) {
        let deployment = self.api.get(DEPLOYMENT).unwrap();
        let metadata = &deployment["metadata"];
        assert_eq!(metadata["labels"], json!({"app": "reviews"}), "{phase}");
        for annotation in [HELD, REFUSED] {
            assert_eq!(metadata["annotations"][annotation], Value::Null, "{phase}");
        }
        assert_eq!(deployment["spec"]["paused"] == json!(true), paused, "{phase}");
    }

    fn count(&self, canary: (u64, u64), stable: (u64, u64)) {
        let counts = |(requests, failures)| Counts { requests, failures, ..Counts::default() };
        *self.proxies.counts.lock() = (counts(canary), counts(stable));
    }
}

fn deployment(image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "shop", "uid": "d1", "labels": {"app": "reviews"}},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "reviews"}},
            "template": {
                "metadata": {"labels": {"app": "reviews"}},
                "spec": {"containers": [{"name": "reviews", "image": image}]},
            },
        },
    })
}

#[tokio::test]
async fn a_release_goes_from_the_label_to_the_rollout() {
    let cluster = Cluster::new();
    cluster.settle().await;
    let labels = cluster.api.get(DEPLOYMENT).unwrap()["metadata"]["labels"].clone();
    assert_eq!(labels, json!({"app": "reviews", "fairlead.dev/canary": "reviews"}));
    let finalizers = cluster.api.get(CANARY).unwrap()["metadata"]["finalizers"].clone();
    assert_eq!(finalizers, Value::Null, "a Canary can always be deleted");
    assert_eq!(cluster.status()["phase"], "Initialized");

    cluster.apply("v2");
    assert_eq!(cluster.api.get(DEPLOYMENT).unwrap()["spec"]["paused"], json!(true));
    cluster.settle().await;
    let clone = cluster.api.get(CLONE).expect("the new version runs beside the stable one");
    assert_eq!(clone["spec"]["template"]["spec"]["containers"][0]["image"], "v2");
    assert_eq!(clone["spec"]["replicas"], 2);

    cluster.roll_out(CLONE);
    cluster.settle().await;
    assert_eq!(cluster.status()["step"]["weight"], 50);
    cluster.count((100_000, 10), (100_000, 10));
    cluster.settle().await;
    let deployment = cluster.api.get(DEPLOYMENT).unwrap();
    assert_eq!(deployment["spec"].get("paused"), None, "it is rolled out");
    assert_eq!(cluster.status()["phase"], "Promoting");

    cluster.roll_out(DEPLOYMENT);
    cluster.settle().await;
    assert_eq!(cluster.status()["phase"], "Succeeded");
    assert_eq!(cluster.status()["step"]["weight"], 0);
    assert!(cluster.api.get(CLONE).is_none());
    assert_eq!(cluster.status()["history"][0]["outcome"], "Succeeded");
}

#[tokio::test]
async fn what_is_noted_of_the_configuration_is_what_the_pods_read() {
    let cluster = Cluster::new();
    let config = |colour: &str| {
        cluster.api.put("/api/v1/namespaces/shop/configmaps/settings", json!({"data": {"colour": colour}}));
    };
    let mut deployment = cluster.api.get(DEPLOYMENT).unwrap();
    deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!([{"configMapRef": {"name": "settings"}}]);
    cluster.api.put(DEPLOYMENT, deployment);
    config("red");
    cluster.settle().await;
    let noted = || {
        cluster.api.get(DEPLOYMENT).unwrap()["spec"]["template"]["metadata"]["annotations"][CONFIG_ANNOTATION].clone()
    };
    let release = async || {
        cluster.settle().await;
        cluster.roll_out(CLONE);
        cluster.settle().await;
        cluster.count((100_000, 0), (100_000, 0));
        cluster.settle().await;
        cluster.roll_out(DEPLOYMENT);
        cluster.settle().await;
        assert_eq!(cluster.status()["phase"], "Succeeded");
    };
    config("green");
    release().await;
    let green = noted();
    assert!(green.is_string());
    // By a template, and back by itself: each time the pods are others.
    config("blue");
    cluster.apply("v2");
    release().await;
    let blue = noted();
    assert!(blue.is_string() && blue != green);
    config("green");
    release().await;
    assert_eq!(noted(), green);
}

#[tokio::test]
async fn a_template_that_changes_while_it_is_unpaused_stays_held() {
    let cluster = Cluster::new();
    cluster.settle().await;
    cluster.apply("v2");
    cluster.settle().await;
    cluster.roll_out(CLONE);
    cluster.settle().await;
    cluster.count((100_000, 0), (100_000, 0));
    while cluster.status()["phase"] != "Promoting" {
        cluster.reconcile().await.unwrap();
    }
    // Between the read and the write of the operator somebody applies a third version.
    cluster.api.before_next_write(|api| {
        let mut other = api.get(DEPLOYMENT).unwrap();
        other["spec"]["template"]["spec"]["containers"][0]["image"] = json!("v3");
        api.put(DEPLOYMENT, other);
    });
    let error = cluster.reconcile().await.unwrap_err();
    assert!(matches!(&error, Error::Api(error) if act::is_conflict(error)), "{error}");
    assert_eq!(cluster.api.get(DEPLOYMENT).unwrap()["spec"]["paused"], json!(true), "nobody judged v3");
}

#[tokio::test]
async fn a_status_is_not_written_over_a_newer_one() {
    let cluster = Cluster::new();
    cluster.api.before_next_write(|api| {
        let canary = api.get(CANARY).unwrap();
        api.put(CANARY, canary);
    });
    let error = cluster.reconcile().await.unwrap_err();
    assert!(matches!(&error, Error::Api(error) if act::is_conflict(error)), "{error}");
}

#[tokio::test]
async fn a_deleted_canary_releases_its_deployment_in_every_phase() {
    for (phase, paused) in [
        ("Initialized", false),
        ("Starting", false),
        ("Progressing", false),
        ("Holding", false),
        ("Suspended", false),
        ("Promoting", false),
        ("Succeeded", false),
        ("RollingBack", true),
        ("Failed", true),
    ] {
        let cluster = Cluster::new();
        cluster.bring(phase).await;
        let before = cluster.api.get(CLONE);
        cluster.delete().await;
        cluster.assert_released(phase, paused);
        assert_eq!(cluster.api.get(CLONE), before, "{phase}: the clone is nobody's work but the garbage collector's");
        if let Some(clone) = before {
            let owner = &clone["metadata"]["ownerReferences"][0];
            assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Canary"), &json!("c1")), "{phase}");
            assert_eq!(owner.get("blockOwnerDeletion"), None, "{phase}: it would need a right on finalizers");
        }
    }
}

#[tokio::test]
async fn a_template_that_changed_after_a_failure_is_released_with_the_canary() {
    let cluster = Cluster::new();
    cluster.bring("Failed").await;
    // The operator is away: nobody judges this one, and nobody proved it bad.
    cluster.apply("v3");
    cluster.delete().await;
    cluster.assert_released("Failed", false);
}

#[tokio::test]
async fn a_canary_that_is_deleted_while_the_operator_is_away_is_found_by_the_label() {
    let cluster = Cluster::new();
    cluster.bring("Progressing").await;
    cluster.api.remove(CANARY);
    // What the watch of labelled Deployments lists first when the next operator starts.
    let labelled: PartialObjectMeta<ApiDeployment> =
        serde_json::from_value(cluster.api.get(DEPLOYMENT).unwrap()).unwrap();
    let next = Releases::new(
        cluster.api.client(),
        cluster.proxies.clone(),
        cluster.proxies.clone(),
        cluster.proxies.clone(),
        None,
    );
    assert_eq!(next.reconcile(&canary_of(&labelled).unwrap()).await.unwrap(), Again::Never);
    cluster.assert_released("Progressing", false);
}

#[tokio::test]
async fn a_canary_that_is_deleted_with_its_deployment_leaves_nothing_to_do() {
    let cluster = Cluster::new();
    cluster.bring("Progressing").await;
    cluster.api.remove(DEPLOYMENT);
    cluster.delete().await;
    assert!(cluster.api.get(DEPLOYMENT).is_none(), "it is not made again");
}

#[tokio::test]
async fn a_canary_that_another_finalizer_keeps_is_as_good_as_gone() {
    let cluster = Cluster::new();
    cluster.bring("Progressing").await;
    let mut canary = cluster.api.get(CANARY).unwrap();
    canary["metadata"]["deletionTimestamp"] = json!("2026-11-20T11:00:00Z");
    canary["metadata"]["finalizers"] = json!(["example.com/other"]);
    cluster.api.put(CANARY, canary.clone());
    assert_eq!(cluster.reconcile().await.unwrap(), Again::Never);
    cluster.assert_released("Progressing", false);
    assert_eq!(cluster.status(), canary["status"], "its status is not written any more");
}

#[tokio::test]
async fn a_release_that_somebody_writes_into_is_tried_again() {
    let cluster = Cluster::new();
    cluster.bring("Progressing").await;
    cluster.api.remove(CANARY);
    cluster.api.before_next_write(|api| {
        let deployment = api.get(DEPLOYMENT).unwrap();
        api.put(DEPLOYMENT, deployment);
    });
    let error = cluster.reconcile().await.unwrap_err();
    assert!(matches!(&error, Error::Api(error) if act::is_conflict(error)), "{error}");
    cluster.delete().await;
    cluster.assert_released("Progressing", false);
}

#[tokio::test]
async fn a_users_own_pause_outlasts_the_canary() {
    let cluster = Cluster::new();
    cluster.settle().await;
    let mut deployment = cluster.api.get(DEPLOYMENT).unwrap();
    deployment["spec"]["paused"] = json!(true);
    cluster.api.put(DEPLOYMENT, deployment);
    cluster.delete().await;
    cluster.assert_released("Initialized", true);
}

#[tokio::test]
async fn a_canary_made_again_for_another_deployment_releases_the_first() {
    let cluster = Cluster::new();
    cluster.bring("Progressing").await;
    let mut canary = cluster.api.get(CANARY).unwrap();
    canary["metadata"]["uid"] = json!("c2");
    canary["spec"]["workloadRef"]["name"] = json!("ratings");
    canary.as_object_mut().unwrap().remove("status");
    cluster.api.put(CANARY, canary);
    cluster.settle().await;
    cluster.assert_released("Progressing", false);
}

#[tokio::test]
async fn what_the_api_server_has_against_a_clone_is_said_until_it_takes_it() {
    let accepted = |cluster: &Cluster| {
        let condition = cluster.status()["conditions"][0].clone();
        assert_eq!(condition["type"], "Accepted");
        (condition["reason"].as_str().unwrap().to_owned(), condition["message"].as_str().unwrap().to_owned())
    };
    let cluster = Cluster::new();
    cluster.settle().await;
    cluster.apply("v2");
    cluster.api.refuse(Some((CLONE, 403)));
    for _ in 0..5 {
        let _refused = cluster.reconcile().await;
    }
    let writes = cluster.api.writes();
    let error = cluster.reconcile().await.unwrap_err().to_string();
    assert!(error.contains("exceeded quota"), "{error}");
    assert_eq!(cluster.api.writes(), writes, "it is not written again and again");
    let (reason, message) = accepted(&cluster);
    assert_eq!(reason, "CloneRefused");
    assert!(message.ends_with("exceeded quota: count/deployments.apps"), "{message}");
    let verdict = cluster.status()["verdict"]["reason"].clone();
    assert_eq!(verdict, format!("the new version is starting: {message}"));
    assert_eq!(cluster.status()["phase"], "Progressing", "nothing is proved against it");

    cluster.api.refuse(None);
    cluster.settle().await;
    assert!(cluster.api.get(CLONE).is_some());
    assert_eq!(accepted(&cluster).0, "Accepted");
}

#[tokio::test]
async fn a_clone_that_is_in_the_way_or_unanswered_for_is_no_refusal() {
    for code in [409, 429, 500] {
        let cluster = Cluster::new();
        cluster.settle().await;
        cluster.apply("v2");
        cluster.api.refuse(Some((CLONE, code)));
        for _ in 0..5 {
            let _failed = cluster.reconcile().await;
        }
        assert_eq!(cluster.status()["conditions"][0]["reason"], "Accepted", "{code}");
    }
}

#[tokio::test]
async fn the_younger_of_two_canaries_stands_back() {
    let cluster = Cluster::new();
    let mut older = cluster.api.get(CANARY).unwrap();
    older["metadata"]["creationTimestamp"] = json!("2026-11-19T10:00:00Z");
    older["metadata"]["uid"] = json!("c0");
    cluster.api.put(&CANARY.replace("canaries/reviews", "canaries/first"), older);
    cluster.settle().await;
    let conditions = cluster.status()["conditions"].clone();
    assert_eq!(conditions[0]["reason"], "Conflicted", "{conditions}");
    assert_eq!(cluster.api.get(DEPLOYMENT).unwrap()["metadata"]["labels"], json!({"app": "reviews"}));
}

#[tokio::test]
async fn what_does_not_parse_is_an_error_that_names_the_field() {
    let cluster = Cluster::new();
    let mut canary = cluster.api.get(CANARY).unwrap();
    canary["spec"]["steps"] = json!("soon");
    cluster.api.put(CANARY, canary);
    let error = cluster.reconcile().await.unwrap_err().to_string();
    assert!(error.contains("invalid type: string \"soon\""), "{error}");
}

fn key(name: &str) -> Key {
    ("shop".to_owned(), name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn a_canary_is_worked_on_once_at_a_time_and_the_earliest_request_counts() {
    let mut queue = Queue::default();
    queue.add(key("a"), Duration::from_secs(60));
    queue.add(key("a"), Duration::ZERO);
    assert_eq!(queue.start(), Some(key("a")));
    queue.add(key("a"), Duration::ZERO);
    assert_eq!(queue.start(), None, "it is being worked on");
    queue.finish(key("a"), Again::In(Duration::from_secs(60)));
    assert_eq!(queue.start(), Some(key("a")), "what came meanwhile is not forgotten");
    queue.finish(key("a"), Again::Never);
    assert_eq!(queue.next(), None);
}

#[tokio::test(start_paused = true)]
async fn pauses_after_failures_grow_to_a_minute_and_end_with_success() {
    let mut queue = Queue::default();
    let mut pauses = Vec::new();
    for _ in 0..8 {
        queue.finish(key("a"), Again::Failed);
        pauses.push((queue.next().unwrap() - Instant::now()).as_secs());
        queue.due.clear();
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
    queue.finish(key("a"), Again::In(Duration::ZERO));
    assert!(queue.failures.is_empty());
}
