//! Routes, their references still names.

use fairlead_crds::Route;

use super::matches;
use crate::model::{Match, ObjectName};

/// A route whose references are still names.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct RouteRule {
    pub name: String,
    pub matches: Vec<Match>,
    /// None: the Service itself.
    pub backends: Vec<BackendRule>,
    pub request_timeout_ms: u64,
}

/// A share of requests.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) struct BackendRule {
    pub weight: u32,
    pub reference: Reference,
    /// Where the share goes while `reference` has no endpoints.
    pub fallback: Option<Reference>,
}

/// Where a share of requests is to go.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::index) enum Reference {
    Subset(String),
    Service(ObjectName, u16),
}

/// A route of a policy in `namespace`.
pub(super) fn parse(namespace: &str, route: Route) -> Result<RouteRule, String> {
    let mut rules = Vec::with_capacity(route.matches.len());
    for (i, m) in route.matches.into_iter().enumerate() {
        let rule = matches::parse(m).map_err(|why| format!("route {}, matches[{i}]: {why}", route.name))?;
        rules.push(rule);
    }
    let mut backends = Vec::with_capacity(route.backends.len());
    for (i, backend) in route.backends.into_iter().enumerate() {
        let at = || format!("route {}, backends[{i}]", route.name);
        let weight =
            u32::try_from(backend.weight).map_err(|_| format!("{}: weight {} is negative", at(), backend.weight))?;
        let reference = match (backend.subset, backend.service) {
            (Some(subset), None) => Reference::Subset(subset),
            (None, Some(service)) => {
                let port = u16::try_from(service.port).map_err(|_| format!("{}: {} is no port", at(), service.port))?;
                let namespace = service.namespace.unwrap_or_else(|| namespace.to_owned());
                Reference::Service(ObjectName::new(namespace, service.name), port)
            }
            _ => return Err(format!("{}: needs either subset or service", at())),
        };
        let fallback = backend.fallback.map(Reference::Subset);
        backends.push(BackendRule { weight, reference, fallback });
    }
    let timeout = route.timeouts.and_then(|t| t.request).unwrap_or_default();
    Ok(RouteRule {
        name: route.name,
        matches: rules,
        backends,
        request_timeout_ms: u64::try_from(timeout.as_std().as_millis()).unwrap_or(u64::MAX),
    })
}
