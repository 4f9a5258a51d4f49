//! TLS towards Services that lead out of the mesh.

use fairlead_crds::TrafficPolicy;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::build::*;
use crate::index::{Index, Problem, Report};
use crate::model::{Body, Destination, ObjectName, Origination, ResourceName};

const ADDRESS: &str = "10.96.0.9:80";

/// A Service `api` at [`ADDRESS`] whose endpoint lies outside.
fn outside() -> Index {
    let index = index();
    index.apply(service("api", &["10.96.0.9"]));
    let mut by_hand = slice("api", &[("x", "192.168.7.7")]);
    by_hand.endpoints[0].target_ref = None;
    index.apply(by_hand);
    index
}

fn spec() -> Value {
    json!({
        "targetRef": {"kind": "Service", "name": "api"},
        "tls": {"sni": "api.example.com", "caRef": {"name": "example"}},
    })
}

fn root() -> rcgen::Certificate {
    rcgen::generate_simple_self_signed(["root".to_owned()]).unwrap().cert
}

fn origination(index: &Index) -> Option<Origination> {
    service_at(index, ADDRESS).endpoint_sets[0].behaviour.origination.clone()
}

fn report(index: &Index, policy: &str) -> Report {
    index.reports().into_iter().find(|r| r.source.object.name == policy).expect("the policy is reported on")
}

#[tokio::test]
async fn proxies_and_the_author_hear_of_authorities_when_they_come_and_go() {
    let index = outside();
    assert_eq!(origination(&index), None);
    let mut listener = index.subscribe(at(ADDRESS)).unwrap();
    let mut told = |index: &Index| {
        index.flush();
        assert!(listener.has_changed().unwrap());
        let update = listener.borrow_and_update().clone();
        let Body::Destination(Destination::Service(service)) = &update.resource.body else { panic!("not a Service") };
        let tls = service.endpoint_sets[0].behaviour.origination.clone().unwrap();
        assert_eq!(tls.server_name, "api.example.com");
        tls.roots.map(|roots| roots.to_vec())
    };

    index.apply(policy("p", 1, spec()));
    let why = told(&index).unwrap_err();
    assert_eq!(why, "ConfigMap shop/example does not exist or lacks the label fairlead.dev/ca: \"true\"");
    let unresolved = report(&index, "p").unresolved;
    assert_eq!(unresolved, [format!("tls: {why}: callers get 503 until it is there")]);

    let mut reports = index.reports_changed();
    reports.mark_unchanged();
    let (first, second) = (root(), root());
    index.apply(authorities(NS, "example", &first.pem()));
    assert_eq!(told(&index), Ok(vec![first.der().to_vec()]));
    assert!(reports.has_changed().unwrap());
    assert_eq!(report(&index, "p").unresolved, [""; 0]);

    index.apply(authorities(NS, "example", &format!("{}{}", first.pem(), second.pem())));
    assert_eq!(told(&index), Ok(vec![first.der().to_vec(), second.der().to_vec()]));
    index.apply(authorities(NS, "example", "gone wrong"));
    assert_eq!(told(&index), Err("ConfigMap shop/example has no certificate in its key ca.crt".into()));
    index.apply(authorities(NS, "example", &first.pem()));
    told(&index).unwrap();
    // As the watch tells of one that lost its label.
    index.delete::<ConfigMap>(&name("example"));
    told(&index).unwrap_err();
}

#[test]
fn a_consumer_brings_authorities_of_its_own_namespace() {
    let index = outside();
    index.apply(authorities(NS, "example", &root().pem()));
    index.apply(policy("p", 1, spec()));
    let mut own = spec();
    own["targetRef"]["namespace"] = json!(NS);
    own["tls"]["sni"] = json!("other.example.com");
    index.apply(guard::<TrafficPolicy>("TrafficPolicy", "web", "own", 1, own, Value::Null));
    let told = |caller: &str| {
        let address = ADDRESS.parse().unwrap();
        let resource = index.get(&ResourceName::Destination { caller: caller.into(), address });
        let Body::Destination(Destination::Service(service)) = resource.body else { panic!("not a Service") };
        service.endpoint_sets[0].behaviour.origination.clone().unwrap()
    };
    assert_eq!((told(NS).server_name.as_str(), told(NS).roots.is_ok()), ("api.example.com", true));
    let consumer = told("web");
    assert_eq!(consumer.server_name, "other.example.com");
    assert!(consumer.roots.unwrap_err().starts_with("ConfigMap web/example does not exist"));
    let roots = root();
    index.apply(authorities("web", "example", &roots.pem()));
    assert_eq!(*told("web").roots.unwrap(), [roots.der().to_vec()]);
}

#[test]
fn it_is_the_service_s_business_whoever_routes_there() {
    let index = outside();
    web(&index);
    index.apply(authorities(NS, "example", &root().pem()));
    index.apply(policy("p", 1, spec()));
    let routed = json!({
        "targetRef": {"kind": "Service", "name": "web"},
        "routes": [{"name": "out", "matches": [{"path": {"value": "/api"}}], "backends": [{"service": {"name": "api", "port": 80}}]}],
    });
    index.apply(policy("q", 1, routed));
    let service = service_at(&index, "10.96.0.1:80");
    let originates: Vec<_> =
        service.endpoint_sets.iter().map(|set| (set.name.as_str(), set.behaviour.origination.is_some())).collect();
    assert_eq!(originates, [("shop/api:80", true), ("shop/web:80", false)]);
}

#[test]
fn what_cannot_hold_is_said() {
    let index = outside();
    let mut defaults = spec();
    defaults["targetRef"] = json!({"kind": "Namespace", "name": NS});
    index.apply(policy("defaults", 1, defaults));
    let Some(Problem::Invalid(why)) = report(&index, "defaults").problem else { panic!("accepted") };
    assert!(why.starts_with("tls: "), "{why}");

    let mut address = spec();
    address["tls"]["sni"] = json!("10.0.0.1");
    index.apply(policy("address", 1, address));
    let Some(Problem::Invalid(why)) = report(&index, "address").problem else { panic!("accepted") };
    assert_eq!(why, "tls.sni: \"10.0.0.1\" is no name of DNS");
    assert_eq!(origination(&index), None);

    // Its name leads to an address that no policy is about.
    let external = json!({
        "metadata": {"namespace": NS, "name": "api"},
        "spec": {"type": "ExternalName", "externalName": "api.example.com", "ports": [{"name": "http", "port": 80}]},
    });
    index.apply(serde_json::from_value::<Service>(external).unwrap());
    index.apply(authorities(NS, "example", &root().pem()));
    index.apply(policy("p", 1, spec()));
    let unresolved = report(&index, "p").unresolved;
    assert!(unresolved[0].contains("has no cluster address"), "{unresolved:?}");
}

#[test]
fn a_policy_keeps_what_held_before_a_mistake() {
    let index = outside();
    index.apply(authorities(NS, "example", &root().pem()));
    index.apply(policy("p", 1, spec()));
    let mut wrong = spec();
    wrong["tls"]["sni"] = json!("10.0.0.1");
    let wrong: DeserializeGuard<TrafficPolicy> = policy("p", 2, wrong);
    index.apply(wrong);
    assert_eq!(origination(&index).unwrap().server_name, "api.example.com");
    assert_eq!(report(&index, "p").kept, Some(1));
    let listed = [ObjectName::new(NS, "other")].into();
    index.retain::<ConfigMap>(&listed);
    assert!(origination(&index).unwrap().roots.is_err());
}
