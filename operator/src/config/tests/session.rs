//! Conversations without a network.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use fairlead_proxy_api::v1;
use serde_json::json;

use crate::config::encode::name_to_wire;
use crate::config::metrics::Metrics;
use crate::config::registry::Registry;
use crate::config::session::Session;
use crate::index::Index;
use crate::index::tests::build::*;
use crate::model::{ObjectName, Source, SourceKind, SourceRef};

struct World {
    index: Arc<Index>,
    registry: Arc<Registry>,
    session: Session,
}

fn world() -> World {
    let index = Arc::new(index());
    web(&index);
    let registry = Arc::new(Registry::default());
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
    let session = Session::new(index.clone(), registry.clone(), metrics, name("web-1-a"), "instance".into());
    World { index, registry, session }
}

fn at(address: &str) -> v1::ResourceName {
    name_to_wire(&crate::index::tests::build::at(address))
}

fn message(kind: v1::proxy_message::Kind) -> v1::ProxyMessage {
    v1::ProxyMessage { kind: Some(kind) }
}

fn subscribe(address: &str, have: &str) -> v1::ProxyMessage {
    message(v1::proxy_message::Kind::Subscribe(v1::Subscribe { name: Some(at(address)), have_version: have.into() }))
}

fn acknowledge(resource: &v1::Resource) -> v1::ProxyMessage {
    message(v1::proxy_message::Kind::Acknowledge(v1::Acknowledge {
        name: resource.name.clone(),
        version: resource.version.clone(),
    }))
}

fn report(group: &str, requests: u64) -> v1::ProxyMessage {
    let counts = v1::GroupCounts { group: group.into(), requests, ..v1::GroupCounts::default() };
    let groups = vec![counts];
    message(v1::proxy_message::Kind::Report(v1::Report { groups, ..v1::Report::default() }))
}

#[allow(clippy::needless_pass_by_value, reason = "reads as the literal that it is")]
fn web_policy(generation: i64, routes: serde_json::Value) -> impl crate::index::Kind {
    let target = json!({"kind": "Service", "name": "web"});
    policy("p", generation, json!({"targetRef": target, "routes": routes}))
}

impl World {
    async fn change(&mut self) -> Option<v1::Resource> {
        self.index.flush();
        poll_fn(|context| self.session.poll_changes(context)).await;
        self.session.next()
    }

    /// `acknowledged/proxies` of a generation of the policy.
    fn programmed(&self, generation: i64) -> (usize, usize) {
        let source = Source { kind: SourceKind::TrafficPolicy, object: ObjectName::new(NS, "p") };
        let programmed = self.registry.programmed(&SourceRef { source, generation });
        (programmed.acknowledged, programmed.proxies)
    }
}

const WEB: &str = "10.96.0.1:80";

#[tokio::test]
async fn a_change_is_sent_and_its_acknowledgement_is_kept() {
    let mut world = world();
    world.session.receive(subscribe(WEB, "")).unwrap();
    let first = world.session.next().expect("the present state");
    assert!(world.session.next().is_none());
    world.index.apply(web_policy(3, json!([{"name": "r", "timeouts": {"request": "1s"}}])));
    let second = world.change().await.expect("the new state");
    assert_ne!(first.version, second.version);
    assert_eq!(world.programmed(3), (0, 1));
    world.session.receive(acknowledge(&first)).unwrap();
    assert_eq!(world.programmed(3), (0, 1), "that was the version before");
    world.session.receive(acknowledge(&second)).unwrap();
    assert_eq!(world.programmed(3), (1, 1));
    drop(world.session);
    assert_eq!(world.registry.streams(), 0);
}

#[tokio::test]
async fn what_the_proxy_has_is_not_sent_again_but_counts() {
    let mut world = world();
    world.index.apply(web_policy(1, json!([])));
    world.session.receive(subscribe(WEB, "")).unwrap();
    let version = world.session.next().unwrap().version;
    world.session.receive(subscribe(WEB, &version)).unwrap();
    assert!(world.session.next().is_none());
    assert_eq!(world.programmed(1), (1, 1));
    world.index.apply(web_policy(2, json!([{"name": "r", "timeouts": {"request": "1s"}}])));
    assert!(world.change().await.is_some(), "the next change comes as ever");
}

#[tokio::test]
async fn a_generation_that_comes_to_the_same_is_acknowledged_without_a_word() {
    let mut world = world();
    world.session.receive(subscribe(WEB, "")).unwrap();
    let resource = world.session.next().unwrap();
    world.session.receive(acknowledge(&resource)).unwrap();
    world.index.apply(web_policy(1, json!([])));
    assert_eq!(world.change().await, None);
    assert_eq!(world.programmed(1), (1, 1));
    world.index.apply(web_policy(2, json!([])));
    assert_eq!(world.change().await, None);
    assert_eq!(world.programmed(2), (1, 1));
}

