//! What happens to requests on their way, in the words of the model.

use fairlead_crds as crd;
use ring::digest;

use crate::index::canary::WHOLE;
use crate::model::{Answer, Cors, Fault, HeaderChanges, PathChange, Redirect, Rewrite, Rules, Stickiness};

/// What applications may be asked for without permission: methods of the Fetch standard's safelist.
const SAFELISTED: [&str; 3] = ["GET", "HEAD", "POST"];

/// Takes the rules out of a route.
pub(super) fn parse(route: &mut crd::Route) -> Result<Rules, String> {
    let headers = route.headers.take().unwrap_or_default();
    let answer = match (route.redirect.take(), route.respond.take()) {
        (None, None) => None,
        (Some(redirect), None) => Some(Answer::Redirect(self::redirect(redirect)?)),
        (None, Some(respond)) => {
            Some(Answer::Respond { status: status(respond.status)?, body: respond.body.unwrap_or_default() })
        }
        (Some(_), Some(_)) => return Err("has either redirect or respond, not both".into()),
    };
    Ok(Rules {
        request_headers: changes(headers.request),
        response_headers: changes(headers.response),
        rewrite: route.rewrite.take().map(rewrite).transpose()?,
        answer,
        cors: route.cors.take().map(cors),
        fault: route.fault.take().map(fault).transpose()?,
        stickiness: route.stickiness.take().map(stickiness),
    })
}

pub(in crate::index) fn stickiness(sticky: crd::Stickiness) -> Stickiness {
    Stickiness { cookie: sticky.cookie.name, max_age_s: sticky.cookie.max_age.map(|age| age.as_std().as_secs()) }
}

/// What a cookie says of one backend of a route. Nobody who cannot read the policy knows its UID, so nobody else can make one up, and what a
/// backend is called cannot be read from it.
pub(in crate::index) fn sticky_value(uid: &str, route: &str, backend: &str) -> String {
    let digest = digest::digest(&digest::SHA256, format!("fairlead sticky\n{uid}\n{route}\n{backend}").as_bytes());
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    format!("{:032x}", u128::from_be_bytes(half))
}

fn status(status: i32) -> Result<u16, String> {
    u16::try_from(status)
        .ok()
        .filter(|s| (200..600).contains(s))
        .ok_or_else(|| format!("{status} is no status of an answer"))
}

fn changes(changes: Option<crd::HeaderChanges>) -> HeaderChanges {
    let crd::HeaderChanges { set, add, remove } = changes.unwrap_or_default();
    let lower = |fields: Vec<crd::HeaderField>| {
        fields.into_iter().map(|field| (field.name.to_ascii_lowercase(), field.value)).collect()
    };
    HeaderChanges {
        remove: remove.into_iter().map(|name| name.to_ascii_lowercase()).collect(),
        set: lower(set),
        add: lower(add),
    }
}

fn path(change: crd::PathChange) -> Result<PathChange, String> {
    match (change.prefix, change.full) {
        (Some(prefix), None) => Ok(PathChange::Prefix(prefix)),
        (None, Some(full)) => Ok(PathChange::Full(full)),
        _ => Err("path needs either prefix or full".into()),
    }
}

fn rewrite(rewrite: crd::Rewrite) -> Result<Rewrite, String> {
    Ok(Rewrite { path: rewrite.path.map(path).transpose()?, host: rewrite.host.unwrap_or_default() })
}

fn redirect(redirect: crd::Redirect) -> Result<Redirect, String> {
    let scheme = match redirect.scheme {
        None => "",
        Some(crd::RedirectScheme::Http) => "http",
        Some(crd::RedirectScheme::Https) => "https",
    };
    let port = redirect.port.unwrap_or_default();
    Ok(Redirect {
        scheme: scheme.to_owned(),
        host: redirect.host.unwrap_or_default(),
        port: u16::try_from(port).map_err(|_| format!("redirect.port: {port} is no port"))?,
        path: redirect.path.map(path).transpose()?,
        status: status(redirect.status)?,
    })
}

