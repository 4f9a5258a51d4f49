//! Routes in the words of the wire contract.

use fairlead_proxy_api::v1;

use super::{rules, tries};
use crate::model::{Backend, Caller, GrpcMatch, HeaderMatch, Match, Mirror, PathMatch, Route, StringMatch, Target};

/// The routes that `caller` can meet, up to the first that takes every request of its; and where it sends what is no HTTP, which meets no
/// conditions on requests: to the backends of the first route that has none.
pub(super) fn routes(routes: &[Route], caller: &Caller) -> (Vec<v1::Route>, Vec<v1::Backend>) {
    let mut sent = Vec::with_capacity(routes.len());
    let mut complete = false;
    for route in routes {
        let matches = route.matches.iter().filter(|m| m.source.as_ref().is_none_or(|source| source.holds(caller)));
        let every = route.matches.is_empty() || matches.clone().any(Match::asks_nothing_of_the_request);
        if !complete {
            let matches: Vec<v1::Match> = if every { Vec::new() } else { matches.map(request_match).collect() };
            if every || !matches.is_empty() {
                sent.push(encode(route, matches));
            }
            complete = every;
        }
        if every && !route.requests_only {
            return (sent, route.backends.iter().map(backend).collect());
        }
    }
    (sent, Vec::new())
}

fn encode(r: &Route, matches: Vec<v1::Match>) -> v1::Route {
    let mut route = v1::Route {
        name: r.name.clone(),
        matches,
        backends: r.backends.iter().map(backend).collect(),
        request_timeout_ms: r.request_timeout_ms,
        backend_request_timeout_ms: r.tries.timeout_ms,
        idle_timeout_ms: r.tries.idle_timeout_ms,
        retry: r.tries.retry.as_ref().map(tries::retry),
        mirrors: r.mirrors.iter().map(mirror).collect(),
        ..v1::Route::default()
    };
    rules::add(&r.rules, &r.backends, &mut route);
    route
}

pub(crate) fn request_match(m: &Match) -> v1::Match {
    v1::Match {
        path: m.path.as_ref().map(path_match),
        headers: m.headers.iter().map(header_match).collect(),
        methods: m.methods.clone(),
        query_params: m.query_params.iter().map(header_match).collect(),
        cookies: m.cookies.iter().map(header_match).collect(),
        grpc: m.grpc.as_ref().map(grpc_match),
    }
}

fn path_match(path: &PathMatch) -> v1::PathMatch {
    use v1::path_match::Kind;
    let kind = match path {
        PathMatch::Exact(path) => Kind::Exact(path.clone()),
        PathMatch::Prefix(path) => Kind::Prefix(path.clone()),
        PathMatch::Regex(path) => Kind::Regex(path.clone()),
        PathMatch::All(all) => Kind::All(v1::PathMatches { paths: all.iter().map(path_match).collect() }),
    };
    v1::PathMatch { kind: Some(kind) }
}

pub(super) fn grpc_match(grpc: &GrpcMatch) -> v1::GrpcMatch {
    v1::GrpcMatch { service: grpc.service.clone(), method: grpc.method.clone() }
}

pub(super) fn header_match(h: &HeaderMatch) -> v1::HeaderMatch {
    v1::HeaderMatch {
        name: h.name.clone(),
        not: h.not,
        kind: Some(match h.value.clone() {
            StringMatch::Exact(value) => v1::header_match::Kind::Exact(value),
            StringMatch::Prefix(value) => v1::header_match::Kind::Prefix(value),
            StringMatch::Regex(value) => v1::header_match::Kind::Regex(value),
            StringMatch::Present => v1::header_match::Kind::Present(true),
        }),
    }
}

fn mirror(m: &Mirror) -> v1::Mirror {
    v1::Mirror { endpoint_set: m.endpoint_set, share: m.share, copies: m.copies, counted: m.counted }
}

fn backend(b: &Backend) -> v1::Backend {
    v1::Backend {
        weight: b.weight,
        target: Some(match &b.target {
            Target::EndpointSet(set) => v1::backend::Target::EndpointSet(*set),
            Target::Unresolved(why) => v1::backend::Target::Unresolved(why.clone()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Rules, SourceMatch, Tries};

    fn from(namespace: &str) -> Match {
        let source = SourceMatch { namespaces: vec![namespace.into()], ..SourceMatch::default() };
        Match { source: Some(source), ..Match::default() }
    }

    fn get(source: Match) -> Match {
        Match { methods: vec!["GET".into()], ..source }
    }

    fn route(name: &str, matches: Vec<Match>) -> Route {
        Route {
            name: name.into(),
            matches,
            requests_only: false,
            backends: vec![],
            request_timeout_ms: 0,
            tries: Tries::default(),
            mirrors: vec![],
            rules: Rules::default(),
        }
    }

    /// Names of what callers of a namespace are sent, with the number of conditions.
    fn sent(routes: &[Route], namespace: &str) -> Vec<(String, usize)> {
        let caller = Caller { namespace: namespace.into(), ..Caller::default() };
        super::routes(routes, &caller).0.into_iter().map(|route| (route.name, route.matches.len())).collect()
    }

    #[test]
    fn a_caller_is_told_of_the_routes_that_it_can_meet() {
        let routes = [
            route("reads", vec![get(from("web")), get(from("shop"))]),
            route("web", vec![from("web")]),
            route("default", vec![]),
        ];
        assert_eq!(sent(&routes, "web"), [("reads".into(), 1), ("web".into(), 0)]);
        assert_eq!(sent(&routes, "shop"), [("reads".into(), 1), ("default".into(), 0)]);
        assert_eq!(sent(&routes, "other"), [("default".into(), 0)]);
    }
    #[test]
    fn what_is_no_http_follows_the_first_route_that_is_not_of_requests_alone() {
        let to = |set| vec![Backend { weight: 1, sticky: String::new(), target: Target::EndpointSet(set) }];
        let routes = [
            Route { backends: to(1), requests_only: true, ..route("web#canary", vec![from("web")]) },
            Route { backends: to(0), ..route("default", vec![]) },
        ];
        for (namespace, expected) in [("web", "web#canary"), ("shop", "default")] {
            assert_eq!(sent(&routes, namespace), [(expected.into(), 0)]);
            let caller = Caller { namespace: namespace.into(), ..Caller::default() };
            let (_, opaque) = super::routes(&routes, &caller);
            assert_eq!(opaque[0].target, Some(v1::backend::Target::EndpointSet(0)));
        }
    }

    #[test]
    fn paths_are_sent_as_they_are() {
        let prefix = PathMatch::Prefix("/a".into());
        let all = PathMatch::All(vec![prefix, PathMatch::Regex(".*b".into())]);
        let sent = request_match(&Match { path: Some(all), ..Match::default() });
        let Some(v1::path_match::Kind::All(v1::PathMatches { paths })) = sent.path.unwrap().kind else {
            panic!("not all of them")
        };
        assert_eq!(paths[0].kind, Some(v1::path_match::Kind::Prefix("/a".into())));
        assert_eq!(paths[1].kind, Some(v1::path_match::Kind::Regex(".*b".into())));
    }
}
