//! The way to the operator: gRPC over TLS that accepts the operator's SPIFFE identity and nobody else's.

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{IpAddr, Ipv4Addr, ServerName, TrustAnchor};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};

use fairlead_identity::verifier::Trusted;

use super::{Identity, SpiffeId, TrustBundle, TrustDomain, bundle::BundleError, tls};

/// The mounted files are a few KiB; whatever is larger is not what it should be.
pub(super) const MAX_FILE: u64 = 256 * 1024;
/// Long enough for a lost SYN, short enough to find another replica soon.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A dead operator (its node vanished) is noticed after the sum of the two.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the operator is and how it proves itself.
#[derive(Debug, Clone)]
pub struct Operator {
    /// `host:port`.
    pub address: String,
    /// What its certificate must say.
    pub identity: SpiffeId,
    /// The mesh.
    pub trust_domain: TrustDomain,
    /// The trust bundle that is mounted into the pod, PEM. Read anew for each connection, as the kubelet keeps it fresh.
    pub bundle_path: PathBuf,
}

/// Why the operator cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// A mounted file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The mounted bundle is unusable.
    #[error("{path}: {source}")]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: BundleError,
    },
    /// Not `host:port`.
    #[error("operator address {0:?} is not host:port")]
    Address(String),
    /// No TLS configuration.
    #[error("cannot make a TLS configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// No connection, or a handshake that failed.
    #[error("cannot connect to the operator at {address}: {reason}")]
    Connect {
        /// Where it was tried.
        address: String,
        /// With its causes.
        reason: String,
    },
}

impl Operator {
    /// Without a client certificate: to ask for one. `pushed` is the bundle that the operator pushed last, if it did.
    pub async fn connect_anonymous(&self, pushed: Option<&TrustBundle>) -> Result<Channel, OperatorError> {
        let anchors = self.anchors(pushed).await?;
        let trusted = Trusted::new(self.trust_domain.clone(), anchors);
        self.connect(tls::client(None, trusted, self.identity.clone(), b"h2")?).await
    }

    /// With this proxy's own certificate.
    pub async fn connect_as(&self, identity: &Identity) -> Result<Channel, OperatorError> {
        let anchors = self.anchors(Some(&identity.bundle())).await?;
        self.connect(tls::client(
            Some(identity.leaf().certified().clone()),
            Trusted::new(self.trust_domain.clone(), anchors),
            self.identity.clone(),
            b"h2",
        )?)
        .await
    }

    /// The mounted roots and those that were pushed. Either may be the fresher one: the mounted where this proxy was cut off during a
    /// rotation, the pushed until the kubelet has followed. One of them suffices.
    async fn anchors(&self, pushed: Option<&TrustBundle>) -> Result<Arc<[TrustAnchor<'static>]>, OperatorError> {
        let mounted = self.mounted_bundle().await;
        match (mounted, pushed) {
            (Ok(mounted), None) => Ok(mounted.anchors().into()),
            (Ok(mounted), Some(pushed)) => {
                let mut anchors = pushed.anchors().to_vec();
                let new = |anchor: &&TrustAnchor<'static>| !pushed.anchors().contains(anchor);
                anchors.extend(mounted.anchors().iter().filter(new).cloned());
                Ok(anchors.into())
            }
            (Err(error), Some(pushed)) => {
                tracing::warn!(%error, "using the pushed trust bundle alone");
                Ok(pushed.anchors().into())
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn mounted_bundle(&self) -> Result<TrustBundle, OperatorError> {
        let pem = read_bounded(&self.bundle_path).await?;
        TrustBundle::from_pem(&pem).map_err(|source| OperatorError::Bundle { path: self.bundle_path.clone(), source })
    }

    async fn connect(&self, tls: rustls::ClientConfig) -> Result<Channel, OperatorError> {
        let address = self.address.clone();
        let uri = format!("http://{address}");
        let endpoint = Endpoint::from_shared(uri)
            .map_err(|_| OperatorError::Address(address.clone()))?
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .user_agent(concat!("fairlead-proxy/", env!("CARGO_PKG_VERSION")))
            .map_err(|_| OperatorError::Address(address.clone()))?;
        let connector = TlsConnector::from(Arc::new(tls));
        let dial = tower::service_fn(move |_: Uri| {
            let (address, connector) = (address.clone(), connector.clone());
            async move {
                let dialled = async {
                    let tcp = TcpStream::connect(&address).await?;
                    tcp.set_nodelay(true)?;
                    connector.connect(unnamed(), tcp).await
                };
                let timeout = tokio::time::timeout(CONNECT_TIMEOUT, dialled).await;
                timeout
                    .unwrap_or_else(|_| {
                        Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {CONNECT_TIMEOUT:?}")))
                    })
                    .map(TokioIo::new)
            }
        });
        endpoint
            .connect_with_connector(dial)
            .await
            .map_err(|error| OperatorError::Connect { address: self.address.clone(), reason: with_causes(&error) })
    }
}

/// The verifiers look at identities, not at names, and SNI is off; rustls asks for a name all the same.
fn unnamed() -> ServerName<'static> {
    ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0, 0, 0, 0])))
}

pub(super) async fn read_bounded(path: &std::path::Path) -> Result<Vec<u8>, OperatorError> {
    let read = async {
        let mut bytes = Vec::new();
        let file = tokio::fs::File::open(path).await?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).await?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
        }
        Ok(bytes)
    };
    read.await.map_err(|source| OperatorError::File { path: path.to_owned(), source })
}

/// tonic says "transport error" and keeps what happened in the causes.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
