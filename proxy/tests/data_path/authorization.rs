//! Rules of `PeerAuth` as callers meet them.

use std::{sync::Arc, time::Duration};

use fairlead_proxy::inbound::policy::compile;
use fairlead_proxy_api::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::support::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\napp";

fn rule(
    name: &str,
    action: v1::AuthorizationAction,
    from: Option<v1::AuthorizationSource>,
    to: Option<v1::AuthorizationOperation>,
) -> v1::AuthorizationRule {
    v1::AuthorizationRule {
        name: format!("test/server/{name}"),
        action: action.into(),
        from: from.into_iter().collect(),
        to: to.into_iter().collect(),
        when: Vec::new(),
    }
}

fn allow(name: &str, from: Option<v1::AuthorizationSource>, paths: &[&str]) -> v1::AuthorizationRule {
    rule(name, v1::AuthorizationAction::Allow, from, on(paths))
}

fn deny(name: &str, paths: &[&str]) -> v1::AuthorizationRule {
    rule(name, v1::AuthorizationAction::Deny, None, on(paths))
}

fn on(paths: &[&str]) -> Option<v1::AuthorizationOperation> {
    let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
    (!paths.is_empty()).then(|| v1::AuthorizationOperation { paths, ..v1::AuthorizationOperation::default() })
}

fn account(name: &str) -> v1::AuthorizationSource {
    v1::AuthorizationSource { service_accounts: vec![format!("test/{name}")], ..v1::AuthorizationSource::default() }
}

fn ruled(mode: v1::MtlsMode, rules: Vec<v1::AuthorizationRule>) -> v1::Workload {
    v1::Workload {
        authorization: Some(v1::Authorization { rules, ..v1::Authorization::default() }),
        trust_domain: "cluster.local".into(),
        ..workload(mode)
    }
}

/// A server with these rules and clients of two accounts.
struct Place {
    server: Sidecar,
    client: Sidecar,
    other: Sidecar,
}

fn place(app: &App, workload: v1::Workload) -> Place {
    let authority = Authority::new();
    let server = Pod { application: app.address, workload, ..Pod::new(authority.identity("server")) }.start();
    let kind = || Some(v1::destination::Kind::Service(service(vec![vec![endpoint(server.inbound, "server")]])));
    let client = Pod { service: kind(), ..Pod::new(authority.identity("client")) }.start();
    let other = Pod { service: kind(), ..Pod::new(authority.identity("other")) }.start();
    Place { server, client, other }
}

