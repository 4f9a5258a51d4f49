//! A request and a response on their way, whatever version they came in.

use bytes::Bytes;
use http::{Method, StatusCode, Uri};

use super::{body::Incoming, fields::Fields, interim::Interim};

/// The head of a request as it is sent on: without what concerned the caller's connection.
#[derive(Clone, Debug)]
pub struct Head {
    /// As the caller wrote it.
    pub method: Method,
    /// Path and query byte for byte; scheme and authority where the caller wrote them.
    pub uri: Uri,
    /// Over HTTP/1 with `Host`.
    pub headers: Fields,
    /// The `:protocol` of RFC 8441.
    pub protocol: Option<h2::ext::Protocol>,
}

/// A request as it came.
#[derive(Debug)]
pub struct Request {
    /// Its head.
    pub head: Head,
    /// What follows.
    pub body: Incoming,
    /// Takes what the endpoint says before its answer.
    pub interim: Interim,
}

/// An answer on its way to the caller.
#[derive(Debug)]
pub struct Response<B> {
    status: StatusCode,
    /// What the endpoint wrote behind the status, if that is not what everybody writes.
    pub(super) reason: Option<Bytes>,
    headers: Fields,
    body: B,
}

impl<B> Response<B> {
    /// With nothing but these.
    pub fn new(status: StatusCode, headers: impl Into<Fields>, body: B) -> Self {
        Self { status, reason: None, headers: headers.into(), body }
    }

    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Its fields.
    pub fn headers(&self) -> &Fields {
        &self.headers
    }

    /// The same, to be changed.
    pub fn headers_mut(&mut self) -> &mut Fields {
        &mut self.headers
    }

    pub(super) fn into_headers(self) -> Fields {
        self.headers
    }

    /// What follows the head.
    pub fn body(&self) -> &B {
        &self.body
    }

    /// Without its head.
    pub fn into_body(self) -> B {
        self.body
    }

    /// With another body.
    pub fn map<C>(self, change: impl FnOnce(B) -> C) -> Response<C> {
        Response { status: self.status, reason: self.reason, headers: self.headers, body: change(self.body) }
    }

    pub(super) fn into_parts(self) -> (Response<()>, B) {
        (Response { status: self.status, reason: self.reason, headers: self.headers, body: () }, self.body)
    }
}

impl<B> From<http::Response<B>> for Response<B> {
    fn from(response: http::Response<B>) -> Self {
        let (parts, body) = response.into_parts();
        Self::new(parts.status, parts.headers, body)
    }
}
