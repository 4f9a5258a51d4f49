use std::time::Duration;

use fairlead_proxy::telemetry::groups::Reported;
use fairlead_proxy_api::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

const HELLO: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Case-Kept: Yes\r\n\r\nhello";

#[tokio::test]
async fn a_request_goes_through_authenticated_and_as_it_was_written() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let response = talk(
        pair.client.outbound,
        "GET /a%2Fb/../c?x=%20y HTTP/1.1\r\nHost: Server:80\r\nX-MiXed: 1\r\nx-two: a\r\nx-two: b\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(status(&response), 200, "{response}");
    for line in
        ["GET /a%2Fb/../c?x=%20y HTTP/1.1\r\n", "Host: Server:80\r\n", "X-MiXed: 1\r\n", "x-two: a\r\nx-two: b\r\n"]
    {
        assert!(response.contains(line), "{line:?} in {response}");
    }
    pair.client
        .counted(r#"fairlead_proxy_requests_total{direction="outbound",service="test/server:9080",tls="mutual",class="2xx",reason=""} 1"#)
        .await;
    pair.server.counted(r#"fairlead_proxy_requests_total{direction="inbound""#).await;
}

#[tokio::test]
async fn the_case_of_response_headers_is_kept() {
    let app = App::answering(HELLO).await;
    let response = get(pair(app.address).client.outbound, "/", "").await;
    assert!(response.contains("X-Case-Kept: Yes\r\n"), "{response}");
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let app = App::answering(HELLO).await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    for _ in 0..5 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        let response = read_until(&mut client, "hello").await.unwrap();
        assert_eq!(status(&response), 200);
    }
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn chunks_and_trailers_pass_both_ways() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
        let body = read_until(&mut stream, "\r\n\r\n").await.unwrap();
        assert!(body.contains("request-sum: 7"), "{body}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: answer-sum\r\n\r\n3\r\nabc\r\n0\r\nanswer-sum: 8\r\n\r\n")
            .await
            .unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client
        .write_all(b"POST / HTTP/1.1\r\nHost: server\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: request-sum\r\n\r\n5\r\nhello\r\n0\r\nrequest-sum: 7\r\n\r\n")
        .await
        .unwrap();
    read_head(&mut client).await.unwrap();
    let body = read_until(&mut client, "\r\n\r\n").await.unwrap();
    assert!(body.contains("abc") && body.contains("answer-sum: 8"), "{body}");
}

#[tokio::test]
async fn responses_without_a_body_end_where_they_end() {
    let app = App::start(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let response = match head.split(' ').nth(1) {
                Some("/head") => "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
                Some("/204") => "HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
                _ => HELLO,
            };
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    for (request, expected) in [("HEAD /head", 200), ("GET /204", 204), ("GET /304", 304)] {
        client.write_all(format!("{request} HTTP/1.1\r\nHost: server\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_head(&mut client).await.unwrap();
        assert_eq!(status(&head), expected, "{request}");
        if expected == 200 {
            assert!(head.contains("content-length: 1000"), "{head}");
        }
    }
    client.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    let response = read_until(&mut client, "hello").await.unwrap();
    assert_eq!(status(&response), 200, "the connection is still in step");
}

#[tokio::test]
async fn a_client_that_waits_for_100_gets_it() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 4];
        stream.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"body");
        stream.write_all(HELLO.as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client
        .write_all(b"PUT / HTTP/1.1\r\nHost: server\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    let interim = read_head(&mut client).await.unwrap();
    assert_eq!(status(&interim), 100);
    client.write_all(b"body").await.unwrap();
    let response = read_until(&mut client, "hello").await.unwrap();
    assert_eq!(status(&response), 200);
}

#[tokio::test]
async fn a_websocket_is_joined_after_its_upgrade() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap().to_lowercase();
        assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
        stream
            .write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nserver speaks",
            )
            .await
            .unwrap();
        let mut said = [0; 13];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client
        .write_all(
            b"GET /chat HTTP/1.1\r\nHost: server\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        )
        .await
        .unwrap();
    let head = read_head(&mut client).await.unwrap();
    assert_eq!(status(&head), 101, "{head}");
    read_until(&mut client, "server speaks").await.unwrap();
    client.write_all(b"client speaks").await.unwrap();
    read_until(&mut client, "client speaks").await.unwrap();
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the end is passed on");
}

#[tokio::test]
async fn connect_makes_a_tunnel() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.starts_with("CONNECT db.example:5432 HTTP/1.1\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client.write_all(b"CONNECT db.example:5432 HTTP/1.1\r\nHost: db.example:5432\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut client).await.unwrap()), 200);
    client.write_all(b"ping").await.unwrap();
    read_until(&mut client, "ping").await.unwrap();
}

