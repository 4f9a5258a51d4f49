//! What happens to requests on their way, in the words of the wire contract.

use fairlead_proxy_api::v1;

use crate::model::{Answer, Backend, Cors, Fault, HeaderChanges, PathChange, Redirect, Rewrite, Rules};

/// Adds the rules to a route.
pub(super) fn add(rules: &Rules, backends: &[Backend], route: &mut v1::Route) {
    route.request_headers = changes(&rules.request_headers);
    route.response_headers = changes(&rules.response_headers);
    route.rewrite = rules.rewrite.as_ref().map(rewrite);
    match &rules.answer {
        None => {}
        Some(Answer::Redirect(to)) => route.redirect = Some(redirect(to)),
        Some(Answer::Respond { status, body }) => {
            route.respond = Some(v1::Respond { status: (*status).into(), body: body.clone() });
        }
    }
    route.cors = rules.cors.as_ref().map(cors);
    route.fault = rules.fault.as_ref().map(fault);
    route.stickiness = rules.stickiness.as_ref().map(|sticky| v1::Stickiness {
        cookie: sticky.cookie.clone(),
        max_age_s: sticky.max_age_s,
        values: backends.iter().map(|backend| backend.sticky.clone()).collect(),
    });
}

fn changes(changes: &HeaderChanges) -> Option<v1::HeaderChanges> {
    let fields = |fields: &[(String, String)]| {
        fields.iter().map(|(name, value)| v1::Header { name: name.clone(), value: value.clone() }).collect()
    };
    (*changes != HeaderChanges::default()).then(|| v1::HeaderChanges {
        remove: changes.remove.clone(),
        set: fields(&changes.set),
        add: fields(&changes.add),
    })
}

fn path(change: &PathChange) -> v1::PathChange {
    let kind = match change.clone() {
        PathChange::Prefix(prefix) => v1::path_change::Kind::Prefix(prefix),
        PathChange::Full(full) => v1::path_change::Kind::Full(full),
    };
    v1::PathChange { kind: Some(kind) }
}

fn rewrite(rewrite: &Rewrite) -> v1::Rewrite {
    v1::Rewrite { path: rewrite.path.as_ref().map(path), host: rewrite.host.clone() }
}

fn redirect(redirect: &Redirect) -> v1::Redirect {
    v1::Redirect {
        scheme: redirect.scheme.clone(),
        host: redirect.host.clone(),
        port: redirect.port.into(),
        path: redirect.path.as_ref().map(path),
        status: redirect.status.into(),
    }
}

fn cors(cors: &Cors) -> v1::Cors {
    v1::Cors {
        allow_origins: cors.allow_origins.clone(),
        allow_methods: cors.allow_methods.clone(),
        allow_headers: cors.allow_headers.clone(),
        expose_headers: cors.expose_headers.clone(),
        max_age_s: cors.max_age_s,
        allow_credentials: cors.allow_credentials,
    }
}

fn fault(fault: &Fault) -> v1::Fault {
    v1::Fault {
        delay_share: fault.delay_share,
        delay_ms: fault.delay_ms,
        abort_share: fault.abort_share,
        abort_status: fault.abort_status.into(),
        abort_grpc_status: fault.abort_grpc_status.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Stickiness, Target};

    #[test]
    fn every_rule_is_sent() {
        let header = || ("x".to_owned(), "1".to_owned());
        let rules = Rules {
            request_headers: HeaderChanges { set: vec![header()], ..HeaderChanges::default() },
            response_headers: HeaderChanges {
                add: vec![header()],
                remove: vec!["y".into()],
                ..HeaderChanges::default()
            },
            rewrite: Some(Rewrite { path: Some(PathChange::Prefix("/v2".into())), host: "h".into() }),
            answer: Some(Answer::Respond { status: 418, body: "short and stout".into() }),
            cors: Some(Cors { max_age_s: Some(0), allow_credentials: true, ..Cors::default() }),
            fault: Some(Fault {
                delay_share: 1,
                delay_ms: 2,
                abort_share: 3,
                abort_status: 503,
                abort_grpc_status: 14,
            }),
            stickiness: Some(Stickiness { cookie: "c".into(), max_age_s: None }),
        };
        let backend = |sticky: &str| Backend { weight: 1, sticky: sticky.into(), target: Target::EndpointSet(0) };
        let mut route = v1::Route::default();
        add(&rules, &[backend("a"), backend("b")], &mut route);
        let wire = v1::Header { name: "x".into(), value: "1".into() };
        let (request, response) = (route.request_headers.unwrap(), route.response_headers.unwrap());
        assert_eq!((request.set, request.add.len()), (vec![wire.clone()], 0));
        assert_eq!((response.add, response.remove), (vec![wire], vec!["y".to_owned()]));
        let rewrite = route.rewrite.unwrap();
        assert_eq!(rewrite.path.unwrap().kind, Some(v1::path_change::Kind::Prefix("/v2".into())));
        assert_eq!(rewrite.host, "h");
        assert_eq!(route.respond, Some(v1::Respond { status: 418, body: "short and stout".into() }));
        assert_eq!(route.redirect, None);
        assert_eq!(route.cors.unwrap().max_age_s, Some(0), "no time is not nothing said");
        assert_eq!(route.fault.unwrap().abort_grpc_status, 14);
        assert_eq!(route.stickiness.unwrap().values, ["a", "b"]);
    }

    #[test]
    fn a_route_without_rules_is_as_short_as_before() {
        let mut route = v1::Route::default();
        add(&Rules::default(), &[], &mut route);
        assert_eq!(route, v1::Route::default());
    }
}
