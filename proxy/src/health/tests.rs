//! The health port as the kubelet uses it, in front of applications of every kind.

use std::{
    convert::Infallible,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::*;
use crate::admin::serve::serve;

/// An application that answers each connection with the same bytes and passes on what it was asked.
async fn app(answer: &'static str) -> (u16, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (asked, requests) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap();
            let _ = asked.send(String::from_utf8_lossy(&request[..length]).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (port, requests)
}

/// A health port with these probes; the phase is whatever the test says.
async fn health(probes: serde_json::Value) -> (SocketAddr, watch::Sender<Phase>) {
    health_of(probes, Ipv4Addr::LOCALHOST.into()).await
}

async fn health_of(probes: serde_json::Value, pod: IpAddr) -> (SocketAddr, watch::Sender<Phase>) {
    let (phase, phases) = watch::channel(Phase::Ready);
    let probes = Probes::parse(&probes.to_string()).unwrap();
    let health = Health::new(phases, probes, Some(pod));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limit = health.longest();
    tokio::spawn(serve(listener, limit, move |request| health.clone().answer(request)));
    (address, phase)
}

/// Status and body.
async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    request(address, &format!("GET {path} HTTP/1.1\r\nHost: pod\r\nUser-Agent: kube-probe/1.35\r\n\r\n")).await
}

async fn request(address: SocketAddr, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
    (status, body)
}

fn http(port: u16, path: &str) -> serde_json::Value {
    json!({"kind": "http", "port": port, "path": path, "scheme": "HTTP", "timeoutMs": 1000})
}

#[tokio::test]
async fn the_proxy_is_ready_when_it_serves_and_not_while_it_drains() {
    let (address, phase) = health(json!({})).await;
    for (now, status, word) in [
        (Phase::Certifying, 503, "certificate"),
        (Phase::Configuring, 503, "configuration"),
        (Phase::Ready, 200, "ready"),
        (Phase::Draining, 503, "draining"),
    ] {
        phase.send_replace(now);
        let (answered, body) = get(address, "/ready").await;
        assert_eq!(answered, status);
        assert!(body.contains(word), "{body}");
    }
}

#[tokio::test]
async fn what_was_declared_is_asked_as_the_kubelet_would_and_answered_for() {
    let (port, mut requests) = app("HTTP/1.1 418 I'm a teapot\r\nContent-Length: 5\r\n\r\nshort").await;
    let mut probe = http(port, "/health?full=1");
    probe["headers"] = json!([["X-Probe", "yes"], ["host", "app.example"]]);
    let (address, _phase) = health(json!({"app/readiness": probe})).await;
    assert_eq!(get(address, "/probe/app/readiness").await, (418, "short".into()));
    let asked = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.starts_with("get /health?full=1 http/1.1\r\n"), "{asked}");
    for header in ["host: app.example", "x-probe: yes", "user-agent: kube-probe/1.35", "connection: close"] {
        assert_eq!(asked.matches(header).count(), 1, "{header} in {asked}");
    }
}

#[tokio::test]
async fn nothing_else_is_reached() {
    let (port, mut requests) = app("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    let (address, _phase) = health(json!({"app/readiness": http(port, "/")})).await;
    for path in [
        "/probe/app/liveness",
        "/probe/app/readiness/",
        "/probe/app/readiness/../liveness",
        "/probe//app/readiness",
        "/probe/app%2Freadiness",
        "/probe/other/readiness",
        "/probe/",
        "/probe",
        "/metrics",
        "/config",
        "/",
    ] {
        assert_eq!(get(address, path).await.0, 404, "{path}");
    }
    let post = "POST /probe/app/readiness HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(request(address, post).await.0, 405);
    assert!(requests.try_recv().is_err());
    // A query says nothing about which probe is meant, and does not reach the application.
    assert_eq!(get(address, "/probe/app/readiness?path=/admin").await.0, 200);
    assert!(requests.recv().await.unwrap().starts_with("GET / HTTP/1.1\r\n"));
}

#[tokio::test]
async fn a_dead_slow_or_verbose_application_costs_bounded_time_and_space() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed_port = closed.local_addr().unwrap().port();
    drop(closed);
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_port = silent.local_addr().unwrap().port();
    let (verbose, _requests) = app(Box::leak(
        format!("HTTP/1.1 500 Oops\r\nContent-Length: 9999\r\n\r\n{}", "x".repeat(9999)).into_boxed_str(),
    ))
    .await;
    let mut slow = http(silent_port, "/");
    slow["timeoutMs"] = json!(50);
    let (address, _phase) = health(json!({
        "app/liveness": http(closed_port, "/"),
        "app/readiness": slow,
        "app/startup": http(verbose, "/"),
    }))
    .await;
    let (status, body) = get(address, "/probe/app/liveness").await;
    assert_eq!(status, 503);
    assert!(body.contains("refused"), "{body}");
    assert_eq!(get(address, "/probe/app/readiness").await.0, 504);
    let (status, body) = get(address, "/probe/app/startup").await;
    assert_eq!((status, body.len()), (500, MAX_BODY));
}

