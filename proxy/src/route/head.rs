//! What routes look at of a request.

use std::borrow::Cow;

use http::{HeaderName, Method, Uri, header, uri::Authority};

use crate::http::Fields;

/// The parts of a request that routes look at, as the caller wrote them. Matchers ask through its methods alone.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    method: &'a str,
    uri: &'a Uri,
    headers: &'a Fields,
}

impl<'a> RequestHead<'a> {
    /// Of a request that was parsed.
    pub fn new(method: &'a Method, uri: &'a Uri, headers: &'a Fields) -> Self {
        Self { method: method.as_str(), uri, headers }
    }

    /// Case counts.
    pub fn method(&self) -> &'a str {
        self.method
    }

    /// Without the query.
    pub fn path(&self) -> &'a str {
        self.uri.path()
    }

    /// Without the question mark.
    pub fn query(&self) -> Option<&'a str> {
        self.uri.query()
    }

    /// As HTTP/2 sends it, and HTTP/1 where the target has a host.
    pub fn scheme(&self) -> Option<&'a str> {
        self.uri.scheme_str()
    }

    /// The method that a browser asks about before a page of another origin may use it; `None`: it is another request.
    pub fn preflight(&self) -> Option<&'a [u8]> {
        if self.method != Method::OPTIONS.as_str() || !self.headers.contains_key(&header::ORIGIN) {
            return None;
        }
        self.header(&header::ACCESS_CONTROL_REQUEST_METHOD).next()
    }

    /// The request that a browser asks about, as far as it says; `None`: it asks nothing.
    pub(super) fn asked_about(&self) -> Option<Self> {
        let method = std::str::from_utf8(self.preflight()?).ok()?;
        Some(Self { method, ..*self })
    }

    /// The authority of the target, which HTTP/2 sends instead of a `Host` header.
    pub fn authority(&self) -> Option<&'a str> {
        self.uri.authority().map(Authority::as_str)
    }

    /// Whom the caller asked for; empty: it did not say.
    pub fn host(&self) -> Cow<'a, str> {
        match (self.authority(), self.headers.get(&header::HOST)) {
            (Some(authority), _) => authority.into(),
            (None, Some(host)) => String::from_utf8_lossy(host),
            (None, None) => "".into(),
        }
    }

    /// The lines of one header, in their order.
    pub fn header<'n>(&self, name: &'n HeaderName) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.headers.get_all(name)
    }
}
