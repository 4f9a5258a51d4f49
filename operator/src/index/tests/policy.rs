//! Routes, subsets and whose policy holds.

use fairlead_crds::TrafficPolicy;
use kube::core::DeserializeGuard;
use serde_json::{Value, json};

use super::build::*;
use crate::index::{Index, Problem, Report};
use crate::model::{
    Algorithm, Answer, Balancing, GrpcMatch, HashKey, HeaderMatch, HealthCheck, Limits, Match, ObjectName,
    ResourceName, Retry, RetryBudget, Rules, SourceMatch, StringMatch, Target, Tries,
};

fn versions(index: &Index) {
    web(index);
    index.apply(pod("web-1-a", "10.0.0.1").label("version", "v1").build());
    index.apply(pod("web-1-b", "10.0.0.2").label("version", "v2").build());
}

#[allow(clippy::needless_pass_by_value, reason = "reads as the literal that it is")]
fn testers(backends: Value) -> Value {
    json!({
        "targetRef": {"kind": "Service", "name": "web"},
        "subsets": [{"name": "v1", "labels": {"version": "v1"}}, {"name": "v2", "labels": {"version": "v2"}}, {"name": "v3", "labels": {"version": "v3"}}],
        "routes": [{
            "name": "testers",
            "matches": [{"headers": [{"name": "End-User", "value": "jason"}]}],
            "backends": backends,
            "timeouts": {"request": "5s"},
        }],
    })
}

fn report(index: &Index, policy: &str) -> Report {
    let reports = index.reports();
    let found = reports.into_iter().find(|r| r.source.object.name == policy);
    found.expect("the policy is reported on")
}

fn address() -> ResourceName {
    at("10.96.0.1:80")
}

#[test]
fn a_route_leads_to_a_subset_and_the_rest_to_the_service() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 3, testers(json!([{"subset": "v2", "weight": 100}]))));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(backends(&service, "testers"), ["shop/web:80/v2 100"]);
    assert_eq!(addresses(set(&service, "shop/web:80/v2")), ["10.0.0.2:9080"]);
    assert_eq!(service.routes[0].request_timeout_ms, 5000);
    assert_eq!(service.routes[0].matches[0].headers[0].name, "end-user");
    assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
    assert!(service.routes[1].matches.is_empty());
    assert_eq!(sources(&index, &address()), ["TrafficPolicy shop/p 3"]);
    let report = report(&index, "p");
    assert_eq!((report.problem, report.unresolved), (None, vec![]));
}

#[test]
fn a_route_says_how_often_and_how_long_it_is_tried() {
    let index = index();
    versions(&index);
    let default = service_at(&index, "10.96.0.1:80");
    assert_eq!(default.routes[0].tries, Tries::default());
    assert_eq!(default.retry_budget, RetryBudget { share: 200_000, min_per_second: 10 });

    let mut spec = testers(json!([]));
    spec["routes"][0]["timeouts"] = json!({"request": "5s", "backendRequest": "1s", "idle": "1m"});
    spec["routes"][0]["retry"] =
        json!({"attempts": 3, "on": ["ServerError"], "methods": ["POST"], "backoff": {"base": "10ms"}});
    spec["retryBudget"] = json!({"percent": 0.5});
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    let retry = Retry {
        attempts: 3,
        gateway_errors: true,
        server_errors: true,
        grpc: false,
        methods: vec!["POST".into()],
        backoff_base_ms: 10,
        backoff_max_ms: 250,
    };
    let tries = Tries { timeout_ms: 1000, idle_timeout_ms: 60_000, retry: Some(retry) };
    assert_eq!(service.routes[0].tries, tries);
    assert_eq!(service.routes[1].tries, Tries::default(), "the Service as it is");
    assert_eq!(service.retry_budget, RetryBudget { share: 5000, min_per_second: 10 });
}

