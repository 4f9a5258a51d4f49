//! Rate limits before the application.

use std::sync::Arc;

use fairlead_proxy::inbound::policy::compile;
use fairlead_proxy_api::v1;

use crate::support::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp";

/// So slow that a test sees no bucket fill again.
fn limit(port: u16, burst: u32, key: Vec<v1::rate_limit_key::Kind>) -> v1::Workload {
    let key = key.into_iter().map(|kind| v1::RateLimitKey { kind: Some(kind) }).collect();
    let limit = v1::RateLimit {
        name: "test/server/l".into(),
        port: port.into(),
        requests: 1,
        per_ms: 3_600_000,
        burst,
        key,
        matches: Vec::new(),
    };
    v1::Workload { rate_limits: vec![limit], ..workload(v1::MtlsMode::Permissive) }
}

#[tokio::test]
async fn each_caller_has_its_own_and_what_is_over_does_not_reach_the_application() {
    let app = App::answering(APP).await;
    let authority = Authority::new();
    let identity = v1::rate_limit_key::Kind::Identity(true);
    let workload = limit(app.address.port(), 2, vec![identity]);
    let server = Pod { application: app.address, workload, ..Pod::new(authority.identity("server")) }.start();
    let clients = ["client", "other"].map(|name| {
        let service = service(vec![vec![endpoint(server.inbound, "server")]]);
        let service = Some(v1::destination::Kind::Service(service));
        Pod { service, ..Pod::new(authority.identity(name)) }.start()
    });
    for client in &clients {
        for _ in 0..2 {
            assert_eq!(status(&get(client.outbound, "/", "").await), 200);
        }
        let refused = get(client.outbound, "/", "").await.to_ascii_lowercase();
        assert_eq!(status(&refused), 429, "{refused}");
        assert!(refused.contains("fairlead-proxy: rate-limited\r\n"), "{refused}");
        assert!(refused.contains("over the limit test/server/l"), "{refused}");
        let seconds: u64 =
            refused.split_once("retry-after: ").unwrap().1.split("\r\n").next().unwrap().parse().unwrap();
        assert!((1..=3600).contains(&seconds), "{seconds}");
    }
    // Plain callers have no identity and count together.
    let plain =
        [get(server.inbound, "/", "").await, get(server.inbound, "/", "").await, get(server.inbound, "/", "").await];
    assert_eq!(plain.map(|answer| status(&answer)), [200, 200, 429]);
    for (tls, count) in [("mutual", 2), ("none", 1)] {
        server
            .counted(&format!(
                r#"fairlead_proxy_requests_total{{direction="inbound",service="{}",tls="{tls}",class="4xx",reason="rate-limited"}} {count}"#,
                app.address.port()
            ))
            .await;
    }
}

#[tokio::test]
async fn a_grpc_caller_is_told_resource_exhausted() {
    let app = App::answering(APP).await;
    let authority = Authority::new();
    let header = v1::rate_limit_key::Kind::Header("x-tenant".into());
    let workload = limit(app.address.port(), 1, vec![header]);
    let server = Pod { application: app.address, workload, ..Pod::new(authority.identity("server")) }.start();
    let grpc = "content-type: application/grpc\r\nx-tenant: a\r\n";
    assert!(get(server.inbound, "/s/m", grpc).await.ends_with("app"));
    let refused = get(server.inbound, "/s/m", grpc).await.to_ascii_lowercase();
    assert_eq!(status(&refused), 200);
    assert!(refused.contains("grpc-status: 8\r\n") && refused.contains("retry-after: "), "{refused}");
    assert!(get(server.inbound, "/s/m", "x-tenant: b\r\n").await.ends_with("app"), "another tenant");
}

#[tokio::test]
async fn a_limit_holds_from_the_moment_it_is_set_and_lifting_it_frees() {
    let app = App::answering(APP).await;
    let pair = pair(app.address);
    let set = |workload| pair.server.workload.store(Arc::new(compile(None, workload).unwrap()));
    let mut connection = connect(pair.client.outbound).await;
    let mut ask = async || {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        connection.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        let head = read_head(&mut connection).await.unwrap().to_ascii_lowercase();
        let length: usize =
            head.split_once("content-length: ").unwrap().1.split("\r\n").next().unwrap().parse().unwrap();
        connection.read_exact(&mut vec![0; length]).await.unwrap();
        status(&head)
    };
    assert_eq!(ask().await, 200);
    set(limit(app.address.port(), 1, vec![]));
    assert_eq!([ask().await, ask().await], [200, 429]);
    set(workload(v1::MtlsMode::Permissive));
    assert_eq!(ask().await, 200);
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_round_a_limit_and_none_is_changed() {
    let app = App::mirror().await;
    let mut workload = limit(app.address.port(), 1, Vec::new());
    let prefix = v1::path_match::Kind::Prefix("/login".into());
    let path = Some(v1::PathMatch { kind: Some(prefix) });
    workload.rate_limits[0].matches = vec![v1::Match { path, ..v1::Match::default() }];
    let server = Pod { application: app.address, workload, ..Pod::new(Authority::new().identity("server")) }.start();
    let first = get(server.inbound, "/%6Cogin//x;y?z=/./", "").await;
    assert!(first.contains("GET /%6Cogin//x;y?z=/./ HTTP/1.1\r\n"), "it goes on as it came: {first}");
    for path in
        ["/login", "/log%69n", "//login", "/./login", "/x/../login", "/x%2f..%2flogin", "/login;x", "/%256Cogin"]
    {
        assert_eq!(status(&get(server.inbound, path, "").await), 429, "{path}");
    }
    for path in ["/", "/other", "/loginx", "/a%20b", "/x;login", "/x//login"] {
        assert_eq!(status(&get(server.inbound, path, "").await), 200, "{path}");
    }
}
