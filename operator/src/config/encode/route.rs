//! Routes in the words of the wire contract.

use fairlead_proxy_api::v1;

use crate::model::{Backend, HeaderMatch, Match, PathMatch, Route, StringMatch, Target};

pub(super) fn route(r: &Route) -> v1::Route {
    v1::Route {
        name: r.name.clone(),
        matches: r.matches.iter().map(request_match).collect(),
        backends: r.backends.iter().map(backend).collect(),
        request_timeout_ms: r.request_timeout_ms,
    }
}

fn request_match(m: &Match) -> v1::Match {
    v1::Match {
        path: m.path.as_ref().map(|path| v1::PathMatch {
            kind: Some(match path.clone() {
                PathMatch::Exact(path) => v1::path_match::Kind::Exact(path),
                PathMatch::Prefix(path) => v1::path_match::Kind::Prefix(path),
                PathMatch::Regex(path) => v1::path_match::Kind::Regex(path),
            }),
        }),
        headers: m.headers.iter().map(header_match).collect(),
        methods: m.methods.clone(),
    }
}

fn header_match(h: &HeaderMatch) -> v1::HeaderMatch {
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

pub(super) fn backend(b: &Backend) -> v1::Backend {
    v1::Backend {
        weight: b.weight,
        target: Some(match &b.target {
            Target::EndpointSet(set) => v1::backend::Target::EndpointSet(*set),
            Target::Unresolved(why) => v1::backend::Target::Unresolved(why.clone()),
        }),
    }
}
