//! What releases make of routes besides dividing them: copies, requests of their own, users who stay on their side.

use fairlead_proxy::route::{Destination as Compiled, RequestHead, Service as CompiledService, Target as Place};
use fairlead_proxy_api::v1;
use http::{HeaderMap, HeaderName, Method};
use serde_json::{Value, json};

use super::build::*;
use super::canary::release;
use crate::config::resource_to_wire;
use crate::index::Index;
use crate::model::{Caller, Mirror, Service};

const ADDRESS: &str = "10.96.0.1:80";

fn step(index: &Index, step: Value) {
    index.apply(steered("release", "web", json!({}), step));
}

/// Routes of a policy whose subset `web` has the pods of that Deployment, and `old` the others.
#[allow(clippy::needless_pass_by_value, reason = "reads as the literal that it is")]
fn routes(index: &Index, routes: Value) {
    let subsets = json!([
        {"name": "web", "labels": {"app": "web"}},
        {"name": "same", "labels": {"app": "web", "pod-template-hash": "1"}},
        {"name": "old", "labels": {"app": "old-web"}},
    ]);
    let target = json!({"kind": "Service", "name": "web"});
    index.apply(policy("p", 1, json!({"targetRef": target, "subsets": subsets, "routes": routes})));
}

fn told(index: &Index, caller: &Caller) -> v1::Service {
    let wire = resource_to_wire(&at(ADDRESS), &index.get(&at(ADDRESS)), caller).unwrap();
    let Some(v1::resource::Body::Destination(v1::Destination { kind: Some(v1::destination::Kind::Service(service)) })) =
        wire.body
    else {
        panic!("no Service")
    };
    service
}

