//! From the operator's message to what decides.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use fairlead_authz::{Header, ValuePattern, whole};
use fairlead_proxy_api::v1;

use super::{
    Destination, GrpcMatch, HeaderMatch, Index, Match, NamedMatch, PathMatch, Protocol, Retry, Route, Service, Split,
    Target, ValueMatch,
    behaviour::{self, behaviour},
    rules,
};
use crate::{
    balance::{Endpoint, Load, budget::Budget, set::EndpointSet},
    http::Version,
    identity::{Origination, origination::OriginationId},
};

/// Milliseconds; a year. Nothing waits for longer, and a time so far away is still one that clocks can tell.
const LONGEST: u64 = 365 * 24 * 3600 * 1000;

type Loads = HashMap<(SocketAddr, String), Arc<Load>>;

/// Compiles one version of a destination.
///
/// Endpoints that were in `previous` keep what was learned about them (latency, requests in flight), so that a change of routes does
/// not start the balancer over. The error is a sentence for whoever wrote the configuration; the previous version then stays in use.
pub fn compile(previous: Option<&Destination>, message: v1::Destination) -> Result<Destination, String> {
    let mut loads = loads(previous.into_iter().flat_map(Destination::endpoints));
    let before = match previous {
        Some(Destination::Service(service)) => Some(service),
        _ => None,
    };
    match message.kind {
        None => Err("the destination has no kind that this proxy knows; is it older than the operator?".into()),
        Some(v1::destination::Kind::PassThrough(_)) => Ok(Destination::PassThrough),
        Some(v1::destination::Kind::Pod(pod)) => Ok(Destination::Pod(endpoint_of(&mut loads, pod)?.into())),
        Some(v1::destination::Kind::Service(service)) => {
            service_of(&mut loads, before, service).map(Destination::Service)
        }
    }
}

/// Compiles a set that belongs to no Service, with what the version `before` knew.
pub fn endpoint_set(before: Option<&EndpointSet>, message: v1::EndpointSet) -> Result<EndpointSet, String> {
    set_of(&mut loads(before.into_iter().flat_map(|set| &set.endpoints)), &[], before, message)
}

fn loads<'a>(endpoints: impl Iterator<Item = &'a Arc<Endpoint>>) -> Loads {
    let keyed = |endpoint: &Arc<Endpoint>| {
        let identity = endpoint.identity.as_ref().map(ToString::to_string);
        ((endpoint.address, identity.unwrap_or_default()), endpoint.load.clone())
    };
    endpoints.map(keyed).collect()
}

