//! One request, and the attempts to have it answered.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, header,
    uri::{Authority, PathAndQuery, Scheme, Uri},
};
use http_body::Body as _;
use thiserror::Error;

use super::{
    Failed, Head, Reason, Request, Response, Version,
    body::{Body, Incoming},
    fields::Fields,
    h1::host_is_valid,
    headers,
    idle::Activity,
    interim::Interim,
    replay::Held,
};
use crate::{
    balance::{
        Endpoint,
        limits::Full,
        pool::{Dialler, Lease, Pool},
    },
    tcp::connect::ConnectError,
};

/// A request on its way: its head as it is sent on, and its body as long as nobody has read from it.
#[derive(Debug)]
pub struct Call {
    /// Without what concerned the caller's connection.
    pub head: Head,
    body: Option<Arc<Held>>,
    /// In place of one that is read: of a copy.
    ready: Bytes,
    interim: Interim,
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
        source: io::Error,
    },
    /// The connection ended, and the endpoint may have done what was asked.
    #[error("{address} closed the connection before it answered: {source}")]
    Reset {
        /// Who should have answered.
        address: SocketAddr,
        /// What happened.
        source: io::Error,
    },
    /// The caller did not send the body that it had announced: no fault of the endpoint's.
    #[error("the request's body cannot be read: {0}")]
    Caller(io::Error),
}

/// What a caller is told whose body could not be read.
pub fn of_caller(error: &io::Error) -> Reason {
    if error.kind() == io::ErrorKind::TimedOut { Reason::BodyTimeout } else { Reason::MalformedRequest }
}

impl Failure {
    /// Whether the request can be tried elsewhere without being done twice.
    pub fn nothing_sent(&self) -> bool {
        matches!(self, Self::Connect(_) | Self::NotSent { .. })
    }

    /// The limit of the endpoint set that was reached, if that is why.
    pub fn full(&self) -> Option<Full> {
        match self {
            Self::Connect(error) => match **error {
                ConnectError::Full(full) => Some(full),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Call {
    /// Takes a request over. `address` stands in for a host that is not named.
    pub fn new(request: Request, version: Version, address: SocketAddr) -> Self {
        let Request { mut head, body, interim } = request;
        match version {
            Version::Http1 => complete_http1(&mut head, address),
            Version::Http2 => complete_http2(&mut head, address),
        }
        let body = (!body.is_end_stream()).then(|| Arc::new(Held::new(body)));
        Self { head, body, ready: Bytes::new(), interim, version }
    }

    /// What is left of it once it was answered.
    pub fn into_head(self) -> Head {
        self.head
    }

    /// Its body, if it has one.
    pub fn held(&self) -> Option<Arc<Held>> {
        self.body.clone()
    }

    /// The same request with this body; what its endpoint says before the answer is for nobody.
    #[must_use]
    pub fn with_body(&self, ready: Bytes) -> Self {
        Self { head: self.head.clone(), body: None, ready, interim: Interim::default(), version: self.version }
    }

    /// Has it go on in the one version that the endpoints are stated to speak. `address` stands in for a host that cannot be named. The error
    /// says what that version has no words for.
    pub fn speak(&mut self, version: Version, address: SocketAddr) -> Result<(), &'static str> {
        match (self.version, version) {
            (Version::Http1, Version::Http2) => self.speak_http2(address),
            (Version::Http2, Version::Http1) => self.speak_http1()?,
            (Version::Http1, Version::Http1) | (Version::Http2, Version::Http2) => {}
        }
        Ok(())
    }

    /// What HTTP/2 has no words for stays as it came: an upgrade, a tunnel, a question about the server as a whole.
    fn speak_http2(&mut self, address: SocketAddr) {
        let head = &mut self.head;
        let stays =
            head.method == Method::CONNECT || head.headers.contains_key(&header::UPGRADE) || head.uri.path() == "*";
        if stays {
            return;
        }
        let mut fields = head.headers.to_map();
        // Of one connection, like all that is left out when a head is read.
        fields.remove(header::CONNECTION);
        head.headers = Fields::Map(fields);
        complete_http2(head, address);
        head.headers.remove(&header::HOST);
        self.version = Version::Http2;
    }

    /// The head stays that of HTTP/2 as far as routes look at it; [`h1`](super::h1) writes a WebSocket's as the upgrade that it is in HTTP/1.
    fn speak_http1(&mut self) -> Result<(), &'static str> {
        let Head { method, uri, headers, protocol } = &mut self.head;
        if protocol.as_ref().is_some_and(|protocol| protocol.as_str() != "websocket") {
            return Err("the endpoints speak HTTP/1, which carries no protocol in CONNECT but websocket");
        }
        let target = uri.path();
        let tunnel = *method == Method::CONNECT && protocol.is_none();
        if !(tunnel || target.starts_with('/') || (target == "*" && *method == Method::OPTIONS)) {
            return Err("the target is malformed");
        }
        let host = uri.authority().and_then(host_of).filter(|host| host_is_valid(host.as_bytes()));
        let host = host.ok_or("the authority is not a host")?;
        let cookie = whole_cookie(headers)?;
        let mut fields = std::mem::take(headers).into_map();
        // The same as the authority, if it is there, but maybe twice.
        fields.remove(header::HOST);
        // The host first, as servers expect it.
        let mut map = HeaderMap::with_capacity(fields.len() + 1);
        map.insert(header::HOST, host);
        map.extend(fields);
        if let Some(cookie) = cookie {
            map.insert(header::COOKIE, cookie);
        }
        if protocol.is_some() {
            // Means nothing in HTTP/2; towards the endpoint the proxy has its own.
            map.remove(header::SEC_WEBSOCKET_KEY);
        }
        *headers = Fields::Map(map);
        self.version = Version::Http1;
        Ok(())
    }

    /// Whether it can be sent again as it came: nothing of its body was read, or all of that is kept.
    pub fn repeatable(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.repeatable())
    }

    /// Has its body kept while it is sent, up to `limit` bytes.
    pub fn keep_body(&self, limit: usize) {
        if let Some(body) = &self.body {
            body.keep(limit);
        }
    }

    /// Notes there when something of its body moves.
    pub fn watch(&self, activity: &Arc<Activity>) {
        if let Some(body) = &self.body {
            body.watch(activity.clone());
        }
    }

    /// Has its body given up where the caller keeps it waiting for longer than this, until there is an answer.
    pub fn bound_body(&self, wait: Duration) {
        if let Some(body) = &self.body {
            body.bound(wait);
        }
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
            let Failed { error: source, nothing_sent, caller } =
                match lease.send(&self.head, self.body(), &self.interim).await {
                    Ok(response) => {
                        if let Some(body) = &self.body {
                            body.unbound();
                        }
                        return Ok((response, lease));
                    }
                    Err(failed) => failed,
                };
            if caller {
                return Err(Failure::Caller(source));
            }
            // A body that was read from and not kept cannot be replayed in any case.
            let again = self.repeatable() && lease.reused() && (nothing_sent || self.head.method.is_idempotent());
            if again {
                lease = pool.fresh(dialler, endpoint, self.version).await?;
            } else if nothing_sent && self.repeatable() {
                return Err(Failure::NotSent { address, source });
            } else {
                return Err(Failure::Reset { address, source });
            }
        }
    }

