//! What must hold of everything that an operator, or a file of it, may say.

use std::{sync::Arc, time::SystemTime};

use bytes::Buf;
use fairlead_proxy_api::v1::{self, resource::Body};
use http::{HeaderMap, Method, Uri};
use prost::Message;
use tokio::time::{Duration, Instant};

use super::{OwnWorkload, destinations::Slot, persist};
use crate::{
    identity::SpiffeId,
    inbound::Workload,
    route::{Destination, RequestHead},
};

/// Resources one after the other, each behind its length as in a stream of protobuf; they all say the same destination, or the workload.
///
/// # Panics
/// If one that is refused changes what holds, if one that is taken does not, or if a Service has no route for a request.
pub(crate) fn configuration(mut bytes: &[u8]) {
    saved(bytes);
    let address = std::net::SocketAddr::from(([10, 0, 0, 1], 80));
    let slot = Slot::new(address, Instant::now(), Duration::ZERO);
    let own = OwnWorkload::default();
    while bytes.has_remaining() {
        let Ok(resource) = v1::Resource::decode_length_delimited(&mut bytes) else { return };
        let version = resource.version;
        match resource.body {
            Some(Body::Destination(said)) => {
                let before = slot.destination.load_full();
                let applied = slot.apply(&version, said);
                let after = slot.destination.load_full();
                judge(&version, applied, Arc::ptr_eq(&before, &after), &slot.programmed());
                has_a_route(&after);
            }
            Some(Body::Workload(said)) => {
                let before = own.handle().load_full();
                let applied = own.apply(&version, said);
                let after = own.handle().load_full();
                judge(&version, applied, Arc::ptr_eq(&before, &after), &own.programmed());
                ask(&after);
            }
            None => {}
        }
    }
}

fn judge(version: &str, applied: Result<(), String>, same: bool, programmed: &super::Programmed) {
    match applied {
        Ok(()) => {
            assert!(!same, "taken and not in force");
            assert_eq!((programmed.version.as_str(), &programmed.refused), (version, &None));
        }
        Err(reason) => {
            assert!(same, "refused ({reason}) and in force");
            let refused = programmed.refused.as_ref().map(|refused| (refused.version.as_str(), &refused.reason));
            assert_eq!(refused, Some((version, &reason)));
            assert!(!reason.is_empty());
        }
    }
}

fn has_a_route(destination: &Destination) {
    let Destination::Service(service) = destination else { return };
    let (method, uri, headers) = (Method::GET, Uri::from_static("/a/b?c=d"), HeaderMap::new().into());
    let route = service.route(&RequestHead::new(&method, &uri, &headers));
    for random in [0, u64::MAX / 2, u64::MAX] {
        let _ = route.map(|route| route.split.choose(random));
        let _ = service.opaque.choose(random);
        for set in &service.sets {
            let _ = set.pick(&[], Some(random), random, Instant::now());
        }
    }
    assert!(route.is_some(), "no route for a request");
}

fn ask(workload: &Workload) {
    for port in [0, 80, u16::MAX] {
        let _ = (workload.plain(port), workload.protocol(port), workload.limits(port));
    }
}

/// The same bytes as a file of the state directory, with and without what makes it one.
fn saved(bytes: &[u8]) {
    assert!(persist::body(bytes).is_ok_and(|body| persist::framed(body) == bytes) || persist::body(bytes).is_err());
    let framed = persist::framed(bytes);
    assert_eq!(persist::body(&framed), Ok(bytes));
    if let Some(last) = framed.len().checked_sub(1) {
        assert!(persist::body(&framed[..last]).is_err(), "a file that is cut short is read");
    }
    if let Ok(own) = "spiffe://cluster.local/ns/a/sa/b".parse::<SpiffeId>() {
        assert!(persist::identity(bytes, &own, SystemTime::UNIX_EPOCH).is_err(), "nothing was valid in 1970");
    }
}

