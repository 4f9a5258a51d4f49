use super::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\naccess-control-allow-origin: *\r\n\r\nok";
const PAGE: &str = "Origin: https://shop.example\r\n";

fn cors() -> v1::Cors {
    v1::Cors {
        allow_origins: vec!["https://shop.example".into()],
        allow_methods: vec!["PUT".into()],
        allow_headers: vec!["x-token".into()],
        max_age_s: Some(3600),
        ..v1::Cors::default()
    }
}

/// A route for PUT alone.
async fn put() -> Sidecar {
    let entry = v1::Match { methods: vec!["PUT".into()], ..v1::Match::default() };
    let route =
        v1::Route { matches: vec![entry], backends: vec![backend(1, 0)], cors: Some(cors()), ..v1::Route::default() };
    routed(vec![route], &[APP]).await
}

fn preflight(method: &str) -> String {
    format!(
        "OPTIONS / HTTP/1.1\r\nHost: server\r\n{PAGE}Access-Control-Request-Method: {method}\r\nConnection: close\r\n\r\n"
    )
}

#[tokio::test]
async fn a_browser_that_asks_is_answered_by_the_proxy() {
    let client = put().await;
    let answer = talk(client.outbound, &preflight("PUT")).await;
    assert_eq!(status(&answer), 204);
    assert_eq!(value(&answer, "fairlead-proxy"), Some("cors-preflight"));
    assert_eq!(value(&answer, "access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(value(&answer, "access-control-allow-methods"), Some("PUT"));
    assert_eq!(value(&answer, "access-control-allow-headers"), Some("x-token"));
    assert_eq!(value(&answer, "access-control-max-age"), Some("3600"));
    // What the route is not about is the application's to answer.
    assert_eq!(value(&talk(client.outbound, &preflight("DELETE")).await, "fairlead-proxy"), None);
}

#[tokio::test]
async fn the_permission_is_the_policys_and_not_the_applications() {
    let client = put().await;
    let put = |origin: &str| format!("PUT / HTTP/1.1\r\nHost: server\r\n{origin}Connection: close\r\n\r\n");
    let answer = talk(client.outbound, &put(PAGE)).await;
    assert_eq!(status(&answer), 200);
    assert_eq!(value(&answer, "access-control-allow-origin"), Some("https://shop.example"));
    assert_eq!(value(&answer, "vary"), Some("origin"));
    let stranger = talk(client.outbound, &put("Origin: https://evil.example\r\n")).await;
    assert_eq!(status(&stranger), 200);
    assert_eq!(value(&stranger, "access-control-allow-origin"), None);
}

#[tokio::test]
async fn a_page_can_read_why_there_is_no_answer() {
    let mut service = service(vec![vec![]]);
    service.routes = vec![v1::Route { backends: vec![backend(1, 0)], cors: Some(cors()), ..v1::Route::default() }];
    let client = client_of(&Authority::new(), service);
    let answer = get(client.outbound, "/", PAGE).await;
    assert_eq!(value(&answer, "fairlead-proxy"), Some("no-endpoints"));
    assert_eq!(value(&answer, "access-control-allow-origin"), Some("https://shop.example"));
}
