//! How a pod's own proxy is told to treat callers.

use std::collections::BTreeMap;

use serde_json::json;

use super::build::*;
use crate::index::Index;
use crate::model::{Body, MtlsMode, Protocol, RateLimitKey, ResourceName, Workload};

fn workload(index: &Index, pod: &str) -> Workload {
    match index.get(&ResourceName::Workload(name(pod))).body {
        Body::Workload(workload) => *workload,
        other => panic!("{pod} is {other:?}"),
    }
}

#[test]
fn plain_callers_are_taken_where_nothing_is_said() {
    let index = index();
    web(&index);
    let workload = workload(&index, "web-1-a");
    assert_eq!(workload.admission.mtls, MtlsMode::Permissive);
    assert_eq!(workload.identity, "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(workload.uid, "uid-web-1-a");
}

#[test]
fn a_pod_that_does_not_exist_has_no_workload() {
    let resource = index().get(&ResourceName::Workload(name("none")));
    assert_eq!(resource.body, Body::NoWorkload);
}

#[test]
fn workload_over_namespace_over_mesh() {
    let index = index();
    web(&index);
    index.apply(peer_auth("fairlead-system", "mesh", json!({"mtls": {"mode": "Strict"}})));
    assert_eq!(workload(&index, "web-1-a").admission.mtls, MtlsMode::Strict);
    let spec = json!({"mtls": {"mode": "Permissive", "ports": [{"port": 1, "mode": "Disabled"}]}});
    index.apply(peer_auth(NS, "namespace", spec));
    assert_eq!(workload(&index, "web-1-a").admission.mtls, MtlsMode::Permissive);
    assert_eq!(workload(&index, "web-1-a").admission.mtls_of(1), MtlsMode::Disabled);
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"ports": [{"port": 2, "mode": "Strict"}]}});
    index.apply(peer_auth(NS, "workload", spec));
    let merged = workload(&index, "web-1-a");
    assert_eq!(merged.admission.mtls, MtlsMode::Permissive, "a port alone leaves the namespace's mode");
    assert_eq!(merged.admission.ports, BTreeMap::from([(1, MtlsMode::Disabled), (2, MtlsMode::Strict)]));
    let name = ResourceName::Workload(name("web-1-a"));
    assert_eq!(
        sources(&index, &name),
        ["PeerAuth fairlead-system/mesh 1", "PeerAuth shop/namespace 1", "PeerAuth shop/workload 1"]
    );
}

#[test]
fn strict_for_a_workload_means_all_of_its_ports() {
    let index = index();
    web(&index);
    let spec = json!({"mtls": {"mode": "Permissive", "ports": [{"port": 9080, "mode": "Disabled"}]}});
    index.apply(peer_auth(NS, "namespace", spec));
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "Strict"}});
    index.apply(peer_auth(NS, "workload", spec));
    assert_eq!(workload(&index, "web-1-a").admission.mtls_of(9080), MtlsMode::Strict);
}

#[test]
fn a_selector_in_the_operators_namespace_does_not_reach_the_mesh() {
    let index = index();
    web(&index);
    let spec = json!({"selector": {"matchLabels": {"app": "web"}}, "mtls": {"mode": "Strict"}});
    index.apply(peer_auth("fairlead-system", "own", spec));
    assert_eq!(workload(&index, "web-1-a").admission.mtls, MtlsMode::Permissive);
}

#[test]
fn services_state_the_protocols_of_the_pods_ports() {
    let index = index();
    web(&index);
    assert!(workload(&index, "web-1-a").port_protocols.is_empty());
    let mut stated = service("web", &["10.96.0.1"]);
    stated.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].app_protocol = Some("grpc".into());
    index.apply(stated);
    assert_eq!(workload(&index, "web-1-a").port_protocols, [(9080, Protocol::Http2)]);
    let mut contrary = service("also", &["10.96.0.2"]);
    contrary.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].app_protocol = Some("redis".into());
    index.apply(contrary);
    index.apply(slice("also", &[("web-1-a", "10.0.0.1")]));
    assert!(workload(&index, "web-1-a").port_protocols.is_empty(), "two Services contradict each other");
    assert_eq!(workload(&index, "web-1-b").port_protocols, [(9080, Protocol::Http2)]);
}