#[tokio::test]
async fn a_client_of_http_1_0_is_served() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert!(head.contains("HTTP/1.1\r\n") && head.to_lowercase().contains("host: "), "{head}");
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
            .await
            .unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let response = talk(pair(app.address).client.outbound, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.0 200") || response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(response.ends_with("\r\n\r\nhello"), "not chunked: {response}");
}

#[tokio::test]
async fn malformed_requests_get_400_and_the_connection_ends() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    for request in [
        "GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx : space before colon\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nx: folded\r\n  line\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let response = talk(pair.client.outbound, request).await;
        assert_eq!(status(&response), 400, "{request:?}: {response}");
    }
    assert_eq!(app.connections(), 0, "nothing of it reached the application");
}

#[tokio::test]
async fn a_target_in_absolute_form_decides_the_host() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let request = "GET http://u:p@one:80/x HTTP/1.1\r\nHost: two\r\nConnection: close\r\n\r\n";
    let response = talk(pair.client.outbound, request).await;
    assert!(response.contains("Host: one:80\r\n") && !response.contains("two"), "{response}");
}

#[tokio::test]
async fn a_response_that_says_its_length_twice_is_forwarded_whole() {
    let both = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n6\r\nwhole!\r\n0\r\n\r\n";
    let app = App::answering(both).await;
    let pair = pair(app.address);
    let response = get(pair.client.outbound, "/", "").await;
    assert!(!response.contains("content-length") && response.contains("whole!"), "{response}");
}

#[tokio::test]
async fn heads_beyond_the_limits_get_431() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let fits = format!("x-long: {}\r\n", "x".repeat(40 * 1024));
    assert_eq!(status(&get(pair.client.outbound, "/", &fits).await), 200);
    let long = format!("x-long: {}\r\n", "x".repeat(70 * 1024));
    assert_eq!(status(&get(pair.client.outbound, "/", &long).await), 431);
    let many = "x-more: 1\r\n".repeat(110);
    assert_eq!(status(&get(pair.client.outbound, "/", &many).await), 431);
}

#[tokio::test]
async fn a_route_s_timeout_is_a_deadline() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(SOON).await;
    })
    .await;
    let mut service = service(vec![vec![endpoint(app.address, "")]]);
    service.routes[0].request_timeout_ms = 100;
    let client = client_of(&Authority::new(), service);
    let response = get(client.outbound, "/", "").await;
    assert_eq!(status(&response), 504);
    assert!(response.contains("fairlead-proxy: request-timeout\r\n"), "{response}");
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_costs_no_request() {
    let app = App::answering(HELLO).await;
    let dead = endpoint(nobody(), "");
    let service = service(vec![vec![dead.clone(), endpoint(app.address, ""), dead]]);
    let client = client_of(&Authority::new(), service);
    for _ in 0..20 {
        let response = get(client.outbound, "/", "").await;
        assert_eq!(status(&response), 200, "{response}");
    }
}

#[tokio::test]
async fn a_proxy_whose_application_is_gone_costs_no_request() {
    let authority = Authority::new();
    let app = App::answering(HELLO).await;
    let live = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let dead = server_of(&authority, nobody(), v1::MtlsMode::Strict);
    let endpoints = vec![endpoint(dead.inbound, "server"), endpoint(live.inbound, "server")];
    let client = client_of(&authority, service(vec![endpoints]));
    for _ in 0..10 {
        let response = get(client.outbound, "/", "").await;
        assert_eq!(status(&response), 200, "{response}");
    }
}

#[tokio::test]
async fn a_connection_that_the_application_closes_while_it_rests_costs_no_request() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        // No announcement: the next request on this connection meets its end.
        stream.write_all(HELLO.as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    for _ in 0..20 {
        client.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        let response = read_until(&mut client, "hello").await.unwrap();
        assert_eq!(status(&response), 200, "{response}");
    }
}