#[cfg(test)]
#[allow(clippy::needless_update, reason = "a new field of the protocol is one that these seeds need not have")]
mod tests {
    use std::path::Path;

    use super::*;

    fn pod(host: u8) -> v1::Endpoint {
        let identity = "spiffe://cluster.local/ns/a/sa/b".to_owned();
        v1::Endpoint {
            ip: vec![10, 0, 0, host],
            port: 80,
            identity,
            zone: "z".into(),
            group: "g".into(),
            ..v1::Endpoint::default()
        }
    }

    fn service() -> v1::Service {
        let backend = |set| v1::Backend { weight: 1, target: Some(v1::backend::Target::EndpointSet(set)) };
        let header = || v1::Header { name: "x-a".into(), value: "1".into() };
        let kind = Some(v1::path_match::Kind::Prefix("/a".into()));
        let path = v1::PathMatch { kind };
        let all = v1::path_match::Kind::All(v1::PathMatches { paths: vec![path.clone(), path.clone()] });
        let named = || v1::HeaderMatch {
            name: "a".into(),
            kind: Some(v1::header_match::Kind::Regex("b.*".into())),
            not: false,
        };
        let changes = || v1::HeaderChanges { remove: vec!["x-b".into()], set: vec![header()], add: vec![header()] };
        let route = v1::Route {
            name: "a".into(),
            matches: vec![
                v1::Match {
                    path: Some(path),
                    headers: vec![named()],
                    methods: vec!["GET".into()],
                    query_params: vec![named()],
                    cookies: vec![named()],
                    grpc: Some(v1::GrpcMatch { service: "a.B".into(), method: "C".into() }),
                    ..v1::Match::default()
                },
                v1::Match { path: Some(v1::PathMatch { kind: Some(all) }), ..v1::Match::default() },
            ],
            backends: vec![backend(0), backend(1)],
            request_timeout_ms: 1000,
            backend_request_timeout_ms: 100,
            idle_timeout_ms: 100,
            request_headers: Some(changes()),
            response_headers: Some(changes()),
            rewrite: Some(v1::Rewrite {
                path: Some(v1::PathChange { kind: Some(v1::path_change::Kind::Full("/b".into())) }),
                host: "c:80".into(),
            }),
            cors: Some(v1::Cors {
                allow_origins: vec!["https://*.a".into()],
                max_age_s: Some(1),
                ..v1::Cors::default()
            }),
            fault: Some(v1::Fault {
                abort_share: 1,
                abort_status: 500,
                delay_share: 1,
                delay_ms: 1,
                abort_grpc_status: 1,
            }),
            stickiness: Some(v1::Stickiness {
                cookie: "s".into(),
                max_age_s: None,
                values: vec!["1".into(), "2".into()],
            }),
            mirrors: vec![v1::Mirror { endpoint_set: 1, share: 1, copies: 1, counted: true }],
            retry: Some(v1::Retry {
                attempts: 2,
                gateway_errors: true,
                backoff_base_ms: 25,
                backoff_max_ms: 250,
                ..v1::Retry::default()
            }),
            ..v1::Route::default()
        };
        let redirect = v1::Redirect { scheme: "https".into(), status: 302, ..v1::Redirect::default() };
        let hashed = v1::LoadBalancing {
            algorithm: v1::load_balancing::Algorithm::ConsistentHash.into(),
            slow_start_ms: 1000,
            hash_key: Some(v1::load_balancing::HashKey::Header("x-a".into())),
            ..v1::LoadBalancing::default()
        };
        let detection = v1::OutlierDetection {
            consecutive_errors: 5,
            error_share: 500_000,
            min_requests: 20,
            ejection_base_ms: 10_000,
            ejection_max_ms: 300_000,
            max_ejected: 500_000,
            probe_path: "/healthz".into(),
            ..v1::OutlierDetection::default()
        };
        v1::Service {
            namespace: "a".into(),
            name: "b".into(),
            port: 80,
            protocol: v1::Protocol::Http2.into(),
            routes: vec![
                route,
                v1::Route {
                    matches: vec![v1::Match { methods: vec!["PUT".into()], ..v1::Match::default() }],
                    redirect: Some(redirect),
                    ..v1::Route::default()
                },
                v1::Route { backends: vec![backend(1)], ..v1::Route::default() },
            ],
            endpoint_sets: vec![
                v1::EndpointSet { name: "all".into(), endpoints: vec![pod(1), pod(2)], ..v1::EndpointSet::default() },
                v1::EndpointSet {
                    name: "v2".into(),
                    endpoints: vec![pod(2)],
                    load_balancing: Some(hashed),
                    outlier_detection: Some(detection),
                    ..v1::EndpointSet::default()
                },
            ],
            opaque_backends: vec![backend(0)],
            retry_budget: Some(v1::RetryBudget { share: 200_000, min_per_second: 10 }),
            ..v1::Service::default()
        }
    }

