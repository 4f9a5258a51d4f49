//! Whether a request is one that a route speaks of.

use std::borrow::Cow;

use fairlead_authz::{host, path};
use http::{HeaderName, header};
use regex::bytes::Regex;

use super::{RequestHead, params};
use crate::http::is_grpc_type;

/// All that is set must hold.
#[derive(Debug, Default)]
pub struct Match {
    /// `None`: every path.
    pub path: Option<PathMatch>,
    /// All of them.
    pub headers: Vec<HeaderMatch>,
    /// All of them.
    pub query_params: Vec<NamedMatch>,
    /// All of them.
    pub cookies: Vec<NamedMatch>,
    /// Any of them; none: every method.
    pub methods: Vec<String>,
    /// `None`: gRPC or not.
    pub grpc: Option<GrpcMatch>,
}

/// What the path, without its query, must be.
#[derive(Debug)]
pub enum PathMatch {
    /// Byte for byte.
    Exact(String),
    /// By whole elements, as in the Gateway API: `/a` matches `/a`, `/a/` and `/a/b`, not `/ab`. Kept without its trailing slash.
    Prefix(String),
    /// Of the whole path.
    Regex(Regex),
    /// Each of these.
    All(Vec<PathMatch>),
}

/// What a header must be.
#[derive(Debug)]
pub struct HeaderMatch {
    /// `host` also stands for the `:authority` of HTTP/2.
    pub name: HeaderName,
    /// Compared with the value; several lines of one name count as one value joined by commas, as RFC 9110 section 5.3 reads them; cookies
    /// by `; `, as they are in one line.
    pub value: ValueMatch,
    /// Holds where the value does not match, so also where the header is absent.
    pub not: bool,
}

/// What a parameter of the query or a cookie must be.
#[derive(Debug)]
pub struct NamedMatch {
    /// Case counts.
    pub name: String,
    /// Compared with the first of this name; a parameter's value is decoded.
    pub value: ValueMatch,
    /// Holds where the value does not match, so also where there is none.
    pub not: bool,
}

/// A call of gRPC.
#[derive(Debug)]
pub struct GrpcMatch {
    /// Empty: every service.
    pub service: String,
    /// Empty: every method.
    pub method: String,
}

/// What a value must be.
#[derive(Debug)]
pub enum ValueMatch {
    /// Byte for byte.
    Exact(Vec<u8>),
    /// Begins with these bytes.
    Prefix(Vec<u8>),
    /// Of the whole value.
    Regex(Regex),
    /// Anything.
    Present,
}

impl Match {
    /// Of the path, if that is what it is about.
    pub(super) fn prefix(&self) -> &str {
        self.path.as_ref().map_or("", PathMatch::prefix)
    }

    /// Whether all that is set holds.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.matches(head.path().as_bytes()))
            && self.headers.iter().all(|header| header.matches(head))
            && self.rest_matches(head)
    }

    /// For a rule that protects something: its own path is the one that it means, however that was written.
    #[must_use]
    pub fn protecting(mut self) -> Self {
        if let Some(path) = &mut self.path {
            path.protecting();
        }
        for header in self.headers.iter_mut().filter(|header| header.name == header::HOST) {
            if let ValueMatch::Exact(own) | ValueMatch::Prefix(own) = &mut header.value {
                own.make_ascii_lowercase();
            }
        }
        self
    }

    /// Whether a rule that protects something holds: it does however a server may read the path ([`path`]) and the host ([`host`]).
    pub fn protects(&self, head: &RequestHead<'_>) -> bool {
        let read = |own: &PathMatch| path::any_reading(head.path(), |reading| own.matches(reading));
        self.path.as_ref().is_none_or(read)
            && self.headers.iter().all(|header| header.protects(head))
            && self.rest_matches(head)
    }

    /// All but the path and the headers.
    fn rest_matches(&self, head: &RequestHead<'_>) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|method| method == head.method()))
            && self.grpc.as_ref().is_none_or(|grpc| grpc.matches(head))
            && self.query_params.iter().all(|param| {
                let value = head.query().and_then(|query| params::query_param(query, &param.name));
                param.holds(value.as_deref())
            })
            && self
                .cookies
                .iter()
                .all(|cookie| cookie.holds(params::cookie(head.header(&header::COOKIE), &cookie.name)))
    }
}

impl PathMatch {
    fn prefix(&self) -> &str {
        match self {
            Self::Prefix(prefix) => prefix,
            Self::All(all) => all.first().map_or("", Self::prefix),
            Self::Exact(_) | Self::Regex(_) => "",
        }
    }