fn service_of(loads: &mut Loads, previous: Option<&Service>, service: v1::Service) -> Result<Service, String> {
    let protocol = Protocol::from(service.protocol());
    let version = match service.protocol() {
        v1::Protocol::Http1Only => Some(Version::Http1),
        v1::Protocol::Http2 => Some(Version::Http2),
        v1::Protocol::Detect | v1::Protocol::Http1 | v1::Protocol::Opaque => None,
    };
    let name: Arc<str> = format!("{}/{}:{}", service.namespace, service.name, service.port).into();
    let originations = originations_of(previous, service.tls_originations);
    let sets = service
        .endpoint_sets
        .into_iter()
        .map(|set| {
            let name = set.name.clone();
            let before = previous.and_then(|service| service.sets.iter().find(|before| before.name == name));
            set_of(loads, &originations, before.map(Arc::as_ref), set)
                .map(Arc::new)
                .map_err(|error| format!("endpoint set {name}: {error}"))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let routes = service
        .routes
        .into_iter()
        .map(|route| {
            let name = route.name.clone();
            route_of(route, sets.len()).map_err(|error| format!("route {name:?}: {error}"))
        })
        .collect::<Result<Vec<_>, _>>()?;
    if !routes.last().is_some_and(|route| route.matches.is_empty()) {
        return Err(format!("service {name}: the last route must match every request"));
    }
    let opaque =
        targets_of(service.opaque_backends, sets.len()).map_err(|error| format!("opaque backends: {error}"))?;
    let has_rules = routes.iter().any(|route| route.rules.is_some());
    let index = Box::new(Index::new(&routes));
    let traffic = previous.and_then(|service| service.budget.as_ref()).map(|budget| budget.traffic.clone());
    let budget = service.retry_budget.map(|budget| Budget {
        share: budget.share,
        min_per_second: budget.min_per_second,
        traffic: traffic.unwrap_or_default(),
    });
    Ok(Service { name, protocol, version, index, routes, sets, has_rules, opaque: Split::new(opaque), budget })
}

/// Those that the version before used already are used again: to read the certificates of public authorities takes milliseconds.
fn originations_of(previous: Option<&Service>, messages: Vec<v1::TlsOrigination>) -> Vec<Arc<Origination>> {
    let used = |id| {
        let endpoints = previous.into_iter().flat_map(|service| &service.sets).flat_map(|set| &set.endpoints);
        endpoints.filter_map(|endpoint| endpoint.origination.as_ref()).find(|tls| tls.id() == id).cloned()
    };
    let of = |message| used(OriginationId::of(&message)).unwrap_or_else(|| Arc::new(Origination::new(message)));
    messages.into_iter().map(of).collect()
}

/// A set, with what the one of the same name knew before.
fn set_of(
    loads: &mut Loads,
    originations: &[Arc<Origination>],
    before: Option<&EndpointSet>,
    set: v1::EndpointSet,
) -> Result<EndpointSet, String> {
    let found = |index: u32| {
        let unknown = || format!("it refers to TLS origination {index} of {}", originations.len());
        originations.get(index as usize).ok_or_else(unknown)
    };
    let origination = set.tls_origination.map(found).transpose()?;
    // Reached otherwise than before, it has still to show how it does.
    let place = |endpoint: &Endpoint| {
        let origination = endpoint.origination.as_ref().map(|tls| tls.id());
        (endpoint.address, endpoint.identity.clone(), origination)
    };
    let healths: HashMap<_, _> =
        before.iter().flat_map(|set| &set.endpoints).map(|endpoint| (place(endpoint), &endpoint.health)).collect();
    let shared = before.map(EndpointSet::shared).unwrap_or_default();
    let limits = Arc::new(behaviour::limits(set.limits, shared.used.clone())?);
    let endpoints = set
        .endpoints
        .into_iter()
        .map(|endpoint| {
            let endpoint =
                endpoint_of(loads, endpoint)?.with_limits(limits.clone()).with_origination(origination.cloned());
            let known = healths.get(&place(&endpoint)).map(|health| Arc::clone(health));
            Ok(Arc::new(match known {
                Some(health) => endpoint.with_health(health),
                None => endpoint,
            }))
        })
        .collect::<Result<Vec<_>, String>>()?;
    let behaviour =
        behaviour(&endpoints, set.load_balancing, set.unready, set.outlier_detection.as_ref(), set.health_check)?;
    Ok(EndpointSet::new(set.name, endpoints, behaviour, shared))
}

pub(super) fn route_of(mut route: v1::Route, sets: usize) -> Result<Route, String> {
    let targets = targets_of(std::mem::take(&mut route.backends), sets)?;
    Ok(Route {
        rules: rules::compile(&mut route, &targets, sets)?,
        matches: route.matches.into_iter().map(match_of).collect::<Result<_, _>>()?,
        split: Split::new(targets),
        timeout: limit(route.request_timeout_ms),
        try_timeout: limit(route.backend_request_timeout_ms),
        idle: limit(route.idle_timeout_ms),
        retry: route.retry.map(Retry::try_from).transpose()?,
        name: route.name,
    })
}

/// 0 is none.
fn limit(millis: u64) -> Option<Duration> {
    (millis > 0).then(|| Duration::from_millis(millis.min(LONGEST)))
}

fn targets_of(backends: Vec<v1::Backend>, sets: usize) -> Result<Vec<(u32, Target)>, String> {
    backends
        .into_iter()
        .map(|backend| match backend.target {
            Some(v1::backend::Target::EndpointSet(index)) if (index as usize) < sets => {
                Ok((backend.weight, Target::Set(index as usize)))
            }
            Some(v1::backend::Target::EndpointSet(index)) => {
                Err(format!("a backend refers to endpoint set {index} of {sets}"))
            }
            Some(v1::backend::Target::Unresolved(why)) => Ok((backend.weight, Target::Unresolved(why.into()))),
            None => Err("a backend has no target that this proxy knows".into()),
        })
        .collect()
}

/// Compiles what a request must look like. The error is a sentence.
pub fn match_of(message: v1::Match) -> Result<Match, String> {
    let path = message.path.map(path_of).transpose()?;
    let headers = message.headers.into_iter().map(header_of).collect::<Result<_, _>>()?;
    let methods = message
        .methods
        .into_iter()
        .map(|method| match method.parse::<http::Method>() {
            Ok(_) => Ok(method),
            Err(_) => Err(format!("{method:?} is not a method")),
        })
        .collect::<Result<_, _>>()?;
    let query_params = message.query_params.into_iter().map(named_of).collect::<Result<_, _>>()?;
    let cookies = message.cookies.into_iter().map(named_of).collect::<Result<_, _>>()?;
    let grpc = message.grpc.map(|grpc| GrpcMatch { service: grpc.service, method: grpc.method });
    Ok(Match { path, headers, query_params, cookies, methods, grpc })
}

/// How deep paths nest is bounded by what a message may be.
fn path_of(message: v1::PathMatch) -> Result<PathMatch, String> {
    use v1::path_match::Kind;
    Ok(match message.kind {
        Some(Kind::Exact(exact)) => PathMatch::Exact(exact),
        // The Gateway API ignores a trailing slash of a prefix.
        Some(Kind::Prefix(prefix)) => PathMatch::Prefix(prefix.trim_end_matches('/').to_owned()),
        Some(Kind::Regex(pattern)) => PathMatch::Regex(whole(&pattern)?),
        // It would match every path.
        Some(Kind::All(v1::PathMatches { paths })) if paths.is_empty() => {
            return Err("a path must match all of nothing".into());
        }
        Some(Kind::All(v1::PathMatches { paths })) => {
            PathMatch::All(paths.into_iter().map(path_of).collect::<Result<_, _>>()?)
        }
        None => return Err("a path match has no kind that this proxy knows".into()),
    })
}

fn header_of(message: v1::HeaderMatch) -> Result<HeaderMatch, String> {
    let name = message.name.parse().map_err(|_| format!("{:?} is not a header name", message.name))?;
    let NamedMatch { value, not, .. } = named_of(message)?;
    Ok(HeaderMatch { name, value, not })
}

fn named_of(message: v1::HeaderMatch) -> Result<NamedMatch, String> {
    let Header { name, value, not } = header_from_wire(message)?;
    let value = match value {
        ValuePattern::Exact(exact) => ValueMatch::Exact(exact.into_bytes()),
        ValuePattern::Prefix(prefix) => ValueMatch::Prefix(prefix.into_bytes()),
        ValuePattern::Regex(pattern) => ValueMatch::Regex(whole(&pattern)?),
        ValuePattern::Present => ValueMatch::Present,
    };
    Ok(NamedMatch { name, value, not })
}

/// What a header, a parameter of the query or a cookie must be. The error is a sentence.
pub fn header_from_wire(message: v1::HeaderMatch) -> Result<Header, String> {
    use v1::header_match::Kind;
    let v1::HeaderMatch { name, kind, not } = message;
    let (value, not) = match kind {
        Some(Kind::Exact(exact)) => (ValuePattern::Exact(exact), not),
        Some(Kind::Prefix(prefix)) => (ValuePattern::Prefix(prefix), not),
        Some(Kind::Regex(pattern)) => (ValuePattern::Regex(pattern), not),
        // "present: false" asks for absence.
        Some(Kind::Present(present)) => (ValuePattern::Present, not == present),
        None => return Err(format!("the match of {name:?} has no kind that this proxy knows")),
    };
    Ok(Header { name, value, not })
}

fn endpoint_of(loads: &mut Loads, message: v1::Endpoint) -> Result<Endpoint, String> {
    let address = SocketAddr::new(ip(&message.ip)?, port(message.port)?);
    let identity = match message.identity.as_str() {
        "" => None,
        identity => {
            Some(identity.parse().map_err(|error| format!("endpoint {address}: identity {identity:?}: {error}"))?)
        }
    };
    let load = loads.entry((address, message.identity)).or_default().clone();
    Ok(Endpoint::new(address, identity, &message.zone, &message.group, load).at_level(message.level))
}

/// An address of 4 or 16 bytes in network order. The error is a sentence.
pub fn ip(bytes: &[u8]) -> Result<IpAddr, String> {
    fairlead_proxy_api::address(bytes).ok_or_else(|| format!("an address has {} bytes, not 4 or 16", bytes.len()))
}

fn port(port: u32) -> Result<u16, String> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("an endpoint's port is {port}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend(weight: u32, set: u32) -> v1::Backend {
        v1::Backend { weight, target: Some(v1::backend::Target::EndpointSet(set)) }
    }

    fn reviews(hosts: &[u8]) -> v1::Service {
        v1::Service {
            namespace: "bookinfo".into(),
            name: "reviews".into(),
            port: 9080,
            protocol: v1::Protocol::Http1.into(),
            routes: vec![v1::Route { backends: vec![backend(1, 0)], ..v1::Route::default() }],
            endpoint_sets: vec![v1::EndpointSet {
                name: "all".into(),
                endpoints: hosts
                    .iter()
                    .map(|host| v1::Endpoint { ip: vec![10, 0, 0, *host], port: 9080, ..v1::Endpoint::default() })
                    .collect(),
                ..v1::EndpointSet::default()
            }],
            opaque_backends: vec![backend(1, 0)],
            ..v1::Service::default()
        }
    }

    fn compiled(previous: Option<&Destination>, service: v1::Service) -> Result<Destination, String> {
        compile(previous, v1::Destination { kind: Some(v1::destination::Kind::Service(service)) })
    }

    #[test]
    fn endpoints_that_stay_keep_what_was_learned_about_them() {
        let before = compiled(None, reviews(&[1, 2])).unwrap();
        let after = compiled(Some(&before), reviews(&[2, 3])).unwrap();
        let (before, after): (Vec<_>, Vec<_>) = (before.endpoints().collect(), after.endpoints().collect());
        assert!(Arc::ptr_eq(&before[1].load, &after[0].load));
        assert!(!Arc::ptr_eq(&before[0].load, &after[1].load));
    }

    #[test]
    fn an_endpoint_in_two_sets_is_one_to_the_balancer() {
        let mut service = reviews(&[1]);
        service.endpoint_sets.push(service.endpoint_sets[0].clone());
        let service = compiled(None, service).unwrap();
        let loads: Vec<_> = service.endpoints().map(|e| &e.load).collect();
        assert!(Arc::ptr_eq(loads[0], loads[1]));
    }

    #[test]
    fn a_set_keeps_who_is_left_out() {
        let detecting = |hosts: &[u8]| {
            let mut service = reviews(hosts);
            service.endpoint_sets[0].outlier_detection = Some(v1::OutlierDetection {
                consecutive_errors: 1,
                ejection_base_ms: 10_000,
                ejection_max_ms: 10_000,
                max_ejected: 500_000,
                ..v1::OutlierDetection::default()
            });
            service
        };
        let set = |destination: &Destination| match destination {
            Destination::Service(service) => service.sets[0].clone(),
            other => panic!("{other:?}"),
        };
        let before = compiled(None, detecting(&[1, 2])).unwrap();
        let failing = set(&before).endpoints[1].clone();
        assert!(set(&before).record(&failing, false, true, tokio::time::Instant::now()).is_some());
        let after = compiled(Some(&before), detecting(&[2, 3])).unwrap();
        let out: Vec<_> = set(&after).ejected().map(|e| e.address).collect();
        assert_eq!(out, [failing.address]);
    }

    #[test]
    fn limits_are_on_and_what_is_used_of_them_is_known_to_the_next_version() {
        let limits = |destination: &Destination| destination.endpoints().next().unwrap().limits.clone().unwrap();
        let before = compiled(None, reviews(&[1])).unwrap();
        assert_eq!(limits(&before).requests, 1024);
        let mut service = reviews(&[1]);
        service.endpoint_sets[0].limits = Some(v1::Limits {
            connections: 2,
            pending_requests: 3,
            requests: 1,
            connect_timeout_ms: 250,
            idle_timeout_ms: 5000,
        });
        let in_flight = limits(&before).request().unwrap();
        let after = compiled(Some(&before), service.clone()).unwrap();
        assert!(limits(&after).request().is_err());
        drop(in_flight);
        assert!(limits(&after).request().is_ok());
        assert_eq!(after.endpoints().next().unwrap().connect_timeout(), Duration::from_millis(250));

        service.endpoint_sets[0].limits.as_mut().unwrap().pending_requests = 0;
        assert!(compiled(None, service).unwrap_err().contains("limits"));
    }

    fn originating(hosts: &[u8], server_name: &str) -> v1::Service {
        let mut service = reviews(hosts);
        let tls = v1::TlsOrigination { server_name: server_name.into(), ..v1::TlsOrigination::default() };
        service.tls_originations = vec![tls];
        service.endpoint_sets[0].tls_origination = Some(0);
        service
    }

    #[test]
    fn endpoints_of_the_mesh_are_not_reached_by_a_policy_s_tls() {
        let mut service = originating(&[1, 2], "a.example");
        service.endpoint_sets[0].endpoints[1].identity = "spiffe://cluster.local/ns/n/sa/s".into();
        let service = compiled(None, service).unwrap();
        let names: Vec<_> = service.endpoints().map(|e| e.origination.as_ref().map(|tls| tls.server_name())).collect();
        assert_eq!(names, [Some("a.example"), None]);
    }

    #[test]
    fn an_origination_that_stays_is_not_made_again_and_another_forgets_how_endpoints_did() {
        let of = |destination: &Destination| {
            let endpoint = destination.endpoints().next().unwrap();
            (endpoint.origination.clone().unwrap(), endpoint.health.clone())
        };
        let before = compiled(None, originating(&[1], "a.example")).unwrap();
        let same = compiled(Some(&before), originating(&[1, 2], "a.example")).unwrap();
        let other = compiled(Some(&before), originating(&[1], "b.example")).unwrap();
        let ((tls, health), (same, same_health), (other, other_health)) = (of(&before), of(&same), of(&other));
        assert!(Arc::ptr_eq(&tls, &same) && Arc::ptr_eq(&health, &same_health));
        assert!(tls.id() != other.id() && !Arc::ptr_eq(&health, &other_health));
    }

    #[test]
    fn a_balancing_that_is_not_known_is_refused() {
        for balancing in [
            v1::LoadBalancing { algorithm: 99, ..v1::LoadBalancing::default() },
            v1::LoadBalancing { algorithm: 4, ..v1::LoadBalancing::default() },
        ] {
            let mut service = reviews(&[1]);
            service.endpoint_sets[0].load_balancing = Some(balancing);
            assert!(compiled(None, service).unwrap_err().starts_with("endpoint set all: "));
        }
    }

    #[test]
    fn what_cannot_be_obeyed_is_refused_with_its_place() {
        let mut dangling = reviews(&[1]);
        dangling.routes[0].backends = vec![backend(1, 4)];
        let mut pattern = reviews(&[1]);
        pattern.routes.insert(
            0,
            v1::Route {
                name: "testers".into(),
                matches: vec![v1::Match {
                    path: Some(v1::PathMatch { kind: Some(v1::path_match::Kind::Regex("(".into())) }),
                    ..v1::Match::default()
                }],
                ..v1::Route::default()
            },
        );
        let mut open = reviews(&[1]);
        open.routes[0].matches.push(v1::Match { methods: vec!["GET".into()], ..v1::Match::default() });
        let mut address = reviews(&[1]);
        address.endpoint_sets[0].endpoints[0].ip = vec![1, 2, 3];
        let mut origination = originating(&[1], "a.example");
        origination.endpoint_sets[0].tls_origination = Some(1);
        for (service, expected) in [
            (dangling, "endpoint set 4 of 1"),
            (pattern, "route \"testers\": the pattern \"(\""),
            (open, "the last route must match every request"),
            (address, "3 bytes, not 4 or 16"),
            (origination, "TLS origination 1 of 1"),
        ] {
            let error = compiled(None, service).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(compile(None, v1::Destination { kind: None }).is_err());
    }

    #[test]
    fn a_path_that_must_match_what_is_not_known_is_refused() {
        let path = |kind| v1::Match { path: Some(v1::PathMatch { kind }), ..v1::Match::default() };
        let all = |paths| path(Some(v1::path_match::Kind::All(v1::PathMatches { paths })));
        for unknown in [path(None), all(vec![]), all(vec![v1::PathMatch { kind: None }])] {
            match_of(unknown).unwrap_err();
        }
    }

    #[test]
    fn present_false_asks_for_absence() {
        let header = |present, not| {
            header_of(v1::HeaderMatch { name: "x".into(), kind: Some(v1::header_match::Kind::Present(present)), not })
                .unwrap()
                .not
        };
        assert!(!header(true, false));
        assert!(header(true, true));
        assert!(header(false, false));
        assert!(!header(false, true));
    }
}
