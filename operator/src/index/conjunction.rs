//! Requests that are of two kinds at once: of a route's, and of those that a release asks for.

use crate::model::{GrpcMatch, Match, PathMatch, SourceMatch};

/// What any of `own` and any of `also` match both, where no `own` stands for every request; none: no request is of both.
///
/// `keeps_prefix`: the prefix that the route's own match names is what a rewrite replaces, and stays so.
pub(super) fn all(own: &[Match], also: &[Match], keeps_prefix: bool) -> Vec<Match> {
    let every = [Match::default()];
    let own = if own.is_empty() { &every } else { own };
    let pairs = own.iter().flat_map(|own| also.iter().filter_map(move |also| both(own, also, keeps_prefix).ok()));
    let mut all: Vec<Match> = Vec::new();
    for pair in pairs {
        if !all.contains(&pair) {
            all.push(pair);
        }
    }
    all
}

/// Two conditions contradict each other.
#[derive(Debug)]
struct Contradiction;

fn both(own: &Match, also: &Match, keeps_prefix: bool) -> Result<Match, Contradiction> {
    Ok(Match {
        path: either(own.path.as_ref(), also.path.as_ref(), |own, also| paths(own, also, keeps_prefix))?.map(|path| {
            let replaced = keeps_prefix && own.path.is_none() && matches!(path, PathMatch::Prefix(_));
            // A route that names no path has / replaced.
            if replaced { PathMatch::All(vec![PathMatch::Prefix("/".into()), path]) } else { path }
        }),
        headers: joined(&own.headers, &also.headers),
        query_params: joined(&own.query_params, &also.query_params),
        cookies: joined(&own.cookies, &also.cookies),
        methods: common(&own.methods, &also.methods)?,
        grpc: either(own.grpc.as_ref(), also.grpc.as_ref(), calls)?,
        source: either(own.source.as_ref(), also.source.as_ref(), sources)?,
    })
}

/// What both ask for, where one may ask for nothing.
fn either<T: Clone>(
    own: Option<&T>,
    also: Option<&T>,
    both: impl FnOnce(&T, &T) -> Result<T, Contradiction>,
) -> Result<Option<T>, Contradiction> {
    match (own, also) {
        (Some(own), Some(also)) => both(own, also).map(Some),
        (one, other) => Ok(one.or(other).cloned()),
    }
}

/// Conditions that must hold all of them.
fn joined<T: Clone + PartialEq>(own: &[T], also: &[T]) -> Vec<T> {
    own.iter().chain(also.iter().filter(|condition| !own.contains(condition))).cloned().collect()
}

/// Values of which any will do, where none stand for every value.
fn common<T: Clone + PartialEq>(own: &[T], also: &[T]) -> Result<Vec<T>, Contradiction> {
    if own.is_empty() || also.is_empty() {
        return Ok([own, also].concat());
    }
    let common: Vec<T> = own.iter().filter(|value| also.contains(value)).cloned().collect();
    if common.is_empty() { Err(Contradiction) } else { Ok(common) }
}

fn paths(own: &PathMatch, also: &PathMatch, keeps_prefix: bool) -> Result<PathMatch, Contradiction> {
    use PathMatch::{All, Exact, Prefix};
    let both = || All(vec![own.clone(), also.clone()]);
    if covers(also, own) {
        return Ok(own.clone());
    }
    if covers(own, also) {
        let replaced = keeps_prefix && matches!(own, Prefix(_));
        return Ok(if replaced { both() } else { also.clone() });
    }
    // What an expression and something else have in common only the path tells.
    let known = |path: &PathMatch| matches!(path, Exact(_) | Prefix(_));
    if known(own) && known(also) { Err(Contradiction) } else { Ok(both()) }
}

