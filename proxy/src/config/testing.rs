//! An operator for tests: real TLS, real gRPC, and a test that says what it says.

use std::{
    net::SocketAddr,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use fairlead_proxy_api::v1::{
    self,
    config_server::{Config, ConfigServer},
    identity_server::{Identity, IdentityServer},
    operator_message, proxy_message,
};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::server::WebPkiClientVerifier;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};
use tower::Service;

use crate::identity::{
    Operator,
    certify::Certifier,
    testing::{Authority, DAY, domain, id},
};

pub(crate) const OPERATOR: &str = "spiffe://cluster.local/ns/fairlead-system/sa/fairlead-operator";
pub(crate) const OWN: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";
/// The middle names the service account, in namespace bookinfo.
const TOKEN: &str = "header.reviews.signature";

/// What an operator that is left alone says to a subscription of the named pod.
pub(crate) type Script = fn(&str, &v1::ResourceName) -> Option<v1::Resource>;

type Say = mpsc::Sender<Result<v1::OperatorMessage, Status>>;

/// What is shared with the handlers of requests.
struct Shared {
    authority: Arc<Authority>,
    script: Option<Script>,
    // Of the newest stream.
    say: Mutex<Option<Say>>,
    said: mpsc::UnboundedSender<proxy_message::Kind>,
    trust: watch::Sender<v1::Trust>,
}

#[derive(Clone)]
struct Handlers(Arc<Shared>);

#[tonic::async_trait]
impl Identity for Handlers {
    async fn certify(&self, request: Request<v1::CertifyRequest>) -> Result<Response<v1::CertifyResponse>, Status> {
        let request = request.into_inner();
        let own = match request.token.split('.').collect::<Vec<_>>()[..] {
            ["header", account, "signature"] => format!("spiffe://cluster.local/ns/bookinfo/sa/{account}"),
            _ => return Err(Status::unauthenticated("token refused")),
        };
        let csr = rcgen::CertificateSigningRequestParams::from_der(&request.csr.into())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let now = SystemTime::now();
        let validity = (now - Duration::from_secs(120), now + DAY);
        let chain = self.0.authority.sign(&csr.public_key, &own, validity, |_| {});
        Ok(Response::new(v1::CertifyResponse {
            chain: chain.iter().map(|der| der.to_vec()).collect(),
            trust_bundle: Some(self.0.authority.bundle(1).to_proto()),
        }))
    }
}

#[tonic::async_trait]
impl Config for Handlers {
    type StreamStream = Pin<Box<dyn Stream<Item = Result<v1::OperatorMessage, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<v1::ProxyMessage>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut inbound = request.into_inner();
        let (say, heard) = mpsc::channel(16);
        *self.0.say.lock() = Some(say.clone());
        let shared = self.0.clone();
        tokio::spawn(async move {
            let mut pod = String::new();
            while let Some(Ok(message)) = inbound.next().await {
                let kind = message.kind.unwrap();
                match (&kind, shared.script) {
                    (proxy_message::Kind::Hello(hello), _) => pod.clone_from(&hello.pod_name),
                    (proxy_message::Kind::Subscribe(subscribe), Some(script)) => {
                        if let Some(resource) = script(&pod, subscribe.name.as_ref().unwrap()) {
                            let kind = Some(operator_message::Kind::Resource(resource));
                            let _ = say.send(Ok(v1::OperatorMessage { kind })).await;
                        }
                    }
                    _ => {}
                }
                match kind {
                    // Apart from the rest: it comes at the begin of each stream.
                    proxy_message::Kind::Trust(trust) => {
                        shared.trust.send_replace(trust);
                    }
                    kind => {
                        let _ = shared.said.send(kind);
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(heard))))
    }
}

/// Runs until dropped or stopped.
pub(crate) struct FakeOperator {
    pub(crate) authority: Arc<Authority>,
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    said: mpsc::UnboundedReceiver<proxy_message::Kind>,
    server: Option<JoinHandle<()>>,
    files: tempfile::TempDir,
}

impl FakeOperator {
    pub(crate) async fn start() -> Self {
        Self::start_with(OPERATOR, SocketAddr::from(([127, 0, 0, 1], 0)), None).await
    }

