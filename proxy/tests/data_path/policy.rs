use std::{sync::Arc, time::Duration};

use fairlead_proxy::{
    identity::Alpn,
    inbound::policy::{Plain, compile},
};
use fairlead_proxy_api::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};
use tokio_rustls::TlsConnector;

use crate::support::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp";

#[tokio::test]
async fn strict_resets_plain_callers_and_serves_authenticated_ones() {
    let app = App::answering(APP).await;
    let pair = pair(app.address);
    let mut plain = connect(pair.server.inbound).await;
    plain.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    let error = plain.read(&mut [0]).await.expect_err("a reset, not an end");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(app.connections(), 0);
    pair.server.counted(r#"fairlead_proxy_connections_refused_total{direction="inbound",reason="plaintext"} 1"#).await;
    assert_eq!(status(&get(pair.client.outbound, "/", "").await), 200);
}

#[tokio::test]
async fn permissive_serves_both() {
    let authority = Authority::new();
    let app = App::answering(APP).await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Permissive);
    let client = client_of(&authority, service(vec![vec![endpoint(server.inbound, "server")]]));
    assert!(get(server.inbound, "/", "").await.ends_with("app"));
    assert!(get(client.outbound, "/", "").await.ends_with("app"));
    for tls in ["none", "mutual"] {
        server
            .counted(&format!(
                r#"fairlead_proxy_connections_total{{direction="inbound",protocol="http1",tls="{tls}"}} 1"#
            ))
            .await;
    }
}

