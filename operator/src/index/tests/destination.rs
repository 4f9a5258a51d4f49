//! What addresses lead to.

use serde_json::json;

use super::build::*;
use crate::model::{Destination, Protocol};

#[test]
fn a_cluster_address_leads_to_the_services_ready_pods() {
    let index = index();
    web(&index);
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!((service.name.as_str(), service.port), ("web", 80));
    let endpoints = set(&service, "shop/web:80");
    assert_eq!(addresses(endpoints), ["10.0.0.1:9080", "10.0.0.2:9080"]);
    assert_eq!(endpoints[0].identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(endpoints[0].place.zone, "a");
    assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
}

#[test]
fn an_unknown_address_or_port_passes_through() {
    let index = index();
    web(&index);
    for address in ["10.96.0.1:81", "1.1.1.1:443", "[2001:db8::1]:80"] {
        assert_eq!(destination(&index, address), Destination::PassThrough, "{address}");
    }
}

#[test]
fn each_family_of_a_service_leads_to_each_pod_once() {
    let index = index();
    index.apply(service("web", &["10.96.0.1", "fd00::1"]));
    index.apply(slice("web", &[("web-1-a", "10.0.0.1")]));
    index.apply(slice("web", &[("web-1-a", "fd01::1")]));
    let mut dual = pod("web-1-a", "10.0.0.1");
    dual.0["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd01::1"}]);
    index.apply(dual.build());
    assert_eq!(addresses(set(&service_at(&index, "10.96.0.1:80"), "shop/web:80")), ["10.0.0.1:9080"]);
    assert_eq!(addresses(set(&service_at(&index, "[fd00::1]:80"), "shop/web:80")), ["[fd01::1]:9080"]);
    assert_eq!(addresses(set(&service_at(&index, "[::ffff:10.96.0.1]:80"), "shop/web:80")), ["10.0.0.1:9080"]);
}

#[test]
fn a_pods_own_address_leads_to_it_if_it_is_in_the_mesh() {
    let index = index();
    index.apply(pod("db-1-a", "10.0.0.7").account("db").build());
    index.apply(pod("old-1-a", "10.0.0.8").unmeshed().build());
    let Destination::Pod(endpoint) = destination(&index, "10.0.0.7:6379") else {
        panic!("not a pod");
    };
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/shop/sa/db");
    assert_eq!(endpoint.address.to_string(), "10.0.0.7:6379");
    assert_eq!(destination(&index, "10.0.0.8:6379"), Destination::PassThrough);
}

#[test]
fn a_port_that_the_proxy_does_not_capture_is_reached_in_plain() {
    let index = index();
    let pod = pod("db-1-a", "10.0.0.7").annotation("fairlead.dev/skip-inbound-ports", "6379");
    index.apply(pod.build());
    assert_eq!(destination(&index, "10.0.0.7:6379"), Destination::PassThrough);
    assert_eq!(destination(&index, "10.0.0.7:15020"), Destination::PassThrough);
    assert!(matches!(destination(&index, "10.0.0.7:80"), Destination::Pod(_)));
}

#[test]
fn what_ends_gets_no_new_requests() {
    let index = index();
    web(&index);
    index.apply(pod("web-1-a", "10.0.0.1").terminating().build());
    assert_eq!(addresses(set(&service_at(&index, "10.96.0.1:80"), "shop/web:80")), ["10.0.0.2:9080"]);
}

#[test]
fn a_pod_that_is_not_known_yet_is_not_reached_in_plain() {
    let index = index();
    web(&index);
    index.delete::<k8s_openapi::api::core::v1::Pod>(&name("web-1-a"));
    assert_eq!(addresses(set(&service_at(&index, "10.96.0.1:80"), "shop/web:80")), ["10.0.0.2:9080"]);
}

#[test]
fn a_slice_about_an_earlier_pod_of_the_name_is_stale() {
    let index = index();
    web(&index);
    let mut again = pod("web-1-a", "10.0.0.1");
    again.0["metadata"]["uid"] = json!("another");
    index.apply(again.build());
    assert_eq!(addresses(set(&service_at(&index, "10.96.0.1:80"), "shop/web:80")), ["10.0.0.2:9080"]);
}

