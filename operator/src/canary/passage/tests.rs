use super::*;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn policy(name: &str, spec: Value) -> NetworkPolicy {
    let mut policy = json!({"metadata": {"name": name, "uid": format!("uid-{name}")}});
    policy["spec"] = spec;
    serde_json::from_value(policy).unwrap()
}

fn read(name: &str, spec: Value) -> Isolating {
    Isolating::read(policy(name, spec)).unwrap()
}

/// Version v1 runs, v2 is tried.
fn reviews() -> App {
    App {
        deployment: "reviews".into(),
        canary: "reviews".into(),
        selector: serde_json::from_value(json!({"matchLabels": {"app": "reviews"}})).unwrap(),
        stable: vec![labels(&[("app", "reviews"), ("version", "v1")])],
        clone: labels(&[("app", "reviews"), ("version", "v2"), (CLONE_OF_LABEL, "reviews")]),
    }
}

fn names(app: &App, policies: &[Isolating]) -> Vec<String> {
    let all = passages(app, "shop", policies);
    all.iter().map(|passage| passage["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn nothing_is_added_where_nothing_isolates() {
    for policies in [
        vec![],
        vec![read(
            "others",
            json!({"podSelector": {"matchLabels": {"app": "ratings"}}, "policyTypes": ["Ingress", "Egress"]}),
        )],
    ] {
        assert_eq!(names(&reviews(), &policies), Vec::<String>::new(), "{policies:?}");
    }
}

#[test]
fn each_direction_is_opened_only_where_it_is_closed() {
    for (types, expected) in [
        (json!(["Ingress"]), vec!["reviews-canary-ingress"]),
        (json!(["Egress"]), vec!["reviews-canary-egress"]),
        (json!(["Ingress", "Egress"]), vec!["reviews-canary-ingress", "reviews-canary-egress"]),
        // As an object that no API server has filled in.
        (json!(null), vec!["reviews-canary-ingress"]),
    ] {
        let policies = [read("all", json!({"podSelector": {}, "policyTypes": types}))];
        assert_eq!(names(&reviews(), &policies), expected, "{types}");
    }
}

#[test]
fn the_way_in_leads_from_the_clone_to_the_deployments_pods_that_are_isolated_already() {
    let isolating = read(
        "reviews",
        json!({
            "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["reviews", "ratings"]}]},
            "policyTypes": ["Ingress"],
        }),
    );
    assert_eq!(
        passages(&reviews(), "shop", &[isolating]),
        [json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {
                "name": "reviews-canary-ingress",
                "namespace": "shop",
                "labels": {CANARY_LABEL: "reviews", CLONE_OF_LABEL: "reviews", "app.kubernetes.io/managed-by": "fairlead"},
                // It goes with the policy that it adds to: alone it would isolate by itself.
                "ownerReferences": [{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "name": "reviews", "uid": "uid-reviews"}],
            },
            "spec": {
                "podSelector": {
                    "matchLabels": {"app": "reviews"},
                    "matchExpressions": [
                        {"key": "app", "operator": "In", "values": ["reviews", "ratings"]},
                        {"key": CLONE_OF_LABEL, "operator": "DoesNotExist"},
                    ],
                },
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "reviews", CLONE_OF_LABEL: "reviews"}}}]}],
            },
        })]
    );
}

#[test]
fn the_way_out_leads_from_the_clones_pods_to_the_deployments() {
    let passages = passages(&reviews(), "shop", &[read("all", json!({"podSelector": {}, "policyTypes": ["Egress"]}))]);
    assert_eq!(
        passages[0]["spec"],
        json!({
            "podSelector": {"matchLabels": {"app": "reviews", CLONE_OF_LABEL: "reviews"}},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {
                "matchLabels": {"app": "reviews"},
                "matchExpressions": [{"key": CLONE_OF_LABEL, "operator": "DoesNotExist"}],
            }}]}],
        })
    );
}

#[test]
fn a_canary_is_no_way_around_a_policy() {
    let v1 = read("v1", json!({"podSelector": {"matchLabels": {"version": "v1"}}, "policyTypes": ["Ingress"]}));
    let v2 = read("v2", json!({"podSelector": {"matchLabels": {"version": "v2"}}, "policyTypes": ["Ingress"]}));
    let all = read("all", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let none = Vec::<String>::new();
    assert_eq!(names(&reviews(), std::slice::from_ref(&v1)), none, "everybody reaches the clone");
    assert_eq!(names(&reviews(), &[v1.clone(), v2.clone()]), none, "others reach the clone");
    assert_eq!(names(&reviews(), &[all.clone(), v2]), none, "more reach the clone");
    assert_eq!(closed(&reviews(), std::slice::from_ref(&v1)), Some("v1"));
    assert_eq!(closed(&reviews(), &[]), None, "nothing is in the way");
    let fewer = [all, v1];
    assert_eq!(names(&reviews(), &fewer), ["reviews-canary-ingress"], "fewer reach the clone");
    assert_eq!(closed(&reviews(), &fewer), None);
}

#[test]
fn of_several_policies_the_one_that_covers_most_is_added_to() {
    let v1 = read("a-v1", json!({"podSelector": {"matchLabels": {"version": "v1"}}, "policyTypes": ["Ingress"]}));
    let all = read("b-all", json!({"podSelector": {}, "policyTypes": ["Ingress"]}));
    let again = read("c-all", json!({"podSelector": {"matchLabels": {"app": "reviews"}}, "policyTypes": ["Ingress"]}));
    let mut app = reviews();
    app.stable.push(labels(&[("app", "reviews"), ("version", "v2")]));
    for policies in [[v1.clone(), all.clone(), again.clone()], [again, all, v1]] {
        let owner = passages(&app, "shop", &policies)[0]["metadata"]["ownerReferences"][0]["name"].clone();
        assert_eq!(owner, "b-all");
    }
}

#[test]
fn without_pods_there_is_nobody_to_lead_to() {
    let app = App { stable: Vec::new(), ..reviews() };
    assert_eq!(
        names(&app, &[read("all", json!({"podSelector": {}, "policyTypes": ["Ingress"]}))]),
        Vec::<String>::new()
    );
}

#[test]
fn a_passage_is_no_reason_for_a_passage() {
    let all = read("all", json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}));
    for mut passage in passages(&reviews(), "shop", &[all]) {
        passage["metadata"]["uid"] = json!("p1");
        assert!(Isolating::read(serde_json::from_value(passage).unwrap()).is_none());
    }
}
