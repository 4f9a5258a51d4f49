//! Routes, their references still names.

use fairlead_crds::{Route, ServiceRef};

use super::{rules, tries};
use crate::model::{Match, ObjectName, Rules, Tries};

/// A route whose references are still names.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct RouteRule {
    pub name: String,
    pub matches: Vec<Match>,
    /// None: the Service itself.
    pub backends: Vec<BackendRule>,
    pub request_timeout_ms: u64,
    pub tries: Tries,
    pub rules: Rules,
    pub mirrors: Vec<MirrorRule>,
}

/// Copies of requests.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct MirrorRule {
    pub reference: Reference,
    /// Millionths.
    pub share: u32,
    pub copies: u32,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct BackendRule {
    pub weight: u32,
    pub reference: Reference,
    /// Where the share goes while `reference` has no endpoints.
    pub fallback: Option<Reference>,
    /// What a cookie says of it; empty where the route gives none.
    pub sticky: String,
}

/// Where a share of requests is to go.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) enum Reference {
    Subset(String),
    Service(ObjectName, u16),
}

/// A route of the policy `uid` in `namespace`.
pub(super) fn parse(namespace: &str, uid: &str, mut route: Route) -> Result<RouteRule, String> {
    let rules = rules::parse(&mut route).map_err(|why| format!("route {}: {why}", route.name))?;
    let mut matches = Vec::with_capacity(route.matches.len());
    for (i, m) in route.matches.into_iter().enumerate() {
        let rule = super::matches::parse(m).map_err(|why| format!("route {}, matches[{i}]: {why}", route.name))?;
        matches.push(rule);
    }
    let mut backends = Vec::with_capacity(route.backends.len());
    for (i, backend) in route.backends.into_iter().enumerate() {
        let at = || format!("route {}, backends[{i}]", route.name);
        let weight =
            u32::try_from(backend.weight).map_err(|_| format!("{}: weight {} is negative", at(), backend.weight))?;
        let reference =
            reference(namespace, backend.subset, backend.service).map_err(|why| format!("{}: {why}", at()))?;
        let fallback = backend.fallback.map(Reference::Subset);
        let sticky = match (&rules.stickiness, &reference) {
            (None, _) => String::new(),
            (Some(_), Reference::Subset(name)) => rules::sticky_value(uid, &route.name, name),
            (Some(_), Reference::Service(name, port)) => {
                rules::sticky_value(uid, &route.name, &format!("{name}:{port}"))
            }
        };
        backends.push(BackendRule { weight, reference, fallback, sticky });
    }
    if rules.stickiness.is_some() && backends.len() < 2 {
        return Err(format!("route {}: stickiness needs at least two backends to choose between", route.name));
    }
    let mut mirrors = Vec::with_capacity(route.mirror.len());
    for (i, mirror) in route.mirror.into_iter().enumerate() {
        let reference = reference(namespace, mirror.subset, mirror.service)
            .map_err(|why| format!("route {}, mirror[{i}]: {why}", route.name))?;
        let copies = u32::try_from(mirror.copies).unwrap_or(1);
        mirrors.push(MirrorRule { reference, share: rules::share(mirror.percent), copies });
    }
    let timeouts = route.timeouts.unwrap_or_default();
    Ok(RouteRule {
        name: route.name,
        matches,
        backends,
        request_timeout_ms: tries::millis(timeouts.request.unwrap_or_default()),
        tries: tries::parse(&timeouts, route.retry),
        rules,
        mirrors,
    })
}

fn reference(namespace: &str, subset: Option<String>, service: Option<ServiceRef>) -> Result<Reference, String> {
    match (subset, service) {
        (Some(subset), None) => Ok(Reference::Subset(subset)),
        (None, Some(service)) => {
            let port = u16::try_from(service.port).map_err(|_| format!("{} is no port", service.port))?;
            let namespace = service.namespace.unwrap_or_else(|| namespace.to_owned());
            Ok(Reference::Service(ObjectName::new(namespace, service.name), port))
        }
        _ => Err("needs either subset or service".into()),
    }
}
