//! Who is told what, and when.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::json;

use super::build::*;
use crate::index::{Index, Kind};
use crate::model::{ObjectName, ResourceName};

/// Whether the listener is told of the change.
fn told<K: Kind>(index: &Index, name: ResourceName, change: K) -> bool {
    let listener = index.subscribe(name).unwrap();
    index.apply(change);
    assert!(!listener.has_changed().unwrap(), "effects wait for the flush");
    index.flush();
    assert!(!index.is_dirty());
    listener.has_changed().unwrap()
}

#[tokio::test]
async fn a_listener_hears_of_what_concerns_it_and_of_nothing_else() {
    let index = index();
    web(&index);
    let web_port = || at("10.96.0.1:80");
    assert!(told(&index, web_port(), pod("web-1-a", "10.0.0.1").terminating().build()));
    assert!(!told(&index, web_port(), pod("web-1-a", "10.0.0.1").terminating().build()), "nothing changed");
    assert!(!told(&index, web_port(), pod("cart-1-a", "10.0.0.9").build()));
    assert!(!told(&index, web_port(), pod("web-1-b", "10.0.0.2").label("any", "thing").build()), "no one routes by it");
    assert!(told(&index, web_port(), slice("web", &[])));
    assert!(
        told(&index, web_port(), policy("p", 1, json!({"targetRef": {"kind": "Service", "name": "web"}}))),
        "a source more"
    );
    assert!(
        !told(&index, web_port(), peer_auth(NS, "s", json!({"mtls": {"mode": "Strict"}}))),
        "its pods' proxies alone apply it"
    );
    assert!(told(
        &index,
        ResourceName::Workload(name("web-1-b")),
        peer_auth(NS, "s", json!({"mtls": {"mode": "Permissive"}}))
    ));
    assert!(told(
        &index,
        ResourceName::Workload(name("web-1-b")),
        peer_auth("fairlead-system", "m", json!({"mtls": {"mode": "Strict"}}))
    ));
}

#[tokio::test]
async fn an_unknown_address_is_followed_until_it_means_something() {
    let index = index();
    let listener = index.subscribe(at("10.96.0.1:80")).unwrap();
    web(&index);
    index.flush();
    assert!(listener.has_changed().unwrap());
    let listener = index.subscribe(at("10.0.0.5:80")).unwrap();
    index.apply(pod("db-1-a", "10.0.0.5").build());
    index.flush();
    assert!(listener.has_changed().unwrap());
}

#[tokio::test]
async fn a_newcomer_sees_the_newest_state_before_the_flush() {
    let index = index();
    web(&index);
    let first = index.subscribe(at("10.96.0.1:80")).unwrap();
    index.delete::<Service>(&name("web"));
    let second = index.subscribe(at("10.96.0.1:80")).unwrap();
    assert_eq!(*second.borrow().resource, index.get(&at("10.96.0.1:80")));
    assert!(!second.has_changed().unwrap());
    assert!(first.has_changed().unwrap());
}

#[tokio::test]
async fn listeners_of_one_address_share_one_computation() {
    let index = index();
    web(&index);
    let first = index.subscribe(at("10.96.0.1:80")).unwrap();
    let second = index.subscribe(at("10.96.0.1:80")).unwrap();
    assert_eq!(index.resources(), 1);
    assert!(Arc::ptr_eq(&first.borrow(), &second.borrow()));
    drop(first);
    index.sweep();
    assert_eq!(index.resources(), 1);
    drop(second);
    index.sweep();
    assert_eq!(index.resources(), 0, "nobody listens any more");
}

#[test]
fn a_new_listing_removes_what_it_lacks() {
    let index = index();
    web(&index);
    index.retain::<Pod>(&HashSet::from([name("web-1-b"), ObjectName::new("x", "y")]));
    assert_eq!(index.pod(&name("web-1-a")), None);
    assert_eq!(index.pod(&name("web-1-b")).unwrap().service_account, "web");
}

#[tokio::test]
async fn reports_wake_when_policies_or_services_change() {
    let index = index();
    web(&index);
    index.flush();
    let mut reports = index.reports_changed();
    reports.mark_unchanged();
    index.apply(pod("web-1-a", "10.0.0.1").terminating().build());
    index.flush();
    assert!(!reports.has_changed().unwrap(), "no status tells of pods");
    index.apply(service("web", &["10.96.0.9"]));
    index.flush();
    assert!(reports.has_changed().unwrap());
}
