//! How releases divide traffic.

use fairlead_crds::Canary;
use k8s_openapi::api::core::v1::Pod;
use kube::core::DeserializeGuard;
use proptest::prelude::*;
use serde_json::json;

use super::build::*;
use crate::index::Index;
use crate::model::{Body, MtlsMode, ResourceName, Target};

/// `web` with `stable` pods of the Deployment `web`, `other` ones of `old-web`, and `clones` of the canary.
pub(super) fn release(stable: usize, other: usize, clones: usize) -> Index {
    let index = index();
    index.apply(service("web", &["10.96.0.1"]));
    let mut members = Vec::new();
    for n in 0..stable {
        members.push(pod(&format!("web-1-s{n}"), &format!("10.0.1.{n}")));
    }
    for n in 0..other {
        members.push(pod(&format!("old-web-1-o{n}"), &format!("10.0.2.{n}")));
    }
    for n in 0..clones {
        let clone = pod(&format!("web-canary-2-c{n}"), &format!("10.0.3.{n}"));
        members.push(clone.label("fairlead.dev/clone-of", "web"));
    }
    let names: Vec<(String, String)> = members
        .iter()
        .map(|p| {
            let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
            (text(&p.0["metadata"]["name"]), text(&p.0["status"]["podIPs"][0]["ip"]))
        })
        .collect();
    let names: Vec<(&str, &str)> = names.iter().map(|(n, i)| (n.as_str(), i.as_str())).collect();
    index.apply(slice("web", &names));
    for member in members {
        index.apply(member.build());
    }
    index
}

#[test]
fn a_canary_gets_its_weight_and_both_sides_are_counted() {
    let index = release(2, 0, 1);
    index.apply(canary("web", 25.0));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(backends(&service, "default"), ["shop/web:80 750000000", "shop/web:80#web-canary 250000000"]);
    let clone = set(&service, "shop/web:80#web-canary");
    assert_eq!(addresses(clone), ["10.0.3.0:9080"]);
    assert_eq!(clone[0].group, "shop/release/new/1/1795176000/canary");
    for stable in set(&service, "shop/web:80") {
        assert_eq!(stable.group, "shop/release/new/1/1795176000/stable");
    }
    let name = at("10.96.0.1:80");
    assert_eq!(sources(&index, &name), ["Canary shop/release 1795176000"]);
    assert_eq!(service.routes.last().unwrap().backends.len(), 2, "opaque connections are divided as well");
}

#[test]
fn the_other_deployments_of_a_service_keep_their_share() {
    let index = release(1, 3, 1);
    index.apply(canary("web", 40.0));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(backends(&service, "default"), ["shop/web:80 900000000", "shop/web:80#web-canary 100000000"]);
    let counted = set(&service, "shop/web:80").iter().filter(|e| !e.group.is_empty());
    assert_eq!(counted.count(), 1, "the others are no evidence");
}

#[test]
fn without_a_ready_canary_nothing_is_divided() {
    let index = release(2, 0, 0);
    index.apply(canary("web", 25.0));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
    assert!(set(&service, "shop/web:80").iter().all(|e| e.group.is_empty()));
}

#[test]
fn without_weight_a_canary_gets_nothing_at_all() {
    for index in [release(2, 0, 2), release(2, 0, 2)] {
        let service = service_at(&index, "10.96.0.1:80");
        assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
        assert_eq!(addresses(set(&service, "shop/web:80")), ["10.0.1.0:9080", "10.0.1.1:9080"]);
        index.apply(canary("web", 0.0));
        assert_eq!(service_at(&index, "10.96.0.1:80"), service);
    }
}

#[test]
fn a_canary_takes_no_part_of_a_subset_without_its_deployment() {
    let index = release(1, 1, 1);
    index.apply(canary("web", 50.0));
    index.apply(policy(
        "p",
        1,
        json!({
            "targetRef": {"kind": "Service", "name": "web"},
            "subsets": [{"name": "web", "labels": {"app": "web"}}, {"name": "old", "labels": {"app": "old-web"}}],
            "routes": [{"name": "both", "backends": [{"subset": "web", "weight": 1}, {"subset": "old", "weight": 3}]}],
        }),
    ));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(
        backends(&service, "both"),
        ["shop/web:80/web 125000000", "shop/web:80/web#web-canary 125000000", "shop/web:80/old 750000000"]
    );
}

#[test]
fn all_of_it_leaves_the_deployment_nothing() {
    let index = release(1, 1, 1);
    index.apply(canary("web", 100.0));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(backends(&service, "default"), ["shop/web:80 500000000", "shop/web:80#web-canary 500000000"]);
    assert_eq!(addresses(set(&service, "shop/web:80")), ["10.0.2.0:9080"]);
}

#[test]
fn callers_without_a_sidecar_are_handed_to_the_stable_version() {
    let index = release(2, 1, 1);
    index.apply(peer_auth(NS, "all", json!({"mtls": {"mode": "Strict"}})));
    let Body::Workload(clone) = index.get(&ResourceName::Workload(name("web-canary-2-c0"))).body else {
        panic!("no workload");
    };
    assert_eq!(clone.admission.mtls, MtlsMode::Strict);
    let handover = clone.handover.expect("a canary's pod hands over");
    assert_eq!(handover.len(), 1);
    assert_eq!(handover[0].port, 9080);
    assert_eq!(addresses(&handover[0].endpoints), ["10.0.1.0:9080", "10.0.1.1:9080"]);
    assert!(handover[0].endpoints.iter().all(|e| e.group.is_empty()), "they are no evidence");
    assert!(clone.handovers_from.is_empty());
    let Body::Workload(stable) = index.get(&ResourceName::Workload(name("web-1-s0"))).body else {
        panic!("no workload");
    };
    assert!(stable.handovers_from.is_empty(), "no Canary speaks of it");
    index.apply(canary("web", 10.0));
    let Body::Workload(stable) = index.get(&ResourceName::Workload(name("web-1-s0"))).body else {
        panic!("no workload");
    };
    assert_eq!(stable.handovers_from, ["10.0.3.0".parse::<std::net::IpAddr>().unwrap()]);
    let Body::Workload(stable) = index.get(&ResourceName::Workload(name("web-1-s0"))).body else {
        panic!("no workload");
    };
    assert_eq!(stable.handover, None);
}

