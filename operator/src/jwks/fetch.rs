//! One fetch: resolve, look where that leads, connect there and nowhere else, and read what fits.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fairlead_identity::jwk::{self, KeySetError};
use fairlead_identity::verifier;
use futures::future::BoxFuture;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::Resumption;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address;
use super::source::{Location, Source};

/// For all of it, from the name to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For each address that is tried, so that one that is silent leaves time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Why there is no new key set: a clause that goes on from the URL. It repeats nothing that a server said, or else a URL would be a way to read
/// what only the operator can reach.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The URL itself.
    #[error("{0}")]
    Url(&'static str),
    /// The authorities that should vouch for the server.
    #[error("cannot be verified: {0}")]
    Roots(String),
    /// DNS.
    #[error("has a host that does not resolve: {0}")]
    Unresolved(io::Error),
    /// It leads to where users must not reach through the operator.
    #[error("leads to {address}, which is {what}: no keys are fetched from there")]
    Forbidden {
        /// What the name resolves to.
        address: IpAddr,
        /// Of [`address::allowed`].
        what: &'static str,
    },
    /// TCP.
    #[error("leads to a host that cannot be connected to: {0}")]
    Unreachable(io::Error),
    /// The handshake, the certificate above all.
    #[error("leads to a host that TLS does not prove: {0}")]
    Tls(&'static str),
    /// What is not HTTP, or breaks off.
    #[error("was not answered in order")]
    Http(#[source] hyper::Error),
    /// A redirect: whoever may redirect decides where keys come from, and the user names that place as well.
    #[error("was answered with a redirect ({0}), which is not followed: write the URL that it leads to")]
    Redirect(StatusCode),
    /// Any other answer than 200.
    #[error("was answered with {0}")]
    Status(StatusCode),
    /// Over [`jwk::MAX_SET`].
    #[error("was answered with more than {} KiB", jwk::MAX_SET / 1024)]
    TooLarge,
    /// Over ten seconds, from the name to the last byte.
    #[error("was not answered in {} s", TIMEOUT.as_secs())]
    Timeout,
    /// Not what proxies can verify tokens with.
    #[error("was answered with what {0}")]
    Keys(#[from] KeySetError),
}

impl FetchError {
    /// For metrics.
    pub fn outcome(&self) -> &'static str {
        match self {
            Self::Url(_) => "invalid_url",
            Self::Roots(_) => "invalid_roots",
            Self::Unresolved(_) => "unresolved",
            Self::Forbidden { .. } => "forbidden_address",
            Self::Unreachable(_) => "unreachable",
            Self::Tls(_) => "tls",
            Self::Http(_) => "malformed",
            Self::Redirect(_) => "redirect",
            Self::Status(_) => "status",
            Self::TooLarge => "too_large",
            Self::Timeout => "timeout",
            Self::Keys(_) => "invalid_keys",
        }
    }
}

type Resolve = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// How a fetch reaches the world.
#[derive(Clone)]
pub struct Fetcher {
    resolve: Arc<Resolve>,
    allowed: fn(IpAddr) -> Result<(), &'static str>,
}

impl Default for Fetcher {
    /// By the system's resolver, to addresses that [`address::allowed`] allows.
    fn default() -> Self {
        let resolve = |host: String, port| -> BoxFuture<'static, _> {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
        };
        Self { resolve: Arc::new(resolve), allowed: address::allowed }
    }
}

impl Fetcher {
    /// The set that is published there now.
    pub async fn fetch(&self, source: &Source) -> Result<Arc<str>, FetchError> {
        tokio::time::timeout(TIMEOUT, self.try_fetch(source)).await.unwrap_or(Err(FetchError::Timeout))
    }

    async fn try_fetch(&self, source: &Source) -> Result<Arc<str>, FetchError> {
        let location = Location::parse(&source.url).map_err(FetchError::Url)?;
        let config = config(source.roots.as_deref())?;
        let stream = self.connect(&location).await?;
        let name = location.server_name().map_err(|_| FetchError::Url("has a host that cannot be verified"))?;
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let stream = stream.map_err(|error| FetchError::Tls(unproved(&error)))?;
        let body = ask(stream, &location).await?;
        let text = std::str::from_utf8(&body).map_err(|_| KeySetError::NotASet { line: 1, column: 0 })?;
        jwk::KeySet::parse(text)?;
        Ok(text.into())
    }

    /// What was looked at is what is connected to: a name that says otherwise a moment later says it to nobody.
    async fn connect(&self, location: &Location) -> Result<TcpStream, FetchError> {
        let addresses = match location.address() {
            Some(address) => vec![SocketAddr::new(address, location.port)],
            None => (self.resolve)(location.host.clone(), location.port).await.map_err(FetchError::Unresolved)?,
        };
        // A name that leads to one place that it must not is not trusted with the others.
        for address in &addresses {
            let address = address.ip();
            (self.allowed)(address).map_err(|what| FetchError::Forbidden { address, what })?;
        }
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(FetchError::Unreachable(failed))
    }
}

/// One request, and the body of its answer.
async fn ask(stream: tokio_rustls::client::TlsStream<TcpStream>, location: &Location) -> Result<Bytes, FetchError> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(FetchError::Http)?;
    let request = Request::get(&location.path)
        .header(header::HOST, &location.authority)
        .header(header::ACCEPT, "application/jwk-set+json, application/json")
        .header(header::USER_AGENT, concat!("fairlead-operator/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|_| FetchError::Url("is malformed"))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(FetchError::Http)?;
        match response.status() {
            StatusCode::OK => {}
            redirect if redirect.is_redirection() => return Err(FetchError::Redirect(redirect)),
            other => return Err(FetchError::Status(other)),
        }
        let body = Limited::new(response.into_body(), jwk::MAX_SET).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return FetchError::TooLarge;
            }
            error.downcast().map_or(FetchError::TooLarge, |error| FetchError::Http(*error))
        })?;
        Ok(body.to_bytes())
    };
    // The connection lives as long as the exchange: whatever ends that ends both.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => {
            ended.map_err(FetchError::Http)?;
            exchange.await
        }
    }
}

/// What is wrong, without the names that are in the server's certificate.
fn unproved(error: &io::Error) -> &'static str {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, UnknownIssuer,
    };
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(why)) => match why {
            UnknownIssuer | BadSignature => "no authority that is trusted vouches for its certificate",
            NotValidForName | NotValidForNameContext { .. } => "its certificate is for another name",
            Expired | ExpiredContext { .. } => "its certificate has expired",
            NotValidYet | NotValidYetContext { .. } => "its certificate is not valid yet",
            _ => "its certificate is not valid",
        },
        _ => "the handshake failed",
    }
}

/// TLS 1.2 is good enough for what is public: issuers outside are not ours to renew.
fn config(roots: Option<&[Vec<u8>]>) -> Result<ClientConfig, FetchError> {
    let mut store = RootCertStore::empty();
    match roots {
        None => store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(roots) => {
            for root in roots {
                let root = CertificateDer::from(root.as_slice());
                store.roots.push(verifier::anchor(&root).map_err(|error| FetchError::Roots(error.to_string()))?);
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| FetchError::Roots(error.to_string()))?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

#[cfg(test)]
mod tests;