/// Whether every path of the second is one of the first, as far as that can be seen without a path. Of prefixes and whole paths it always can.
fn covers(wide: &PathMatch, narrow: &PathMatch) -> bool {
    let (PathMatch::Prefix(prefix), PathMatch::Exact(path) | PathMatch::Prefix(path)) = (wide, narrow) else {
        return wide == narrow;
    };
    let rest = path.trim_end_matches('/').strip_prefix(prefix.trim_end_matches('/'));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn calls(own: &GrpcMatch, also: &GrpcMatch) -> Result<GrpcMatch, Contradiction> {
    let name = |own: &String, also: &String| match (own.as_str(), also.as_str()) {
        ("", name) | (name, "") => Ok(name.to_owned()),
        (own, also) if own == also => Ok(own.to_owned()),
        _ => Err(Contradiction),
    };
    Ok(GrpcMatch { service: name(&own.service, &also.service)?, method: name(&own.method, &also.method)? })
}

fn sources(own: &SourceMatch, also: &SourceMatch) -> Result<SourceMatch, Contradiction> {
    let mut labels = own.labels.clone();
    for (key, value) in &also.labels {
        if labels.insert(key.clone(), value.clone()).is_some_and(|before| before != *value) {
            return Err(Contradiction);
        }
    }
    Ok(SourceMatch {
        namespaces: common(&own.namespaces, &also.namespaces)?,
        service_accounts: common(&own.service_accounts, &also.service_accounts)?,
        labels,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::model::{Caller, HeaderMatch, ObjectName, Place, StringMatch};

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    fn path(path: PathMatch) -> Match {
        Match { path: Some(path), ..Match::default() }
    }

    fn header(value: &str) -> HeaderMatch {
        HeaderMatch { name: "end-user".into(), value: StringMatch::Exact(value.into()), not: false }
    }

    #[test]
    fn every_pair_counts_and_none_that_is_impossible() {
        let methods = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let own = [
            Match { methods: methods(&["GET", "PUT"]), ..path(prefix("/a")) },
            Match { methods: methods(&["POST"]), ..Match::default() },
        ];
        let also = [
            Match { methods: methods(&["PUT", "POST"]), headers: vec![header("jason")], ..Match::default() },
            path(prefix("/b")),
        ];
        let jason = || vec![header("jason")];
        assert_eq!(
            all(&own, &also, false),
            [
                Match { methods: methods(&["PUT"]), headers: jason(), ..path(prefix("/a")) },
                Match { methods: methods(&["POST"]), headers: jason(), ..Match::default() },
                Match { methods: methods(&["POST"]), ..path(prefix("/b")) },
            ]
        );
        assert_eq!(all(&[], &also, false), also, "a route without matches takes every request");
        assert_eq!(all(&own[1..], &[Match { methods: methods(&["GET"]), ..Match::default() }], false), []);
        assert_eq!(all(&also, &also, false).len(), 3, "what two pairs say is said once");
    }

    #[test]
    fn what_a_rewrite_replaces_stays_the_routes_own_prefix() {
        let of = |own: Option<&str>, also: &str, keeps| {
            let own = own.map(|own| path(prefix(own)));
            all(own.as_slice(), &[path(prefix(also))], keeps).remove(0).path.unwrap()
        };
        assert_eq!(of(Some("/a"), "/a/b", false), prefix("/a/b"));
        assert_eq!(of(Some("/a"), "/a/b", true), PathMatch::All(vec![prefix("/a"), prefix("/a/b")]));
        assert_eq!(of(Some("/a"), "/", true), prefix("/a"));
        assert_eq!(of(None, "/a", false), prefix("/a"));
        assert_eq!(of(None, "/a", true), PathMatch::All(vec![prefix("/"), prefix("/a")]));
    }

    #[test]
    fn calls_and_callers_that_contradict_each_other_are_nobody() {
        let call = |service: &str, method: &str| Match {
            grpc: Some(GrpcMatch { service: service.into(), method: method.into() }),
            ..Match::default()
        };
        assert_eq!(all(&[call("a.B", "")], &[call("", "C")], false), [call("a.B", "C")]);
        assert_eq!(all(&[call("a.B", "")], &[call("a.D", "")], false), []);
        let from = |namespace: &str| Match {
            source: Some(SourceMatch { namespaces: vec![namespace.into()], ..SourceMatch::default() }),
            ..Match::default()
        };
        assert_eq!(all(&[from("a")], &[from("b"), from("a")], false), [from("a")]);
    }

    /// What the entries of the proxy say; a list holds if any of its entries does.
    fn holds(entries: &[Match], path: &str) -> bool {
        let uri = path.parse().unwrap();
        let headers = http::HeaderMap::new().into();
        let head = fairlead_proxy::route::RequestHead::new(&http::Method::GET, &uri, &headers);
        let compiled = |entry: &Match| fairlead_proxy::route::match_of(crate::config::request_match(entry)).unwrap();
        entries.is_empty() || entries.iter().any(|entry| compiled(entry).matches(&head))
    }

    fn any_path() -> impl Strategy<Value = String> {
        // Few elements, so that they meet.
        prop::collection::vec(prop::sample::select(vec!["", "a", "b", "ab"]), 0..4)
            .prop_map(|elements| format!("/{}", elements.join("/")))
    }

    fn any_match() -> impl Strategy<Value = Match> {
        (0..5, any_path()).prop_map(|(kind, text)| match kind {
            0 => Match::default(),
            1 => path(PathMatch::Exact(text)),
            2 => path(PathMatch::Regex(format!("{text}.*"))),
            _ => path(prefix(&text)),
        })
    }

    fn any_source() -> impl Strategy<Value = SourceMatch> {
        let names = || prop::collection::vec(prop::sample::select(vec!["a", "b"]), 0..3);
        (names(), names(), names()).prop_map(|(namespaces, accounts, labels)| SourceMatch {
            namespaces: namespaces.into_iter().map(str::to_owned).collect(),
            service_accounts: accounts.into_iter().map(|name| ObjectName::new("a", name)).collect(),
            labels: labels.into_iter().map(|value| ("env".to_owned(), value.to_owned())).collect(),
        })
    }

    proptest! {
        #[test]
        fn a_path_is_of_both_kinds_if_it_is_of_each(
            own in prop::collection::vec(any_match(), 0..3),
            also in prop::collection::vec(any_match(), 1..3),
            keeps: bool,
            path in any_path(),
        ) {
            let joined = all(&own, &also, keeps);
            let wanted = holds(&own, &path) && holds(&also, &path);
            prop_assert_eq!(!joined.is_empty() && holds(&joined, &path), wanted, "{:?}", joined);
        }

        #[test]
        fn a_caller_is_of_both_kinds_if_it_is_of_each(
            own in any_source(), also in any_source(),
            namespace in prop::sample::select(vec!["a", "b"]),
            service_account in prop::sample::select(vec!["a", "b"]),
            env in prop::sample::select(vec!["a", "b"]),
        ) {
            let caller = Caller {
                namespace: namespace.into(),
                service_account: service_account.into(),
                labels: BTreeMap::from([("env".into(), env.into())]),
                place: Place::default(),
            };
            let joined = sources(&own, &also);
            prop_assert_eq!(joined.is_ok_and(|s| s.holds(&caller)), own.holds(&caller) && also.holds(&caller));
        }
    }
}