#[tokio::test]
async fn who_is_not_listed_gets_403_and_no_word_of_the_rules() {
    let app = App::answering(APP).await;
    let rules =
        vec![allow("client-reads", Some(account("client")), &["/ratings/*"]), deny("not-admin", &["/ratings/admin"])];
    let Place { server, client, other } = place(&app, ruled(v1::MtlsMode::Permissive, rules));
    assert_eq!(status(&get(client.outbound, "/ratings/1", "").await), 200);
    let connections = app.connections();
    for (whose, at, path) in [
        ("another account", other.outbound, "/ratings/1"),
        ("another path", client.outbound, "/reviews/1"),
        ("denied", client.outbound, "/ratings/admin"),
        ("plain", server.inbound, "/ratings/1"),
    ] {
        let answer = get(at, path, "").await;
        assert_eq!(status(&answer), 403, "{whose}: {answer}");
        assert!(answer.contains("fairlead-proxy: policy-denied"), "{whose}: {answer}");
        assert!(!answer.contains("client-reads") && !answer.contains("not-admin"), "{whose}: {answer}");
        let grpc = get(at, path, "content-type: application/grpc\r\n").await;
        assert!(grpc.contains("grpc-status: 7"), "{whose}: {grpc}");
    }
    assert_eq!(app.connections(), connections, "the application hears nothing of them");
    let rule = |rule: &str, count: u8| {
        format!(r#"fairlead_proxy_authorization_total{{outcome="denied",rule="{rule}"}} {count}"#)
    };
    server.counted(&rule("default", 6)).await;
    server.counted(&rule("test/server/not-admin", 2)).await;
}

#[tokio::test]
async fn no_spelling_of_a_path_gets_round_a_rule() {
    let app = App::answering(APP).await;
    let denies = place(&app, ruled(v1::MtlsMode::Permissive, vec![deny("admin", &["/admin", "/admin/*"])]));
    let allows = place(&app, ruled(v1::MtlsMode::Permissive, vec![allow("public", None, &["/public/*"])]));
    for path in [
        "/admin",
        "//admin",
        "/%61dmin",
        "/./admin",
        "/public/../admin",
        "/public/%2e%2e/admin",
        "/public/..%2fadmin",
        "/public/..;/admin",
        "/\\admin",
        "/public/%5c..%5cadmin",
        "/admin;x=1",
        "/%2561dmin",
        "/admin%00",
    ] {
        // As the caller's proxy passes it on, and from a stranger.
        for (at, open) in
            [(denies.client.outbound, allows.client.outbound), (denies.server.inbound, allows.server.inbound)]
        {
            let answer = get(at, path, "").await;
            assert!(matches!(status(&answer), 400 | 403), "deny {path}: {answer}");
            let answer = get(open, path, "").await;
            assert!(matches!(status(&answer), 400 | 403), "allow {path}: {answer}");
        }
    }
    assert_eq!(app.connections(), 0);
    assert_eq!(status(&get(denies.client.outbound, "/administrator", "").await), 200);
    assert_eq!(status(&get(allows.client.outbound, "/public/a%20b", "").await), 200);
    let absolute =
        talk(denies.server.inbound, "GET http://server/admin HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&absolute.await), 403);
}

#[tokio::test]
async fn bytes_meet_every_deny_and_no_allow_that_needs_http() {
    let app = App::start(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let ports = |ports: &[u32]| v1::AuthorizationOperation { ports: ports.to_vec(), ..Default::default() };
    let port = u32::from(app.address.port());
    let allows = |operation| {
        let rule = rule("r", v1::AuthorizationAction::Allow, Some(account("client")), Some(operation));
        place(&app, ruled(v1::MtlsMode::Permissive, vec![rule]))
    };
    let speaks = async |address| {
        let mut stream = connect(address).await;
        let mut first = [0; 3];
        match tokio::time::timeout(Duration::from_secs(2), stream.read_exact(&mut first)).await {
            Ok(Ok(_)) => true,
            // A reset, or silence: nobody is told what the server says first.
            Ok(Err(_)) | Err(_) => false,
        }
    };
    let by_port = allows(ports(&[port]));
    assert!(speaks(by_port.client.outbound).await);
    assert!(!speaks(by_port.other.outbound).await);
    assert!(!speaks(by_port.server.inbound).await, "a plain caller is not listed");
    by_port.server.counted(r#"fairlead_proxy_connections_refused_total{direction="inbound",reason="policy"}"#).await;
    assert!(!speaks(allows(ports(&[1])).client.outbound).await);
    let by_path = v1::AuthorizationOperation { paths: vec!["*".into()], ..ports(&[port]) };
    assert!(!speaks(allows(by_path).client.outbound).await);
    let denied = place(&app, ruled(v1::MtlsMode::Permissive, vec![deny("admin", &["/admin"])]));
    assert!(!speaks(denied.client.outbound).await && !speaks(denied.server.inbound).await);
}

#[tokio::test]
async fn a_refused_connection_is_reset() {
    let app = App::answering(APP).await;
    let nobody = v1::Authorization { unmatched: v1::AuthorizationEffect::Deny.into(), ..v1::Authorization::default() };
    let closed = v1::Workload { authorization: Some(nobody), ..workload(v1::MtlsMode::Permissive) };
    let Place { server, client, .. } = place(&app, closed);
    for address in [server.inbound, client.outbound] {
        let mut stream = connect(address).await;
        stream.write_all(b"\x01 no http").await.unwrap();
        let error = stream.read(&mut [0]).await.expect_err("a reset, not an end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn what_is_only_rehearsed_is_counted_and_let_in() {
    let app = App::answering(APP).await;
    let rehearsal = v1::Rehearsal {
        mtls: v1::MtlsMode::Strict.into(),
        authorization: ruled(v1::MtlsMode::Strict, vec![allow("client", Some(account("client")), &[])]).authorization,
        ..v1::Rehearsal::default()
    };
    let audit = rule("seen", v1::AuthorizationAction::Audit, None, on(&["/seen"]));
    let workload = v1::Workload { rehearsal: Some(rehearsal), ..ruled(v1::MtlsMode::Permissive, vec![audit]) };
    let Place { server, client, other } = place(&app, workload);
    for address in [client.outbound, other.outbound, server.inbound] {
        assert_eq!(status(&get(address, "/seen", "").await), 200);
    }
    for (outcome, rule, count) in
        [("would-deny", "default", 1), ("would-deny", "mtls", 1), ("audited", "test/server/seen", 3)]
    {
        let line = format!(r#"fairlead_proxy_authorization_total{{outcome="{outcome}",rule="{rule}"}} {count}"#);
        server.counted(&line).await;
    }
    let text = server.telemetry.render().unwrap();
    assert!(!text.contains(r#"outcome="denied""#), "{text}");
}

#[tokio::test]
async fn nobody_is_let_in_before_the_operator_has_spoken() {
    let app = App::answering(APP).await;
    let Place { server, client, .. } = place(&app, workload(v1::MtlsMode::Permissive));
    server.workload.store(Arc::default());
    assert_eq!(status(&get(client.outbound, "/", "").await), 403);
    assert_eq!(app.connections(), 0);
}

/// Says the beginning of an answer, or agrees to an upgrade, and then nothing.
async fn endless() -> App {
    App::start(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let answer = match head.split(' ').nth(1) {
                Some("/silent") => "",
                Some("/upgrade") => {
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nand so on"
                }
                _ => "HTTP/1.1 200 OK\r\n\r\nand so on",
            };
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
        let _ = stream.read(&mut [0]).await;
    })
    .await
}

#[tokio::test]
async fn a_change_of_rules_ends_what_they_no_longer_allow_and_nothing_else() {
    let app = endless().await;
    let all = || vec![allow("all", None, &[])];
    let place = place(&app, ruled(v1::MtlsMode::Permissive, all()));
    let ask = async |address, head: &str, until: &str| {
        let mut stream = connect(address).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        if !until.is_empty() {
            read_until(&mut stream, until).await.unwrap();
        }
        stream
    };
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: server\r\n\r\n");
    let upgrade = "GET /upgrade HTTP/1.1\r\nHost: server\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let mut ended: Vec<(&str, TcpStream)> = Vec::new();
    let other = place.other.outbound;
    ended.push(("an answer", ask(other, &get("/endless"), "and so on").await));
    let silent = "GET /silent HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
    ended.push(("a question", ask(other, silent, "").await));
    ended.push(("an upgrade", ask(other, upgrade, "and so on").await));
    ended.push(("a plain answer", ask(place.server.inbound, &get("/endless"), "and so on").await));
    ended.push((
        "an answer of a path that is denied now",
        ask(place.client.outbound, &get("/denied"), "and so on").await,
    ));
    let mut kept = ask(place.client.outbound, &get("/endless"), "and so on\r\n").await;
    // The silent one has no answer that says that it was asked.
    tokio::time::sleep(Duration::from_millis(100)).await;

    let rules = vec![allow("client", Some(account("client")), &[]), deny("path", &["/denied"])];
    place.server.workload.store(Arc::new(compile(None, ruled(v1::MtlsMode::Permissive, rules)).unwrap()));
    let changed = Instant::now();
    for (name, mut stream) in ended {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        let _ = end.unwrap_or_else(|_| panic!("{name} goes on"));
        let rest = String::from_utf8_lossy(&rest);
        if name == "a question" {
            assert_eq!(status(&rest), 403, "{rest}");
        } else {
            assert!(!rest.ends_with("0\r\n\r\n"), "{name}: half an answer must not look like a whole one");
        }
        assert!(changed.elapsed() < Duration::from_secs(1), "{name}: {:?}", changed.elapsed());
    }
    let silence = tokio::time::timeout(Duration::from_millis(300), kept.read(&mut [0])).await;
    assert!(silence.is_err(), "what is still allowed goes on: {silence:?}");
    place.server.counted(r#"fairlead_proxy_cut_off_total{direction="inbound",service=""#).await;
}

#[tokio::test]
async fn a_change_of_rules_ends_bytes_as_well() {
    let app = App::start(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let place = place(&app, ruled(v1::MtlsMode::Permissive, vec![allow("all", None, &[])]));
    let mut streams = Vec::new();
    for address in [place.other.outbound, place.server.inbound, place.client.outbound] {
        let mut stream = connect(address).await;
        read_until(&mut stream, "\r\n").await.unwrap();
        streams.push(stream);
    }
    let mut kept = streams.pop().unwrap();
    let rules = vec![allow("client", Some(account("client")), &[])];
    place.server.workload.store(Arc::new(compile(None, ruled(v1::MtlsMode::Permissive, rules)).unwrap()));
    let changed = Instant::now();
    for mut stream in streams {
        let end = tokio::time::timeout(SOON, stream.read(&mut [0])).await.expect("it ends");
        assert_eq!(end.expect_err("by a reset").kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(changed.elapsed() < Duration::from_secs(1), "{:?}", changed.elapsed());
    let silence = tokio::time::timeout(Duration::from_millis(300), kept.read(&mut [0])).await;
    assert!(silence.is_err(), "what is still allowed goes on: {silence:?}");
}

#[tokio::test]
async fn whom_a_canary_lets_in_the_running_version_does_too_and_nobody_else() {
    let app = App::start(|mut stream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let plain = Some(v1::AuthorizationSource { unauthenticated: true, ..v1::AuthorizationSource::default() });
    let rules = || vec![rule("plain", v1::AuthorizationAction::Allow, plain.clone(), None)];
    let stable = |from: &[[u8; 4]]| v1::Workload {
        identity: identity_of("server").to_string(),
        handovers_from: from.iter().map(|ip| ip.to_vec()).collect(),
        ..ruled(v1::MtlsMode::Strict, rules())
    };
    let authority = Authority::new();
    let started =
        |workload| Pod { application: app.address, workload, ..Pod::new(authority.identity("server")) }.start();
    let speaks = async |stable: &Sidecar, name: &str| {
        let port = v1::HandoverPort {
            port: app.address.port().into(),
            endpoints: vec![endpoint(stable.inbound, "server")],
            outlier_detection: None,
        };
        let handover = Some(v1::Handover { ports: vec![port] });
        let workload = v1::Workload { handover, ..ruled(v1::MtlsMode::Permissive, rules()) };
        let canary = Pod { application: app.address, workload, ..Pod::new(authority.identity(name)) }.start();
        let mut stream = connect(canary.inbound).await;
        let mut first = [0; 3];
        matches!(tokio::time::timeout(SOON, stream.read_exact(&mut first)).await, Ok(Ok(_)))
    };
    let handed = started(stable(&[[127, 0, 0, 1]]));
    assert!(speaks(&handed, "server").await);
    assert!(!speaks(&started(stable(&[])), "server").await, "no release is under way");
    assert!(!speaks(&started(stable(&[[127, 0, 0, 2]])), "server").await, "from elsewhere");
    let other = started(v1::Workload { identity: identity_of("other").to_string(), ..stable(&[[127, 0, 0, 1]]) });
    assert!(!speaks(&other, "server").await, "under another identity");
}

#[test]
fn rules_that_this_proxy_does_not_understand_are_refused_and_not_left_out() {
    let mut unknown = allow("r", None, &[]);
    unknown.action = 99;
    let empty_source = rule("r", v1::AuthorizationAction::Allow, Some(v1::AuthorizationSource::default()), None);
    let to = Some(v1::AuthorizationOperation::default());
    let empty_operation = rule("r", v1::AuthorizationAction::Allow, None, to);
    for rule in [unknown, empty_source, empty_operation] {
        let error = compile(None, ruled(v1::MtlsMode::Strict, vec![rule])).unwrap_err();
        assert!(error.contains("test/server/r"), "{error}");
    }
}
