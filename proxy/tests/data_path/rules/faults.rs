use std::time::Duration;

use tokio::time::Instant;

use super::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

async fn faulty(fault: v1::Fault, request_timeout_ms: u64) -> Sidecar {
    let route = v1::Route {
        backends: vec![backend(1, 0)],
        fault: Some(fault),
        request_timeout_ms,
        name: "drill".into(),
        ..v1::Route::default()
    };
    routed(whole(route), &[APP]).await
}

fn abort(share: u32) -> v1::Fault {
    v1::Fault { abort_share: share, abort_status: 503, abort_grpc_status: 8, ..v1::Fault::default() }
}

fn delay(ms: u64) -> v1::Fault {
    v1::Fault { delay_share: 1_000_000, delay_ms: ms, ..v1::Fault::default() }
}

#[tokio::test]
async fn requests_fail_on_purpose_and_say_so() {
    let client = faulty(abort(1_000_000), 0).await;
    let answer = get(client.outbound, "/", "").await;
    assert_eq!(status(&answer), 503);
    assert_eq!(value(&answer, "fairlead-proxy"), Some("fault-abort"));
    assert!(answer.contains("route drill"), "{answer}");
    let grpc = get(client.outbound, "/a.B/C", "Content-Type: application/grpc\r\n").await;
    assert_eq!((status(&grpc), value(&grpc, "grpc-status")), (200, Some("8")));
    client
        .counted(r#"fairlead_proxy_requests_total{direction="outbound",service="test/server:9080",tls="none",class="5xx",reason="fault-abort"} 1"#)
        .await;
}

#[tokio::test]
async fn about_as_many_fail_as_the_route_says() {
    let client = faulty(abort(250_000), 0).await;
    let mut failed = 0;
    for _ in 0..400 {
        if status(&get(client.outbound, "/", "").await) == 503 {
            failed += 1;
        }
    }
    // Five standard deviations of 100: once in two million runs by chance.
    assert!((56..=144).contains(&failed), "{failed} of 400");
}

#[tokio::test]
async fn requests_are_held_up_on_purpose_and_counted() {
    let client = faulty(delay(150), 0).await;
    let began = Instant::now();
    assert!(get(client.outbound, "/", "").await.ends_with("ok"));
    assert!(began.elapsed() >= Duration::from_millis(150));
    client.counted(r#"fairlead_proxy_fault_delays_total{direction="outbound",service="test/server:9080"} 1"#).await;
}

#[tokio::test]
async fn a_delay_does_not_outlast_the_routes_timeout() {
    let client = faulty(delay(60_000), 100).await;
    let answer = get(client.outbound, "/", "").await;
    assert_eq!(status(&answer), 504);
    assert_eq!(value(&answer, "fairlead-proxy"), Some("request-timeout"));
}

#[tokio::test]
async fn a_delay_does_not_outlast_the_callers_deadline() {
    let client = faulty(delay(60_000), 0).await;
    let answer = get(client.outbound, "/", "fairlead-deadline: 1\r\n").await;
    assert_eq!(value(&answer, "fairlead-proxy"), Some("request-timeout"));
    let call = "Content-Type: application/grpc\r\ngrpc-timeout: 100m\r\n";
    let answer = get(client.outbound, "/a.B/C", call).await;
    assert_eq!(value(&answer, "grpc-status"), Some("4"));
}
