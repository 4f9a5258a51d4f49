//! What must hold of every route and every path.

use fairlead_proxy_api::v1;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, uri::PathAndQuery};

use super::{Destination, RequestHead, Service, compile, match_of};
use crate::http::h1;

/// Routes and a request, both made of the bytes.
///
/// # Panics
/// If the index finds another route than asking all of them in their order does.
pub(crate) fn matching(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let Some(request) = Request::made_of(&mut choices) else { return };
    let mut routes: Vec<_> = (0..choices.number(24)).map(|_| route(&mut choices)).collect();
    routes.push(v1::Route::default());
    let service = v1::Service { routes, ..v1::Service::default() };
    let Ok(Destination::Service(service)) =
        compile(None, v1::Destination { kind: Some(v1::destination::Kind::Service(service)) })
    else {
        // A pattern that is none.
        return;
    };
    let head = RequestHead::new(&request.method, &request.uri, &request.headers);
    assert_eq!(found(&service, &head), service.routes.iter().position(|route| route.takes(&head).is_some()));
}

fn found(service: &Service, head: &RequestHead<'_>) -> Option<usize> {
    let found = service.route(head)?;
    service.routes.iter().position(|route| std::ptr::eq(route, found))
}

/// Three lines: what the caller asks for, a prefix that a route names, and what takes its place.
///
/// # Panics
/// If a path is forwarded otherwise than it was written, if a prefix matches but for whole elements, or if a rewritten target is not one target
/// below what the rule says, with the caller's query.
pub(crate) fn paths(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |byte| *byte == b'\n');
    let (Some(target), Some(prefix), Some(replacement)) = (lines.next(), lines.next(), lines.next()) else { return };
    let (Ok(prefix), Ok(replacement)) = (std::str::from_utf8(prefix), std::str::from_utf8(replacement)) else { return };
    let Some(uri) = asked_for(target) else { return };
    if target.starts_with(b"/") {
        assert_eq!(uri.path_and_query().map(PathAndQuery::as_str).map(str::as_bytes), Some(target));
    }
    let path = uri.path().to_owned();
    let kind = Some(v1::path_match::Kind::Prefix(prefix.to_owned()));
    let entry = v1::Match { path: Some(v1::PathMatch { kind }), ..v1::Match::default() };
    let Ok(matcher) = match_of(entry.clone()) else { panic!("every prefix compiles") };
    let (method, headers) = (Method::GET, HeaderMap::new().into());
    let matches = matcher.matches(&RequestHead::new(&method, &uri, &headers));
    let elements: Vec<&str> = path.split('/').collect();
    let wanted: Vec<&str> = prefix.trim_end_matches('/').split('/').collect();
    assert_eq!(matches, elements.starts_with(&wanted), "{path:?} and {prefix:?}");
    if !matches {
        return;
    }
    let change = v1::PathChange { kind: Some(v1::path_change::Kind::Prefix(replacement.to_owned())) };
    let rewrite = v1::Rewrite { path: Some(change), host: String::new() };
    let mut route = v1::Route { matches: vec![entry], rewrite: Some(rewrite), ..v1::Route::default() };
    let Ok(Some(rules)) = super::rules::compile(&mut route, &[], 0) else { return };
    let Some(rewrite) = &rules.rewrite else { panic!("the rule is lost") };
    let (mut rewritten, mut fields) = (uri.clone(), HeaderMap::new().into());
    rewrite.apply(&method, &mut rewritten, &mut fields, matcher.prefix());
    assert_eq!(rewritten.query(), uri.query());
    if path.starts_with('/') {
        let below = replacement.trim_end_matches('/');
        let rest = &path[matcher.prefix().len()..];
        let expected = if rest.is_empty() { replacement.to_owned() } else { format!("{below}{rest}") };
        assert_eq!(rewritten.path(), expected, "{path:?} under {prefix:?} as {replacement:?}");
    }
    let written = rewritten.path_and_query().map_or("/", PathAndQuery::as_str);
    let again = asked_for(written.as_bytes());
    assert_eq!(again.as_ref().and_then(Uri::path_and_query).map(PathAndQuery::as_str), Some(written));
}

