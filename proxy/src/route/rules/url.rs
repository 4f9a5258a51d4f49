//! Targets that are rewritten, and targets to which callers are sent.

use std::fmt::Write as _;

use http::{
    HeaderValue, Method, StatusCode, Uri, header,
    uri::{Authority, PathAndQuery},
};

use crate::{http::Fields, route::RequestHead};

/// Another path. What comes out is a path again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// In place of the prefix that matched.
    Prefix(String),
    /// In place of all of it.
    Full(String),
}

impl PathChange {
    /// `prefix` is what the route matched by whole elements, without a slash at its end.
    fn apply(&self, path: &str, prefix: &str) -> String {
        match self {
            Self::Full(full) => full.clone(),
            Self::Prefix(replacement) => match path.strip_prefix(prefix).unwrap_or_default() {
                "" => replacement.clone(),
                rest => format!("{}{rest}", replacement.trim_end_matches('/')),
            },
        }
    }
}

/// What the endpoint sees of the target.
#[derive(Debug)]
pub struct Rewrite {
    /// `None`: the caller's path.
    pub path: Option<PathChange>,
    /// The same as a header and as a part of the target; `None`: the caller's.
    pub host: Option<(HeaderValue, Authority)>,
}

impl Rewrite {
    /// Changes a request whose route matched `prefix`.
    pub fn apply(&self, method: &Method, uri: &mut Uri, headers: &mut Fields, prefix: &str) {
        // CONNECT has no path, and the one of `OPTIONS *` is none.
        let path = self.path.as_ref().filter(|_| *method != Method::CONNECT && uri.path().starts_with('/'));
        if let Some(path) = path {
            let mut target = path.apply(uri.path(), prefix);
            if let Some(query) = uri.query() {
                target.push('?');
                target.push_str(query);
            }
            if let Ok(target) = PathAndQuery::try_from(target) {
                change(uri, |parts| parts.path_and_query = Some(target));
            }
        }
        if let Some((value, authority)) = &self.host {
            if uri.authority().is_some() {
                change(uri, |parts| parts.authority = Some(authority.clone()));
            }
            if uri.authority().is_none() || headers.contains_key(&header::HOST) {
                headers.insert(header::HOST, value.clone());
            }
        }
    }
}

fn change(uri: &mut Uri, change: impl FnOnce(&mut http::uri::Parts)) {
    let mut parts = uri.clone().into_parts();
    change(&mut parts);
    if let Ok(changed) = Uri::from_parts(parts) {
        *uri = changed;
    }
}

/// Where a caller is sent.
#[derive(Debug)]
pub struct Redirect {
    /// `None`: the caller's.
    pub scheme: Option<String>,
    /// `None`: the caller's.
    pub host: Option<String>,
    /// `None`: that of [`scheme`](Self::scheme) if there is one, and otherwise the caller's.
    pub port: Option<u16>,
    /// `None`: the caller's.
    pub path: Option<PathChange>,
    /// A redirection.
    pub status: StatusCode,
}

