//! Requests to URLs that users write, through which nobody must reach what only the operator can.
//!
//! # Guarantees
//!
//! - Where a request goes is decided by the address that is connected to ([`address`]), with one resolution.
//! - No redirect is followed, no proxy asked, no cookie kept.
//! - An answer is bounded in size and in time, from the name to its last byte, and an [`Error`] repeats nothing of it but its status.

pub mod address;
mod error;
mod location;
mod tls;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

pub use self::error::Error;
pub use self::location::Location;

/// For each address that is tried, so that one that is silent leaves time for the next.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Bytes of an answer's head.
const MAX_HEAD: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

type Resolve = dyn Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync;

/// How requests reach the world.
#[derive(Clone)]
pub struct Outbound {
    resolve: Arc<Resolve>,
    allowed: fn(IpAddr) -> Result<(), &'static str>,
}

impl Default for Outbound {
    /// By the system's resolver, to addresses that [`address::allowed`] allows.
    fn default() -> Self {
        let resolve = |host: String, port| -> BoxFuture<'static, _> {
            Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
        };
        Self { resolve: Arc::new(resolve), allowed: address::allowed }
    }
}

impl Outbound {
    /// What a request is answered with, whatever it is. `request` has neither URI nor host, which are those of the location.
    pub async fn status(
        &self,
        location: &Location,
        request: Request<Bytes>,
        timeout: Duration,
    ) -> Result<StatusCode, Error> {
        let read = async |response: Response<Incoming>| Ok(response.status());
        within(timeout, self.exchange(location, None, request, read)).await
    }

    /// The body of an answer 200, of at most `limit` bytes. Any other is an error. `roots`, in DER, vouch for the server; `None`: the public authorities
    /// that came with the operator.
    pub async fn body(
        &self,
        location: &Location,
        roots: Option<&[Vec<u8>]>,
        request: Request<Bytes>,
        limit: usize,
        timeout: Duration,
    ) -> Result<Bytes, Error> {
        let read = async |response: Response<Incoming>| {
            match response.status() {
                StatusCode::OK => {}
                redirect if redirect.is_redirection() => return Err(Error::Redirect(redirect)),
                other => return Err(Error::Status(other)),
            }
            let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() {
                    return Error::TooLarge(limit);
                }
                error.downcast().map_or(Error::TooLarge(limit), |error| Error::Http(*error))
            })?;
            Ok(body.to_bytes())
        };
        within(timeout, self.exchange(location, roots, request, read)).await
    }

    async fn exchange<T>(
        &self,
        location: &Location,
        roots: Option<&[Vec<u8>]>,
        request: Request<Bytes>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let request = addressed(request, location)?;
        if location.secure {
            let config = tls::config(roots)?;
            let stream = self.connect(location).await?;
            ask(tls::connect(stream, location, config).await?, request, read).await
        } else {
            ask(self.connect(location).await?, request, read).await
        }
    }

    /// What was looked at is what is connected to: a name that says otherwise a moment later says it to nobody.
    async fn connect(&self, location: &Location) -> Result<TcpStream, Error> {
        let addresses = match location.address() {
            Some(address) => vec![SocketAddr::new(address, location.port)],
            None => (self.resolve)(location.host.clone(), location.port).await.map_err(Error::Unresolved)?,
        };
        // A name that leads to one place that it must not is not trusted with the others.
        for address in &addresses {
            let address = address.ip();
            (self.allowed)(address).map_err(|what| Error::Forbidden { address, what })?;
        }
        let mut failed = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        for address in addresses.into_iter().take(MAX_ADDRESSES) {
            match tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failed = error,
                Err(_) => failed = io::ErrorKind::TimedOut.into(),
            }
        }
        Err(Error::Unreachable(failed))
    }
}

async fn within<T>(timeout: Duration, exchange: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(Error::Timeout(timeout)))
}

fn addressed(mut request: Request<Bytes>, location: &Location) -> Result<Request<Full<Bytes>>, Error> {
    let malformed = || Error::Url("is malformed");
    *request.uri_mut() = location.path.parse::<Uri>().map_err(|_| malformed())?;
    let host = HeaderValue::from_str(&location.authority).map_err(|_| malformed())?;
    request.headers_mut().insert(header::HOST, host);
    let agent = HeaderValue::from_static(concat!("fairlead-operator/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(header::USER_AGENT, agent);
    Ok(request.map(Full::new))
}

/// One request, and what is read of its answer.
async fn ask<T>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
    read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(Error::Http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(Error::Http)?;
        read(response).await
    };
    // The connection lives as long as the exchange: whatever ends that ends both.
    tokio::pin!(exchange);
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        ended = connection => {
            ended.map_err(Error::Http)?;
            exchange.await
        }
    }
}

/// The loopback is open to tests, and to them alone.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    impl Outbound {
        /// Every name leads there, and nothing but what is forbidden anyway besides loopback is.
        pub(crate) fn leading_to(addresses: Vec<IpAddr>) -> Self {
            Self::resolving(move |_, port| {
                let addresses = addresses.iter().map(|address| SocketAddr::new(*address, port)).collect();
                Box::pin(async move { Ok(addresses) })
            })
        }

        /// The same, with a resolver of one's own.
        pub(crate) fn resolving(
            resolve: impl Fn(String, u16) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> + Send + Sync + 'static,
        ) -> Self {
            let allowed = |address: IpAddr| if address.is_loopback() { Ok(()) } else { address::allowed(address) };
            Self { resolve: Arc::new(resolve), allowed }
        }

        /// The loopback is as forbidden as it is installed.
        pub(crate) fn guarded(self) -> Self {
            Self { allowed: address::allowed, ..self }
        }
    }
}
