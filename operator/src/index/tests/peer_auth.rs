//! How rules of several `PeerAuth`s join for a pod.

use std::collections::{BTreeSet, HashMap};

use fairlead_authz::{Action, Effect};
use serde_json::{Value, json};

use super::build::*;
use crate::index::{Index, Problem};
use crate::model::{Admission, Body, FetchedKeys, MtlsMode, ObjectName, ResourceName, Workload};

/// The example of RFC 8037, appendix A.
const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn workload(index: &Index) -> Workload {
    match index.get(&ResourceName::Workload(name("web-1-a"))).body {
        Body::Workload(workload) => *workload,
        other => panic!("{other:?}"),
    }
}

fn rules(admission: &Admission) -> Vec<(&str, Action)> {
    admission.rules.iter().map(|rule| (rule.name.as_str(), rule.action)).collect()
}

fn rule(name: &str, action: &str) -> Value {
    json!({"name": name, "action": action, "from": [{"serviceAccounts": ["shop/front"]}]})
}

fn selected(mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    spec
}

#[test]
fn rules_of_mesh_namespace_and_workload_add_up() {
    let index = index();
    web(&index);
    index.apply(peer_auth("fairlead-system", "mesh", json!({"rules": [rule("no", "Deny")]})));
    index.apply(peer_auth(NS, "namespace", json!({"rules": [rule("yes", "Allow")]})));
    index.apply(peer_auth(NS, "one", selected(json!({"rules": [rule("a", "Allow"), rule("b", "Audit")]}))));
    index.apply(peer_auth(NS, "two", selected(json!({"rules": [rule("a", "Allow")]}))));
    index.apply(peer_auth(
        NS,
        "others",
        json!({"selector": {"matchLabels": {"app": "x"}}, "rules": [rule("x", "Deny")]}),
    ));
    let workload = workload(&index);
    let mut found = rules(&workload.admission);
    found.sort_by_key(|(name, _)| *name);
    assert_eq!(
        found,
        [
            ("fairlead-system/mesh/no", Action::Deny),
            ("shop/namespace/yes", Action::Allow),
            ("shop/one/a", Action::Allow),
            ("shop/one/b", Action::Audit),
            ("shop/two/a", Action::Allow),
        ]
    );
    assert_eq!(workload.admission.default, None);
    assert_eq!(workload.rehearsal, None);
    let reports = index.reports();
    assert!(reports.iter().all(|report| report.problem.is_none()), "rules are no conflict: {reports:?}");
    let sources = sources(&index, &ResourceName::Workload(name("web-1-a")));
    assert_eq!(sources.len(), 4, "each that took part is told how far it came: {sources:?}");
}

#[test]
fn the_default_is_the_narrowest_ones_and_of_two_the_stricter() {
    let index = index();
    web(&index);
    index.apply(peer_auth("fairlead-system", "mesh", json!({"default": "Deny"})));
    assert_eq!(workload(&index).admission.default, Some(Effect::Deny));
    index.apply(peer_auth(NS, "namespace", json!({"default": "Allow"})));
    assert_eq!(workload(&index).admission.default, Some(Effect::Allow));
    index.apply(peer_auth(NS, "strict", json!({"default": "Deny"})));
    assert_eq!(workload(&index).admission.default, Some(Effect::Deny));
    index.apply(peer_auth(NS, "workload", selected(json!({"default": "Allow"}))));
    assert_eq!(workload(&index).admission.default, Some(Effect::Allow));
}

#[test]
fn what_is_only_rehearsed_holds_beside_and_not_in_place() {
    let index = index();
    web(&index);
    index.apply(peer_auth(NS, "now", json!({"mtls": {"mode": "Permissive"}, "rules": [rule("now", "Deny")]})));
    let soon = json!({"audit": true, "mtls": {"mode": "Strict"}, "default": "Deny", "rules": [rule("soon", "Allow")]});
    index.apply(peer_auth(NS, "soon", soon));
    let workload = workload(&index);
    assert_eq!(workload.admission.mtls, MtlsMode::Permissive);
    assert_eq!(rules(&workload.admission), [("shop/now/now", Action::Deny)]);
    assert_eq!(workload.admission.default, None);
    let rehearsal = workload.rehearsal.expect("there is one");
    assert_eq!(rehearsal.mtls, MtlsMode::Strict, "in place of what holds now, though that is older");
    assert_eq!((rehearsal.rules.len(), rehearsal.default), (2, Some(Effect::Deny)));
    assert!(index.reports().iter().all(|report| report.problem.is_none()), "it is there to be compared");
}

#[test]
fn two_modes_for_the_same_pods_are_a_conflict() {
    let index = index();
    web(&index);
    index.apply(peer_auth(NS, "a", json!({"mtls": {"mode": "Strict"}})));
    index.apply(peer_auth(NS, "b", json!({"mtls": {"mode": "Permissive"}, "rules": [rule("r", "Deny")]})));
    let workload = workload(&index);
    assert_eq!(workload.admission.mtls, MtlsMode::Strict);
    assert_eq!(rules(&workload.admission), [("shop/b/r", Action::Deny)], "its rules hold nevertheless");
    let problem = |named: &str| {
        let reports = index.reports();
        reports.into_iter().find(|report| report.source.object == name(named)).unwrap().problem
    };
    assert_eq!(problem("a"), None);
    assert_eq!(problem("b"), Some(Problem::Conflicted(name("a"))));
}

