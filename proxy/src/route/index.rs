//! Finds the first route that matches a request without asking all of them, so that a request costs the same with a thousand routes as
//! with one.
//!
//! An entry is filed under one thing that must be true where it holds: its whole path, its path's prefix (a call of gRPC is a path too), or the
//! value of a header. A request looks up what is true of it; only routes filed there are asked, in their order. What has nothing to be
//! filed under (no path and no exact header, or a pattern) is asked always.

use std::{borrow::Cow, collections::HashMap};

use http::HeaderName;

use super::{
    Match, RequestHead, Route,
    matcher::{PathMatch, ValueMatch, value_of},
};

/// Where there are no more routes than this, asking all of them is quicker than looking anything up.
const FEW: usize = 8;
/// Header names that may be filed under: each costs every request a look at its headers.
const MAX_NAMES: usize = 4;

/// Positions of routes, ascending, by the value of one header.
type ByValue = HashMap<Box<[u8]>, Vec<usize>>;

/// Positions of routes, ascending, by what must be true of a request.
#[derive(Debug, Default)]
pub struct Index {
    exact: HashMap<Box<str>, Vec<usize>>,
    prefixes: HashMap<Box<str>, Vec<usize>>,
    /// Lengths of prefixes, ascending: a path with thousands of elements costs no more lookups than there are lengths.
    lengths: Vec<usize>,
    headers: Vec<(HeaderName, ByValue)>,
    always: Vec<usize>,
}

impl Index {
    /// Of routes in the order in which they are tried.
    pub(super) fn new(routes: &[Route]) -> Self {
        let mut index = Self::default();
        if routes.len() <= FEW {
            index.always = (0..routes.len()).collect();
            return index;
        }
        for (position, route) in routes.iter().enumerate() {
            if route.matches.is_empty() {
                note(&mut index.always, position);
            }
            for entry in &route.matches {
                note(index.place(entry), position);
            }
        }
        index.lengths = index.prefixes.keys().map(|prefix| prefix.len()).collect();
        index.lengths.sort_unstable();
        index.lengths.dedup();
        index
    }

    /// Where an entry is filed.
    fn place(&mut self, entry: &Match) -> &mut Vec<usize> {
        match entry.path.as_ref().and_then(PathMatch::filed) {
            Some(PathMatch::Exact(path)) => return self.exact.entry(path.as_str().into()).or_default(),
            Some(PathMatch::Prefix(prefix)) => return self.prefixes.entry(prefix.as_str().into()).or_default(),
            Some(PathMatch::Regex(_) | PathMatch::All(_)) | None => {}
        }
        if let Some(grpc) = entry.grpc.as_ref().filter(|grpc| !grpc.service.is_empty()) {
            let service = format!("/{}", grpc.service);
            return if grpc.method.is_empty() {
                self.prefixes.entry(service.into()).or_default()
            } else {
                self.exact.entry(format!("{service}/{}", grpc.method).into()).or_default()
            };
        }
        for header in &entry.headers {
            let ValueMatch::Exact(value) = &header.value else { continue };
            if header.not {
                continue;
            }
            let known = self.headers.iter().position(|(name, _)| *name == header.name);
            let at = match known {
                Some(at) => at,
                None if self.headers.len() < MAX_NAMES => {
                    self.headers.push((header.name.clone(), ByValue::new()));
                    self.headers.len() - 1
                }
                None => continue,
            };
            return self.headers[at].1.entry(value.as_slice().into()).or_default();
        }
        &mut self.always
    }

    /// The position of the first route that matches.
    pub(super) fn first(&self, routes: &[Route], head: &RequestHead<'_>) -> Option<usize> {
        let mut best = routes.len();
        let mut ask = |filed: Option<&Vec<usize>>| {
            for position in filed.into_iter().flatten().copied() {
                if position >= best {
                    return;
                }
                if routes.get(position).is_some_and(|route| route.matches(head)) {
                    best = position;
                    return;
                }
            }
        };
        ask(Some(&self.always));
        let path = head.path();
        if !self.exact.is_empty() {
            ask(self.exact.get(path));
        }
        for length in &self.lengths {
            // Lengths beyond the path's end, or within one of its characters, are nobody's.
            if let Some((prefix, rest)) = path.split_at_checked(*length)
                && (rest.is_empty() || rest.starts_with('/'))
            {
                ask(self.prefixes.get(prefix));
            }
        }
        for (name, values) in &self.headers {
            let value: Option<Cow<'_, [u8]>> = value_of(head, name);
            ask(value.and_then(|value| values.get(&*value)));
        }
        (best < routes.len()).then_some(best)
    }
}