#[test]
fn a_producers_protocol_is_the_pods_and_a_consumers_is_not() {
    let index = index();
    web(&index);
    let tcp = |name: &str, target| policy(name, 1, json!({"targetRef": target, "protocol": "TCP"}));
    index.apply(guard::<fairlead_crds::TrafficPolicy>(
        "TrafficPolicy",
        "front",
        "theirs",
        1,
        json!({"targetRef": {"kind": "Service", "name": "web", "namespace": NS}, "protocol": "TCP"}),
        serde_json::Value::Null,
    ));
    assert!(workload(&index, "web-1-a").port_protocols.is_empty());
    index.apply(tcp("defaults", json!({"kind": "Namespace", "name": NS})));
    assert_eq!(workload(&index, "web-1-a").port_protocols, [(9080, Protocol::Opaque)]);
    assert_eq!(service_at(&index, "10.96.0.1:80").protocol, Protocol::Opaque);
    let http = json!({"targetRef": {"kind": "Service", "name": "web"}, "protocol": "HTTP"});
    index.apply(policy("web", 1, http));
    assert_eq!(workload(&index, "web-1-a").port_protocols, [(9080, Protocol::Http1)]);
    assert_eq!(service_at(&index, "10.96.0.1:80").protocol, Protocol::Http1);
    for (word, means) in [
        ("HTTP1", Protocol::Http1Only),
        ("HTTP2", Protocol::Http2),
        ("GRPC", Protocol::Http2),
        ("TCP", Protocol::Opaque),
    ] {
        let spec = json!({"targetRef": {"kind": "Service", "name": "web"}, "protocol": word});
        index.apply(policy("web", 1, spec));
        assert_eq!(service_at(&index, "10.96.0.1:80").protocol, means);
    }
    let name = ResourceName::Workload(name("web-1-a"));
    assert_eq!(sources(&index, &name), ["TrafficPolicy shop/defaults 1", "TrafficPolicy shop/web 1"]);
}

#[test]
fn rate_limits_of_every_service_hold_at_its_pods_port() {
    let index = index();
    web(&index);
    index.apply(service("also", &["10.96.0.2"]));
    index.apply(slice("also", &[("web-1-a", "10.0.0.1")]));
    let limits = |service: &str, limit: serde_json::Value| {
        let spec = json!({"targetRef": {"kind": "Service", "name": service}, "rateLimits": [limit]});
        policy(service, 1, spec)
    };
    index.apply(limits("web", json!({"name": "callers", "requests": 100, "burst": 50, "key": [{"identity": true}]})));
    index.apply(limits("also", json!({"name": "all", "requests": 5, "per": "1m", "key": [{"header": "X-Tenant"}]})));
    let both = workload(&index, "web-1-a").rate_limits;
    let lines: Vec<_> =
        both.iter().map(|l| (l.port, l.name.as_str(), l.requests, l.per_ms, l.burst, l.key.as_slice())).collect();
    let header = [RateLimitKey::Header("x-tenant".into())];
    assert_eq!(
        lines,
        [
            (9080, "shop/also/all", 5, 60_000, 5, &header[..]),
            (9080, "shop/web/callers", 100, 1000, 50, &[RateLimitKey::Identity]),
        ]
    );
    assert_eq!(workload(&index, "web-1-b").rate_limits.len(), 1);
    // Bytes that cannot be told would not be counted.
    assert_eq!(workload(&index, "web-1-b").port_protocols, [(9080, Protocol::Http1)]);
    assert_eq!(service_at(&index, "10.96.0.1:80").protocol, Protocol::Http1);
    let name = ResourceName::Workload(name("web-1-a"));
    assert_eq!(sources(&index, &name), ["TrafficPolicy shop/also 1", "TrafficPolicy shop/web 1"]);
}

#[test]
fn a_consumer_limits_nobody_and_nonsense_is_told() {
    let index = index();
    web(&index);
    let apply = |namespace: &str, limit: serde_json::Value| {
        let target = json!({"kind": "Service", "name": "web", "namespace": NS});
        let spec = json!({"targetRef": target, "rateLimits": [limit]});
        let status = serde_json::Value::Null;
        index.apply(guard::<fairlead_crds::TrafficPolicy>("TrafficPolicy", namespace, "p", 1, spec, status));
        assert!(workload(&index, "web-1-a").rate_limits.is_empty());
        let reports = index.reports();
        let report = reports.iter().find(|r| r.source.object.namespace == namespace).unwrap();
        format!("{:?}", report.problem)
    };
    let good = json!({"name": "l", "requests": 1});
    assert!(apply("front", good).contains("only a policy in the namespace of the Service"));
    for (bad, why) in [
        (json!({"name": "l", "requests": 1, "per": "0s"}), "rateLimits l: per is from 1ms to 1h"),
        (json!({"name": "l", "requests": 0}), "rateLimits l: requests is at least 1"),
        (json!({"name": "l", "requests": 1, "key": [{}]}), "rateLimits l: an entry of key"),
        (json!({"name": "l", "requests": 1, "matches": [{"source": {"namespaces": ["a"]}}]}), "has no source"),
    ] {
        let said = apply(NS, bad);
        assert!(said.contains(why), "{said}");
    }
}