/// What the proxy of a pod in `namespace` makes of it.
fn compiled(index: &Index, namespace: &str) -> CompiledService {
    let caller = Caller { namespace: namespace.into(), ..Caller::default() };
    let kind = Some(v1::destination::Kind::Service(told(index, &caller)));
    match fairlead_proxy::route::compile(None, v1::Destination { kind }).unwrap() {
        Compiled::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

/// The sets that requests of this kind can come to.
fn reached(service: &CompiledService, method: &Method, uri: &str, user: Option<&str>) -> Vec<String> {
    let mut headers = HeaderMap::new();
    if let Some(user) = user {
        headers.insert(HeaderName::from_static("end-user"), user.parse().unwrap());
    }
    let (uri, headers) = (uri.parse().unwrap(), headers.into());
    let route = service.route(&RequestHead::new(method, &uri, &headers)).unwrap();
    let mut sets: Vec<String> = (0..1_000_000_000)
        .step_by(9_999_991)
        .map(|random| match route.split.choose(random) {
            Some(Place::Set(set)) => service.sets[*set].name.clone(),
            other => format!("{other:?}"),
        })
        .collect();
    sets.sort_unstable();
    sets.dedup();
    sets
}

fn names(service: &Service) -> Vec<&str> {
    service.routes.iter().map(|route| route.name.as_str()).collect()
}

/// Copies as `<set> <millionths> <of each>`.
fn copies(service: &Service, route: &str) -> Vec<String> {
    let route = service.routes.iter().find(|r| r.name == route).unwrap();
    let line = |m: &Mirror| {
        let counted = if m.counted { " counted" } else { "" };
        let set = &service.endpoint_sets[m.endpoint_set as usize].name;
        format!("{set} {} {}{counted}", m.share, m.copies)
    };
    route.mirrors.iter().map(line).collect()
}

#[test]
fn a_canary_gets_copies_of_its_deployments_part_and_no_request() {
    let index = release(1, 3, 1);
    step(&index, json!({"weight": 0, "mirror": {"percent": 50, "copies": 2}}));
    let service = service_at(&index, ADDRESS);
    assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
    assert_eq!(copies(&service, "default"), ["shop/web:80#web-canary 125000 2 counted"]);
    let clone = set(&service, "shop/web:80#web-canary");
    assert_eq!(addresses(clone), ["10.0.3.0:9080"]);
    assert_eq!(clone[0].group, "shop/release/new/1/1795176000/canary");
    let stable = set(&service, "shop/web:80").iter().filter(|e| e.group.ends_with("/stable"));
    assert_eq!(stable.count(), 1);
    let wire = told(&index, &Caller::default());
    assert!(wire.routes[0].mirrors[0].counted);
    assert_eq!(wire.opaque_backends.len(), 1);
}

#[test]
fn copies_are_of_every_route_that_sends_something_to_the_deployment() {
    let index = release(2, 1, 1);
    step(&index, json!({"weight": 0, "mirror": {"percent": 100, "copies": 1}}));
    let own: Vec<Value> = (1..=4).map(|copies| json!({"subset": "old", "copies": copies})).collect();
    let get = json!([{"methods": ["GET"]}]);
    routes(
        &index,
        json!([
            {"name": "quarter", "matches": get, "backends": [{"subset": "web", "weight": 1}, {"subset": "old", "weight": 3}], "mirror": own},
            // The same pods by two names: a request is copied once.
            {"name": "twice", "matches": get, "backends": [{"subset": "web"}, {"subset": "same"}]},
            {"name": "none", "matches": get, "backends": [{"subset": "old"}, {"subset": "web", "weight": 0}]},
            {"name": "moved", "matches": get, "redirect": {"scheme": "https"}},
            {"name": "said", "matches": get, "respond": {"status": 404}},
        ]),
    );
    let service = service_at(&index, ADDRESS);
    let quarter = copies(&service, "quarter");
    assert_eq!((quarter.len(), quarter[0].as_str()), (5, "shop/web:80/old 1000000 1"), "the policy's are no evidence");
    assert_eq!(quarter[4], "shop/web:80/web#web-canary 250000 1 counted");
    assert_eq!(copies(&service, "twice"), ["shop/web:80/web#web-canary 1000000 1 counted"]);
    for route in ["none", "moved", "said"] {
        assert_eq!(copies(&service, route), [""; 0], "{route}");
    }
    assert_eq!(copies(&service, "default"), ["shop/web:80#web-canary 666667 1 counted"]);
    compiled(&index, NS);
}

#[test]
fn requests_that_match_go_to_the_canary_and_they_alone() {
    let index = release(1, 1, 1);
    let jason = json!({"headers": [{"name": "end-user", "value": "jason"}]});
    step(&index, json!({"weight": 0, "matches": [jason]}));
    let service = service_at(&index, ADDRESS);
    assert_eq!(names(&service), ["default#web-canary", "default"]);
    assert_eq!(backends(&service, "default#web-canary"), ["shop/web:80#web-canary 1"], "not the others' share");
    assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
    assert_eq!(set(&service, "shop/web:80#web-canary")[0].group, "shop/release/new/1/1795176000/canary");
    assert!(service.routes.iter().all(|route| route.mirrors.is_empty() && route.rules.stickiness.is_none()));
    let service = compiled(&index, NS);
    assert_eq!(reached(&service, &Method::GET, "/", Some("jason")), ["shop/web:80#web-canary"]);
    for user in [None, Some("mary")] {
        assert_eq!(reached(&service, &Method::GET, "/", user), ["shop/web:80"]);
    }
}

#[test]
fn each_route_has_one_in_front_that_is_its_own_but_for_the_canary() {
    let index = release(1, 1, 1);
    let api = json!({"path": {"value": "/api/v1"}, "headers": [{"name": "end-user", "value": "jason"}]});
    step(&index, json!({"weight": 0, "matches": [api, {"methods": ["PUT"]}]}));
    routes(
        &index,
        json!([
            {
                "name": "api", "matches": [{"path": {"value": "/api"}, "methods": ["GET"]}],
                "backends": [{"subset": "web", "weight": 1}, {"subset": "old", "weight": 3}],
                "rewrite": {"path": {"prefix": "/"}}, "timeouts": {"request": "5s"},
            },
            {"name": "old", "matches": [{"path": {"value": "/old"}}], "backends": [{"subset": "old"}]},
            {"name": "moved", "matches": [{"path": {"value": "/moved"}}], "redirect": {"scheme": "https"}},
        ]),
    );
    let model = service_at(&index, ADDRESS);
    assert_eq!(names(&model), ["api#web-canary", "api", "old", "moved", "default#web-canary", "default"]);
    assert_eq!(backends(&model, "api#web-canary"), ["shop/web:80/web#web-canary 1", "shop/web:80/old 3"]);
    let (front, route) = (&model.routes[0], &model.routes[1]);
    assert_eq!((&front.rules, front.request_timeout_ms), (&route.rules, 5000));
    assert_eq!(front.matches.len(), 1, "no GET is a PUT");

    let service = compiled(&index, NS);
    let (canary, old) = ("shop/web:80/web#web-canary", "shop/web:80/old");
    assert_eq!(reached(&service, &Method::GET, "/api/v1/x", Some("jason")), [old, canary]);
    assert_eq!(reached(&service, &Method::GET, "/api/v1/x", None), [old, "shop/web:80/web"]);
    assert_eq!(reached(&service, &Method::GET, "/api/v2", Some("jason")), [old, "shop/web:80/web"]);
    assert_eq!(reached(&service, &Method::PUT, "/old", None), [old]);
    assert_eq!(reached(&service, &Method::PUT, "/api/v1", None), ["shop/web:80#web-canary"], "the route is of GET");
    let uri = "/api/v1/x".parse().unwrap();
    let headers = HeaderMap::from_iter([(HeaderName::from_static("end-user"), "jason".parse().unwrap())]).into();
    let head = RequestHead::new(&Method::GET, &uri, &headers);
    assert_eq!(service.route(&head).unwrap().takes(&head), Some("/api"), "what the rewrite replaces");
}

#[test]
fn callers_can_be_asked_for_and_what_is_no_http_stays() {
    let index = release(1, 0, 1);
    step(&index, json!({"weight": 0, "matches": [{"source": {"namespaces": ["web"]}}]}));
    let of = |namespace: &str| {
        let wire = told(&index, &Caller { namespace: namespace.into(), ..Caller::default() });
        let names: Vec<String> = wire.routes.iter().map(|route| route.name.clone()).collect();
        let sets = wire.opaque_backends.into_iter().map(|backend| backend.target.unwrap()).collect::<Vec<_>>();
        (names, sets)
    };
    let stable = vec![v1::backend::Target::EndpointSet(0)];
    assert_eq!(of("web"), (vec!["default#web-canary".to_owned()], stable.clone()));
    assert_eq!(of("other"), (vec!["default".to_owned()], stable));
    assert_eq!(reached(&compiled(&index, "web"), &Method::GET, "/", None), ["shop/web:80#web-canary"]);
}

#[test]
fn without_a_ready_canary_or_with_matches_that_cannot_be_used_nothing_changes() {
    let matches = |value: &str| {
        let path = json!({"type": "RegularExpression", "value": value});
        json!({"weight": 0, "mirror": {}, "matches": [{"methods": ["GET"]}, {"path": path}]})
    };
    let index = release(2, 0, 0);
    let before = service_at(&index, ADDRESS);
    step(&index, matches("/a.*"));
    assert_eq!(service_at(&index, ADDRESS), before);

    let index = release(2, 0, 1);
    step(&index, json!({"weight": 0, "matches": matches("/a(")["matches"]}));
    assert_eq!(service_at(&index, ADDRESS), before);
    step(&index, matches("/a("));
    let service = service_at(&index, ADDRESS);
    assert_eq!(names(&service), ["default"]);
    assert_eq!(service.routes[0].mirrors.len(), 1, "copies are another matter");
}

#[test]
fn a_request_that_the_canary_answers_is_not_copied_to_it() {
    let index = release(1, 0, 1);
    step(&index, json!({"weight": 0, "mirror": {}, "matches": [{"methods": ["PUT"]}]}));
    let service = service_at(&index, ADDRESS);
    assert_eq!(copies(&service, "default#web-canary"), [""; 0]);
    assert_eq!(copies(&service, "default").len(), 1);
}

#[test]
fn two_releases_of_one_service_are_steered_each_by_its_own() {
    let index = release(1, 1, 0);
    let members = [
        ("web-1-s0", "10.0.1.0"),
        ("old-web-1-o0", "10.0.2.0"),
        ("web-canary-2-c0", "10.0.3.0"),
        ("old-web-canary-2-c0", "10.0.4.0"),
    ];
    index.apply(slice("web", &members));
    for ((name, ip), deployment) in members[2..].iter().zip(["web", "old-web"]) {
        index.apply(pod(name, ip).label("fairlead.dev/clone-of", deployment).build());
    }
    let sticky = json!({"stickiness": {"cookie": {"name": "c"}}});
    index.apply(steered("a", "web", json!({}), json!({"weight": 0, "matches": [{"methods": ["PUT"]}]})));
    index.apply(steered("b", "old-web", sticky.clone(), json!({"weight": 50})));
    let service = service_at(&index, ADDRESS);
    assert_eq!(backends(&service, "default#web-canary"), ["shop/web:80#web-canary 1"]);
    let divided = ["shop/web:80 750000000", "shop/web:80#old-web-canary 250000000"];
    assert_eq!(backends(&service, "default"), divided);

    index.apply(steered("a", "web", sticky, json!({"weight": 50})));
    let service = service_at(&index, ADDRESS);
    let values: Vec<&str> = service.routes[0].backends.iter().map(|backend| backend.sticky.as_str()).collect();
    assert_eq!(values.len(), 3);
    assert!(values[0] != values[1] && values[1] != values[2] && values[0] != values[2], "{values:?}");
}

/// Where users of this cookie come to, if it is known; and all values.
fn known(service: &CompiledService, value: &str) -> Option<Vec<String>> {
    let rules = service.routes[0].rules.as_ref().unwrap();
    let part = rules.stickiness.as_ref().unwrap().known(value.as_bytes())?;
    let set = |random| match part.split.choose(random) {
        Some(Place::Set(set)) => service.sets[*set].name.clone(),
        other => panic!("{other:?}"),
    };
    let mut sets: Vec<String> = (0..1_000_000_000).step_by(9_999_991).map(set).collect();
    sets.sort_unstable();
    sets.dedup();
    Some(sets)
}

#[test]
fn users_stay_on_their_side_while_weights_grow() {
    let index = release(1, 0, 1);
    let spec = json!({"stickiness": {"cookie": {"name": "fl-canary", "maxAge": "1h"}}});
    let at = |weight: f64| {
        index.apply(steered("release", "web", spec.clone(), json!({"weight": weight})));
        service_at(&index, ADDRESS)
    };
    let before = at(10.0);
    let sticky = before.routes[0].rules.stickiness.as_ref().unwrap();
    assert_eq!((sticky.cookie.as_str(), sticky.max_age_s), ("fl-canary", Some(3600)));
    let [stable, canary] = &before.routes[0].backends[..] else { panic!("{:?}", before.routes[0].backends) };
    for weight in [10.0, 25.0, 90.0] {
        at(weight);
        let service = compiled(&index, NS);
        assert_eq!(known(&service, &stable.sticky).unwrap(), ["shop/web:80"], "{weight}");
        assert_eq!(known(&service, &canary.sticky).unwrap(), ["shop/web:80#web-canary"], "{weight}");
        assert_eq!(known(&service, "f00"), None);
    }
    for weight in [0.0, 100.0] {
        assert_eq!(at(weight).routes[0].rules.stickiness, None, "{weight}");
    }
}

#[test]
fn what_is_no_canary_is_one_side_and_a_policys_own_cookie_comes_first() {
    let index = release(1, 1, 1);
    let spec = json!({"stickiness": {"cookie": {"name": "fl-canary"}}});
    index.apply(steered("release", "web", spec, json!({"weight": 50})));
    let both = json!([{"subset": "web"}, {"subset": "old"}]);
    let own = json!({"cookie": {"name": "own"}});
    let matches = json!([{"methods": ["PUT"]}]);
    routes(
        &index,
        json!([
            {"name": "sides", "matches": matches, "backends": both},
            {"name": "own", "matches": matches, "backends": both, "stickiness": own},
            {"name": "old", "matches": matches, "backends": [{"subset": "old"}]},
            {"name": "moved", "matches": matches, "redirect": {"scheme": "https"}},
        ]),
    );
    let service = service_at(&index, ADDRESS);
    let cookie = |route: &str| {
        let route = service.routes.iter().find(|r| r.name == route).unwrap();
        route.rules.stickiness.as_ref().map(|sticky| sticky.cookie.clone())
    };
    assert_eq!(cookie("sides").as_deref(), Some("fl-canary"));
    assert_eq!(cookie("own").as_deref(), Some("own"));
    assert_eq!((cookie("old"), cookie("moved")), (None, None), "nothing of them is released");
    let sticky = |route: usize| service.routes[route].backends.iter().map(|b| b.sticky.clone()).collect::<Vec<_>>();
    let [web, canary, old] = &sticky(0)[..] else { panic!("{:?}", sticky(0)) };
    assert!(web == old && web != canary);
    let [web, canary, old] = &sticky(1)[..] else { panic!("{:?}", sticky(1)) };
    assert!(web == canary && web != old, "the policy's backends");
    let mut sides = known(&compiled(&index, NS), &sticky(0)[0]).unwrap();
    sides.sort_unstable();
    assert_eq!(sides, ["shop/web:80/old", "shop/web:80/web"], "by weight among them");
}

#[test]
fn all_at_once_leaves_the_deployment_nothing_unless_the_canary_is_away() {
    let index = release(2, 0, 1);
    index.apply(canary("web", 100.0));
    let service = service_at(&index, ADDRESS);
    assert_eq!(backends(&service, "default"), ["shop/web:80 0", "shop/web:80#web-canary 1000000000"]);
    let proxy = compiled(&index, NS);
    assert_eq!(reached(&proxy, &Method::GET, "/", None), ["shop/web:80#web-canary"]);
    let opaque = (0..1_000_000_000).step_by(9_999_991).map(|random| proxy.opaque.choose(random));
    assert!(opaque.into_iter().all(|target| target == Some(&Place::Set(1))));
    // A rollout that stops all pods at once has stopped them.
    for others in [0, 2] {
        let index = release(0, others, 1);
        index.apply(canary("web", 100.0));
        let proxy = compiled(&index, NS);
        let reached = reached(&proxy, &Method::GET, "/", None);
        assert!(reached.contains(&"shop/web:80#web-canary".to_owned()), "{others}: {reached:?}");
        assert_eq!(reached.len(), 1 + usize::from(others > 0));
    }
    let index = release(2, 0, 0);
    index.apply(canary("web", 100.0));
    let service = service_at(&index, ADDRESS);
    assert_eq!(backends(&service, "default"), ["shop/web:80 1"]);
    assert_eq!(set(&service, "shop/web:80").len(), 2);
}

#[test]
fn who_listens_hears_of_each_change_of_the_step() {
    let index = release(1, 0, 1);
    let mut listener = index.subscribe(at(ADDRESS)).unwrap();
    for change in [
        json!({"weight": 0, "mirror": {}}),
        json!({"weight": 0, "mirror": {"percent": 10}}),
        json!({"weight": 0, "matches": [{"methods": ["PUT"]}]}),
        json!({"weight": 0, "matches": [{"methods": ["GET"]}]}),
        json!({"weight": 5}),
    ] {
        step(&index, change.clone());
        index.flush();
        assert!(listener.has_changed().unwrap(), "{change}");
        listener.borrow_and_update();
    }
    assert_eq!(sources(&index, &at(ADDRESS)), ["Canary shop/release 1795176000"]);
    let cookie = json!({"stickiness": {"cookie": {"name": "c"}}});
    index.apply(steered("release", "web", cookie, json!({"weight": 5})));
    index.flush();
    assert!(listener.has_changed().unwrap());
}