fn cors(cors: crd::Cors) -> Cors {
    let lower = |names: Vec<String>| names.into_iter().map(|name| name.to_ascii_lowercase()).collect();
    let mut methods = cors.allow_methods;
    if methods.is_empty() {
        methods = SAFELISTED.map(str::to_owned).into();
    }
    Cors {
        allow_origins: cors.allow_origins,
        allow_methods: methods,
        allow_headers: lower(cors.allow_headers),
        expose_headers: lower(cors.expose_headers),
        max_age_s: cors.max_age.map(|age| age.as_std().as_secs()),
        allow_credentials: cors.allow_credentials,
    }
}

fn fault(fault: crd::Fault) -> Result<Fault, String> {
    let mut made = Fault::default();
    if let Some(delay) = fault.delay {
        made.delay_share = share(delay.percent);
        made.delay_ms = u64::try_from(delay.duration.as_std().as_millis()).unwrap_or(u64::MAX);
    }
    if let Some(abort) = fault.abort {
        made.abort_share = share(abort.percent);
        made.abort_status = status(abort.status)?;
        made.abort_grpc_status = abort.grpc_status.map(|status| status as u8).unwrap_or_default();
    }
    Ok(made)
}

/// Millionths.
pub(in crate::index) fn share(percent: crd::Percent) -> u32 {
    (percent.fraction() * f64::from(WHOLE)).round() as u32
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(mut route: serde_json::Value) -> Rules {
        route["name"] = json!("r");
        let mut route: crd::Route = serde_json::from_value(route).unwrap();
        parse(&mut route).unwrap()
    }

    #[test]
    fn a_route_without_rules_has_none() {
        assert_eq!(parsed(json!({})), Rules::default());
    }

    #[test]
    fn names_of_headers_are_in_lower_case_and_values_as_written() {
        let rules = parsed(json!({"headers": {
            "request": {"set": [{"name": "X-Env", "value": "Test"}], "remove": ["X-Old"]},
            "response": {"add": [{"name": "Via", "value": "Mesh"}]},
        }}));
        assert_eq!(rules.request_headers.set, [("x-env".into(), "Test".into())]);
        assert_eq!(rules.request_headers.remove, ["x-old"]);
        assert_eq!(rules.response_headers.add, [("via".into(), "Mesh".into())]);
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let Some(Answer::Redirect(redirect)) = parsed(json!({"redirect": {"scheme": "https"}})).answer else {
            panic!("no redirect")
        };
        assert_eq!((redirect.status, redirect.port, redirect.scheme.as_str()), (302, 0, "https"));
        let fault = parsed(json!({"fault": {"abort": {"percent": 0.5}}})).fault.unwrap();
        assert_eq!((fault.abort_share, fault.abort_status, fault.abort_grpc_status), (5_000, 503, 0));
        let cors = parsed(json!({"cors": {"allowOrigins": ["*"]}})).cors.unwrap();
        assert_eq!(cors.allow_methods, SAFELISTED);
        assert_eq!((cors.max_age_s, cors.allow_credentials), (None, false));
    }

    #[test]
    fn faults_are_shares_of_a_million() {
        let fault = parsed(json!({"fault": {
            "delay": {"percent": 100, "duration": "1s500ms"},
            "abort": {"percent": 0.01, "status": 404, "grpcStatus": "RESOURCE_EXHAUSTED"},
        }}));
        let expected = Fault {
            delay_share: 1_000_000,
            delay_ms: 1_500,
            abort_share: 100,
            abort_status: 404,
            abort_grpc_status: 8,
        };
        assert_eq!(fault.fault, Some(expected));
    }

    #[test]
    fn a_sticky_value_is_stable_and_another_for_each_backend_route_and_policy() {
        let value = sticky_value("uid", "route", "v1");
        assert_eq!(value, sticky_value("uid", "route", "v1"));
        assert_eq!(value.len(), 32);
        for other in [("uid", "route", "v2"), ("uid", "other", "v1"), ("uid2", "route", "v1")] {
            assert_ne!(value, sticky_value(other.0, other.1, other.2));
        }
    }
}