#[test]
fn versions_that_listen_on_different_ports_are_matched_by_the_services_port_name() {
    let index = release(1, 0, 0);
    let mut moved = slice("web", &[("web-canary-2-c0", "10.0.3.0")]);
    moved.metadata.name = Some("web-2".into());
    moved.ports.as_mut().unwrap()[0].port = Some(8080);
    index.apply(moved);
    let clone = pod("web-canary-2-c0", "10.0.3.0").label("fairlead.dev/clone-of", "web");
    index.apply(clone.build());
    let Body::Workload(clone) = index.get(&ResourceName::Workload(name("web-canary-2-c0"))).body else {
        panic!("no workload");
    };
    let handover = clone.handover.unwrap();
    let ports: Vec<(u16, Vec<String>)> = handover.iter().map(|h| (h.port, addresses(&h.endpoints))).collect();
    assert_eq!(ports[0], (8080, vec!["10.0.1.0:9080".to_owned()]));
}

#[tokio::test]
async fn handover_follows_the_stable_pods() {
    let index = release(2, 0, 1);
    let mut listener = index.subscribe(ResourceName::Workload(name("web-canary-2-c0"))).unwrap();
    index.apply(pod("web-1-s0", "10.0.1.0").terminating().build());
    index.flush();
    assert!(listener.has_changed().unwrap());
    let update = listener.borrow_and_update().clone();
    let Body::Workload(workload) = &update.resource.body else {
        panic!("no workload");
    };
    assert_eq!(addresses(&workload.handover.as_ref().unwrap()[0].endpoints), ["10.0.1.1:9080"]);
}

fn handover(index: &Index) -> Vec<String> {
    let Body::Workload(clone) = index.get(&ResourceName::Workload(name("web-canary-2-c0"))).body else {
        panic!("no workload");
    };
    clone.handover.expect("a canary's pod hands over").iter().flat_map(|h| addresses(&h.endpoints)).collect()
}

#[test]
fn with_the_canary_the_split_goes_and_its_pods_answer_nobody() {
    let index = release(2, 0, 2);
    let undivided = service_at(&index, "10.96.0.1:80");
    let mut terminating = serde_json::to_value(canary("web", 25.0).0.unwrap()).unwrap();
    terminating["metadata"]["deletionTimestamp"] = json!("2026-11-20T12:00:00Z");
    let terminating: DeserializeGuard<Canary> = serde_json::from_value(terminating).unwrap();
    let deleted = |index: &Index| index.delete::<DeserializeGuard<Canary>>(&name("release"));
    let kept = |index: &Index| index.apply(terminating.clone());
    for go in [&deleted as &dyn Fn(&Index), &kept] {
        index.apply(canary("web", 25.0));
        assert_ne!(service_at(&index, "10.96.0.1:80"), undivided);
        go(&index);
        assert_eq!(service_at(&index, "10.96.0.1:80"), undivided);
        assert_eq!(handover(&index), ["10.0.1.0:9080", "10.0.1.1:9080"]);
    }
    // The garbage collector is at it.
    let clone = pod("web-canary-2-c0", "10.0.3.0").label("fairlead.dev/clone-of", "web");
    index.apply(clone.terminating().build());
    assert_eq!(service_at(&index, "10.96.0.1:80"), undivided);
    assert_eq!(handover(&index), ["10.0.1.0:9080", "10.0.1.1:9080"]);
    // The Deployment went as well: callers are refused, for there is nobody to hand them to.
    for stable in ["web-1-s0", "web-1-s1"] {
        index.delete::<Pod>(&name(stable));
    }
    assert!(handover(&index).is_empty());
    assert!(service_at(&index, "10.96.0.1:80").endpoint_sets.iter().all(|set| set.endpoints.is_empty()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_the_pods_a_canary_is_reached_by_its_weight_alone(
        stable in 0usize..4, other in 0usize..4, clones in 0usize..3, weight in 0u32..=100,
    ) {
        let index = release(stable, other, clones);
        index.apply(canary("web", f64::from(weight)));
        let service = service_at(&index, "10.96.0.1:80");
        let mut of_canary = 0;
        let mut sum = 0;
        for backend in &service.routes[0].backends {
            let Target::EndpointSet(i) = backend.target else { panic!("unresolved") };
            let set = &service.endpoint_sets[i as usize];
            let is_canary = set.name.contains('#');
            for endpoint in &set.endpoints {
                prop_assert_eq!(is_canary, endpoint.address.to_string().starts_with("10.0.3."));
                prop_assert_eq!(is_canary, endpoint.group.ends_with("/canary"));
            }
            prop_assert!(!is_canary || !set.endpoints.is_empty());
            sum += u64::from(backend.weight);
            of_canary += if is_canary { u64::from(backend.weight) } else { 0 };
        }
        let wanted = if clones == 0 || stable == 0 { 0.0 } else {
            f64::from(weight) / 100.0 * stable as f64 / (stable + other) as f64
        };
        prop_assert!((of_canary as f64 / sum as f64 - wanted).abs() < 1e-6);
    }
}