    /// One that a path which it matches can be looked up by: [`Exact`](Self::Exact) or [`Prefix`](Self::Prefix), if there is one.
    pub(super) fn filed(&self) -> Option<&Self> {
        match self {
            Self::Exact(_) | Self::Prefix(_) => Some(self),
            Self::All(all) => all.iter().find_map(Self::filed),
            Self::Regex(_) => None,
        }
    }

    fn protecting(&mut self) {
        match self {
            Self::Exact(own) | Self::Prefix(own) => {
                if let Some(Ok(meant)) = path::plain(own).map(|meant| String::from_utf8(meant.into_owned())) {
                    *own = meant;
                }
            }
            Self::All(all) => all.iter_mut().for_each(Self::protecting),
            Self::Regex(_) => {}
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => path == exact.as_bytes(),
            Self::Prefix(prefix) => {
                path.strip_prefix(prefix.as_bytes()).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
            }
            Self::Regex(regex) => regex.is_match(path),
            Self::All(all) => all.iter().all(|one| one.matches(path)),
        }
    }
}

impl HeaderMatch {
    fn matches(&self, head: &RequestHead<'_>) -> bool {
        value_of(head, &self.name).is_some_and(|value| self.value.matches(&value)) != self.not
    }

    fn protects(&self, head: &RequestHead<'_>) -> bool {
        if self.name != header::HOST {
            return self.matches(head);
        }
        let holds = |reading: &[u8]| self.value.matches(reading) != self.not;
        value_of(head, &self.name).map_or(self.not, |value| host::any_reading(&value, holds))
    }
}

/// The value of a header as matches see it: several lines are one value, joined by commas (cookies by `; `); the authority stands for a missing `Host`.
pub(super) fn value_of<'a>(head: &RequestHead<'a>, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut lines = head.header(name);
    match (lines.next(), lines.next()) {
        (None, _) if *name == header::HOST => head.authority().map(|authority| authority.as_bytes().into()),
        (None, _) => None,
        (Some(one), None) => Some(one.into()),
        (Some(first), Some(second)) => {
            // HTTP/2 may send one line for each cookie of one list.
            let between: &[u8] = if *name == header::COOKIE { b"; " } else { b"," };
            let mut joined = first.to_vec();
            for line in std::iter::once(second).chain(lines) {
                joined.extend_from_slice(between);
                joined.extend_from_slice(line);
            }
            Some(joined.into())
        }
    }
}

impl NamedMatch {
    fn holds(&self, value: Option<&[u8]>) -> bool {
        value.is_some_and(|value| self.value.matches(value)) != self.not
    }
}

impl GrpcMatch {
    /// Calls of gRPC are known by their content type; the path is `/package.Service/Method`.
    fn matches(&self, head: &RequestHead<'_>) -> bool {
        let name = header::CONTENT_TYPE;
        let mut types = head.header(&name);
        let Some((service, method)) = head.path().strip_prefix('/').and_then(|path| path.split_once('/')) else {
            return false;
        };
        types.next().is_some_and(is_grpc_type)
            && (self.service.is_empty() || self.service == service)
            && (self.method.is_empty() || self.method == method)
    }
}

impl ValueMatch {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Exact(exact) => value == exact.as_slice(),
            Self::Prefix(prefix) => value.starts_with(prefix),
            Self::Regex(regex) => regex.is_match(value),
            Self::Present => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn regex(pattern: &str) -> Regex {
        Regex::new(&format!("^(?:{pattern})$")).unwrap()
    }

