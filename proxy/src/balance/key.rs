//! The key of a request, where keys decide.

use std::net::IpAddr;

use http::{HeaderName, header};

use super::ring;
use crate::route::{RequestHead, params};

/// What the key of a request is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The first value of a header.
    Header(HeaderName),
    /// A cookie's value.
    Cookie(String),
    /// A query parameter's.
    QueryParam(String),
    /// The calling pod's address.
    SourceIp,
}

impl KeySource {
    /// The key; `None`: the request has none.
    pub fn key(&self, head: &RequestHead<'_>, own: Option<IpAddr>) -> Option<u64> {
        match self {
            Self::Header(name) => head.header(name).next().map(ring::key),
            Self::Cookie(name) => {
                let lines = header::COOKIE;
                params::cookie(head.header(&lines), name).map(ring::key)
            }
            Self::QueryParam(name) => params::query_param(head.query()?, name).map(|value| ring::key(&value)),
            Self::SourceIp => own.map(ring::of_ip),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    #[test]
    fn keys_are_found_where_they_are_said_to_be() {
        let mut headers = HeaderMap::new();
        headers.insert("x-user", "ada".parse().unwrap());
        headers.append(header::COOKIE, "a=1; session=ada".parse().unwrap());
        let uri = "/x?session2=no&session=ada".parse().unwrap();
        let headers = headers.into();
        let head = RequestHead::new(&Method::GET, &uri, &headers);
        let ada = Some(ring::key(b"ada"));
        let own = Some(IpAddr::from([10, 0, 0, 1]));
        assert_eq!(KeySource::Header(HeaderName::from_static("x-user")).key(&head, own), ada);
        assert_eq!(KeySource::Cookie("session".into()).key(&head, own), ada);
        assert_eq!(KeySource::QueryParam("session".into()).key(&head, own), ada);
        assert_eq!(KeySource::SourceIp.key(&head, own), own.map(ring::of_ip));
        for none in [
            KeySource::Header(HeaderName::from_static("x")),
            KeySource::Cookie("sess".into()),
            KeySource::QueryParam("x".into()),
        ] {
            assert_eq!(none.key(&head, own), None, "{none:?}");
        }
    }
}
