//! One request, and the attempts to have it answered.

use std::{net::SocketAddr, sync::Arc};

use http::{
    HeaderValue, Method, Request, Response, Uri, header,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};
use http_body::Body as _;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use thiserror::Error;

use super::{
    Version,
    body::{Body, Held},
    headers,
    server::AmbiguousLength,
};
use crate::{
    balance::{
        Endpoint,
        pool::{Dialler, Lease, Pool},
    },
    tcp::connect::ConnectError,
};

/// A request on its way: its head as it is sent on, and its body as long as nobody has read from it.
#[derive(Debug)]
pub struct Call {
    /// Without what concerned the caller's connection.
    pub head: Parts,
    body: Option<Arc<Held>>,
    version: Version,
}

/// Why an attempt brought no response.
#[derive(Debug, Error)]
pub enum Failure {
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] Arc<ConnectError>),
    /// The connection ended before the endpoint looked at the request.
    #[error("{address} closed the connection before it took the request: {source}")]
    NotSent {
        /// Whom it was meant for.
        address: SocketAddr,
        /// What happened.
        source: hyper::Error,
    },
    /// The connection ended, and the endpoint may have done what was asked.
    #[error("{address} closed the connection before it answered: {source}")]
    Reset {
        /// Who should have answered.
        address: SocketAddr,
        /// What happened.
        source: hyper::Error,
    },
}

impl Failure {
    /// Whether the request can be tried elsewhere without being done twice.
    pub fn nothing_sent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::NotSent { .. })
    }
}

impl Call {
    /// Takes a request over, with what becomes of its connection if the endpoint agrees to an upgrade. `address` stands in for a host that
    /// is not named. The error says what is malformed.
    pub fn new(
        mut request: Request<Incoming>,
        version: Version,
        address: SocketAddr,
    ) -> Result<(Self, OnUpgrade), &'static str> {
        let upgrade = hyper::upgrade::on(&mut request);
        let (mut head, body) = request.into_parts();
        if head.extensions.remove::<AmbiguousLength>().is_some() {
            return Err("both Content-Length and Transfer-Encoding");
        }
        match version {
            Version::Http1 => complete_http1(&mut head, address)?,
            Version::Http2 => complete_http2(&mut head, address),
        }
        headers::strip(&mut head.headers, version == Version::Http1);
        let body = (!body.is_end_stream()).then(|| Arc::new(Held::new(body)));
        Ok((Self { head, body, version }, upgrade))
    }

    /// Whether it can be sent again as it came.
    pub fn untouched(&self) -> bool {
        self.body.as_ref().is_none_or(|body| !body.touched())
    }

    /// Sends it to `endpoint` over a pooled connection or a new one.
    ///
    /// A connection that had rested may have been closed by the endpoint at this very moment. Where that is certain, or where the method
    /// promises that doing it twice does no harm, a new connection gets the request: the endpoint is well, and the caller could not have
    /// known.
    pub async fn attempt(
        &self,
        pool: &Arc<Pool>,
        dialler: &Dialler,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(Response<Incoming>, Lease), Failure> {
        let address = endpoint.address;
        let mut lease = pool.lease(dialler, endpoint, self.version).await?;
        loop {
            let error = match lease.send(self.request()).await {
                Ok(response) => return Ok((response, lease)),
                Err(error) => error,
            };
            // What was given back was not begun with; a body that was read from cannot be replayed in any case.
            let nothing_sent = error.message().is_some() || refused(error.error());
            let again = self.untouched() && lease.reused() && (nothing_sent || self.head.method.is_idempotent());
            let source = error.into_error();
            if again {
                lease = pool.fresh(dialler, endpoint, self.version).await?;
            } else if nothing_sent && self.untouched() {
                return Err(Failure::NotSent { address, source });
            } else {
                return Err(Failure::Reset { address, source });
            }
        }
    }

    fn request(&self) -> Request<Body> {
        let body = match &self.body {
            None => Body::Empty,
            Some(held) => Body::Request(held.clone()),
        };
        Request::from_parts(self.head.clone(), body)
    }
}

/// Whether an HTTP/2 peer said that it has not looked at the request: its stream was refused, or was above the last one that a GOAWAY
/// promises to serve.
fn refused(error: &hyper::Error) -> bool {
    use std::error::Error as _;
    error.source().and_then(|source| source.downcast_ref::<h2::Error>()).is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM))
    })
}

fn complete_http1(head: &mut Parts, address: SocketAddr) -> Result<(), &'static str> {
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        let mut codings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
        let chunked = codings.next().is_some_and(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked"));
        if !chunked || codings.next().is_some() {
            // They end here: the application would take a compressed body for a plain one.
            return Err("a transfer coding other than chunked");
        }
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(_), None) => {}
        (Some(_), Some(_)) => return Err("more than one Host header"),
        (None, _) if head.version == http::Version::HTTP_11 => return Err("no Host header"),
        (None, _) => {
            // HTTP/1.0 knew no hosts; the request goes on as HTTP/1.1, which demands one.
            if let Ok(host) = HeaderValue::from_str(&address.to_string()) {
                head.headers.insert(header::HOST, host);
            }
        }
    }
    if head.method != Method::CONNECT
        && let Some(host) = head.uri.authority().and_then(host_of)
        && head.headers.get(header::HOST) != Some(&host)
    {
        // A target in absolute form names the host, and the header is to be ignored (RFC 9112 section 3.2.2).
        head.headers.insert(header::HOST, host);
    }
    // The proxy speaks for itself to the endpoint.
    head.version = http::Version::HTTP_11;
    Ok(())
}

/// Without user information, which does not belong into the header.
fn host_of(authority: &Authority) -> Option<HeaderValue> {
    let host = authority.as_str().rsplit('@').next()?;
    HeaderValue::from_str(host).ok()
}

fn complete_http2(head: &mut Parts, address: SocketAddr) {
    if let Some(host) = head.uri.authority().and_then(host_of)
        && head.headers.get_all(header::HOST).iter().any(|header| header != host)
    {
        // Routes and the application must not be told of two hosts; the authority is the one that counts.
        head.headers.remove(header::HOST);
    }
    if head.method == Method::CONNECT || head.uri.authority().is_some() {
        return;
    }
    // The authority may be left out if there is a Host header.
    let authority = head
        .headers
        .get(header::HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .or_else(|| Authority::try_from(address.to_string()).ok());
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.scheme.get_or_insert(Scheme::HTTP);
    uri.authority = authority;
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(uri).unwrap_or_default();
}