#[tokio::test]
async fn a_slow_proxy_gets_the_newest_state_once() {
    let mut world = world();
    world.session.receive(subscribe(WEB, "")).unwrap();
    for seconds in 1..=5 {
        let timeout = format!("{seconds}s");
        world.index.apply(web_policy(seconds, json!([{"name": "r", "timeouts": {"request": timeout}}])));
        world.index.flush();
    }
    let resource = world.session.next().unwrap();
    let Some(v1::resource::Body::Destination(v1::Destination { kind: Some(v1::destination::Kind::Service(service)) })) =
        resource.body
    else {
        panic!("no Service");
    };
    assert_eq!(service.routes[0].request_timeout_ms, 5_000);
    assert!(!world.session.has_next());
}

#[tokio::test]
async fn an_unsubscribed_resource_is_not_sent_and_not_waited_for() {
    let mut world = world();
    world.index.apply(web_policy(1, json!([])));
    world.session.receive(subscribe(WEB, "")).unwrap();
    world.session.next().unwrap();
    assert_eq!(world.programmed(1), (0, 1));
    let unsubscribe = v1::proxy_message::Kind::Unsubscribe(at(WEB));
    world.session.receive(message(unsubscribe)).unwrap();
    assert_eq!(world.programmed(1), (0, 0));
    world.index.apply(web_policy(2, json!([{"name": "r"}])));
    world.index.flush();
    let change = poll_fn(|context| Poll::Ready(world.session.poll_changes(context))).await;
    assert_eq!(change, Poll::Pending);
    assert!(world.session.next().is_none());
    world.index.sweep();
    assert_eq!(world.index.resources(), 0);
}

#[tokio::test]
async fn a_refusal_is_kept_without_what_could_forge_a_log() {
    let mut world = world();
    world.index.apply(web_policy(1, json!([])));
    world.session.receive(subscribe(WEB, "")).unwrap();
    let resource = world.session.next().unwrap();
    let refuse = v1::Refuse {
        name: resource.name,
        version: resource.version,
        reason: format!("too\n large {}", "x".repeat(1000)),
    };
    world.session.receive(message(v1::proxy_message::Kind::Refuse(refuse))).unwrap();
    let source = Source { kind: SourceKind::TrafficPolicy, object: name("p") };
    let programmed = world.registry.programmed(&SourceRef { source, generation: 1 });
    let (pod, why) = &programmed.refused[0];
    assert_eq!(*pod, name("web-1-a"));
    assert!(why.starts_with("too large x"), "{why}");
    assert_eq!(why.len(), 256);
}

#[tokio::test]
async fn a_proxy_reports_on_what_it_talks_to_and_on_nothing_else() {
    let mut world = world();
    let clone = pod("web-canary-2-c", "10.0.3.1").label("fairlead.dev/clone-of", "web");
    world.index.apply(clone.build());
    world.index.apply(slice("web", &[("web-1-a", "10.0.0.1"), ("web-canary-2-c", "10.0.3.1")]));
    world.index.apply(canary("web", 10.0));
    let group = "shop/release/new/1/1795176000/canary";
    // After a reconnect counters may come before the resource that names their group.
    world.session.receive(report(group, 5)).unwrap();
    world.session.receive(report("shop/other/x/1/1/canary", 5)).unwrap();
    assert_eq!(world.registry.counts(group), None);
    world.session.receive(subscribe(WEB, "")).unwrap();
    world.session.next().unwrap();
    assert_eq!(world.registry.counts(group).unwrap().requests, 5);
    world.session.receive(report(group, 8)).unwrap();
    assert_eq!(world.registry.counts(group).unwrap().requests, 8);
    assert_eq!(world.registry.counts("shop/other/x/1/1/canary"), None);
}

#[tokio::test]
async fn a_scanner_is_answered_up_to_a_limit() {
    let mut world = world();
    for i in 0..2_100 {
        let address = format!("10.{}.{}.1:80", i / 250, i % 250);
        world.session.receive(subscribe(&address, "")).unwrap();
    }
    world.index.sweep();
    assert_eq!(world.index.resources(), 2_000);
    let mut answered = 0;
    while world.session.next().is_some() {
        answered += 1;
    }
    assert_eq!(answered, 2_000);
}

