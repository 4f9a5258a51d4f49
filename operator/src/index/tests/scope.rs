//! Whose policy holds for whom.

use std::sync::Arc;

use fairlead_crds::TrafficPolicy;
use kube::core::DeserializeGuard;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokio::sync::watch::Receiver;

use super::build::*;
use crate::index::{Index, Problem, Update};
use crate::model::{Body, Destination, ObjectName, ResourceName, Service};

/// A policy whose only route, for every request, bears its name.
fn policy_of(namespace: &str, name: &str, age: u32, target: &Value) -> DeserializeGuard<TrafficPolicy> {
    let mut spec = json!({"targetRef": target});
    if target["kind"] == "Service" {
        spec["routes"] = json!([{"name": name}]);
    }
    let created = format!("2026-11-20T10:{:02}:00Z", 59 - age);
    serde_json::from_value(json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": "TrafficPolicy",
        "metadata": {
            "namespace": namespace, "name": name, "generation": 1, "uid": format!("{namespace}/{name}"), "creationTimestamp": created,
        },
        "spec": spec,
    }))
    .unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "reads as the literal that it is")]
fn web_target(extra: Value) -> Value {
    let mut target = json!({"kind": "Service", "name": "web"});
    for (key, value) in extra.as_object().unwrap() {
        target[key] = value.clone();
    }
    target
}

fn from(caller: &str) -> ResourceName {
    ResourceName::Destination { caller: caller.into(), address: "10.96.0.1:80".parse().unwrap() }
}

fn seen_from(index: &Index, caller: &str) -> Service {
    let resource = index.get(&from(caller));
    let Body::Destination(Destination::Service(service)) = resource.body else {
        panic!("{caller} sees {resource:?}");
    };
    service
}

/// The first route that callers of a namespace get.
fn route(index: &Index, caller: &str) -> String {
    seen_from(index, caller).routes[0].name.clone()
}

#[test]
fn a_consumers_policy_holds_for_its_own_callers_alone_and_wins_there() {
    let index = index();
    web(&index);
    index.apply(policy_of("front", "mine", 0, &web_target(json!({"namespace": NS}))));
    assert_eq!(["front", "other", NS].map(|caller| route(&index, caller)), ["mine", "default", "default"]);
    index.apply(policy_of(NS, "theirs", 1, &web_target(json!({}))));
    assert_eq!(["front", "other", NS].map(|caller| route(&index, caller)), ["mine", "theirs", "theirs"]);
    assert_eq!(sources(&index, &from("front")), ["TrafficPolicy front/mine 1", "TrafficPolicy shop/theirs 1"]);
    assert_eq!(sources(&index, &from("other")), ["TrafficPolicy shop/theirs 1"]);
    assert!(index.reports().iter().all(|r| r.problem.is_none()), "different callers are no conflict");
}

#[test]
fn a_policy_says_nothing_of_a_service_of_that_name_elsewhere() {
    let index = index();
    web(&index);
    index.apply(policy_of("front", "p", 0, &web_target(json!({}))));
    assert_eq!(route(&index, "front"), "default");
}

#[test]
fn a_section_is_one_port_and_wins_there() {
    let index = index();
    web(&index);
    let mut two = service("web", &["10.96.0.1"]);
    let mut admin = two.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].clone();
    (admin.name, admin.port) = (Some("admin".into()), 81);
    two.spec.as_mut().unwrap().ports.as_mut().unwrap().push(admin);
    index.apply(two);
    index.apply(policy_of(NS, "all", 1, &web_target(json!({}))));
    index.apply(policy_of(NS, "port", 0, &web_target(json!({"sectionName": "admin"}))));
    assert_eq!(service_at(&index, "10.96.0.1:80").routes[0].name, "all");
    assert_eq!(service_at(&index, "10.96.0.1:81").routes[0].name, "port");
    assert!(index.reports().iter().all(|r| r.problem.is_none()));
    index.apply(policy_of(NS, "none", 0, &web_target(json!({"sectionName": "metrics"}))));
    let reports = index.reports();
    let report = reports.iter().find(|r| r.source.object.name == "none").unwrap();
    assert_eq!(
        report.unresolved,
        ["Service shop/web has no TCP port of the name metrics: correct spec.targetRef.sectionName"]
    );
}

#[test]
fn two_consumers_of_one_namespace_conflict_and_those_of_two_do_not() {
    let index = index();
    web(&index);
    let target = web_target(json!({"namespace": NS}));
    for (namespace, name, age) in [("front", "young", 0), ("front", "old", 5), ("back", "any", 0)] {
        index.apply(policy_of(namespace, name, age, &target));
    }
    assert_eq!(["front", "back"].map(|caller| route(&index, caller)), ["old", "any"]);
    let problems: Vec<_> =
        index.reports().into_iter().filter_map(|r| Some((r.source.object.name, r.problem?))).collect();
    assert_eq!(problems, [("young".into(), Problem::Conflicted(ObjectName::new("front", "old")))]);
}

#[test]
fn a_policy_for_a_namespace_has_no_routes() {
    let index = index();
    web(&index);
    let mut bad = policy_of(NS, "p", 0, &json!({"kind": "Namespace", "name": NS}));
    bad.0.as_mut().unwrap().spec.routes = serde_json::from_value(json!([{"name": "all"}])).unwrap();
    index.apply(bad);
    assert_eq!(route(&index, NS), "default");
    assert!(matches!(index.reports()[0].problem, Some(Problem::Invalid(_))));
}

