//! From the operator's message.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use fairlead_proxy_api::v1;
use http::{HeaderName, HeaderValue, StatusCode, uri::PathAndQuery};

use super::{
    Answer, Cors, Fault, HeaderChanges, Mirror, PathChange, Redirect, Rewrite, Rules, Stickiness, WHOLE, stickiness,
};
use crate::route::Target;

/// Copies that one request may have at most: a drill, not an attack.
const MAX_COPIES: u32 = 100;

/// Takes the rules out of a route whose backends are `targets`, of a Service with so many endpoint sets; `None`: it has none.
pub(in crate::route) fn compile(
    route: &mut v1::Route,
    targets: &[(u32, Target)],
    sets: usize,
) -> Result<Option<Arc<Rules>>, String> {
    let answer = match (route.redirect.take(), route.respond.take()) {
        (None, None) => None,
        (Some(redirect), None) => Some(Answer::Redirect(self::redirect(redirect)?)),
        (None, Some(respond)) => Some(Answer::Respond(status(respond.status)?, Bytes::from(respond.body))),
        (Some(_), Some(_)) => return Err("it both redirects and responds".into()),
    };
    let rules = Rules {
        request_headers: changes(route.request_headers.take())?,
        response_headers: changes(route.response_headers.take())?,
        rewrite: route.rewrite.take().map(rewrite).transpose()?,
        answer,
        cors: route.cors.take().map(cors).transpose()?,
        fault: route.fault.take().map(fault).transpose()?,
        mirrors: std::mem::take(&mut route.mirrors).iter().map(|m| mirror(m, sets)).collect::<Result<_, _>>()?,
        stickiness: route.stickiness.take().map(|sticky| self::sticky(sticky, targets)).transpose()?,
    };
    let any = rules.changes_request()
        || !rules.response_headers.is_empty()
        || rules.answer.is_some()
        || rules.cors.is_some()
        || rules.fault.is_some()
        || rules.stickiness.is_some()
        || !rules.mirrors.is_empty();
    Ok(any.then(|| Arc::new(rules)))
}

fn status(status: u32) -> Result<StatusCode, String> {
    u16::try_from(status)
        .ok()
        .and_then(|status| StatusCode::from_u16(status).ok())
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or_else(|| format!("{status} is no status of an answer"))
}

fn name(name: &str) -> Result<HeaderName, String> {
    name.parse().map_err(|_| format!("{name:?} is not a header name"))
}

fn value(value: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(value).map_err(|_| format!("{value:?} is not a header value"))
}

fn changes(message: Option<v1::HeaderChanges>) -> Result<HeaderChanges, String> {
    let message = message.unwrap_or_default();
    let fields = |fields: Vec<v1::Header>| {
        fields.into_iter().map(|field| Ok((name(&field.name)?, value(&field.value)?))).collect::<Result<_, String>>()
    };
    Ok(HeaderChanges {
        remove: message.remove.iter().map(|removed| name(removed)).collect::<Result<_, _>>()?,
        set: fields(message.set)?,
        add: fields(message.add)?,
    })
}

fn path(change: v1::PathChange) -> Result<PathChange, String> {
    use v1::path_change::Kind;
    let (path, change): (_, fn(String) -> PathChange) = match change.kind {
        Some(Kind::Prefix(prefix)) => (prefix, PathChange::Prefix),
        Some(Kind::Full(full)) => (full, PathChange::Full),
        None => return Err("a change of a path has no kind that this proxy knows".into()),
    };
    // What comes out is put into a target without another look.
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'?' | b'#'));
    if path.starts_with('/') && plain && PathAndQuery::try_from(path.as_str()).is_ok() {
        Ok(change(path))
    } else {
        Err(format!("{path:?} is not a path"))
    }
}

fn rewrite(message: v1::Rewrite) -> Result<Rewrite, String> {
    let host = match message.host.as_str() {
        "" => None,
        host => {
            let authority = host.parse().map_err(|_| format!("{host:?} is not a host"))?;
            Some((value(host)?, authority))
        }
    };
    Ok(Rewrite { path: message.path.map(path).transpose()?, host })
}

fn redirect(message: v1::Redirect) -> Result<Redirect, String> {
    let some = |text: String| (!text.is_empty()).then_some(text);
    let port = u16::try_from(message.port).map_err(|_| format!("{} is not a port", message.port))?;
    Ok(Redirect {
        scheme: some(message.scheme),
        host: some(message.host),
        port: (port > 0).then_some(port),
        path: message.path.map(path).transpose()?,
        status: status(message.status)?,
    })
}

fn cors(message: v1::Cors) -> Result<Cors, String> {
    Cors::new(message)
}

