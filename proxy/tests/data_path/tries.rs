//! Deadlines, and requests that are tried again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fairlead_proxy::identity::Alpn;
use fairlead_proxy_api::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::support::*;

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

fn careful() -> v1::Retry {
    v1::Retry { attempts: 2, gateway_errors: true, backoff_base_ms: 1, backoff_max_ms: 2, ..v1::Retry::default() }
}

fn one(app: &App) -> v1::Service {
    service(vec![vec![endpoint(app.address, "")]])
}

/// An application that never answers.
async fn silent() -> App {
    App::start(|mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(2 * SOON).await;
    })
    .await
}

/// Answers 503 to every first request of two, with their bodies told back otherwise. Bodies have a length.
async fn every_second() -> App {
    let count = Arc::new(AtomicUsize::new(0));
    App::start(move |mut stream| {
        let count = count.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                let head = head.to_lowercase();
                let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                stream.read_exact(&mut body).await.unwrap();
                if count.fetch_add(1, Relaxed).is_multiple_of(2) {
                    stream.write_all(BUSY.as_bytes()).await.unwrap();
                } else {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    stream.write_all(head.as_bytes()).await.unwrap();
                    stream.write_all(&body).await.unwrap();
                }
            }
        }
    })
    .await
}

async fn post(sidecar: &Sidecar, body: &str) -> String {
    let head =
        format!("POST / HTTP/1.1\r\nHost: server\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    talk(sidecar.outbound, &(head + body)).await
}

fn unix_millis() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test]
async fn what_is_left_reaches_the_next_application_as_a_time_of_its_own_clock() {
    let authority = Authority::new();
    let app = App::mirror().await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let mut service = service(vec![vec![endpoint(server.inbound, "server")]]);
    service.routes[0].request_timeout_ms = 5000;
    let client = client_of(&authority, service);
    let before = unix_millis();
    let response = get(client.outbound, "/", "fairlead-timeout: 1\r\n").await;
    assert_eq!(status(&response), 200, "what an application says in the proxies' words is not believed: {response}");
    let deadline: u128 =
        response.split("fairlead-deadline: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
    assert!((before + 4000..=unix_millis() + 5000).contains(&deadline), "{deadline} at {before}");
    assert!(!response.contains("fairlead-timeout"), "{response}");

    // Such an application calls on, late.
    let late = format!("fairlead-deadline: {}\r\n", unix_millis() - 1);
    let response = get(client.outbound, "/", &late).await;
    assert_eq!(status(&response), 504);
    assert!(response.contains("fairlead-proxy: request-timeout\r\n"), "{response}");
}

#[tokio::test]
async fn only_a_proxy_that_proved_who_it_is_sets_a_deadline() {
    let authority = Authority::new();
    let app = silent().await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Permissive);
    let config = authority.identity("client").client_config(&identity_of("server"), Alpn::Http1).unwrap();
    let tcp = connect(server.inbound).await;
    let name = server.inbound.ip().into();
    let mut proxy =
        TlsConnector::from(config).connect(rustls::pki_types::ServerName::IpAddress(name), tcp).await.unwrap();
    proxy.write_all(b"GET / HTTP/1.1\r\nHost: server\r\nfairlead-timeout: 50\r\n\r\n").await.unwrap();
    let mut head = [0; 12];
    tokio::time::timeout(SOON / 2, proxy.read_exact(&mut head)).await.expect("the deadline").unwrap();
    assert_eq!(&head, b"HTTP/1.1 504");
    server.counted(r#"fairlead_proxy_requests_total{direction="inbound",service="#).await;

    let mirror = App::mirror().await;
    let server = server_of(&authority, mirror.address, v1::MtlsMode::Permissive);
    let response =
        get(server.inbound, "/", "fairlead-timeout: 0\r\nfairlead-deadline: 5\r\nfairlead-mirror: 1\r\nx: 1\r\n").await;
    assert_eq!(status(&response), 200);
    assert!(response.contains("x: 1") && !response.contains("fairlead"), "{response}");
}

#[tokio::test]
async fn the_deadline_of_grpc_is_carried_on_and_kept() {
    let app = App::mirror().await;
    let client = client_of(&Authority::new(), one(&app));
    let call = "content-type: application/grpc\r\ngrpc-timeout: 30S\r\n";
    let response = get(client.outbound, "/", call).await;
    let told = response.split("grpc-timeout: ").nth(1).unwrap().split("\r\n").next().unwrap();
    let micros: u64 = told.strip_suffix('u').unwrap().parse().unwrap();
    assert!((20_000_000..30_000_000).contains(&micros), "{told}");
    assert!(!response.contains("fairlead-timeout"), "nobody there would believe it: {response}");

    let app = silent().await;
    let client = client_of(&Authority::new(), one(&app));
    let response = get(client.outbound, "/", "content-type: application/grpc\r\ngrpc-timeout: 100m\r\n").await;
    assert!(response.contains("grpc-status: 4\r\n"), "{response}");
}

#[tokio::test]
async fn a_try_that_takes_too_long_is_made_elsewhere() {
    let (hanging, app) = (silent().await, App::answering(OK).await);
    let mut service = service(vec![vec![endpoint(hanging.address, ""), endpoint(app.address, "")]]);
    service.routes[0].backend_request_timeout_ms = 50;
    service.routes[0].retry = Some(careful());
    let client = client_of(&Authority::new(), service.clone());
    for _ in 0..10 {
        assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    }
    client
        .counted(r#"fairlead_proxy_retries_total{direction="outbound",service="test/server:9080",cause="late"}"#)
        .await;

    service.routes[0].retry = None;
    service.endpoint_sets[0].endpoints.pop();
    let client = client_of(&Authority::new(), service);
    assert_eq!(status(&get(client.outbound, "/", "").await), 504);
}

#[tokio::test]
async fn an_answer_that_the_route_names_is_not_the_last() {
    let app = every_second().await;
    let mut service = one(&app);
    assert_eq!(status(&get(client_of(&Authority::new(), service.clone()).outbound, "/", "").await), 503);
    assert_eq!(status(&get(client_of(&Authority::new(), service.clone()).outbound, "/", "").await), 200);

    service.routes[0].retry = Some(careful());
    let client = client_of(&Authority::new(), service.clone());
    assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    client
        .counted(r#"fairlead_proxy_retries_total{direction="outbound",service="test/server:9080",cause="answered"} 1"#)
        .await;
    assert_eq!(status(&post(&client, "once").await), 503, "a POST may do harm twice");
    assert!(post(&client, "once").await.ends_with("once"));

    service.routes[0].retry.as_mut().unwrap().methods = vec!["POST".into()];
    let client = client_of(&Authority::new(), service);
    let response = post(&client, "twice if need be").await;
    assert!(response.ends_with("\r\n\r\ntwice if need be"), "{response}");
}

#[tokio::test]
async fn a_body_is_kept_for_another_try_up_to_a_bound() {
    let app = every_second().await;
    let mut service = one(&app);
    service.routes[0].retry = Some(v1::Retry { methods: vec!["POST".into()], ..careful() });
    let client = client_of(&Authority::new(), service);
    let fits = "x".repeat(60 * 1024);
    assert!(post(&client, &fits).await.ends_with(&fits));
    assert_eq!(status(&post(&client, &"x".repeat(70 * 1024)).await), 503);
    client
        .counted(
            r#"fairlead_proxy_retries_refused_total{direction="outbound",service="test/server:9080",reason="body"} 1"#,
        )
        .await;
}

#[tokio::test]
async fn the_budget_bounds_what_is_tried_again() {
    let app = App::answering(BUSY).await;
    let mut service = one(&app);
    service.routes[0].retry = Some(careful());
    service.retry_budget = Some(v1::RetryBudget { share: 100_000, min_per_second: 0 });
    let client = client_of(&Authority::new(), service);
    for _ in 0..20 {
        assert_eq!(status(&get(client.outbound, "/", "").await), 503);
    }
    let retries = r#"fairlead_proxy_retries_total{direction="outbound",service="test/server:9080",cause="answered"} "#;
    client.counted(&format!("{retries}2")).await;
    client
        .counted(r#"fairlead_proxy_retries_refused_total{direction="outbound",service="test/server:9080",reason="budget"} 20"#)
        .await;
}

#[tokio::test]
async fn a_call_of_grpc_is_made_again_where_its_status_says_so() {
    let count = Arc::new(AtomicUsize::new(0));
    let app = App::start(move |mut stream| {
        let count = count.clone();
        async move {
            while read_head(&mut stream).await.is_some() {
                let grpc_status = if count.fetch_add(1, Relaxed) == 0 { 14 } else { 0 };
                let response = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {grpc_status}\r\ncontent-length: 0\r\n\r\n"
                );
                stream.write_all(response.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let mut service = one(&app);
    service.routes[0].retry = Some(v1::Retry { gateway_errors: false, grpc: true, ..careful() });
    let client = client_of(&Authority::new(), service);
    let call = "POST /a.B/C HTTP/1.1\r\nHost: server\r\ncontent-type: application/grpc\r\ncontent-length: 0\r\nConnection: close\r\n\r\n";
    let response = talk(client.outbound, call).await;
    assert!(response.contains("grpc-status: 0\r\n"), "{response}");
}

#[tokio::test]
async fn a_stream_that_rests_is_cut_off_and_one_that_moves_is_not() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        if head.starts_with("GET /silent") {
            tokio::time::sleep(2 * SOON).await;
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream.write_all(b"1\r\nx\r\n").await.unwrap();
        }
        if head.starts_with("GET /stops") {
            tokio::time::sleep(2 * SOON).await;
        }
        stream.write_all(b"0\r\n\r\n").await.unwrap();
    })
    .await;
    let mut service = one(&app);
    service.routes[0].idle_timeout_ms = 400;
    let client = client_of(&Authority::new(), service);
    assert!(get(client.outbound, "/moves", "").await.ends_with("0\r\n\r\n"));
    let stopped = get(client.outbound, "/stops", "").await;
    assert!(stopped.ends_with("x\r\n") && status(&stopped) == 200, "{stopped}");
    let silent = get(client.outbound, "/silent", "").await;
    assert_eq!(status(&silent), 504);
    assert!(silent.contains("fairlead-proxy: idle-timeout\r\n"), "{silent}");
}