#[test]
fn endpoints_are_used_as_their_own_service_s_policy_says() {
    let index = index();
    versions(&index);
    let behaviour = |index: &Index| service_at(index, "10.96.0.1:80").endpoint_sets[0].behaviour.clone();
    let default = behaviour(&index);
    assert_eq!(default.balancing, Balancing::default());
    let outliers = default.outliers;
    assert_eq!(
        (outliers.consecutive, outliers.error_share, outliers.max_ejected),
        (5, 500_000, 500_000),
        "on by default"
    );
    assert_eq!((outliers.base_ms, outliers.max_ms), (10_000, 300_000));
    let Limits { connections, pending_requests, requests, connect_timeout_ms, idle_timeout_ms } = default.limits;
    assert_eq!((connections, pending_requests, requests), (1024, 1024, 1024), "on by default");
    assert_eq!((connect_timeout_ms, idle_timeout_ms), (1000, 60_000));

    let mut spec = testers(json!([{"subset": "v2"}]));
    spec["loadBalancing"] =
        json!({"algorithm": "ConsistentHash", "consistentHash": {"header": "X-User"}, "slowStart": "30s"});
    spec["outlierDetection"] = json!({"maxEjected": 0, "probe": {"path": "/healthz"}});
    spec["limits"] = json!({"requests": 10, "connectTimeout": "250ms"});
    spec["healthCheck"] = json!({"path": "/ready", "unhealthy": 5});
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    for set in &service.endpoint_sets {
        assert_eq!(
            set.behaviour.balancing.algorithm,
            Algorithm::ConsistentHash(HashKey::Header("x-user".into())),
            "{}",
            set.name
        );
        assert_eq!(set.behaviour.balancing.slow_start_ms, 30_000);
        assert_eq!((set.behaviour.outliers.max_ejected, set.behaviour.outliers.consecutive), (0, 5));
        assert_eq!(set.behaviour.outliers.probe_path, "/healthz");
        let check =
            HealthCheck { path: "/ready".into(), interval_ms: 5000, timeout_ms: 1000, unhealthy: 5, healthy: 2 };
        assert_eq!(set.behaviour.health_check, Some(check));
        let limits = set.behaviour.limits;
        assert_eq!((limits.requests, limits.connections, limits.connect_timeout_ms), (10, 1024, 250));
    }
    // Another Service that routes here.
    index.apply(crate::index::tests::build::service("cart", &["10.96.0.2"]));
    let mut elsewhere = testers(json!([{"service": {"name": "web", "port": 80}}]));
    elsewhere["targetRef"]["name"] = json!("cart");
    index.apply(policy("q", 1, elsewhere));
    let cart = service_at(&index, "10.96.0.2:80");
    let web = cart.endpoint_sets.iter().find(|set| set.name == "shop/web:80").unwrap();
    assert_eq!(web.behaviour.balancing.slow_start_ms, 30_000);
}

#[test]
fn a_subset_without_pods_is_empty_and_not_another_version() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 1, testers(json!([{"subset": "v3"}]))));
    let service = service_at(&index, "10.96.0.1:80");
    assert!(set(&service, "shop/web:80/v3").is_empty());
}

#[test]
fn references_that_lead_nowhere_keep_their_weight_and_are_named() {
    let index = index();
    versions(&index);
    let spec = testers(json!([
        {"subset": "v9", "weight": 1},
        {"service": {"name": "cart", "port": 80}, "weight": 2},
        {"service": {"name": "web", "port": 99}, "weight": 3},
    ]));
    index.apply(policy("p", 1, spec));
    let lines = backends(&service_at(&index, "10.96.0.1:80"), "testers");
    assert!(lines[0].starts_with("unresolved 1: subset v9 is not defined"), "{lines:?}");
    assert!(lines[1].starts_with("unresolved 2: Service shop/cart does not exist"), "{lines:?}");
    assert!(lines[2].starts_with("unresolved 3: Service shop/web has no port 99, its ports are: 80"), "{lines:?}");
    assert_eq!(report(&index, "p").unresolved.len(), 3);
}

#[tokio::test]
async fn a_missing_service_is_followed_until_it_comes() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 1, testers(json!([{"service": {"name": "cart", "port": 80}}]))));
    let mut listener = index.subscribe(address()).unwrap();
    index.apply(service("cart", &["10.96.0.2"]));
    index.flush();
    assert!(listener.has_changed().unwrap());
    listener.mark_unchanged();
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(backends(&service, "testers"), ["shop/cart:80 1"]);
    index.apply(slice("cart", &[("cart-1-a", "10.0.0.9")]));
    index.apply(pod("cart-1-a", "10.0.0.9").build());
    index.flush();
    assert!(listener.has_changed().unwrap(), "endpoints of another Service matter as well");
}