#[tokio::test]
async fn only_those_are_told_for_whom_a_policy_holds() {
    let index = index();
    web(&index);
    let [mut front, mut other] = ["front", "other"].map(|caller| index.subscribe(from(caller)).unwrap());
    let told = |front: &mut Receiver<Arc<Update>>, other: &mut Receiver<Arc<Update>>| {
        index.flush();
        let told = (front.has_changed().unwrap(), other.has_changed().unwrap());
        front.mark_unchanged();
        other.mark_unchanged();
        told
    };
    index.apply(policy_of("front", "mine", 0, &web_target(json!({"namespace": NS}))));
    assert_eq!(told(&mut front, &mut other), (true, false));
    index.delete::<DeserializeGuard<TrafficPolicy>>(&ObjectName::new("front", "mine"));
    assert_eq!(told(&mut front, &mut other), (true, false));
    index.apply(policy_of(NS, "defaults", 0, &json!({"kind": "Namespace", "name": NS})));
    assert_eq!(told(&mut front, &mut other), (true, true));
}

#[tokio::test]
async fn what_is_the_same_for_many_namespaces_is_kept_once() {
    let index = index();
    web(&index);
    let first = index.subscribe(from("a")).unwrap();
    let second = index.subscribe(from("b")).unwrap();
    let same =
        |a: &Receiver<Arc<Update>>, b: &Receiver<Arc<Update>>| Arc::ptr_eq(&a.borrow().resource, &b.borrow().resource);
    assert!(same(&first, &second), "joined");
    index.apply(slice("web", &[("web-1-a", "10.0.0.1")]));
    index.flush();
    assert!(first.has_changed().unwrap() && same(&first, &second), "computed again");
    index.apply(policy_of("b", "mine", 0, &web_target(json!({"namespace": NS}))));
    index.flush();
    assert!(!same(&first, &second));
    let third = index.subscribe(from("c")).unwrap();
    assert!(same(&first, &third), "what b has of its own is not for c");
}

const NAMESPACES: [&str; 3] = [NS, "front", "back"];

/// Namespace, kind (Namespace, Service, port) and age of each of some policies, in the order of their names.
fn policies() -> impl Strategy<Value = Vec<(usize, usize, u32)>> {
    prop::collection::vec((0..NAMESPACES.len(), 0..4_usize, 0..3_u32), 0..12)
}

fn target(kind: usize) -> Value {
    match kind {
        0 => json!({"kind": "Namespace", "name": NS}),
        1 => web_target(json!({"namespace": NS})),
        2 => web_target(json!({"namespace": NS, "sectionName": "http"})),
        _ => web_target(json!({"namespace": NS, "sectionName": "another"})),
    }
}

proptest! {
    /// Against the rule as it is written for users: by hand, for each caller.
    #[test]
    fn the_right_policies_hold_for_each_caller(list in policies(), order in any::<prop::sample::Index>(), gone in any::<prop::sample::Index>()) {
        let index = index();
        web(&index);
        let name = |i: usize| format!("p{i:02}");
        let mut turns: Vec<usize> = (0..list.len()).collect();
        if !list.is_empty() {
            turns.rotate_left(order.index(list.len()));
        }
        let _listeners = NAMESPACES.map(|caller| index.subscribe(from(caller)).unwrap());
        for i in &turns {
            let (namespace, kind, age) = list[*i];
            index.apply(policy_of(NAMESPACES[namespace], &name(*i), age, &target(kind)));
            index.flush();
        }
        let mut left: Vec<usize> = turns;
        if !left.is_empty() {
            let i = left.swap_remove(gone.index(left.len()));
            index.delete::<DeserializeGuard<TrafficPolicy>>(&ObjectName::new(NAMESPACES[list[i].0], name(i)));
            index.flush();
        }
        for caller in NAMESPACES {
            let holder = |from: &str, kind: usize| {
                let same = left.iter().filter(|i| NAMESPACES[list[**i].0] == from && list[**i].1 == kind);
                same.min_by_key(|i| (std::cmp::Reverse(list[**i].2), **i)).copied()
            };
            let ranks = [(caller, 2), (caller, 1), (NS, 2), (NS, 1), (caller, 0), (NS, 0)];
            let holders: Vec<usize> = ranks.iter().filter_map(|(from, kind)| holder(from, *kind)).collect();
            let routes = ranks[..4].iter().find_map(|(from, kind)| holder(from, *kind)).map_or("default".into(), name);
            // What listeners were told as well as what is computed anew.
            let receiver = index.subscribe(from(caller)).unwrap();
            let told = receiver.borrow().resource.clone();
            prop_assert_eq!(&*told, &index.get(&from(caller)));
            prop_assert_eq!(route(&index, caller), routes);
            let mut expected: Vec<String> =
                holders.iter().map(|i| format!("TrafficPolicy {}/{} 1", NAMESPACES[list[*i].0], name(*i))).collect();
            expected.sort();
            expected.dedup();
            prop_assert_eq!(sources(&index, &from(caller)), expected);
        }
        for report in index.reports() {
            let i: usize = report.source.object.name[1..].parse().unwrap();
            let rivals = left.iter().filter(|j| (list[**j].0, list[**j].1) == (list[i].0, list[i].1));
            let wins = rivals.min_by_key(|j| (std::cmp::Reverse(list[**j].2), **j)) == Some(&i);
            prop_assert_eq!(report.problem.is_none(), wins, "{}", report.source.object);
        }
    }
}
