//! Builders of the few objects that the tests are made of.

use fairlead_crds::{Canary, PeerAuth, TrafficPolicy};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{DeserializeGuard, PartialObjectMeta};
use serde_json::{Value, json};

use crate::index::{Index, Settings};
use crate::model::{self, Body, Destination, Endpoint, ObjectName, ResourceName, Target};

pub(crate) const NS: &str = "shop";

pub(crate) fn index() -> Index {
    Index::new(Settings { trust_domain: "cluster.local".into(), operator_namespace: "fairlead-system".into() })
}

/// A pod in the mesh: `name` is `<deployment>-<hash>-<number>`, its address `10.0.<n>.<m>`.
pub(crate) struct PodBuilder(pub Value);

pub(crate) fn pod(name: &str, ip: &str) -> PodBuilder {
    let mut parts = name.rsplitn(3, '-');
    let (_, hash, deployment) = (parts.next(), parts.next().unwrap_or("h"), parts.next().unwrap_or(name));
    PodBuilder(json!({
        "metadata": {
            "namespace": NS, "name": name, "uid": format!("uid-{name}"),
            "labels": {"app": deployment, "pod-template-hash": hash},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "uid": "rs", "controller": true, "name": format!("{deployment}-{hash}")}],
        },
        "spec": {
            "serviceAccountName": deployment,
            "initContainers": [{"name": "fairlead-proxy", "restartPolicy": "Always"}],
            "containers": [{"name": "app", "ports": [{"containerPort": 9080}]}],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": "True"}]},
    }))
}

impl PodBuilder {
    pub(crate) fn label(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["labels"][key] = json!(value);
        self
    }
    pub(crate) fn account(mut self, account: &str) -> Self {
        self.0["spec"]["serviceAccountName"] = json!(account);
        self
    }
    pub(crate) fn unmeshed(mut self) -> Self {
        self.0["spec"]["initContainers"] = json!([]);
        self
    }
    pub(crate) fn annotation(mut self, key: &str, value: &str) -> Self {
        self.0["metadata"]["annotations"][key] = json!(value);
        self
    }
    pub(crate) fn on(mut self, node: &str) -> Self {
        self.0["spec"]["nodeName"] = json!(node);
        self
    }
    pub(crate) fn terminating(mut self) -> Self {
        self.0["metadata"]["deletionTimestamp"] = json!("2026-11-20T12:00:00Z");
        self
    }
    pub(crate) fn build(self) -> Pod {
        serde_json::from_value(self.0).unwrap()
    }
}

/// A node with the labels that say where it is.
pub(crate) fn node(name: &str, zone: &str, region: &str) -> PartialObjectMeta<Node> {
    serde_json::from_value(json!({
        "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata",
        "metadata": {"name": name, "labels": {
            "topology.kubernetes.io/zone": zone, "topology.kubernetes.io/region": region,
        }},
    }))
    .unwrap()
}

/// A slice as [`slice`] makes it, with each endpoint on the node of this name and ready or not.
pub(crate) fn slice_on(service: &str, pods: &[(&str, &str, &str, bool)]) -> EndpointSlice {
    let plain: Vec<_> = pods.iter().map(|(name, ip, ..)| (*name, *ip)).collect();
    let mut slice = slice(service, &plain);
    for (endpoint, (_, _, node, ready)) in slice.endpoints.iter_mut().zip(pods) {
        endpoint.zone = None;
        endpoint.node_name = Some((*node).to_owned());
        endpoint.conditions.get_or_insert_default().ready = Some(*ready);
    }
    slice
}

/// A Service with one port, `http`, 80.
pub(crate) fn service(name: &str, ips: &[&str]) -> Service {
    serde_json::from_value(json!({
        "metadata": {"namespace": NS, "name": name},
        "spec": {"clusterIP": ips.first(), "clusterIPs": ips, "ports": [{"name": "http", "port": 80}]},
    }))
    .unwrap()
}

/// The slice `<service>-1`: port `http` is 9080 on these pods.
pub(crate) fn slice(service: &str, pods: &[(&str, &str)]) -> EndpointSlice {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|(name, ip)| {
            json!({
                "addresses": [ip], "zone": "a", "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "namespace": NS, "name": name, "uid": format!("uid-{name}")},
            })
        })
        .collect();
    let ipv6 = pods.first().is_some_and(|(_, ip)| ip.contains(':'));
    serde_json::from_value(json!({
        "metadata": {
            "namespace": NS, "name": format!("{service}-{}", if ipv6 { 6 } else { 4 }),
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "ports": [{"name": "http", "port": 9080}],
        "endpoints": endpoints,
    }))
    .unwrap()
}

