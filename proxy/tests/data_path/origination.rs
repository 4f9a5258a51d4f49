//! TLS that the proxy begins with endpoints outside the mesh.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use fairlead_proxy_api::v1;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::support::*;

const NAME: &str = "api.example.com";

/// An authority that has nothing to do with the mesh.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A server of this name, and the protocols that it prefers.
    fn server(&self, name: &str, protocols: &[&str]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let chain = vec![params.signed_by(&key, &self.0).unwrap().der().clone()];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, PrivatePkcs8KeyDer::from(key.serialize_der()).into())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }

    /// TLS towards `name`, vouched for by this one.
    fn originate(&self, name: &str) -> v1::TlsOrigination {
        let roots = vec![self.0.der().to_vec()];
        v1::TlsOrigination { server_name: name.into(), roots, unresolved: String::new() }
    }
}

/// An application outside the mesh; `script` gets each connection whose handshake succeeded.
async fn outside<F>(
    acceptor: TlsAcceptor,
    script: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static,
) -> App
where
    F: Future<Output = ()> + Send + 'static,
{
    App::start(move |stream| {
        let (acceptor, script) = (acceptor.clone(), script.clone());
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                script(stream).await;
            }
        }
    })
    .await
}

/// Answers each request with what it was asked and by which handshake.
async fn echo(acceptor: TlsAcceptor) -> App {
    outside(acceptor, |mut stream| async move {
        let session = stream.get_ref().1;
        let alpn = String::from_utf8_lossy(session.alpn_protocol().unwrap_or_default()).into_owned();
        let shake = format!("sni={} alpn={alpn}", session.server_name().unwrap_or_default());
        while let Some(head) = read_head(&mut stream).await {
            let body = format!("{shake}\n{head}");
            let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// The service with TLS towards each endpoint of its sets; several ways: a way for each set.
fn originating(mut service: v1::Service, ways: Vec<v1::TlsOrigination>) -> v1::Service {
    for (index, set) in service.endpoint_sets.iter_mut().enumerate() {
        set.tls_origination = Some(index.min(ways.len() - 1) as u32);
    }
    service.tls_originations = ways;
    service
}

fn to(app: &App, way: v1::TlsOrigination) -> v1::Service {
    originating(service(vec![vec![endpoint(app.address, "")]]), vec![way])
}

fn client(service: v1::Service) -> Sidecar {
    client_of(&Authority::new(), service)
}

/// The answer is the proxy's own, for want of a connection, and says this.
fn assert_unreached(answer: &str, says: &str) {
    assert_eq!(status(answer), 503, "{answer}");
    assert!(answer.contains("fairlead-proxy: connect-failure\r\n"), "{answer}");
    assert!(answer.contains(says), "{says:?} in {answer}");
}

const CERTIFICATE: &str = r#"fairlead_proxy_handshakes_failed_total{direction="outbound",reason="certificate"}"#;

#[tokio::test]
async fn what_comes_in_plain_arrives_over_tls() {
    let ca = Ca::new();
    let app = echo(ca.server(NAME, &["h2", "http/1.1"])).await;
    let client = client(to(&app, ca.originate(NAME)));
    for _ in 0..3 {
        let answer = get(client.outbound, "/x?y", "X-Case: Kept\r\n").await;
        assert_eq!(status(&answer), 200, "{answer}");
        assert!(answer.contains("sni=api.example.com alpn=http/1.1\nGET /x?y HTTP/1.1\r\n"), "{answer}");
        assert!(answer.contains("X-Case: Kept\r\n"), "{answer}");
    }
    client
        .counted(r#"fairlead_proxy_requests_total{direction="outbound",service="test/server:9080",tls="originated",class="2xx",reason=""} 3"#)
        .await;
}

#[tokio::test]
async fn a_server_without_alpn_speaks_http1() {
    let ca = Ca::new();
    let app = echo(ca.server(NAME, &[])).await;
    let client = client(to(&app, ca.originate(NAME)));
    let answer = get(client.outbound, "/", "").await;
    assert!(answer.contains("alpn=\nGET / HTTP/1.1\r\n"), "{answer}");
}

#[tokio::test]
async fn who_cannot_prove_the_name_gets_nothing() {
    let ca = Ca::new();
    let app = echo(ca.server(NAME, &[])).await;
    let foreign = client(to(&app, Ca::new().originate(NAME)));
    let answer = get(foreign.outbound, "/", "").await;
    assert_unreached(&answer, &format!("{} did not prove to be {NAME}: ", app.address));
    foreign.counted(CERTIFICATE).await;

    let misnamed = client(to(&app, ca.originate("other.example.com")));
    let answer = get(misnamed.outbound, "/", "").await;
    assert_unreached(&answer, "did not prove to be other.example.com: ");
    misnamed.counted(CERTIFICATE).await;
}

#[tokio::test]
async fn a_certificate_of_the_mesh_proves_nothing_outside_of_it() {
    let authority = Authority::new();
    let app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let way = Ca::new().originate(NAME);
    let client = client_of(&authority, originating(service(vec![vec![endpoint(server.inbound, "")]]), vec![way]));
    assert_unreached(&get(client.outbound, "/", "").await, "did not prove to be");
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_server_that_speaks_plain_sees_no_request() {
    let seen = Arc::new(AtomicBool::new(false));
    let saw = seen.clone();
    let app = App::start(move |mut stream| {
        let saw = saw.clone();
        async move {
            let mut hello = [0; 512];
            let read = stream.read(&mut hello).await.unwrap_or_default();
            if hello[..read].windows(7).any(|bytes| bytes == b"/secret") {
                saw.store(true, Relaxed);
            }
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await.ok();
        }
    })
    .await;
    let client = client(to(&app, Ca::new().originate(NAME)));
    assert_unreached(&get(client.outbound, "/secret", "").await, "did not prove to be");
    assert!(app.connections() > 0 && !seen.load(Relaxed));
}

#[tokio::test]
async fn without_authorities_nobody_is_even_dialled() {
    let app = App::mirror().await;
    let unresolved = "ConfigMap test/ca does not exist".to_owned();
    let way = v1::TlsOrigination { server_name: NAME.into(), roots: Vec::new(), unresolved };
    let mut service = to(&app, way);
    let http = client(service.clone());
    assert_unreached(
        &get(http.outbound, "/", "").await,
        "cannot prove to be api.example.com: ConfigMap test/ca does not exist",
    );

    service.protocol = v1::Protocol::Opaque.into();
    let bytes = client(service);
    assert_eq!(talk(bytes.outbound, "GET / HTTP/1.1\r\n\r\n").await, "");
    bytes.counted(r#"fairlead_proxy_connections_refused_total{direction="outbound",reason="connect"} 1"#).await;
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn an_endpoint_of_the_mesh_is_met_as_such() {
    let authority = Authority::new();
    let app = App::mirror().await;
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let unusable = v1::TlsOrigination { server_name: NAME.into(), ..v1::TlsOrigination::default() };
    let inside = service(vec![vec![endpoint(server.inbound, "server")]]);
    let client = client_of(&authority, originating(inside, vec![unusable]));
    assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    client
        .counted(
            r#"fairlead_proxy_requests_total{direction="outbound",service="test/server:9080",tls="mutual",class="2xx""#,
        )
        .await;
}

#[tokio::test]
async fn bytes_go_over_tls_without_a_protocol_and_half_closes_with_them() {
    let ca = Ca::new();
    let app = outside(ca.server(NAME, &["h2", "http/1.1"]), |mut stream| async move {
        let agreed = stream.get_ref().1.alpn_protocol().is_some();
        let greeting = if agreed { "agreed\r\n" } else { "220 ready\r\n" };
        stream.write_all(greeting.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        stream.read_to_end(&mut said).await.unwrap();
        said.extend_from_slice(b" bye");
        stream.write_all(&said).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
    for protocol in [v1::Protocol::Opaque, v1::Protocol::Detect] {
        let mut service = to(&app, ca.originate(NAME));
        service.protocol = protocol.into();
        let client = client(service);
        for _ in 0..2 {
            let mut stream = connect(client.outbound).await;
            assert_eq!(read_until(&mut stream, "\r\n").await.unwrap(), "220 ready\r\n");
            stream.write_all(b"GET / HTTP/1.1").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = String::new();
            stream.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "GET / HTTP/1.1 bye");
        }
        let line = r#"fairlead_proxy_connections_total{direction="outbound",protocol="opaque",tls="originated"} 2"#;
        client.counted(line).await;
    }
    assert_eq!(app.connections(), 4, "bytes of one connection never follow those of another");
}

type H2Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn http2_client(sidecar: &Sidecar) -> hyper::client::conn::http2::SendRequest<H2Body> {
    let io = TokioIo::new(connect(sidecar.outbound).await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_is_agreed_on_and_its_scheme_is_https() {
    let ca = Ca::new();
    let app = outside(ca.server(NAME, &["http/1.1", "h2"]), |stream| async move {
        let service = service_fn(|request: Request<Incoming>| async move {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(request.uri().to_string()))))
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        connection.serve_connection(TokioIo::new(stream), service).await.ok();
    })
    .await;
    let sidecar = client(to(&app, ca.originate(NAME)));
    let mut sender = http2_client(&sidecar).await;
    for path in ["/a?b", "/c"] {
        let request = Request::get(format!("http://server:9080{path}")).body(Empty::new().boxed()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, format!("https://server:9080{path}"));
    }
    assert_eq!(app.connections(), 1);

    // Callers of HTTP/1 are translated where the port says so.
    let mut stated = to(&app, ca.originate(NAME));
    stated.protocol = v1::Protocol::Http2.into();
    let translated = client(stated);
    let answer = get(translated.outbound, "/d", "").await;
    assert!(status(&answer) == 200 && answer.contains("https://server/d"), "{answer}");
}

#[tokio::test]
async fn a_server_that_has_no_http2_is_not_sent_any() {
    let ca = Ca::new();
    for protocols in [&["http/1.1"][..], &[]] {
        let app = outside(ca.server(NAME, protocols), |mut stream| async move {
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.ok();
            assert!(read.is_empty(), "{read:?}");
        })
        .await;
        let sidecar = client(to(&app, ca.originate(NAME)));
        let request = Request::get("http://server:9080/").body(Empty::new().boxed()).unwrap();
        let response = http2_client(&sidecar).await.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{protocols:?}");
        assert_eq!(response.headers()["fairlead-proxy"], "connect-failure");
        sidecar.counted(r#"fairlead_proxy_handshakes_failed_total{direction="outbound",reason="protocol"}"#).await;
    }
}

/// A request that keeps its connection, so that the proxy's rests.
async fn ask(stream: &mut TcpStream, path: &str) -> String {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: server\r\n\r\n").as_bytes()).await.unwrap();
    let head = read_head(stream).await.unwrap();
    let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.unwrap();
    head + &String::from_utf8_lossy(&body)
}

#[tokio::test]
async fn connections_that_were_verified_otherwise_are_not_shared() {
    let ca = Ca::new();
    let app = echo(ca.server(NAME, &[])).await;
    // The same address by four ways: twice alike, vouched for by nobody who counts, and in plain.
    let sets = vec![vec![endpoint(app.address, "")]; 4];
    let ways = vec![ca.originate(NAME), ca.originate(NAME), Ca::new().originate(NAME)];
    let mut service = originating(service(sets), ways);
    service.endpoint_sets[3].tls_origination = None;
    let path = |n: u32| v1::PathMatch { kind: Some(v1::path_match::Kind::Exact(format!("/{n}"))) };
    service.routes = (1..4)
        .map(|n| v1::Route {
            matches: vec![v1::Match { path: Some(path(n)), ..v1::Match::default() }],
            backends: vec![backend(1, n)],
            ..v1::Route::default()
        })
        .chain([v1::Route { backends: vec![backend(1, 0)], ..v1::Route::default() }])
        .collect();
    let client = client(service);
    // One connection of the application's, so that one worker has them all.
    let mut stream = connect(client.outbound).await;
    assert_eq!(status(&ask(&mut stream, "/0").await), 200);
    assert_eq!(status(&ask(&mut stream, "/1").await), 200);
    assert_eq!(app.connections(), 1, "what is alike is shared");
    assert_unreached(&ask(&mut stream, "/2").await, "did not prove to be");
    assert_ne!(status(&ask(&mut stream, "/3").await), 200);
    assert_eq!(status(&ask(&mut stream, "/0").await), 200);
}

#[tokio::test]
async fn what_rests_is_not_used_when_others_are_to_be_believed() {
    let ca = Ca::new();
    let app = echo(ca.server(NAME, &[])).await;
    let client = client(to(&app, ca.originate(NAME)));
    let mut stream = connect(client.outbound).await;
    assert_eq!(status(&ask(&mut stream, "/").await), 200);
    client.told(to(&app, Ca::new().originate(NAME))).await;
    assert_unreached(&ask(&mut stream, "/").await, "did not prove to be");
    client.told(to(&app, v1::TlsOrigination { roots: Vec::new(), ..ca.originate(NAME) })).await;
    assert_unreached(&ask(&mut stream, "/").await, "cannot prove to be");
    client.told(to(&app, ca.originate(NAME))).await;
    assert_eq!(status(&ask(&mut stream, "/").await), 200, "at once, whatever failed before");
}

#[tokio::test]
async fn who_was_left_out_is_asked_over_tls() {
    let ca = Ca::new();
    let broken = Arc::new(AtomicBool::new(true));
    let probes = Arc::new(AtomicUsize::new(0));
    let (is_broken, asked) = (broken.clone(), probes.clone());
    let fragile = outside(ca.server(NAME, &[]), move |mut stream| {
        let (broken, probes) = (is_broken.clone(), asked.clone());
        async move {
            while let Some(head) = read_head(&mut stream).await {
                if head.starts_with("GET /healthz ") && head.contains("Host: api.example.com\r\n") {
                    probes.fetch_add(1, Relaxed);
                }
                let status = if broken.load(Relaxed) { "500 Broken" } else { "200 OK" };
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let good = echo(ca.server(NAME, &[])).await;
    let both = vec![endpoint(fragile.address, ""), endpoint(good.address, "")];
    let mut service = originating(service(vec![both]), vec![ca.originate(NAME)]);
    service.endpoint_sets[0].load_balancing = Some(v1::LoadBalancing { algorithm: 2, ..v1::LoadBalancing::default() });
    service.endpoint_sets[0].outlier_detection = Some(v1::OutlierDetection {
        consecutive_errors: 3,
        ejection_base_ms: 100,
        ejection_max_ms: 100,
        max_ejected: 500_000,
        probe_path: "/healthz".into(),
        ..v1::OutlierDetection::default()
    });
    let client = client(service);
    for _ in 0..6 {
        get(client.outbound, "/", "").await;
    }
    let deadline = tokio::time::Instant::now() + SOON;
    while probes.load(Relaxed) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "nobody asked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    broken.store(false, Relaxed);
    client.counted(r#"fairlead_proxy_outlier_events_total{direction="outbound",service="test/server:9080",event="returned"} 1"#).await;
}