#[tokio::test]
async fn nonsense_ends_the_conversation_with_a_sentence() {
    let mut world = world();
    let hello = v1::proxy_message::Kind::Hello(v1::Hello::default());
    assert_eq!(world.session.receive(message(hello)), Err("a proxy says Hello once"));
    let nameless = v1::proxy_message::Kind::Unsubscribe(v1::ResourceName::default());
    assert!(world.session.receive(message(nameless)).is_err());
    assert_eq!(world.session.receive(v1::ProxyMessage::default()), Ok(()), "of a newer proxy");
}

/// The names of the routes that a proxy is sent.
fn routes(resource: v1::Resource) -> Vec<String> {
    match resource.body {
        Some(v1::resource::Body::Destination(v1::Destination {
            kind: Some(v1::destination::Kind::Service(service)),
        })) => service.routes.into_iter().map(|route| route.name).collect(),
        other => panic!("no Service: {other:?}"),
    }
}

#[tokio::test]
async fn a_caller_is_sent_the_routes_meant_for_it_and_others_when_its_labels_change() {
    let mut world = world();
    let source = json!({"namespaces": [NS], "labels": {"env": "staging"}});
    world.index.apply(web_policy(1, json!([{"name": "staging", "matches": [{"source": source}]}])));
    let workload = v1::ResourceName { kind: Some(v1::resource_name::Kind::Workload(v1::OwnWorkload {})) };
    let subscribe_workload = v1::Subscribe { name: Some(workload), have_version: String::new() };
    world.session.receive(subscribe(WEB, "")).unwrap();
    world.session.receive(message(v1::proxy_message::Kind::Subscribe(subscribe_workload))).unwrap();
    assert_eq!(routes(world.session.next().unwrap()), ["default"]);
    assert!(world.session.next().is_some(), "the workload");
    assert!(world.session.next().is_none());

    world.index.apply(pod("web-1-a", "10.0.0.1").label("env", "staging").build());
    // The workload itself reads as before, and is not sent.
    assert_eq!(routes(world.change().await.unwrap()), ["staging"]);
    assert!(world.session.next().is_none());
}

#[tokio::test]
async fn a_consumers_policy_is_sent_to_its_own_callers_alone() {
    let World { index, registry, session: own } = world();
    let target = json!({"kind": "Service", "name": "web", "namespace": NS});
    let spec = json!({"targetRef": target, "routes": [{"name": "mine"}]});
    let nothing = serde_json::Value::Null;
    index.apply(guard::<fairlead_crds::TrafficPolicy>("TrafficPolicy", "front", "p", 1, spec, nothing));
    let metrics = Metrics::new(&mut prometheus_client::registry::Registry::default());
    let pod = ObjectName::new("front", "front-1-a");
    let consumer = Session::new(index.clone(), registry, metrics, pod, "another".into());
    for (mut session, expected) in [(own, "default"), (consumer, "mine")] {
        session.receive(subscribe("10.96.0.1:80", "")).unwrap();
        let sent = session.next().unwrap();
        // The wire knows addresses alone: whose policy holds is not for a proxy to say.
        assert_eq!(sent.name, Some(at("10.96.0.1:80")));
        assert_eq!(routes(sent), [expected]);
    }
}

#[test]
fn a_proxy_is_told_how_far_endpoints_are_from_its_own_node() {
    let mut world = world();
    let index = &world.index;
    index.apply(node("n1", "eu-a", "eu"));
    index.apply(node("n2", "us-a", "us"));
    for (name, ip, node) in [("web-1-a", "10.0.0.1", "n1"), ("web-1-b", "10.0.0.2", "n2")] {
        index.apply(pod(name, ip).on(node).build());
    }
    index.apply(slice_on("web", &[("web-1-a", "10.0.0.1", "n1", true), ("web-1-b", "10.0.0.2", "n2", true)]));
    index.apply(policy(
        "p",
        1,
        json!({
            "targetRef": {"kind": "Service", "name": "web"},
            "loadBalancing": {"locality": {"prefer": "Zone", "minHealthy": 50}},
        }),
    ));
    index.flush();
    world.session.receive(subscribe("10.96.0.1:80", "")).unwrap();
    let resource = world.session.next().unwrap();
    let Some(v1::resource::Body::Destination(destination)) = resource.body else { panic!("no destination") };
    let Some(v1::destination::Kind::Service(service)) = destination.kind else { panic!("no Service") };
    let set = &service.endpoint_sets[0];
    assert_eq!(set.endpoints.iter().map(|e| e.level).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(set.load_balancing.as_ref().unwrap().min_healthy, 500_000);
}