/// A route with several entries in one place is noted there once.
fn note(filed: &mut Vec<usize>, position: usize) {
    if filed.last() != Some(&position) {
        filed.push(position);
    }
}

#[cfg(test)]
mod tests {
    use fairlead_proxy_api::v1;
    use http::{HeaderMap, Method, Uri, header};
    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::super::{GrpcMatch, HeaderMatch, compile::route_of};
    use super::*;

    fn route(matches: Vec<Match>) -> Route {
        Route { matches, ..route_of(v1::Route::default(), 0).unwrap() }
    }

    fn any_path() -> impl Strategy<Value = String> {
        // Few elements, so that paths and prefixes meet.
        prop::collection::vec(prop::sample::select(vec!["", "a", "b", "ab", "é"]), 0..4)
            .prop_map(|elements| format!("/{}", elements.join("/")))
    }

    fn any_match() -> impl Strategy<Value = Match> {
        let regex = || PathMatch::Regex(Regex::new("^(?:/a.*)$").unwrap());
        let path = (0..5, any_path()).prop_map(move |(kind, path)| match kind {
            0 => None,
            1 => Some(PathMatch::Exact(path)),
            2 => Some(PathMatch::Prefix(path.trim_end_matches('/').to_owned())),
            3 => Some(PathMatch::All(vec![regex(), PathMatch::Prefix(path.trim_end_matches('/').to_owned())])),
            _ => Some(regex()),
        });
        let header = (0..6_usize, 0..3_usize, 0..2_usize, any::<bool>()).prop_map(|(name, value, kind, not)| {
            let names = [header::HOST.as_str(), "x-1", "x-2", "x-3", "x-4", "x-5"];
            let value = ["a", "b", "a,b"][value];
            HeaderMatch {
                name: names[name].parse().unwrap(),
                value: if kind == 0 { ValueMatch::Exact(value.into()) } else { ValueMatch::Prefix(value.into()) },
                not,
            }
        });
        let name = prop::sample::select(vec!["", "a", "b"]);
        let grpc = prop::option::weighted(0.3, (name.clone(), name)).prop_map(|call| {
            call.map(|(service, method)| GrpcMatch { service: service.to_owned(), method: method.to_owned() })
        });
        (path, prop::collection::vec(header, 0..3), grpc).prop_map(|(path, headers, grpc)| Match {
            path,
            headers,
            grpc,
            ..Match::default()
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_asking_all_finds(
            routes in prop::collection::vec(prop::collection::vec(any_match(), 0..4).prop_map(route), FEW + 1..30),
            path in any_path(),
            lines in prop::collection::vec((1..6_usize, 0..2_usize), 0..5),
            host in prop::sample::select(vec!["a", "b"]),
        ) {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, "application/grpc".parse().unwrap());
            for (name, value) in lines {
                let name: HeaderName = format!("x-{name}").parse().unwrap();
                headers.append(name, ["a", "b"][value].parse().unwrap());
            }
            // It stands for the Host header.
            let uri = Uri::builder().scheme("http").authority(host).path_and_query(path.as_str()).build();
            prop_assume!(uri.is_ok());
            let uri = uri.unwrap();
            let headers = headers.into();
            let head = RequestHead::new(&Method::GET, &uri, &headers);
            let all = routes.iter().position(|route| route.matches(&head));
            prop_assert_eq!(Index::new(&routes).first(&routes, &head), all);
        }
    }

    #[test]
    fn a_request_asks_only_what_is_filed_under_what_it_is() {
        let entry = |n: usize| Match { path: Some(PathMatch::Prefix(format!("/items-{n}"))), ..Match::default() };
        let mut routes: Vec<_> = (0..1000).map(|n| route(vec![entry(n)])).collect();
        routes.push(route(vec![]));
        let index = Index::new(&routes);
        assert_eq!((index.always.len(), index.prefixes.len()), (1, 1000));
        assert_eq!(index.lengths, [8, 9, 10]);
        let (uri, headers) = ("/items-999/x".parse().unwrap(), HeaderMap::new().into());
        assert_eq!(index.first(&routes, &RequestHead::new(&Method::GET, &uri, &headers)), Some(999));
    }
}