#[test]
fn what_cannot_be_read_closes_what_it_selects_and_a_mistake_keeps_what_was() {
    let index = index();
    web(&index);
    let broken = |generation| {
        let header = json!([{"name": "x", "type": "RegularExpression", "value": "("}]);
        let rules = json!([{"name": "r", "action": "Allow", "to": [{"headers": header}]}]);
        guard::<fairlead_crds::PeerAuth>(
            "PeerAuth",
            NS,
            "p",
            generation,
            selected(json!({"rules": rules})),
            Value::Null,
        )
    };
    index.apply(broken(1));
    assert_eq!(workload(&index).admission.default, Some(Effect::Deny));
    let report = index.reports().pop().unwrap();
    let Some(Problem::Invalid(why)) = report.problem else { panic!("{report:?}") };
    assert!(why.contains("rule shop/p/r: the pattern") && why.contains("is closed"), "{why}");

    let good = selected(json!({"rules": [rule("r", "Allow")]}));
    index.apply(guard::<fairlead_crds::PeerAuth>("PeerAuth", NS, "p", 2, good, Value::Null));
    assert_eq!(rules(&workload(&index).admission), [("shop/p/r", Action::Allow)]);
    index.apply(broken(3));
    assert_eq!(rules(&workload(&index).admission), [("shop/p/r", Action::Allow)]);
    let report = index.reports().pop().unwrap();
    assert_eq!(report.kept, Some(2));
}

#[test]
fn of_an_issuer_the_narrowest_word_holds() {
    let index = index();
    web(&index);
    let jwt =
        |audience: &str| json!({"jwt": [{"issuer": "https://i", "audiences": [audience], "jwks": {"inline": KEYS}}]});
    index.apply(peer_auth("fairlead-system", "mesh", jwt("mesh")));
    index.apply(peer_auth(NS, "workload", selected(jwt("workload"))));
    let issuers = workload(&index).issuers;
    assert_eq!(issuers.len(), 1);
    assert_eq!((issuers[0].audiences.as_slice(), issuers[0].forward), (&["workload".to_owned()][..], false));
}

#[test]
fn keys_that_are_fetched_reach_the_pods_and_what_went_wrong_the_status() {
    let index = index();
    web(&index);
    let url = "https://issuer.example/keys";
    index.apply(peer_auth(NS, "p", json!({"jwt": [{"issuer": "https://i", "jwks": {"url": url}}]})));
    assert_eq!(index.wanted_keys().into_iter().collect::<Vec<_>>(), [url]);
    let unresolved = || index.reports().pop().unwrap().unresolved;
    assert_eq!(unresolved(), [format!("jwt: {url} was not fetched yet")]);
    assert_eq!(&*workload(&index).issuers[0].keys, "");
    let mut told = index.subscribe(ResourceName::Workload(name("web-1-a"))).unwrap();
    told.mark_unchanged();
    let set = |keys: Option<&str>, error: Option<&str>| {
        let fetched = FetchedKeys { keys: keys.map(Into::into), error: error.map(str::to_owned) };
        index.set_keys([(url.to_owned(), fetched)].into());
    };
    set(Some(KEYS), None);
    assert!(told.has_changed().unwrap());
    assert_eq!((&*workload(&index).issuers[0].keys, unresolved().len()), (KEYS, 0));
    set(Some(KEYS), Some("it is away"));
    assert_eq!((&*workload(&index).issuers[0].keys, unresolved()), (KEYS, vec!["jwt: it is away".to_owned()]));
}

#[test]
fn keys_that_no_proxy_can_use_are_a_mistake() {
    let index = index();
    index.apply(peer_auth(NS, "p", json!({"jwt": [{"issuer": "https://i", "jwks": {"inline": "{}"}}]})));
    let Some(Problem::Invalid(why)) = index.reports().pop().unwrap().problem else { panic!("it is accepted") };
    assert!(why.starts_with("jwt https://i: the key set"), "{why}");
}

#[test]
fn the_status_says_where_a_rule_cannot_tell_what_is_asked_for() {
    let index = index();
    web(&index);
    let mut rule = rule("reads", "Allow");
    rule["to"] = json!([{"paths": ["/x"]}]);
    index.apply(peer_auth(NS, "p", selected(json!({"rules": [rule]}))));
    let unresolved = || index.reports().pop().unwrap().unresolved;
    assert!(unresolved().is_empty(), "what a port carries is not stated");
    let mut stated = service("web", &["10.96.0.1"]);
    stated.spec.as_mut().unwrap().ports.as_mut().unwrap()[0].app_protocol = Some("redis".into());
    index.apply(stated);
    let [sentence] = &unresolved()[..] else { panic!("{:?}", unresolved()) };
    assert!(sentence.starts_with("rule reads: port 9080 of Service shop/web carries bytes"), "{sentence}");
}

#[test]
fn plain_callers_are_named_in_each_policy_that_concerns_whom_they_call() {
    let index = index();
    web(&index);
    index.apply(peer_auth("fairlead-system", "mesh", json!({"default": "Allow"})));
    index.apply(peer_auth(NS, "web", selected(json!({"mtls": {"mode": "Strict"}, "audit": true}))));
    index.apply(peer_auth(NS, "other", json!({"selector": {"matchLabels": {"app": "x"}}, "default": "Allow"})));
    let addresses = ["10.0.0.2", "192.0.2.7"].map(|address| address.parse().unwrap());
    let called =
        HashMap::from([(name("web-1-a"), BTreeSet::from(addresses)), (name("gone"), BTreeSet::from(addresses))]);
    let readiness = index.readiness(&called);
    assert_eq!(readiness.len(), 2);
    for object in [ObjectName::new("fairlead-system", "mesh"), name("web")] {
        let [web] = &readiness[&object][..] else { panic!("{readiness:?}") };
        assert_eq!((web.workload.as_str(), web.plaintext_callers), ("shop/web", 2));
        assert_eq!(web.callers, ["192.0.2.7", "shop/web"]);
    }
}