#[test]
fn a_route_without_conditions_is_the_last() {
    let index = index();
    versions(&index);
    let mut spec = testers(json!([{"subset": "v1", "weight": 9}, {"subset": "v2", "weight": 1}]));
    spec["routes"][0]["matches"] = json!([]);
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(service.routes.len(), 1);
}

#[test]
fn the_oldest_policy_wins_then_the_name() {
    let index = index();
    versions(&index);
    let mut older = policy("z", 1, testers(json!([{"subset": "v1"}])));
    older.0.as_mut().unwrap().metadata.creation_timestamp =
        serde_json::from_value(json!("2026-11-19T10:00:00Z")).unwrap();
    index.apply(policy("b", 1, testers(json!([{"subset": "v2"}]))));
    index.apply(policy("a", 1, testers(json!([{"subset": "v2"}]))));
    assert_eq!(sources(&index, &address()), ["TrafficPolicy shop/a 1"]);
    assert_eq!(report(&index, "b").problem, Some(Problem::Conflicted(name("a"))));
    index.apply(older);
    assert_eq!(sources(&index, &address()), ["TrafficPolicy shop/z 1"]);
    assert_eq!(report(&index, "a").problem, Some(Problem::Conflicted(name("z"))));
    index.delete::<DeserializeGuard<TrafficPolicy>>(&name("z"));
    assert_eq!(sources(&index, &address()), ["TrafficPolicy shop/a 1"]);
}

#[test]
fn a_mistake_disturbs_nothing_and_is_reported() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 1, testers(json!([{"subset": "v2"}]))));
    let before = index.get(&address());
    let mut bad = testers(json!([{"subset": "v1"}]));
    bad["routes"][0]["matches"][0]["headers"][0] = json!({"name": "a", "type": "RegularExpression", "value": "("});
    index.apply(policy("p", 2, bad));
    assert_eq!(index.get(&address()), before);
    let report = report(&index, "p");
    assert!(matches!(report.problem, Some(Problem::Invalid(_))));
    assert_eq!((report.generation, report.kept), (2, Some(1)));
}

#[test]
fn an_object_that_cannot_be_read_disturbs_nothing() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 1, testers(json!([{"subset": "v2"}]))));
    let before = index.get(&address());
    index.apply(policy("p", 2, json!({"targetRef": {"kind": "Moon", "name": "web"}})));
    assert_eq!(index.get(&address()), before);
    assert!(matches!(report(&index, "p").problem, Some(Problem::Invalid(_))));
}

#[test]
fn a_subset_without_pods_falls_back_where_the_route_says_so() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 1, testers(json!([{"subset": "v3", "fallback": "v1", "weight": 3}, {"subset": "v2"}]))));
    let lines = || backends(&service_at(&index, "10.96.0.1:80"), "testers");
    assert_eq!(lines(), ["shop/web:80/v1 3", "shop/web:80/v2 1"]);
    // The moment that its environment runs it, it is the one that is asked.
    index.apply(pod("web-1-b", "10.0.0.2").label("version", "v3").build());
    assert_eq!(lines(), ["shop/web:80/v3 3", "shop/web:80/v2 1"]);
}

#[test]
fn a_fallback_that_leads_nowhere_is_named() {
    let index = index();
    versions(&index);
    index.apply(policy("p", 1, testers(json!([{"subset": "v3", "fallback": "v9"}]))));
    let lines = backends(&service_at(&index, "10.96.0.1:80"), "testers");
    assert!(lines[0].starts_with("unresolved 1: subset v9 is not defined"), "{lines:?}");
    assert_eq!(report(&index, "p").unresolved.len(), 1);
}