/// A target as the head of a request has it.
fn asked_for(target: &[u8]) -> Option<Uri> {
    let head = [b"GET ", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
    let (parsed, len) = h1::request(&head).ok()??;
    assert_eq!(len, head.len(), "the target {} is more than a target", target.escape_ascii());
    Some(parsed.head.uri)
}

/// What a fuzzer's bytes decide.
struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn number(&mut self, below: usize) -> usize {
        usize::from(self.byte()) % below
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.number(all.len())]
    }

    /// Mostly of a few words, so that what is asked for is what routes speak of.
    fn word(&mut self, few: &[&'a str]) -> &'a str {
        let at = self.number(few.len() + 1);
        if let Some(word) = few.get(at) {
            return word;
        }
        let (text, rest) = self.0.split_at(self.0.len().min(at + 3));
        self.0 = rest;
        std::str::from_utf8(text).unwrap_or_default()
    }

    fn path(&mut self) -> String {
        (0..self.number(4)).flat_map(|_| ["/", self.word(&["a", "b", "ab", "", "..", "%2F", "é"])]).collect()
    }
}

const NAMES: [&str; 6] = ["host", "x-1", "x-2", "x-3", "cookie", "content-type"];
const VALUES: [&str; 6] = ["a", "b", "a,b", "c=a", "c=b; d", "application/grpc"];

struct Request {
    method: Method,
    uri: Uri,
    headers: crate::http::Fields,
}

impl Request {
    fn made_of(choices: &mut Choices<'_>) -> Option<Self> {
        let method = choices.one_of(&[Method::GET, Method::POST, Method::OPTIONS].each_ref()).clone();
        let query = choices.word(&["", "?a", "?a=b", "?a=%62&b", "?b&a=b+c"]);
        let path = format!("/{}{query}", choices.path().trim_start_matches('/'));
        let uri = Uri::builder().path_and_query(path);
        let uri = if choices.byte() & 1 == 0 { uri } else { uri.scheme("http").authority("a") };
        let mut headers = HeaderMap::new();
        for _ in 0..choices.number(5) {
            let name = HeaderName::from_static(choices.one_of(&NAMES));
            headers.append(name, HeaderValue::from_str(choices.word(&VALUES)).ok()?);
        }
        if *choices.one_of(&[&true, &false, &false]) {
            headers.insert(http::header::ORIGIN, HeaderValue::from_static("https://a"));
            headers.insert(http::header::ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        }
        Some(Self { method, uri: uri.build().ok()?, headers: headers.into() })
    }
}

fn route(choices: &mut Choices<'_>) -> v1::Route {
    let cors = v1::Cors { allow_origins: vec!["*".into()], ..v1::Cors::default() };
    v1::Route {
        matches: (0..choices.number(4)).map(|_| entry(choices)).collect(),
        cors: choices.one_of(&[None, None, Some(())]).map(|()| cors),
        ..v1::Route::default()
    }
}

#[allow(clippy::needless_update, reason = "a new field of the protocol is one that this need not have")]
fn entry(choices: &mut Choices<'_>) -> v1::Match {
    use v1::path_match::Kind;
    let regex = |choices: &mut Choices<'_>| Kind::Regex(choices.word(&["/a.*", ".*b", "/[ab]+"]).to_owned());
    let path = match choices.number(6) {
        0 | 1 => None,
        2 => Some(Kind::Exact(choices.path())),
        3 => Some(Kind::Prefix(choices.path())),
        4 => {
            let both = [Kind::Prefix(choices.path()), regex(choices)];
            let paths = both.map(|kind| v1::PathMatch { kind: Some(kind) }).into();
            Some(Kind::All(v1::PathMatches { paths }))
        }
        _ => Some(regex(choices)),
    };
    let mut named = |all: &[&str], most: usize| -> Vec<v1::HeaderMatch> {
        (0..choices.number(most)).map(|_| value(choices, all)).collect()
    };
    let (headers, query_params, cookies) = (named(&NAMES, 3), named(&["a", "b"], 2), named(&["c", "d"], 2));
    let grpc = (choices.number(4) == 0).then(|| v1::GrpcMatch {
        service: choices.word(&["", "a", "b"]).to_owned(),
        method: choices.word(&["", "a", "b"]).to_owned(),
    });
    let methods = choices.one_of(&[&[][..], &[], &["GET"], &["POST", "OPTIONS"]]);
    v1::Match {
        path: path.map(|kind| v1::PathMatch { kind: Some(kind) }),
        headers,
        methods: methods.iter().map(|method| (*method).to_owned()).collect(),
        query_params,
        cookies,
        grpc,
        ..v1::Match::default()
    }
}

fn value(choices: &mut Choices<'_>, names: &[&str]) -> v1::HeaderMatch {
    use v1::header_match::Kind;
    let name = choices.one_of(names).to_owned();
    let kind = match choices.number(6) {
        0..3 => Kind::Exact(choices.word(&VALUES).to_owned()),
        3 => Kind::Prefix(choices.word(&VALUES).to_owned()),
        4 => Kind::Regex(choices.word(&["a.*", "[ab]"]).to_owned()),
        _ => Kind::Present(choices.byte() & 1 == 0),
    };
    v1::HeaderMatch { name, kind: Some(kind), not: choices.number(4) == 0 }
}
