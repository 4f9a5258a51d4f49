//! Over real sockets on loopback: handshakes, identities, limits and the end of a certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::Request;
use axum::routing::get;
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use time::OffsetDateTime;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower::Service as _;

use super::listen::{Limits, Protocol, accept};
use super::replica::Replicas;
use super::{http, tls};
use crate::ca::authority::{Authority, Root, Serial};
use crate::ca::serving::tests::serving;
use crate::ca::{PeerAddress, PeerIdentity, SpiffeId, TrustDomain};
use crate::telemetry::ListenerMetrics;

const DNS_NAME: &str = "fairlead-operator.fairlead-system.svc";

fn authority() -> Authority {
    let now = OffsetDateTime::now_utc();
    let root = Root::new(&Serial::random().unwrap(), now).unwrap();
    let intermediate = root.new_intermediate(&Serial::random().unwrap(), now).unwrap();
    Authority::new(&root, intermediate)
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn operator() -> SpiffeId {
    SpiffeId::new("cluster.local", "fairlead-system", "fairlead-operator").unwrap()
}

/// Answers with whom it takes the caller for.
async fn who(request: Request) -> String {
    assert!(request.extensions().get::<PeerAddress>().is_some());
    match request.extensions().get::<PeerIdentity>() {
        Some(PeerIdentity(identity)) => identity.to_string(),
        None => "anonymous".to_owned(),
    }
}

struct Server {
    address: SocketAddr,
    metrics: ListenerMetrics,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

async fn serve(config: ServerConfig, limits: Limits) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (metrics, stop) = (ListenerMetrics::default(), CancellationToken::new());
    let protocol = Protocol::Tls(Arc::new(ArcSwap::from_pointee(config)));
    let connections = accept(listener, protocol, limits, metrics.clone(), stop.clone());
    let router = Router::new().route("/", get(who));
    let running = tokio::spawn(http::run(connections, router, stop.clone(), Duration::from_secs(5)));
    Server { address, metrics, stop, running }
}

const MANY: Limits = Limits { connections: 100, per_address: 100 };

fn grpc(authority: &Authority) -> ServerConfig {
    tls::grpc(serving(authority, &operator(), &[DNS_NAME]), authority.trust_bundle(), &trust_domain()).unwrap()
}

/// A client that trusts `authority` and shows a certificate that `of` issued.
fn client(authority: &Authority, of: &Authority, identity: &SpiffeId) -> ClientConfig {
    tls::replica(serving(of, identity, &[]), authority.trust_bundle(), &operator()).unwrap()
}

async fn ask(address: SocketAddr, config: ClientConfig) -> Result<String, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::try_from("any.name").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = hyper::Request::get("https://any.name/").body(String::new()).unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
}

#[tokio::test]
async fn a_client_is_who_its_certificate_says_or_nobody() {
    let authority = authority();
    let server = serve(grpc(&authority), MANY).await;
    let reviews = SpiffeId::new("cluster.local", "bookinfo", "reviews").unwrap();
    assert_eq!(ask(server.address, client(&authority, &authority, &reviews)).await, Ok(reviews.to_string()));
    let mut anonymous = client(&authority, &authority, &reviews);
    anonymous.client_auth_cert_resolver = Arc::new(crate::ca::serving::ServingCertificate::default());
    assert_eq!(ask(server.address, anonymous).await, Ok("anonymous".to_owned()));
    server.stop.cancel();
    server.running.await.unwrap();
}

#[tokio::test]
async fn a_foreign_certificate_is_refused_in_the_handshake_and_counted() {
    let (ours, theirs) = (authority(), authority());
    let server = serve(grpc(&ours), MANY).await;
    let reviews = SpiffeId::new("cluster.local", "bookinfo", "reviews").unwrap();
    ask(server.address, client(&ours, &theirs, &reviews)).await.unwrap_err();
    let other_domain = SpiffeId::new("other.local", "bookinfo", "reviews").unwrap();
    ask(server.address, client(&ours, &ours, &other_domain)).await.unwrap_err();
    assert_eq!(server.metrics.failed_handshakes.get(), 2);
}

#[tokio::test]
async fn a_replica_talks_to_the_operator_alone() {
    let ours = authority();
    let impostor = SpiffeId::new("cluster.local", "bookinfo", "reviews").unwrap();
    let config = tls::grpc(serving(&ours, &impostor, &[DNS_NAME]), ours.trust_bundle(), &trust_domain()).unwrap();
    let server = serve(config, MANY).await;
    ask(server.address, client(&ours, &ours, &operator())).await.unwrap_err();
    // Another mesh's operator bears the same name.
    let server = serve(grpc(&authority()), MANY).await;
    ask(server.address, client(&ours, &ours, &operator())).await.unwrap_err();
}

#[tokio::test]
async fn a_channel_to_the_leader_carries_the_operators_identity() {
    let ours = authority();
    let server = serve(grpc(&ours), MANY).await;
    let (_sender, bundles) = tokio::sync::watch::channel(Arc::new(ours.trust_bundle().clone()));
    let replicas = Replicas {
        serving: serving(&ours, &operator(), &[DNS_NAME]),
        bundles,
        operator: operator(),
        port: server.address.port(),
    };
    let mut channel = replicas.connect("127.0.0.1").await.unwrap();
    let request = hyper::Request::get("http://leader/").body(tonic::body::Body::empty()).unwrap();
    let response = tower::ServiceExt::ready(&mut channel).await.unwrap().call(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, operator().to_string());
    replicas.connect("not an address").await.unwrap_err();
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_turned_away() {
    let authority = authority();
    let server = serve(grpc(&authority), Limits { connections: 100, per_address: 1 }).await;
    let _silent = TcpStream::connect(server.address).await.unwrap();
    let mut second = TcpStream::connect(server.address).await.unwrap();
    let mut nothing = [0; 1];
    assert!(matches!(second.read(&mut nothing).await, Ok(0) | Err(_)));
    assert_eq!(server.metrics.refused.get(), 1);
}

#[tokio::test]
async fn what_is_not_tls_is_closed() {
    let server = serve(grpc(&authority()), MANY).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"));
    assert_eq!(server.metrics.failed_handshakes.get(), 1);
}