#[test]
fn every_kind_of_match_is_read() {
    let index = index();
    versions(&index);
    let mut spec = testers(json!([{"subset": "v1"}]));
    spec["routes"][0]["matches"] = json!([{
        "queryParams": [{"name": "Beta", "value": "1"}],
        "cookies": [{"name": "Group", "type": "Prefix", "value": "b", "not": true}],
        "grpc": {"service": "bookinfo.Reviews"},
        "source": {"namespaces": ["web"], "serviceAccounts": ["web/front"], "labels": {"env": "staging"}},
    }]);
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    let expected = Match {
        // Case counts in both, unlike in names of headers.
        query_params: vec![named("Beta", StringMatch::Exact("1".into()), false)],
        cookies: vec![named("Group", StringMatch::Prefix("b".into()), true)],
        grpc: Some(GrpcMatch { service: "bookinfo.Reviews".into(), method: String::new() }),
        source: Some(SourceMatch {
            namespaces: vec!["web".into()],
            service_accounts: vec![ObjectName::new("web", "front")],
            labels: [("env".into(), "staging".into())].into(),
        }),
        ..Match::default()
    };
    assert_eq!(service.routes[0].matches, [expected]);
}

fn named(name: &str, value: StringMatch, not: bool) -> HeaderMatch {
    HeaderMatch { name: name.into(), value, not }
}

#[test]
fn rules_of_a_route_reach_the_proxies() {
    let index = index();
    versions(&index);
    let mut spec = testers(json!([]));
    spec["routes"][0].as_object_mut().unwrap().remove("backends");
    spec["routes"][0]["respond"] = json!({"status": 418});
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    assert_eq!(service.routes[0].rules.answer, Some(Answer::Respond { status: 418, body: String::new() }));
    assert_eq!(service.routes[1].rules, Rules::default());
}

#[test]
fn a_cookie_stands_for_what_the_user_wrote_as_one_backend() {
    let index = index();
    versions(&index);
    let clone = pod("web-canary-2-c", "10.0.3.1").label("fairlead.dev/clone-of", "web").label("version", "v1");
    index.apply(clone.build());
    let mut spec = testers(json!([{"subset": "v1"}, {"subset": "v2"}]));
    spec["routes"][0]["stickiness"] = json!({"cookie": {"name": "c"}});
    index.apply(policy("p", 1, spec));
    let values = || -> Vec<(String, String)> {
        let service = service_at(&index, "10.96.0.1:80");
        let backends = service.routes[0].backends.iter();
        let name = |b: &crate::model::Backend| match &b.target {
            Target::EndpointSet(set) => service.endpoint_sets[*set as usize].name.clone(),
            Target::Unresolved(why) => why.clone(),
        };
        backends.map(|b| (name(b), b.sticky.clone())).collect()
    };
    let before = values();
    assert_eq!(before.len(), 2);
    assert_ne!(before[0].1, before[1].1);
    assert!(before.iter().all(|(_, value)| value.len() == 32 && !value.contains('v')), "{before:?}");

    // A release divides the backend; its users need not notice.
    index.apply(canary("web", 10.0));
    index.apply(slice("web", &[("web-1-a", "10.0.0.1"), ("web-1-b", "10.0.0.2"), ("web-canary-2-c", "10.0.3.1")]));
    let after = values();
    assert!(after.len() > 2, "{after:?}");
    for (name, value) in after {
        let expected = if name.contains("/v1") { &before[0].1 } else { &before[1].1 };
        assert_eq!(value, *expected, "{name}");
    }
}

#[test]
fn copies_go_to_a_part_and_not_to_its_canaries() {
    let index = index();
    versions(&index);
    let mut spec = testers(json!([{"subset": "v1"}]));
    spec["routes"][0]["mirror"] = json!([
        {"subset": "v2", "percent": 12.5, "copies": 5},
        {"service": {"name": "cart", "port": 80}},
    ]);
    index.apply(policy("p", 1, spec));
    let service = service_at(&index, "10.96.0.1:80");
    let [mirror] = &service.routes[0].mirrors[..] else { panic!("{:?}", service.routes[0].mirrors) };
    assert_eq!(service.endpoint_sets[mirror.endpoint_set as usize].name, "shop/web:80/v2");
    assert_eq!((mirror.share, mirror.copies), (125_000, 5));
    // Nobody waits for copies, so one that leads nowhere is told to the author alone.
    let unresolved = report(&index, "p").unresolved;
    assert!(unresolved[0].contains("Service shop/cart does not exist"), "{unresolved:?}");
    index.apply(super::build::service("cart", &["10.96.0.7"]));
    assert_eq!(service_at(&index, "10.96.0.1:80").routes[0].mirrors.len(), 2);
}