#[tokio::test]
async fn when_nobody_can_be_reached_the_answer_says_so() {
    let client = client_of(&Authority::new(), service(vec![vec![endpoint(nobody(), "")]]));
    let response = get(client.outbound, "/", "").await;
    assert_eq!(status(&response), 503);
    assert!(response.contains("fairlead-proxy: connect-failure\r\n"), "{response}");
}

#[tokio::test]
async fn an_application_cannot_speak_for_the_mesh() {
    let app =
        App::answering("HTTP/1.1 503 Nope\r\nfairlead-proxy: connect-failure\r\ncontent-length: 4\r\n\r\nmine").await;
    let pair = pair(app.address);
    let response = get(pair.client.outbound, "/", "").await;
    assert_eq!(status(&response), 503);
    assert!(response.ends_with("mine") && !response.contains("fairlead-proxy"), "{response}");
    assert_eq!(app.connections(), 1, "asked once");

    let plain = client_of(&Authority::new(), service(vec![vec![endpoint(app.address, "")]]));
    let response = get(plain.outbound, "/", "").await;
    assert!(response.ends_with("mine") && !response.contains("fairlead-proxy"), "{response}");
}

#[tokio::test]
async fn a_backend_without_endpoints_gets_503_and_an_unresolved_one_500() {
    let app = App::answering(HELLO).await;
    let route = |name: &str, backend| v1::Route {
        matches: vec![v1::Match {
            path: Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Exact(format!("/{name}"))) }),
            ..v1::Match::default()
        }],
        backends: vec![backend],
        ..v1::Route::default()
    };
    let mut service = service(vec![vec![endpoint(app.address, "")], vec![]]);
    let unresolved =
        v1::Backend { weight: 1, target: Some(v1::backend::Target::Unresolved("subset v9 is not defined".into())) };
    service
        .routes
        .splice(0..0, [route("empty", backend(1, 1)), route("unresolved", unresolved), route("zero", backend(0, 0))]);
    let client = client_of(&Authority::new(), service);
    for (path, expected, reason) in
        [("/empty", 503, "no-endpoints"), ("/unresolved", 500, "unresolved-backend"), ("/zero", 503, "no-endpoints")]
    {
        let response = get(client.outbound, path, "").await;
        assert_eq!(status(&response), expected, "{path}");
        assert!(response.contains(&format!("fairlead-proxy: {reason}\r\n")), "{response}");
    }
    let response = get(client.outbound, "/unresolved", "").await;
    assert!(response.contains("subset v9 is not defined"), "{response}");
    assert_eq!(status(&get(client.outbound, "/", "").await), 200);
}

#[tokio::test]
async fn headers_choose_the_route_and_weights_the_share() {
    let v1_app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv1").await;
    let v2_app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nv2").await;
    let mut service = service(vec![vec![endpoint(v1_app.address, "")], vec![endpoint(v2_app.address, "")]]);
    service.routes[0].backends = vec![backend(80, 0), backend(20, 1)];
    service.routes.insert(
        0,
        v1::Route {
            matches: vec![v1::Match {
                headers: vec![v1::HeaderMatch {
                    name: "end-user".into(),
                    kind: Some(v1::header_match::Kind::Exact("jason".into())),
                    not: false,
                }],
                ..v1::Match::default()
            }],
            backends: vec![backend(1, 1)],
            ..v1::Route::default()
        },
    );
    let client = client_of(&Authority::new(), service);
    for _ in 0..10 {
        assert!(get(client.outbound, "/", "end-user: jason\r\n").await.ends_with("v2"));
    }
    let mut stream = connect(client.outbound).await;
    let mut second = 0;
    for _ in 0..1000 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        read_head(&mut stream).await.unwrap();
        let mut version = [0; 2];
        stream.read_exact(&mut version).await.unwrap();
        second += usize::from(&version == b"v2");
    }
    // Six standard deviations either side of 200.
    assert!((124..276).contains(&second), "{second} of 1000 went to v2");
}