    fn holds(entry: &Match, method: &Method, uri: &str, headers: &[(&str, &str)]) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
        }
        entry.matches(&RequestHead::new(method, &uri.parse().unwrap(), &map.into()))
    }

    fn path(path: PathMatch) -> Match {
        Match { path: Some(path), ..Match::default() }
    }

    fn header(name: &str, value: ValueMatch, not: bool) -> Match {
        Match {
            headers: vec![HeaderMatch { name: HeaderName::try_from(name).unwrap(), value, not }],
            ..Match::default()
        }
    }

    #[test]
    fn a_prefix_matches_whole_path_elements_only() {
        let entry = path(PathMatch::Prefix("/a".into()));
        for (uri, expected) in
            [("/a", true), ("/a/", true), ("/a/b", true), ("/a?x=1", true), ("/ab", false), ("/", false), ("/A", false)]
        {
            assert_eq!(holds(&entry, &Method::GET, uri, &[]), expected, "{uri}");
        }
        let everything = path(PathMatch::Prefix(String::new()));
        assert!(holds(&everything, &Method::GET, "/whatever", &[]));
    }

    #[test]
    fn of_several_paths_each_must_match_and_the_first_is_the_prefix() {
        let all = PathMatch::All(vec![PathMatch::Prefix("/a".into()), PathMatch::Regex(regex(".*[0-9]"))]);
        let entry = path(all);
        for (uri, expected) in [("/a/1", true), ("/a/b", false), ("/b/1", false)] {
            assert_eq!(holds(&entry, &Method::GET, uri, &[]), expected, "{uri}");
        }
        assert_eq!(entry.prefix(), "/a");
        let mut escaped = path(PathMatch::All(vec![PathMatch::Exact("/%61".into())]));
        assert!(!holds(&escaped, &Method::GET, "/a", &[]));
        escaped = escaped.protecting();
        assert!(holds(&escaped, &Method::GET, "/a", &[]));
    }

    #[test]
    fn what_protects_holds_for_every_spelling_and_what_routes_for_one() {
        let uri = |path: &str| path.parse().unwrap();
        let none = HeaderMap::new().into();
        let entry = |path| Match { path: Some(path), methods: vec!["POST".into()], ..Match::default() };
        for entry in [
            entry(PathMatch::Exact("/login".into())),
            entry(PathMatch::Prefix("/login".into())),
            entry(PathMatch::Regex(regex("/log(in|out)"))),
        ] {
            let entry = entry.protecting();
            for (path, matches, protects) in [
                ("/login", true, true),
                ("/%6Cogin", false, true),
                ("//login", false, true),
                ("/x/../login", false, true),
                ("/login;a=b", false, true),
                ("/other", false, false),
            ] {
                let uri = uri(path);
                let head = RequestHead::new(&Method::POST, &uri, &none);
                assert_eq!((entry.matches(&head), entry.protects(&head)), (matches, protects), "{entry:?} {path}");
                assert!(!entry.protects(&RequestHead::new(&Method::GET, &uri, &none)), "the rest counts as ever");
            }
        }
        let escaped = entry(PathMatch::Prefix("/a%20b".into())).protecting();
        for path in ["/a%20b", "/%61%20b/c", "//a%20b"] {
            let uri = uri(path);
            assert!(escaped.protects(&RequestHead::new(&Method::POST, &uri, &none)), "{path}");
        }
    }

    #[test]
    fn what_protects_a_host_holds_however_it_is_written() {
        let uri = "/".parse().unwrap();
        let host = |not| HeaderMatch { name: header::HOST, value: ValueMatch::Exact(b"Login".to_vec()), not };
        let entry = |not| Match { headers: vec![host(not)], ..Match::default() }.protecting();
        for (value, own) in [("login", true), ("LOGIN:80", true), ("login.", true), ("other", false)] {
            let headers = HeaderMap::from_iter([(header::HOST, value.parse().unwrap())]).into();
            let head = RequestHead::new(&Method::GET, &uri, &headers);
            assert_eq!(entry(false).protects(&head), own, "{value}");
        }
        let other = HeaderMap::from_iter([(header::HOST, "other".parse().unwrap())]).into();
        assert!(entry(true).protects(&RequestHead::new(&Method::GET, &uri, &other)));
    }

    #[test]
    fn exact_and_regex_look_at_the_whole_path_without_its_query() {
        let exact = path(PathMatch::Exact("/reviews/1".into()));
        assert!(holds(&exact, &Method::GET, "/reviews/1?full", &[]));
        assert!(!holds(&exact, &Method::GET, "/reviews/1/", &[]));
        let pattern = path(PathMatch::Regex(regex("/reviews/[0-9]+")));
        assert!(holds(&pattern, &Method::GET, "/reviews/17", &[]));
        assert!(!holds(&pattern, &Method::GET, "/reviews/17x", &[]));
    }

    #[test]
    fn every_part_of_an_entry_must_hold() {
        let entry = Match {
            path: Some(PathMatch::Prefix("/reviews".into())),
            headers: vec![HeaderMatch {
                name: "end-user".parse().unwrap(),
                value: ValueMatch::Exact(b"jason".to_vec()),
                not: false,
            }],
            methods: vec!["GET".into()],
            ..Match::default()
        };
        let jason = [("end-user", "jason")];
        assert!(holds(&entry, &Method::GET, "/reviews/1", &jason));
        assert!(!holds(&entry, &Method::POST, "/reviews/1", &jason));
        assert!(!holds(&entry, &Method::GET, "/ratings/1", &jason));
        assert!(!holds(&entry, &Method::GET, "/reviews/1", &[("end-user", "jasonx")]));
    }

    #[test]
    fn not_turns_a_header_around_and_holds_where_it_is_absent() {
        let entry = header("env", ValueMatch::Exact(b"staging".to_vec()), true);
        assert!(holds(&entry, &Method::GET, "/", &[]));
        assert!(holds(&entry, &Method::GET, "/", &[("env", "prod")]));
        assert!(!holds(&entry, &Method::GET, "/", &[("env", "staging")]));
    }

    #[test]
    fn repeated_headers_are_one_value_joined_by_commas() {
        let lines = [("x", "a"), ("x", "b")];
        let joined = header("x", ValueMatch::Exact(b"a,b".to_vec()), false);
        assert!(holds(&joined, &Method::GET, "/", &lines));
        let one = header("x", ValueMatch::Exact(b"b".to_vec()), false);
        assert!(!holds(&one, &Method::GET, "/", &lines));
        let present = header("x", ValueMatch::Present, false);
        assert!(holds(&present, &Method::GET, "/", &lines));
        let cookies = header("cookie", ValueMatch::Exact(b"a=1; b=2".to_vec()), false);
        assert!(holds(&cookies, &Method::GET, "/", &[("cookie", "a=1"), ("cookie", "b=2")]));
    }

    #[test]
    fn host_stands_for_the_authority_too() {
        let entry = header("host", ValueMatch::Exact(b"reviews:9080".to_vec()), false);
        assert!(holds(&entry, &Method::GET, "http://reviews:9080/", &[]));
        assert!(holds(&entry, &Method::GET, "/", &[("host", "reviews:9080")]));
        assert!(!holds(&entry, &Method::GET, "http://ratings:9080/", &[]));
    }
    fn named(name: &str, value: ValueMatch, not: bool) -> Vec<NamedMatch> {
        vec![NamedMatch { name: name.into(), value, not }]
    }

    #[test]
    fn parameters_of_the_query_are_compared_decoded() {
        let exact = || ValueMatch::Exact(b"a b".to_vec());
        let entry = Match { query_params: named("beta", exact(), false), ..Match::default() };
        assert!(holds(&entry, &Method::GET, "/?x=1&beta=a%20b", &[]));
        assert!(!holds(&entry, &Method::GET, "/?beta=ab", &[]));
        assert!(!holds(&entry, &Method::GET, "/", &[]));
        let not = Match { query_params: named("beta", exact(), true), ..Match::default() };
        assert!(holds(&not, &Method::GET, "/", &[]));
        assert!(!holds(&not, &Method::GET, "/?beta=a+b", &[]));
        let present = Match { query_params: named("beta", ValueMatch::Present, false), ..Match::default() };
        assert!(holds(&present, &Method::GET, "/?beta", &[]));
        assert!(!holds(&present, &Method::GET, "/?alpha", &[]));
    }

    #[test]
    fn cookies_are_told_apart() {
        let entry = Match { cookies: named("group", ValueMatch::Regex(regex("b[0-9]")), false), ..Match::default() };
        assert!(holds(&entry, &Method::GET, "/", &[("cookie", "a=1; group=b2")]));
        assert!(holds(&entry, &Method::GET, "/", &[("cookie", "a=1"), ("cookie", "group=b2")]));
        assert!(!holds(&entry, &Method::GET, "/", &[("cookie", "a=group=b2")]));
        assert!(!holds(&entry, &Method::GET, "/", &[]));
    }

    #[test]
    fn calls_of_grpc_are_those_with_its_content_type() {
        let entry = |service: &str, method: &str| Match {
            grpc: Some(GrpcMatch { service: service.into(), method: method.into() }),
            ..Match::default()
        };
        let grpc = [("content-type", "application/grpc+proto")];
        let get = "/bookinfo.Reviews/Get";
        for (service, method, expected) in [
            ("bookinfo.Reviews", "Get", true),
            ("bookinfo.Reviews", "", true),
            ("", "Get", true),
            ("bookinfo.Reviews", "Set", false),
            ("Reviews", "Get", false),
        ] {
            assert_eq!(holds(&entry(service, method), &Method::POST, get, &grpc), expected, "{service} {method}");
        }
        assert!(!holds(&entry("bookinfo.Reviews", "Get"), &Method::POST, get, &[]));
        assert!(!holds(&entry("", "Get"), &Method::POST, "/Get", &grpc));
    }
}
