//! The rules of routes where callers and endpoints speak HTTP/2. What the rules do is shown over HTTP/1 beside this; here, that they do the same
//! with heads that are no lines.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2::SendRequest};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};

use super::*;
use crate::http2::{self, Body};

/// Method, target, and lines.
type Asked<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);

/// Lines as HTTP/1 writes them.
fn written(headers: &HeaderMap) -> String {
    let pieces = headers.iter().flat_map(|(name, value)| [name.as_str(), ": ", value.to_str().unwrap(), "\r\n"]);
    pieces.collect()
}

/// An application that answers `name` and the request's head, as HTTP/1 would write both, and tells what it was sent.
async fn echo(name: &'static str, seen: mpsc::UnboundedSender<String>) -> App {
    http2::app(move |request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let line = format!("{name} {} {} {:?}", head.method, head.uri, head.version);
            let text = format!("{line}\r\n{}\r\n{}", written(&head.headers), String::from_utf8_lossy(&body));
            let _ = seen.send(text.clone());
            Response::builder().header("content-type", "text/plain").body(Full::from(text).boxed()).unwrap()
        }
    })
    .await
}

/// A client whose requests meet one route, with an application for each of two sets; and what these are sent.
async fn routed_http2(route: v1::Route) -> (SendRequest<Body>, Sidecar, mpsc::UnboundedReceiver<String>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let sets = [echo("a", sender.clone()).await, echo("b", sender).await];
    let mut service = service(sets.iter().map(|app| vec![endpoint(app.address, "")]).collect());
    let mut routes = whole(route);
    if routes[0].backends.is_empty() && routes[0].redirect.is_none() && routes[0].respond.is_none() {
        routes[0].backends = vec![backend(1, 0)];
    }
    service.routes.splice(0..0, routes);
    let sidecar = client_of(&Authority::new(), service);
    (http2::client(sidecar.outbound).await, sidecar, seen)
}

/// One request, and its answer as HTTP/1 would write it.
async fn ask(client: &mut SendRequest<Body>, (method, target, lines): Asked<'_>, body: &'static str) -> String {
    let mut request = Request::builder().method(method).uri(format!("http://server:9080{target}"));
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::from(Bytes::from_static(body.as_bytes())).boxed()).unwrap();
    let answer = timeout(SOON, client.send_request(request)).await.unwrap().unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    let head = format!("HTTP/2 {}\r\n{}", answer.status().as_u16(), written(answer.headers()));
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    format!("{head}\r\n{}", String::from_utf8_lossy(&body))
}

fn changes(remove: &str, set: (&str, &str), add: (&str, &str)) -> v1::HeaderChanges {
    let (remove, set, add) = (vec![remove.into()], vec![header(set.0, set.1)], vec![header(add.0, add.1)]);
    v1::HeaderChanges { remove, set, add }
}

fn path(kind: v1::path_change::Kind) -> v1::PathChange {
    v1::PathChange { kind: Some(kind) }
}

const GRPC: (&str, &str) = ("content-type", "application/grpc");
const PAGE: (&str, &str) = ("origin", "https://shop.example");

