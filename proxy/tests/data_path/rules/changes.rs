use super::*;

#[tokio::test]
async fn headers_change_on_the_way_to_the_endpoint_and_back() {
    let request = v1::HeaderChanges {
        remove: vec!["x-debug".into()],
        set: vec![header("x-env", "staging")],
        add: vec![header("x-tag", "b")],
    };
    let response = v1::HeaderChanges {
        remove: vec!["content-type".into()],
        set: vec![header("cache-control", "no-store")],
        add: vec![],
    };
    let client =
        echoed(v1::Route { request_headers: Some(request), response_headers: Some(response), ..v1::Route::default() })
            .await;
    let answer = get(client.outbound, "/", "X-Debug: 1\r\nX-Env: live\r\nX-Tag: a\r\nX-Kept: Yes\r\n").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(value(&answer, "cache-control"), Some("no-store"));
    let seen = answer.split_once("\r\n\r\n").unwrap().1.to_ascii_lowercase();
    assert!(!seen.contains("x-debug") && !seen.contains("live"), "{seen}");
    for line in ["x-env: staging\r\n", "x-tag: a\r\n", "x-tag: b\r\n", "x-kept: yes\r\n"] {
        assert!(seen.contains(line), "{line:?} in {seen}");
    }
}

#[tokio::test]
async fn path_and_host_are_what_the_rule_says() {
    let path = v1::PathChange { kind: Some(v1::path_change::Kind::Prefix("/v2".into())) };
    let rewrite = Some(v1::Rewrite { path: Some(path), host: "reviews.internal".into() });
    let entry = v1::Match { path: Some(prefix("/reviews")), ..v1::Match::default() };
    let app = App::mirror().await;
    let mut service = service(vec![vec![endpoint(app.address, "")]]);
    let route = v1::Route { matches: vec![entry], backends: vec![backend(1, 0)], rewrite, ..v1::Route::default() };
    service.routes.insert(0, route);
    let client = client_of(&Authority::new(), service);
    let seen = get(client.outbound, "/reviews/1?x=%2F&y", "").await;
    assert!(seen.contains("GET /v2/1?x=%2F&y HTTP/1.1\r\n"), "{seen}");
    assert!(seen.to_ascii_lowercase().contains("host: reviews.internal\r\n"), "{seen}");
    // Another route's requests go as they came.
    let other = get(client.outbound, "/reviewsx", "").await;
    assert!(other.contains("GET /reviewsx HTTP/1.1\r\n") && other.contains("ost: server\r\n"), "{other}");
}

#[tokio::test]
async fn a_rewritten_request_is_tried_again_on_the_route_that_it_came_for() {
    let path = v1::PathChange { kind: Some(v1::path_change::Kind::Full("/elsewhere".into())) };
    let entry = v1::Match { path: Some(prefix("/reviews")), ..v1::Match::default() };
    let app = App::mirror().await;
    // Most attempts meet the endpoint where nobody listens first.
    let endpoints = vec![endpoint(nobody(), ""), endpoint(app.address, "")];
    let mut service = service(vec![endpoints, vec![]]);
    service.routes = vec![
        v1::Route {
            matches: vec![entry],
            backends: vec![backend(1, 0)],
            rewrite: Some(v1::Rewrite { path: Some(path), host: String::new() }),
            ..v1::Route::default()
        },
        v1::Route { backends: vec![backend(1, 1)], ..v1::Route::default() },
    ];
    let client = client_of(&Authority::new(), service);
    for _ in 0..20 {
        let seen = get(client.outbound, "/reviews/1", "").await;
        assert!(seen.contains("GET /elsewhere HTTP/1.1\r\n"), "{seen}");
    }
}