#[test]
fn an_endpoint_without_a_pod_is_reached_in_plain() {
    let index = index();
    web(&index);
    let mut by_hand = slice("web", &[("x", "192.168.7.7")]);
    by_hand.endpoints[0].target_ref = None;
    index.apply(by_hand);
    let service = service_at(&index, "10.96.0.1:80");
    let endpoints = set(&service, "shop/web:80");
    assert_eq!(addresses(endpoints), ["192.168.7.7:9080"]);
    assert_eq!(endpoints[0].identity, "");
}

#[tokio::test]
async fn an_endpoint_by_hand_that_is_a_pod_is_met_by_its_proxy() {
    let index = index();
    index.apply(service("alias", &["10.96.0.9"]));
    let mut by_hand = slice("alias", &[("x", "10.0.0.7"), ("y", "192.168.7.7")]);
    for endpoint in &mut by_hand.endpoints {
        endpoint.target_ref = None;
    }
    index.apply(by_hand);
    let identities = || {
        let service = service_at(&index, "10.96.0.9:80");
        let endpoints = set(&service, "shop/alias:80").iter();
        endpoints.map(|e| (e.address.to_string(), e.identity.clone())).collect::<Vec<_>>()
    };
    let outside = || ("192.168.7.7:9080".to_owned(), String::new());
    let listener = index.subscribe(at("10.96.0.9:80")).unwrap();
    assert_eq!(identities(), [("10.0.0.7:9080".to_owned(), String::new()), outside()]);
    // Nothing of the slice changes when the pod comes.
    let mut pod = pod("db-1-a", "10.0.0.7");
    pod.0["metadata"]["namespace"] = json!("data");
    index.apply(pod.build());
    index.flush();
    assert!(listener.has_changed().unwrap());
    let db = "spiffe://cluster.local/ns/data/sa/db".to_owned();
    assert_eq!(identities(), [("10.0.0.7:9080".to_owned(), db), outside()]);
}

#[test]
fn a_pod_of_another_namespace_is_in_no_subset_and_no_release() {
    let index = index();
    index.apply(service("web", &["10.96.0.1"]));
    let mut by_hand = slice("web", &[("x", "10.0.0.7")]);
    by_hand.endpoints[0].target_ref = None;
    index.apply(by_hand);
    let mut pod = pod("web-1-a", "10.0.0.7").label("version", "v1").label("fairlead.dev/clone-of", "web");
    pod.0["metadata"]["namespace"] = json!("other");
    index.apply(pod.build());
    index.apply(canary("web", 50.0));
    let spec = json!({
        "targetRef": {"kind": "Service", "name": "web"},
        "subsets": [{"name": "v1", "labels": {"version": "v1"}}],
        "routes": [{"name": "v1", "matches": [{"path": {"value": "/v1"}}], "backends": [{"subset": "v1"}]}],
    });
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    assert!(set(&service, "shop/web:80/v1").is_empty());
    assert_eq!(addresses(set(&service, "shop/web:80")), ["10.0.0.7:9080"]);
    assert_eq!(set(&service, "shop/web:80")[0].group, "");
}

#[test]
fn a_headless_service_leads_to_its_pods_one_by_one_and_its_routes_to_none() {
    let index = index();
    let mut headless = service("db", &["None"]);
    headless.spec.as_mut().unwrap().cluster_ip = Some("None".into());
    index.apply(headless);
    index.apply(slice("db", &[("db-1-a", "10.0.0.7")]));
    // As a StatefulSet makes them, db-0.db resolves to this address.
    index.apply(pod("db-1-a", "10.0.0.7").build());
    let spec = json!({
        "targetRef": {"kind": "Service", "name": "db"},
        "routes": [{"name": "all", "backends": [{"service": {"name": "other", "port": 80}}]}],
    });
    index.apply(policy("p", 1, spec));
    let Destination::Pod(endpoint) = destination(&index, "10.0.0.7:9080") else {
        panic!("not the pod");
    };
    assert_eq!(endpoint.address.to_string(), "10.0.0.7:9080");
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/shop/sa/db");
    assert_eq!(sources(&index, &at("10.0.0.7:9080")), [""; 0]);
}