#[tokio::test]
async fn redirects_within_the_pod_are_followed_and_others_are_success() {
    let (ready, _requests) = app("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    let within = Box::leak(
        format!("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{ready}/ok\r\nContent-Length: 0\r\n\r\n")
            .into_boxed_str(),
    );
    let (within, _requests) = app(within).await;
    let (away, _requests) =
        app("HTTP/1.1 302 Found\r\nLocation: https://login.example/\r\nContent-Length: 0\r\n\r\n").await;
    let (forever, mut requests) = app("HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n").await;
    let (address, _phase) = health(json!({
        "a/startup": http(within, "/"),
        "a/readiness": http(away, "/"),
        "a/liveness": http(forever, "/"),
    }))
    .await;
    assert_eq!(get(address, "/probe/a/startup").await, (200, "ok".into()));
    assert_eq!(get(address, "/probe/a/readiness").await.0, 200);
    assert_eq!(get(address, "/probe/a/liveness").await.0, 502);
    let mut asked = 0;
    while requests.try_recv().is_ok() {
        asked += 1;
    }
    assert_eq!(asked, 11);
}

#[tokio::test]
async fn https_is_probed_without_looking_at_the_certificate() {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["elsewhere.example".into()]).unwrap().self_signed(&key).unwrap();
    for version in rustls::ALL_VERSIONS {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut probe = http(listener.local_addr().unwrap().port(), "/");
        probe["scheme"] = json!("HTTPS");
        tokio::spawn(async move {
            let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
            let (tcp, _) = listener.accept().await.unwrap();
            let mut tls = acceptor.accept(tcp).await.unwrap();
            let mut request = vec![0; 4096];
            let _ = tls.read(&mut request).await.unwrap();
            tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntls").await.unwrap();
            tls.shutdown().await.unwrap();
        });
        let (address, _phase) = health(json!({"a/readiness": probe})).await;
        assert_eq!(get(address, "/probe/a/readiness").await, (200, "tls".into()));
    }
}

#[tokio::test]
async fn tcp_is_probed_by_connecting_over_either_family() {
    for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probe = json!({"kind": "tcp", "port": port, "host": null, "timeoutMs": 1000});
        let (address, _phase) = health_of(json!({"redis/liveness": probe}), ip).await;
        assert_eq!(get(address, "/probe/redis/liveness").await.0, 200);
        drop(listener);
        assert_eq!(get(address, "/probe/redis/liveness").await.0, 503);
    }
}

#[tokio::test]
async fn grpc_health_is_asked_and_understood() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Serves "app" as SERVING, "down" as NOT_SERVING, and knows no other.
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let service = service_fn(|request: http::Request<hyper::body::Incoming>| async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let (answer, code): (&[u8], &str) = match &body[5..] {
                    [0x0a, 3, b'a', b'p', b'p'] => (&[0, 0, 0, 0, 2, 8, 1], "0"),
                    [0x0a, 4, b'd', b'o', b'w', b'n'] => (&[0, 0, 0, 0, 2, 8, 2], "0"),
                    _ => (&[], "5"),
                };
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_str(code).unwrap());
                let body = Full::new(Bytes::copy_from_slice(answer)).with_trailers(async move { Some(Ok(trailers)) });
                let mut response = Response::new(body);
                let grpc = HeaderValue::from_static("application/grpc");
                response.headers_mut().insert("content-type", grpc);
                Ok::<_, Infallible>(response)
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(tcp), service),
            );
        }
    });
    let probe = |service: &str| json!({"kind": "grpc", "port": port, "service": service, "timeoutMs": 1000});
    let (address, _phase) = health(json!({
        "a/readiness": probe("app"),
        "a/liveness": probe("down"),
        "a/startup": probe("unknown"),
    }))
    .await;
    assert_eq!(get(address, "/probe/a/readiness").await.0, 200);
    assert_eq!(get(address, "/probe/a/liveness").await.0, 503);
    let (status, body) = get(address, "/probe/a/startup").await;
    assert_eq!(status, 503);
    assert!(body.contains("NotFound"), "{body}");
}

#[tokio::test]
async fn a_probe_with_a_host_of_its_own_goes_there() {
    let (port, mut requests) = app("HTTP/1.1 204 No Content\r\n\r\n").await;
    let mut probe = http(port, "/");
    probe["host"] = json!("localhost");
    // The pod's address is another; nobody listens there.
    let pod = IpAddr::from([127, 0, 0, 2]);
    let (address, _phase) = health_of(json!({"a/readiness": probe}), pod).await;
    assert_eq!(get(address, "/probe/a/readiness").await.0, 204);
    let asked = requests.recv().await.unwrap().to_ascii_lowercase();
    assert!(asked.contains(&format!("host: localhost:{port}\r\n")), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_the_declared_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let probe = Probe {
        port: listener.local_addr().unwrap().port(),
        timeout: Duration::from_secs(7),
        check: Check::Http(probes::Http { tls: false, path: "/".parse().unwrap(), headers: Vec::new(), host: None }),
    };
    let begun = tokio::time::Instant::now();
    let outcome = probe_app(&probe, Ipv4Addr::LOCALHOST.into(), None).await;
    assert_eq!(outcome.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(begun.elapsed().as_secs(), 7);
}