    /// With a certificate that says `identity`, listening at `address`.
    pub(crate) async fn start_with(identity: &str, address: SocketAddr, script: Option<Script>) -> Self {
        let authority = Arc::new(Authority::new());
        let files = tempfile::tempdir().unwrap();
        std::fs::write(files.path().join("ca.crt"), authority.root_pem()).unwrap();
        std::fs::write(files.path().join("token"), format!("{TOKEN}\n")).unwrap();
        let (said, heard) = mpsc::unbounded_channel();
        let trust = watch::Sender::default();
        let shared = Arc::new(Shared { authority: authority.clone(), script, say: Mutex::default(), said, trust });
        let mut operator = Self { authority, address, shared, said: heard, server: None, files };
        operator.resume_as(identity).await;
        operator
    }

    /// Goes away: listener and connections.
    pub(crate) async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        *self.shared.say.lock() = None;
        while self.said.try_recv().is_ok() {}
    }

    /// Comes back at the same address.
    pub(crate) async fn resume(&mut self) {
        self.resume_as(OPERATOR).await;
    }

    async fn resume_as(&mut self, identity: &str) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        let tls = server_tls(&self.authority, identity);
        let handlers = Handlers(self.shared.clone());
        self.server = Some(tokio::spawn(serve(listener, tls, handlers)));
    }

    /// What the proxy said next.
    pub(crate) async fn next(&mut self) -> proxy_message::Kind {
        tokio::time::timeout(Duration::from_secs(10), self.said.recv()).await.expect("the proxy says nothing").unwrap()
    }

    /// Waits until the proxy says this of its bundle and certificate.
    pub(crate) async fn trusted(&self, told: impl FnMut(&v1::Trust) -> bool) -> v1::Trust {
        let mut trust = self.shared.trust.subscribe();
        tokio::time::timeout(Duration::from_secs(10), trust.wait_for(told)).await.unwrap().unwrap().clone()
    }

    /// Whether the proxy says nothing for a while.
    pub(crate) async fn silence(&mut self, duration: Duration) -> bool {
        tokio::time::timeout(duration, self.said.recv()).await.is_err()
    }

    pub(crate) async fn say(&self, kind: operator_message::Kind) {
        let say = self.shared.say.lock().clone().expect("no stream is open");
        let message = v1::OperatorMessage { kind: Some(kind) };
        say.send(Ok(message)).await.unwrap();
    }

    /// Where a proxy would look for it.
    pub(crate) fn operator(&self) -> Operator {
        Operator {
            address: self.address.to_string(),
            identity: id(OPERATOR),
            trust_domain: domain(),
            bundle_path: self.file("ca.crt"),
        }
    }

    pub(crate) fn certifier(&self) -> Certifier {
        Certifier { operator: self.operator(), own: id(OWN), token_path: self.file("token") }
    }

    /// One of the mounted files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }
}

impl Drop for FakeOperator {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

fn server_tls(authority: &Authority, identity: &str) -> rustls::ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.root_der().into()).unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .unwrap();
    let now = SystemTime::now();
    let (key, chain) = authority.issue(identity, (now - Duration::from_secs(120), now + DAY));
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key.into())
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

async fn serve(listener: TcpListener, tls: rustls::ServerConfig, handlers: Handlers) {
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(tls));
    // Aborting this task ends the connections with it.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, handlers) = (acceptor.clone(), handlers.clone());
        connections.spawn(async move {
            let Ok(tls) = acceptor.accept(tcp).await else {
                return;
            };
            let anonymous = tls.get_ref().1.peer_certificates().is_none();
            let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
                let handlers = handlers.clone();
                async move {
                    if request.uri().path().starts_with("/fairlead.proxy.v1.Identity/") {
                        return IdentityServer::new(handlers).call(request).await;
                    }
                    assert!(!anonymous, "the configuration stream demands a certificate");
                    ConfigServer::new(handlers).call(request).await
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(tls), service)
                .await;
        });
    }
}