impl Redirect {
    /// The target for a request whose route matched `prefix`; `None` if it does not say which host it is for.
    pub fn location(&self, head: &RequestHead<'_>, prefix: &str) -> Option<HeaderValue> {
        let host = head.header(&header::HOST).next();
        let authority = match host {
            Some(host) => Authority::try_from(host).ok(),
            None => head.authority().and_then(|authority| authority.parse().ok()),
        };
        let scheme = self.scheme.as_deref().or(head.scheme()).unwrap_or("http");
        let port = match (self.port, &self.scheme) {
            (Some(port), _) => Some(port),
            (None, Some(_)) => None,
            (None, None) => authority.as_ref().and_then(Authority::port_u16),
        };
        let port = port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443)));
        let host = match &self.host {
            Some(host) => host.as_str(),
            None => authority.as_ref()?.host(),
        };
        let path = match &self.path {
            Some(change) => &change.apply(head.path(), prefix),
            None => head.path(),
        };
        let mut location = format!("{scheme}://{host}");
        if let Some(port) = port {
            let _ = write!(location, ":{port}");
        }
        location.push_str(path);
        if let Some(query) = head.query() {
            location.push('?');
            location.push_str(query);
        }
        HeaderValue::try_from(location).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_replaced_as_the_gateway_api_has_it() {
        for (path, prefix, replacement, expected) in [
            ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
            ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
            ("/foo", "/foo", "/xyz", "/xyz"),
            ("/foo/", "/foo", "/xyz", "/xyz/"),
            ("/foo/bar", "/foo", "/", "/bar"),
            ("/foo/", "/foo", "/", "/"),
            ("/foo", "/foo", "/", "/"),
            ("/bar", "", "/xyz", "/xyz/bar"),
            ("/", "", "/xyz", "/xyz/"),
        ] {
            let change = PathChange::Prefix(replacement.into());
            assert_eq!(change.apply(path, prefix), expected, "{path} with {replacement} for {prefix}");
        }
        assert_eq!(PathChange::Full("/new".into()).apply("/foo/bar", "/foo"), "/new");
    }

    fn rewritten(rewrite: &Rewrite, uri: &str, host: Option<&str>) -> (String, Option<String>) {
        let mut uri: Uri = uri.parse().unwrap();
        let mut headers = Fields::default();
        if let Some(host) = host {
            headers.insert(header::HOST, host.parse().unwrap());
        }
        rewrite.apply(&Method::GET, &mut uri, &mut headers, "/a");
        (uri.to_string(), headers.get(&header::HOST).map(|host| String::from_utf8_lossy(host).into_owned()))
    }

    #[test]
    fn the_query_stays_and_the_host_changes_where_it_is_written() {
        let rewrite = Rewrite {
            path: Some(PathChange::Prefix("/b".into())),
            host: Some((HeaderValue::from_static("new:80"), Authority::from_static("new:80"))),
        };
        assert_eq!(rewritten(&rewrite, "/a/1?x=%2F", Some("old")), ("/b/1?x=%2F".into(), Some("new:80".into())));
        assert_eq!(rewritten(&rewrite, "http://old/a", None), ("http://new:80/b".into(), None));
        assert_eq!(rewritten(&rewrite, "http://old/a", Some("old")), ("http://new:80/b".into(), Some("new:80".into())));
        let path = Rewrite { path: rewrite.path, host: None };
        assert_eq!(rewritten(&path, "/a", Some("old")), ("/b".into(), Some("old".into())));
        assert_eq!(rewritten(&path, "*", Some("old")).0, "*");
    }

    #[test]
    fn callers_are_sent_where_the_rule_says_and_keep_what_it_does_not_say() {
        let redirect = |scheme: &str, host: &str, port: u16, path: Option<PathChange>| Redirect {
            scheme: (!scheme.is_empty()).then(|| scheme.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
            port: (port > 0).then_some(port),
            path,
            status: StatusCode::FOUND,
        };
        let prefix = || Some(PathChange::Prefix("/new".into()));
        for (redirect, expected) in [
            (redirect("https", "", 0, None), "https://reviews/a/1?x=1"),
            (redirect("", "example.org", 0, None), "http://example.org:9080/a/1?x=1"),
            (redirect("https", "example.org", 8443, prefix()), "https://example.org:8443/new/1?x=1"),
            (redirect("https", "", 443, None), "https://reviews/a/1?x=1"),
            (redirect("", "", 80, None), "http://reviews/a/1?x=1"),
            (redirect("", "", 0, prefix()), "http://reviews:9080/new/1?x=1"),
        ] {
            let (method, uri) = (Method::GET, "/a/1?x=1".parse().unwrap());
            let mut headers = Fields::default();
            headers.insert(header::HOST, HeaderValue::from_static("reviews:9080"));
            let head = RequestHead::new(&method, &uri, &headers);
            assert_eq!(redirect.location(&head, "/a").unwrap(), expected);
            let uri = "http://reviews:9080/a/1?x=1".parse().unwrap();
            let none = Fields::default();
            assert_eq!(redirect.location(&RequestHead::new(&method, &uri, &none), "/a").unwrap(), expected);
        }
    }

    #[test]
    fn a_caller_that_names_no_host_is_sent_only_where_the_rule_names_one() {
        let (method, uri, headers) = (Method::GET, "/".parse().unwrap(), Fields::default());
        let head = RequestHead::new(&method, &uri, &headers);
        let mut redirect =
            Redirect { scheme: Some("https".into()), host: None, port: None, path: None, status: StatusCode::FOUND };
        assert_eq!(redirect.location(&head, ""), None);
        redirect.host = Some("example.org".into());
        assert_eq!(redirect.location(&head, "").unwrap(), "https://example.org/");
    }
}
