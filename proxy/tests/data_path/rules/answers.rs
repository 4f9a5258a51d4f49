use super::*;

#[tokio::test]
async fn a_caller_is_redirected_without_an_endpoint() {
    let path = v1::PathChange { kind: Some(v1::path_change::Kind::Full("/new".into())) };
    let redirect = Some(v1::Redirect {
        scheme: "https".into(),
        host: "example.org".into(),
        port: 8443,
        path: Some(path),
        status: 308,
    });
    let client = routed(whole(v1::Route { redirect, ..v1::Route::default() }), &[""]).await;
    let answer = get(client.outbound, "/old?x=1", "").await;
    assert_eq!(status(&answer), 308);
    assert_eq!(value(&answer, "location"), Some("https://example.org:8443/new?x=1"));
    assert_eq!(value(&answer, "fairlead-proxy"), Some("redirect"));
    client
        .counted(r#"fairlead_proxy_requests_total{direction="outbound",service="test/server:9080",tls="none",class="3xx",reason="redirect"} 1"#)
        .await;
}

#[tokio::test]
async fn a_route_responds_itself() {
    let respond = Some(v1::Respond { status: 418, body: "short and stout".into() });
    let response_headers = v1::HeaderChanges { set: vec![header("content-type", "text/tea")], ..Default::default() };
    let route = v1::Route { respond, response_headers: Some(response_headers), ..v1::Route::default() };
    let client = routed(whole(route), &[""]).await;
    let answer = get(client.outbound, "/", "").await;
    assert_eq!(status(&answer), 418);
    assert_eq!(value(&answer, "fairlead-proxy"), Some("respond"));
    assert_eq!(value(&answer, "content-type"), Some("text/tea"));
    assert!(answer.ends_with("\r\n\r\nshort and stout"), "{answer}");
    let head = talk(client.outbound, "HEAD / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n").await;
    assert_eq!(status(&head), 418);
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn a_caller_of_grpc_gets_a_status_of_grpc() {
    let respond = Some(v1::Respond { status: 403, body: "not you".into() });
    let client = routed(whole(v1::Route { respond, ..v1::Route::default() }), &[""]).await;
    let answer = get(client.outbound, "/a.B/C", "Content-Type: application/grpc\r\n").await;
    assert_eq!(status(&answer), 200);
    assert_eq!(value(&answer, "grpc-status"), Some("7"));
    assert_eq!(value(&answer, "grpc-message"), Some("not you"));
}