    fn workload() -> v1::Workload {
        v1::Workload {
            mtls: v1::MtlsMode::Strict.into(),
            port_mtls: vec![v1::PortMtls { port: 80, mode: v1::MtlsMode::Permissive.into() }],
            port_protocols: vec![v1::PortProtocol { port: 80, protocol: v1::Protocol::Http1.into() }],
            handover: Some(v1::Handover {
                ports: vec![v1::HandoverPort { port: 80, endpoints: vec![pod(3)], ..v1::HandoverPort::default() }],
            }),
            rate_limits: vec![v1::RateLimit {
                name: "a".into(),
                port: 80,
                requests: 10,
                per_ms: 1000,
                burst: 10,
                key: vec![v1::RateLimitKey { kind: Some(v1::rate_limit_key::Kind::Identity(true)) }],
                ..v1::RateLimit::default()
            }],
            ..v1::Workload::default()
        }
    }

    fn stream(bodies: Vec<Body>) -> Vec<u8> {
        let resources = bodies.into_iter().enumerate().map(|(version, body)| v1::Resource {
            name: None,
            version: version.to_string(),
            body: Some(body),
        });
        resources.flat_map(|resource| resource.encode_length_delimited_to_vec()).collect()
    }

    /// `UPDATE_CORPUS=1` writes them anew, after a change of the protocol.
    #[test]
    fn the_seeds_are_what_an_operator_of_today_says() {
        let destination = |kind| Body::Destination(v1::Destination { kind: Some(kind) });
        let service = |service| destination(v1::destination::Kind::Service(service));
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/configuration");
        for (name, bodies) in [
            ("service", vec![service(self::service())]),
            (
                "service-changed",
                vec![service(self::service()), service(v1::Service { endpoint_sets: vec![], ..self::service() })],
            ),
            ("service-without-routes", vec![service(self::service()), service(v1::Service::default())]),
            ("pod", vec![destination(v1::destination::Kind::Pod(pod(1)))]),
            ("pass-through", vec![destination(v1::destination::Kind::PassThrough(v1::PassThrough {}))]),
            ("workload", vec![Body::Workload(workload())]),
            ("workload-unknown-mode", vec![Body::Workload(workload()), Body::Workload(v1::Workload::default())]),
        ] {
            let seed = stream(bodies);
            configuration(&seed);
            if std::env::var_os("UPDATE_CORPUS").is_some() {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(folder.join(name), &seed).unwrap();
            }
            assert!(std::fs::read(folder.join(name)).unwrap() == seed, "{name}: run this test with UPDATE_CORPUS=1");
        }
        assert!(
            crate::route::compile(
                None,
                v1::Destination { kind: Some(v1::destination::Kind::Service(self::service())) }
            )
            .is_ok()
        );
        assert!(crate::inbound::policy::compile(None, workload()).is_ok());
    }
}