#[tokio::test]
async fn each_rule_does_what_it_does_over_http1() {
    let none = v1::Route::default;
    let abort = v1::Fault { abort_share: 1_000_000, abort_status: 503, abort_grpc_status: 8, ..v1::Fault::default() };
    let cors =
        v1::Cors { allow_origins: vec![PAGE.1.into()], allow_methods: vec!["PUT".into()], ..v1::Cors::default() };
    let preflight: &[_] = &[PAGE, ("access-control-request-method", "PUT")];
    let respond = v1::Respond { status: 418, body: "short and stout".into() };
    let redirect = v1::Redirect { scheme: "https".into(), status: 308, ..v1::Redirect::default() };
    let elsewhere = v1::Redirect {
        host: "example.org".into(),
        port: 8443,
        path: Some(path(v1::path_change::Kind::Full("/new".into()))),
        status: 302,
        ..v1::Redirect::default()
    };
    let rewrite =
        v1::Rewrite { path: Some(path(v1::path_change::Kind::Prefix("/v2".into()))), host: "internal:81".into() };
    let sticky = v1::Route {
        backends: vec![backend(1, 0), backend(1, 1)],
        stickiness: Some(v1::Stickiness {
            cookie: "fl".into(),
            values: vec!["aaaa".into(), "bbbb".into()],
            ..v1::Stickiness::default()
        }),
        ..none()
    };
    let crumbs: &[_] = &[("cookie", "theme=dark"), ("cookie", "fl=bbbb")];
    // A rule, a request, what the answer says, and what it does not.
    let cases: Vec<(v1::Route, Asked<'_>, &[&str], &[&str])> = vec![
        (
            v1::Route {
                request_headers: Some(changes("x-debug", ("x-env", "staging"), ("x-tag", "b"))),
                response_headers: Some(changes("content-type", ("cache-control", "no-store"), ("x-more", "1"))),
                ..none()
            },
            ("GET", "/", &[("x-debug", "1"), ("x-env", "live"), ("x-tag", "a"), ("x-kept", "Yes")]),
            &[
                "HTTP/2 200\r\n",
                "cache-control: no-store\r\n",
                "x-more: 1\r\n",
                "x-env: staging\r\n",
                "x-tag: a\r\n",
                "x-tag: b\r\n",
                "x-kept: Yes\r\n",
            ],
            &["x-debug", "live", "content-type: text/plain"],
        ),
        (
            v1::Route { rewrite: Some(rewrite), ..none() },
            ("GET", "/reviews/1?x=%2F&y", &[]),
            &["a GET http://internal:81/v2/reviews/1?x=%2F&y HTTP/2.0\r\n"],
            &["server"],
        ),
        (
            v1::Route { redirect: Some(redirect), ..none() },
            ("GET", "/old?x=1", &[]),
            &["HTTP/2 308\r\n", "location: https://server/old?x=1\r\n", "fairlead-proxy: redirect\r\n"],
            &[],
        ),
        (
            v1::Route { redirect: Some(elsewhere), ..none() },
            ("GET", "/old?x=1", &[]),
            &["HTTP/2 302\r\n", "location: http://example.org:8443/new?x=1\r\n"],
            &[],
        ),
        (
            v1::Route { respond: Some(respond.clone()), ..none() },
            ("POST", "/", &[]),
            &["HTTP/2 418\r\n", "fairlead-proxy: respond\r\n", "\r\n\r\nshort and stout"],
            &[],
        ),
        (v1::Route { respond: Some(respond), ..none() }, ("HEAD", "/", &[]), &["HTTP/2 418\r\n"], &["stout"]),
        (
            v1::Route { fault: Some(abort), ..none() },
            ("GET", "/", &[]),
            &["HTTP/2 503\r\n", "fairlead-proxy: fault-abort\r\n"],
            &[],
        ),
        (
            v1::Route { fault: Some(abort), ..none() },
            ("POST", "/a.B/C", &[GRPC]),
            &["HTTP/2 200\r\n", "grpc-status: 8\r\n", "fairlead-proxy: fault-abort\r\n"],
            &[],
        ),
        (
            v1::Route { cors: Some(cors.clone()), ..none() },
            ("OPTIONS", "/", preflight),
            &[
                "HTTP/2 204\r\n",
                "access-control-allow-origin: https://shop.example\r\n",
                "access-control-allow-methods: PUT\r\n",
                "fairlead-proxy: cors-preflight\r\n",
            ],
            &[],
        ),
        (
            v1::Route { cors: Some(cors), ..none() },
            ("PUT", "/", &[PAGE]),
            &["HTTP/2 200\r\n", "access-control-allow-origin: https://shop.example\r\n", "vary: origin\r\n", "a PUT"],
            &[],
        ),
        (sticky.clone(), ("GET", "/", crumbs), &["\r\n\r\nb GET", "cookie: theme=dark\r\n"], &["set-cookie"]),
        (sticky, ("GET", "/", &[]), &["set-cookie: fl="], &[]),
    ];
    for (route, asked, says, does_not_say) in cases {
        let (mut client, _sidecar, _seen) = routed_http2(route).await;
        // The second request of a connection is treated like its first.
        for _ in 0..2 {
            let answer = ask(&mut client, asked, "").await;
            for text in says {
                assert!(answer.contains(text), "{asked:?}: {text:?} is not in\n{answer}");
            }
            for text in does_not_say {
                assert!(!answer.contains(text), "{asked:?}: {text:?} is in\n{answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_delay_holds_up_one_stream_and_not_its_neighbours() {
    let fault = v1::Fault { delay_share: 1_000_000, delay_ms: 300, ..v1::Fault::default() };
    let (client, sidecar, _seen) = routed_http2(v1::Route { fault: Some(fault), ..v1::Route::default() }).await;
    let began = Instant::now();
    let asking = (0..5).map(|_| {
        let mut client = client.clone();
        async move { ask(&mut client, ("GET", "/", &[]), "").await }
    });
    for answer in futures::future::join_all(asking).await {
        assert!(answer.starts_with("HTTP/2 200\r\n"), "{answer}");
    }
    assert!((300..1400).contains(&began.elapsed().as_millis()), "{:?}: at the same time", began.elapsed());
    sidecar.counted(r#"fairlead_proxy_fault_delays_total{direction="outbound",service="test/server:9080"} 5"#).await;
}

#[tokio::test]
async fn copies_are_what_the_endpoint_sees_with_their_number() {
    let route = v1::Route {
        mirrors: vec![v1::Mirror { endpoint_set: 1, share: 1_000_000, copies: 2, ..v1::Mirror::default() }],
        request_headers: Some(changes("x-debug", ("x-env", "staging"), ("x-tag", "b"))),
        ..v1::Route::default()
    };
    let (mut client, _sidecar, mut seen) = routed_http2(route).await;
    let answer = ask(&mut client, ("POST", "/c?d", &[("x-debug", "1")]), "hello").await;
    assert!(answer.ends_with("\r\n\r\nhello") && answer.contains("\r\n\r\na POST"), "{answer}");
    let mut copies = Vec::new();
    while copies.len() < 2 {
        let request = timeout(SOON, seen.recv()).await.unwrap().unwrap();
        if request.starts_with("b POST http://server:9080/c?d HTTP/2.0\r\n") {
            assert!(request.contains("x-env: staging\r\n") && request.ends_with("\r\n\r\nhello"), "{request}");
            copies.push(value(&request, "fairlead-mirror").unwrap().to_owned());
        }
    }
    copies.sort_unstable();
    assert_eq!(copies, ["1", "2"]);
    assert!(timeout(Duration::from_millis(50), seen.recv()).await.is_err(), "and no more");
}