/// A `ConfigMap` as the watch sees it, with this as its `ca.crt`.
pub(crate) fn authorities(namespace: &str, name: &str, pem: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"namespace": namespace, "name": name}, "data": {"ca.crt": pem}}))
        .unwrap()
}

/// Made in the order of `generation`, for tests of "the oldest wins" by name and age.
pub(crate) fn policy(name: &str, generation: i64, spec: Value) -> DeserializeGuard<TrafficPolicy> {
    guard("TrafficPolicy", NS, name, generation, spec, Value::Null)
}

pub(crate) fn peer_auth(namespace: &str, name: &str, spec: Value) -> DeserializeGuard<PeerAuth> {
    guard("PeerAuth", namespace, name, 1, spec, Value::Null)
}

/// The release of a Deployment, `weight` percent at present.
pub(crate) fn canary(deployment: &str, weight: f64) -> DeserializeGuard<Canary> {
    steered("release", deployment, json!({}), json!({"weight": weight}))
}

/// The release of a Deployment, with what `spec` and the status' `step` say besides.
pub(crate) fn steered(name: &str, deployment: &str, mut spec: Value, mut step: Value) -> DeserializeGuard<Canary> {
    spec["workloadRef"] = json!({"kind": "Deployment", "name": deployment});
    step["index"] = json!(1);
    step["since"] = json!("2026-11-20T12:00:00Z");
    let status = json!({"phase": "Progressing", "canary": {"revision": "new"}, "step": step});
    guard("Canary", NS, name, 1, spec, status)
}

#[allow(clippy::needless_pass_by_value, reason = "reads as the literals that they are")]
pub(crate) fn guard<K>(
    kind: &str,
    namespace: &str,
    name: &str,
    generation: i64,
    spec: Value,
    status: Value,
) -> DeserializeGuard<K>
where
    K: serde::de::DeserializeOwned + kube::Resource,
{
    serde_json::from_value(json!({
        "apiVersion": "fairlead.dev/v1alpha1", "kind": kind,
        "metadata": {
            "namespace": namespace, "name": name, "generation": generation, "uid": format!("uid-{name}"),
            "creationTimestamp": "2026-11-20T10:00:00Z",
        },
        "spec": spec, "status": status,
    }))
    .unwrap()
}

/// A Service `web` at 10.96.0.1 with two pods of the Deployment `web`.
pub(crate) fn web(index: &Index) {
    index.apply(service("web", &["10.96.0.1"]));
    index.apply(slice("web", &[("web-1-a", "10.0.0.1"), ("web-1-b", "10.0.0.2")]));
    index.apply(pod("web-1-a", "10.0.0.1").build());
    index.apply(pod("web-1-b", "10.0.0.2").build());
}

pub(crate) fn name(name: &str) -> ObjectName {
    ObjectName::new(NS, name)
}

/// An address, as pods of [`NS`] ask for it.
pub(crate) fn at(address: &str) -> ResourceName {
    ResourceName::Destination { caller: NS.into(), address: address.parse().unwrap() }
}

pub(crate) fn destination(index: &Index, address: &str) -> Destination {
    match index.get(&at(address)).body {
        Body::Destination(destination) => destination,
        other => panic!("{address} is {other:?}"),
    }
}

pub(crate) fn service_at(index: &Index, address: &str) -> model::Service {
    match destination(index, address) {
        Destination::Service(service) => service,
        other => panic!("{address} leads to {other:?}"),
    }
}

/// Sources as `Kind name generation`.
pub(crate) fn sources(index: &Index, name: &ResourceName) -> Vec<String> {
    let sources = index.get(name).sources.into_iter();
    sources.map(|s| format!("{} {} {}", s.source.kind.as_str(), s.source.object, s.generation)).collect()
}

/// Where a route's backends lead, as `<set> <weight>`.
pub(crate) fn backends(service: &model::Service, route: &str) -> Vec<String> {
    let route = service.routes.iter().find(|r| r.name == route);
    let route = route.unwrap_or_else(|| panic!("{:?} lack the route", service.routes));
    let line = |b: &model::Backend| match &b.target {
        Target::EndpointSet(set) => {
            format!("{} {}", service.endpoint_sets[*set as usize].name, b.weight)
        }
        Target::Unresolved(why) => format!("unresolved {}: {why}", b.weight),
    };
    route.backends.iter().map(line).collect()
}

/// The endpoints of a set by its name.
pub(crate) fn set<'a>(service: &'a model::Service, name: &str) -> &'a [Endpoint] {
    let set = service.endpoint_sets.iter().find(|s| s.name == name);
    &set.unwrap_or_else(|| panic!("{:?} lack {name}", service.endpoint_sets)).endpoints
}

/// Addresses of endpoints.
pub(crate) fn addresses(endpoints: &[Endpoint]) -> Vec<String> {
    endpoints.iter().map(|e| e.address.to_string()).collect()
}
