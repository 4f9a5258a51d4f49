//! Where callers and endpoints are.

use serde_json::json;

use super::build::*;
use crate::index::Index;
use crate::model::{Body, Locality, ObjectName, Place, ResourceName};

fn place(zone: &str, region: &str) -> Place {
    Place { zone: zone.into(), region: region.into() }
}

/// Three pods on nodes of two regions; the third is not ready, a fourth ends.
fn world() -> Index {
    let index = index();
    for (name, zone, region) in [("n1", "eu-a", "eu"), ("n2", "us-a", "us")] {
        index.apply(node(name, zone, region));
    }
    index.apply(service("web", &["10.96.0.1"]));
    let pods = [("web-1-a", "10.0.0.1", "n1"), ("web-1-b", "10.0.0.2", "n2"), ("web-1-c", "10.0.0.3", "n1")];
    for (name, ip, node) in pods {
        index.apply(pod(name, ip).on(node).build());
    }
    let mut slice = slice_on("web", &pods.map(|(name, ip, node)| (name, ip, node, name != "web-1-c")));
    let mut ending = slice.endpoints[2].clone();
    ending.addresses = vec!["10.0.0.4".into()];
    ending.conditions.get_or_insert_default().terminating = Some(true);
    slice.endpoints.push(ending);
    index.apply(slice);
    index
}

fn caller_place(index: &Index) -> Place {
    match index.get(&ResourceName::Workload(ObjectName::new(NS, "web-1-a"))).body {
        Body::Workload(workload) => workload.caller.place,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nodes_say_where_callers_and_endpoints_are() {
    let index = world();
    let service = service_at(&index, "10.96.0.1:80");
    let places: Vec<_> = service.endpoint_sets[0].endpoints.iter().map(|e| e.place.clone()).collect();
    assert_eq!(places, [place("eu-a", "eu"), place("us-a", "us")]);
    assert_eq!(caller_place(&index), place("eu-a", "eu"));
    assert!(service.endpoint_sets[0].unready.is_empty(), "nobody asked for nearness");

    index.delete::<kube::core::PartialObjectMeta<k8s_openapi::api::core::v1::Node>>(&ObjectName::new("", "n1"));
    assert_eq!(caller_place(&index), Place::default());
}

#[test]
fn a_node_that_is_labelled_later_is_news_to_those_it_concerns() {
    let index = world();
    let mut listener = index.subscribe(at("10.96.0.1:80")).unwrap();
    listener.mark_unchanged();
    index.apply(node("n3", "eu-a", "eu"));
    index.flush();
    assert!(!listener.has_changed().unwrap(), "nothing runs there");
    index.apply(node("n2", "us-b", "us"));
    index.flush();
    assert!(listener.has_changed().unwrap());
}

#[test]
fn a_policy_says_what_is_near_and_then_those_count_that_are_not_ready() {
    let index = world();
    let locality = json!({"prefer": "Zone", "failover": [{"from": "eu", "to": ["us"]}]});
    let target = json!({"kind": "Service", "name": "web"});
    index.apply(policy("p", 1, json!({"targetRef": target, "loadBalancing": {"locality": locality}})));
    let set = service_at(&index, "10.96.0.1:80").endpoint_sets.remove(0);
    let failover = vec![("eu".to_owned(), vec!["us".to_owned()])];
    let expected = Locality { prefer_zone: true, failover, min_healthy: 700_000 };
    assert_eq!(set.behaviour.balancing.locality, Some(expected));
    assert_eq!(addresses(&set.endpoints), ["10.0.0.1:9080", "10.0.0.2:9080"]);
    assert_eq!(set.unready, [place("eu-a", "eu")], "who ends does not count");
}