fn fault(message: v1::Fault) -> Result<Fault, String> {
    if message.delay_share > WHOLE || message.abort_share > WHOLE {
        return Err("a fault has a share of more than all requests".into());
    }
    let grpc = u8::try_from(message.abort_grpc_status).ok().filter(|status| *status <= 16);
    Ok(Fault {
        delay_share: message.delay_share,
        delay: Duration::from_millis(message.delay_ms),
        abort_share: message.abort_share,
        status: if message.abort_share == 0 { StatusCode::SERVICE_UNAVAILABLE } else { status(message.abort_status)? },
        grpc_status: grpc.filter(|status| *status > 0),
    })
}

fn mirror(message: &v1::Mirror, sets: usize) -> Result<Mirror, String> {
    let set = message.endpoint_set as usize;
    if set >= sets {
        return Err(format!("a mirror refers to endpoint set {set} of {sets}"));
    }
    if message.share > WHOLE || message.copies > MAX_COPIES {
        return Err("a mirror asks for more than all requests, or for too many copies".into());
    }
    Ok(Mirror { set, share: message.share, copies: message.copies, counted: message.counted })
}

fn sticky(message: v1::Stickiness, targets: &[(u32, Target)]) -> Result<Stickiness, String> {
    name(&message.cookie).map_err(|_| format!("{:?} is not a cookie's name", message.cookie))?;
    if message.values.len() != targets.len() {
        return Err(format!("a cookie has {} values for {} backends", message.values.len(), targets.len()));
    }
    let mut parts: Vec<(String, Vec<(u32, Target)>)> = Vec::new();
    for (value, target) in message.values.into_iter().zip(targets) {
        if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(format!("{value:?} is not a cookie's value"));
        }
        match parts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, targets)) => targets.push(target.clone()),
            None => parts.push((value, vec![target.clone()])),
        }
    }
    stickiness::Stickiness::new(message.cookie, message.max_age_s, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: &str) -> v1::Header {
        v1::Header { name: name.into(), value: value.into() }
    }

    #[test]
    fn a_route_without_rules_costs_nothing() {
        assert!(compile(&mut v1::Route::default(), &[], 0).unwrap().is_none());
    }

    #[test]
    fn headers_are_removed_set_and_added_in_this_order() {
        let message = v1::HeaderChanges {
            remove: vec!["a".into()],
            set: vec![header("b", "new"), header("a", "set")],
            add: vec![header("b", "more")],
        };
        let mut headers = crate::http::Fields::default();
        for (name, value) in [("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")] {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        changes(Some(message)).unwrap().apply(&mut headers);
        let headers = headers.to_map();
        assert_eq!(headers.get_all("a").iter().collect::<Vec<_>>(), ["set"]);
        assert_eq!(headers.get_all("b").iter().collect::<Vec<_>>(), ["new", "more"]);
        assert_eq!(headers["c"], "1");
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused() {
        let both = v1::Route {
            redirect: Some(v1::Redirect { status: 302, ..v1::Redirect::default() }),
            respond: Some(v1::Respond { status: 200, body: String::new() }),
            ..v1::Route::default()
        };
        let split = v1::HeaderChanges { set: vec![header("a", "1\r\nb: 2")], ..v1::HeaderChanges::default() };
        let split = v1::Route { request_headers: Some(split), ..v1::Route::default() };
        let full = |path: &str| v1::PathChange { kind: Some(v1::path_change::Kind::Full(path.into())) };
        let target = |path: &str| v1::Route {
            rewrite: Some(v1::Rewrite { path: Some(full(path)), host: String::new() }),
            ..v1::Route::default()
        };
        let fault = v1::Fault { abort_share: WHOLE + 1, abort_status: 503, ..v1::Fault::default() };
        let fault = v1::Route { fault: Some(fault), ..v1::Route::default() };
        let sticky = v1::Stickiness { cookie: "c".into(), max_age_s: None, values: vec!["a".into()] };
        let sticky = v1::Route { stickiness: Some(sticky), ..v1::Route::default() };
        let mirror = |endpoint_set, copies| v1::Route {
            mirrors: vec![v1::Mirror { endpoint_set, share: WHOLE, copies, ..v1::Mirror::default() }],
            ..v1::Route::default()
        };
        for (mut route, expected) in [
            (both, "it both redirects and responds"),
            (split, "is not a header value"),
            (target("v2"), "is not a path"),
            (target("/a b"), "is not a path"),
            (target("/a?b"), "is not a path"),
            (target("/a`b"), "is not a path"),
            (fault, "more than all requests"),
            (sticky, "1 values for 0 backends"),
            (mirror(1, 1), "endpoint set 1 of 1"),
            (mirror(0, 101), "too many copies"),
        ] {
            let error = compile(&mut route, &[], 1).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }
}