#[tokio::test]
async fn a_change_of_policy_ends_the_connections_that_it_no_longer_allows() {
    // Says half of an answer and goes on for ever.
    let app = App::start(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let answer = if head.starts_with("GET /endless") { "HTTP/1.1 200 OK\r\n\r\nand so on" } else { APP };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        std::future::pending::<()>().await;
    })
    .await;
    let authority = Authority::new();
    let server = server_of(&authority, app.address, v1::MtlsMode::Permissive);
    let proxied = client_of(&authority, service(vec![vec![endpoint(server.inbound, "server")]]));

    let mut resting = connect(server.inbound).await;
    resting.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    assert!(read_until(&mut resting, "app").await.unwrap().starts_with("HTTP/1.1 200"));
    let mut endless = connect(server.inbound).await;
    endless.write_all(b"GET /endless HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    assert!(read_until(&mut endless, "and so on").await.is_some());
    let mut opaque = connect(server.inbound).await;
    opaque.write_all(b"\x01 no http, GET /\r\n\r\n").await.unwrap();
    assert!(read_until(&mut opaque, "app").await.is_some());
    let mut authenticated = connect(proxied.outbound).await;
    authenticated.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    assert!(read_until(&mut authenticated, "app").await.is_some());

    server.workload.store(Arc::new(compile(None, workload(v1::MtlsMode::Strict)).unwrap()));
    let changed = Instant::now();
    for (name, caller) in [("resting", &mut resting), ("endless", &mut endless), ("opaque", &mut opaque)] {
        let mut rest = Vec::new();
        // In order or by a reset.
        let _ = tokio::time::timeout(SOON, caller.read_to_end(&mut rest))
            .await
            .unwrap_or_else(|_| panic!("{name} goes on"));
        assert!(!rest.ends_with(b"0\r\n\r\n"), "{name}: half an answer must not look like a whole one");
    }
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    server.counted(r#"fairlead_proxy_connections_refused_total{direction="inbound",reason="plaintext"} 3"#).await;

    authenticated.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    assert!(read_until(&mut authenticated, "app").await.unwrap().starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn no_connection_serves_requests_for_longer_than_its_certificate() {
    let authority = Authority::new();
    let app = App::answering(APP).await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let caller = authority.identity_for("client", &[], Duration::from_secs(3));
    let tls = caller.client_config(&identity_of("server"), Alpn::Http1).unwrap();
    let stream = connect(server.inbound).await;
    let mut stream = TlsConnector::from(tls).connect("ignored".try_into().unwrap(), stream).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    ended.expect("the proxy ends the connection").unwrap();
    assert_eq!(status(&String::from_utf8(answer).unwrap()), 200);
}

#[tokio::test]
async fn permissive_lets_a_plain_server_speak_first() {
    let app = App::start(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
    })
    .await;
    let server = server_of(&Authority::new(), app.address, v1::MtlsMode::Permissive);
    let mut client = connect(server.inbound).await;
    assert_eq!(read_until(&mut client, "\r\n").await.unwrap(), "220 ready\r\n");
}

#[tokio::test]
async fn malformed_plain_requests_get_400_from_the_proxy() {
    let app = App::answering(APP).await;
    let server = server_of(&Authority::new(), app.address, v1::MtlsMode::Permissive);
    let response = talk(server.inbound, "GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n").await;
    assert_eq!(status(&response), 400);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_foreign_certificate_is_refused_in_the_handshake_and_counted() {
    let app = App::answering(APP).await;
    let mesh = Authority::new();
    let server = server_of(&mesh, app.address, v1::MtlsMode::Permissive);
    // The same name under another root; it believes the server, but the server has no reason to believe it.
    let stranger = Pod {
        service: Some(v1::destination::Kind::Service(service(vec![vec![endpoint(server.inbound, "server")]]))),
        ..Pod::new(Authority::new().identity_that_trusts("client", &[&mesh]))
    }
    .start();
    let response = get(stranger.outbound, "/", "").await;
    assert!(status(&response) >= 500, "{response}");
    assert_eq!(app.connections(), 0);
    server.counted(r#"fairlead_proxy_handshakes_failed_total{direction="inbound",reason="certificate"}"#).await;
}

#[tokio::test]
async fn a_server_under_a_foreign_root_gets_no_request() {
    let app = App::answering(APP).await;
    let server = server_of(&Authority::new(), app.address, v1::MtlsMode::Permissive);
    let client = client_of(&Authority::new(), service(vec![vec![endpoint(server.inbound, "server")]]));
    let response = get(client.outbound, "/", "").await;
    assert_eq!(status(&response), 503);
    assert!(response.contains("fairlead-proxy: connect-failure"), "{response}");
    assert_eq!(app.connections(), 0);
    client.counted(r#"fairlead_proxy_handshakes_failed_total{direction="outbound",reason="certificate"}"#).await;
}

#[tokio::test]
async fn another_identity_than_the_expected_one_gets_no_request() {
    let authority = Authority::new();
    let app = App::answering(APP).await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let client = client_of(&authority, service(vec![vec![endpoint(server.inbound, "somebody-else")]]));
    let response = get(client.outbound, "/", "").await;
    assert_eq!(status(&response), 503);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn an_endpoint_without_a_proxy_is_not_sent_plain_bytes_where_an_identity_is_expected() {
    let app = App::start(|mut stream| async move {
        let mut first = [0];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first[0], 0x16, "a handshake and nothing else");
        stream.write_all(APP.as_bytes()).await.unwrap();
    })
    .await;
    let client = client_of(&Authority::new(), service(vec![vec![endpoint(app.address, "server")]]));
    let response = get(client.outbound, "/", "").await;
    assert_eq!(status(&response), 503, "{response}");
    assert!(app.connections() > 0);
}

#[tokio::test]
async fn a_canary_hands_plain_callers_to_stable_and_serves_authenticated_ones_itself() {
    let authority = Authority::new();
    let stable_app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nstable").await;
    let stable = server_of(&authority, stable_app.address, v1::MtlsMode::Strict);
    let canary_app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\ncanary").await;
    let port = |endpoints| v1::HandoverPort {
        port: canary_app.address.port().into(),
        endpoints,
        outlier_detection: Some(v1::OutlierDetection {
            consecutive_errors: 1,
            ejection_base_ms: 60_000,
            ejection_max_ms: 60_000,
            max_ejected: 500_000,
            ..v1::OutlierDetection::default()
        }),
    };
    let canary = |endpoints| {
        Pod {
            application: canary_app.address,
            workload: v1::Workload {
                handover: Some(v1::Handover { ports: vec![port(endpoints)] }),
                ..workload(v1::MtlsMode::Permissive)
            },
            ..Pod::new(authority.identity("server"))
        }
        .start()
    };
    let handing = canary(vec![endpoint(stable.inbound, "server")]);
    assert!(get(handing.inbound, "/", "").await.ends_with("stable"));
    handing.counted("fairlead_proxy_handovers_total 1").await;

    let client = client_of(&authority, service(vec![vec![endpoint(handing.inbound, "server")]]));
    assert!(get(client.outbound, "/", "").await.ends_with("canary"));

    // Of two the one that cannot be reached is found out by one caller, who does not notice.
    let half = canary(vec![endpoint(nobody(), "server"), endpoint(stable.inbound, "server")]);
    for _ in 0..8 {
        assert!(get(half.inbound, "/", "").await.ends_with("stable"));
    }
    let workload = half.workload.load();
    let Plain::HandOver(Some(set)) = workload.plain(canary_app.address.port()) else { panic!("no set") };
    assert_eq!(set.ejected().count(), 1);

    // Nobody to hand over to: refused rather than answered by the canary.
    let alone = canary(vec![]);
    assert_eq!(get(alone.inbound, "/", "").await, "");
    alone.counted(r#"fairlead_proxy_connections_refused_total{direction="inbound",reason="handover"} 1"#).await;
}

#[tokio::test]
async fn a_silent_caller_of_a_strict_port_is_not_let_near_the_application() {
    let app = App::answering(APP).await;
    let server = server_of(&Authority::new(), app.address, v1::MtlsMode::Strict);
    let _silent = connect(server.inbound).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_reset_and_cost_the_other_direction_nothing() {
    let app = App::answering(APP).await;
    let sidecar = Pod {
        application: app.address,
        service: Some(v1::destination::Kind::Service(service(vec![vec![endpoint(app.address, "")]]))),
        max_connections: 2,
        ..Pod::new(Authority::new().identity("server"))
    }
    .start();
    let from = async |caller: &str| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{caller}:0").parse().unwrap()).unwrap();
        // The reset may arrive before the connection is even used.
        let mut client = socket.connect(sidecar.inbound).await.ok()?;
        client.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.ok()?;
        read_until(&mut client, "app").await?;
        Some(client)
    };
    let _first = from("127.0.0.1").await.expect("there is room");
    assert!(from("127.0.0.1").await.is_none(), "one caller gets half");
    let _second = from("127.0.0.2").await.expect("others get the rest");
    assert!(from("127.0.0.3").await.is_none(), "nobody gets more");
    sidecar.counted(r#"fairlead_proxy_connections_refused_total{direction="inbound",reason="limit"} 2"#).await;
    assert_eq!(status(&get(sidecar.outbound, "/", "").await), 200);
}