    fn body(&self) -> Body {
        match &self.body {
            None if self.ready.is_empty() => Body::Empty,
            None => Body::Full(Some(self.ready.clone())),
            Some(held) => Body::Request(held.read()),
        }
    }
}

/// What HTTP/1.1 asks of a request that came over HTTP/1.
pub(super) fn complete_http1(head: &mut Head, address: SocketAddr) {
    if !head.headers.contains_key(&header::HOST)
        && let Ok(host) = HeaderValue::from_str(&address.to_string())
    {
        // HTTP/1.0 knew no hosts; the request goes on as HTTP/1.1, which demands one.
        head.headers.insert(header::HOST, host);
    }
    if head.method != Method::CONNECT
        && let Some(host) = head.uri.authority().and_then(host_of)
        && head.headers.get(&header::HOST) != Some(host.as_bytes())
    {
        // A target in absolute form names the host, and the header is to be ignored (RFC 9112 section 3.2.2).
        head.headers.insert(header::HOST, host);
    }
}

/// HTTP/2 may send one line for each cookie, which have to be one again outside of it (RFC 9113 section 8.2.3); `None`: they are.
fn whole_cookie(headers: &Fields) -> Result<Option<HeaderValue>, &'static str> {
    let crumbs: Vec<&[u8]> = headers.get_all(&header::COOKIE).collect();
    if crumbs.len() < 2 {
        return Ok(None);
    }
    HeaderValue::try_from(crumbs.join(&b"; "[..])).map(Some).map_err(|_| "the cookies are malformed")
}

/// Without user information, which does not belong into the header.
fn host_of(authority: &Authority) -> Option<HeaderValue> {
    let host = authority.as_str().rsplit('@').next()?;
    HeaderValue::from_str(host).ok()
}

fn complete_http2(head: &mut Head, address: SocketAddr) {
    let Fields::Map(fields) = &mut head.headers else { return };
    headers::strip(fields, false);
    if let Some(host) = head.uri.authority().and_then(host_of)
        && fields.get_all(header::HOST).iter().any(|header| header != host)
    {
        // Routes and the application must not be told of two hosts; the authority is the one that counts.
        fields.remove(header::HOST);
    }
    if head.method == Method::CONNECT || head.uri.authority().is_some() {
        return;
    }
    // The authority may be left out if there is a Host header.
    let authority = fields
        .get(header::HOST)
        .and_then(|host| Authority::try_from(host.as_bytes()).ok())
        .or_else(|| Authority::try_from(address.to_string()).ok());
    let mut uri = std::mem::take(&mut head.uri).into_parts();
    uri.scheme.get_or_insert(Scheme::HTTP);
    uri.authority = authority;
    uri.path_and_query.get_or_insert_with(|| PathAndQuery::from_static("/"));
    head.uri = Uri::from_parts(uri).unwrap_or_default();
}