#[tokio::test]
async fn a_release_counts_what_each_side_answered() {
    let good = App::answering(HELLO).await;
    let bad = App::answering("HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n").await;
    let group = |address, group: &str| v1::Endpoint { group: group.into(), ..endpoint(address, "") };
    let mut service = service(vec![vec![group(good.address, "stable")], vec![group(bad.address, "canary")]]);
    service.routes[0].backends = vec![backend(50, 0), backend(50, 1)];
    let client = client_of(&Authority::new(), service);
    for _ in 0..20 {
        get(client.outbound, "/", "").await;
    }
    let counts = client.telemetry.groups.changed(&mut Reported::default());
    let of = |name: &str| counts.iter().find(|counts| counts.group == name).unwrap();
    let (stable, canary) = (of("stable"), of("canary"));
    assert_eq!(stable.requests + canary.requests, 20);
    assert_eq!(stable.failures, 0);
    assert_eq!(canary.failures, canary.requests);
    assert_eq!(stable.latency.iter().sum::<u64>(), stable.requests);
}

#[tokio::test]
async fn a_release_that_hangs_is_counted_when_its_callers_give_up() {
    let silent = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        std::future::pending::<()>().await;
    })
    .await;
    let canary = v1::Endpoint { group: "canary".into(), ..endpoint(silent.address, "") };
    let client = client_of(&Authority::new(), service(vec![vec![canary]]));
    for patience in [50, 1200] {
        let mut caller = connect(client.outbound).await;
        caller.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(patience)).await;
    }
    let counted = async {
        loop {
            let counts = client.telemetry.groups.changed(&mut Reported::default());
            if let [canary] = counts.as_slice() {
                return (canary.requests, canary.failures);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert_eq!(tokio::time::timeout(SOON, counted).await.unwrap(), (1, 1), "who left at once is no evidence");
}

#[tokio::test]
async fn an_application_that_breaks_connections_does_not_attract_requests_by_being_fast() {
    let authority = Authority::new();
    let broken = App::start(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let slow = App::start(|mut stream| async move {
        while read_head(&mut stream).await.is_some() {
            tokio::time::sleep(Duration::from_millis(30)).await;
            stream.write_all(HELLO.as_bytes()).await.unwrap();
        }
    })
    .await;
    let servers = [broken.address, slow.address].map(|app| server_of(&authority, app, v1::MtlsMode::Strict));
    let endpoints = servers.iter().map(|server| endpoint(server.inbound, "server")).collect();
    let client = client_of(&authority, service(vec![endpoints]));
    let mut answered = 0;
    for _ in 0..20 {
        // Not idempotent, so nobody tries again.
        let post = "POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        answered += usize::from(status(&talk(client.outbound, post).await) == 200);
    }
    assert!(answered >= 18, "{answered} of 20");
}

#[tokio::test]
async fn a_pod_that_calls_itself_is_not_met_by_a_handshake() {
    let app = App::answering(HELLO).await;
    let authority = Authority::new();
    let sidecar = Pod {
        service: Some(v1::destination::Kind::Service(service(vec![vec![endpoint(app.address, "client")]]))),
        own_addresses: vec![app.address.ip()],
        ..Pod::new(authority.identity("client"))
    }
    .start();
    assert_eq!(status(&get(sidecar.outbound, "/", "").await), 200);
}

#[tokio::test]
async fn what_is_in_flight_is_finished_while_the_proxy_drains() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(HELLO.as_bytes()).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let outbound = pair.client.outbound;
    let request = tokio::spawn(async move { get(outbound, "/", "").await });
    tokio::time::sleep(Duration::from_millis(100)).await;

    let inbound = pair.server.inbound;
    let drain = tokio::spawn(pair.server.proxy.drain(SOON));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(tokio::net::TcpStream::connect(inbound).await.is_err(), "no new connections");
    assert_eq!(status(&request.await.unwrap()), 200);
    tokio::time::timeout(Duration::from_secs(3), drain)
        .await
        .expect("the drain ends when nothing is left, not at its limit")
        .unwrap();
}

#[tokio::test]
async fn bodies_stream_and_are_not_gathered() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await.unwrap();
        let mut more = [0; 4];
        // Comes only if the client has seen the first part.
        stream.read_exact(&mut more).await.unwrap();
        stream.write_all(b"4\r\nlast\r\n0\r\n\r\n").await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 4\r\n\r\n").await.unwrap();
    read_until(&mut client, "first").await.unwrap();
    client.write_all(b"more").await.unwrap();
    read_until(&mut client, "last").await.unwrap();
}