#[test]
fn a_pods_own_address_speaks_what_its_services_state() {
    let index = index();
    let mut headless = service("db", &["None"]);
    headless.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].app_protocol = Some("mysql".into());
    index.apply(headless.clone());
    index.apply(slice("db", &[("db-1-a", "10.0.0.7"), ("db-1-b", "10.0.0.8")]));
    index.apply(pod("db-1-a", "10.0.0.7").build());
    index.apply(pod("db-1-b", "10.0.0.8").build());
    let service = service_at(&index, "10.0.0.7:9080");
    assert_eq!((service.name.as_str(), service.port, service.protocol), ("db", 80, Protocol::Opaque));
    // The one that was asked for, whatever else the Service has.
    assert_eq!(addresses(set(&service, "shop/db:80/db-1-a")), ["10.0.0.7:9080"]);
    assert_eq!((service.routes.len(), service.endpoint_sets.len()), (1, 1));
    assert!(matches!(destination(&index, "10.0.0.7:1234"), Destination::Pod(_)), "nothing is stated of that port");

    let mut contrary = super::build::service("also", &["10.96.0.2"]);
    contrary.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].app_protocol = Some("http".into());
    index.apply(contrary);
    index.apply(slice("also", &[("db-1-a", "10.0.0.7")]));
    assert!(matches!(destination(&index, "10.0.0.7:9080"), Destination::Pod(_)), "two contradict each other");
    assert_eq!(service_at(&index, "10.0.0.8:9080").protocol, Protocol::Opaque);
}

#[tokio::test]
async fn limits_are_not_gone_round_by_a_pods_own_address() {
    let index = index();
    web(&index);
    let listener = index.subscribe(at("10.0.0.1:9080")).unwrap();
    assert!(matches!(destination(&index, "10.0.0.1:9080"), Destination::Pod(_)));
    let spec = json!({"targetRef": {"kind": "Service", "name": "web"}, "rateLimits": [{"name": "l", "requests": 1}]});
    index.apply(policy("p", 1, spec));
    index.flush();
    assert!(listener.has_changed().unwrap());
    assert_eq!(service_at(&index, "10.0.0.1:9080").protocol, Protocol::Http1);
    assert_eq!(sources(&index, &at("10.0.0.1:9080")), ["TrafficPolicy shop/p 1"]);
}

#[test]
fn an_external_name_is_an_address_like_any_other() {
    let index = index();
    let external = json!({
        "metadata": {"namespace": NS, "name": "out"},
        "spec": {"type": "ExternalName", "externalName": "example.org", "clusterIP": "", "ports": [{"port": 80}]},
    });
    index.apply(serde_json::from_value::<k8s_openapi::api::core::v1::Service>(external).unwrap());
    assert_eq!(destination(&index, "93.184.215.14:80"), Destination::PassThrough);
}

#[test]
fn an_address_given_to_a_new_pod_stays_with_it_when_the_old_one_goes() {
    let index = index();
    index.apply(pod("old-1-a", "10.0.0.7").build());
    index.apply(pod("new-1-a", "10.0.0.7").account("new").build());
    index.delete::<k8s_openapi::api::core::v1::Pod>(&name("old-1-a"));
    let Destination::Pod(endpoint) = destination(&index, "10.0.0.7:80") else {
        panic!("not a pod");
    };
    assert_eq!(endpoint.identity, "spiffe://cluster.local/ns/shop/sa/new");
}

#[test]
fn where_authentication_is_disabled_peers_send_plain_and_say_why() {
    let index = index();
    web(&index);
    let spec = json!({"mtls": {"mode": "Strict", "ports": [{"port": 9080, "mode": "Disabled"}]}});
    index.apply(peer_auth(NS, "all", spec));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(set(&service, "shop/web:80")[0].identity, "");
    assert_eq!(sources(&index, &at("10.96.0.1:80")), ["PeerAuth shop/all 1"]);
}
