//! The model in the words of the wire contract, and back.

mod authorization;
mod behaviour;
mod origination;
mod rate_limit;
mod route;
mod rules;
mod tries;

use std::net::SocketAddr;

#[cfg(test)]
pub(crate) use self::route::request_match;
use fairlead_proxy_api::{octets, v1};
use prost::Message as _;
use ring::digest;

use crate::model::{
    Admission, Body, Caller, Destination, Endpoint, EndpointSet, MtlsMode, ObjectName, Place, Protocol, Resource,
    ResourceName, Service, Workload, canonical,
};

/// The name that a proxy of the pod `own` means. The error is a sentence about what is wrong with it.
pub(super) fn name_from_wire(own: &ObjectName, name: Option<v1::ResourceName>) -> Result<ResourceName, &'static str> {
    match name.and_then(|n| n.kind) {
        Some(v1::resource_name::Kind::Workload(_)) => Ok(ResourceName::Workload(own.clone())),
        Some(v1::resource_name::Kind::Destination(address)) => {
            let ip = fairlead_proxy_api::address(&address.ip).ok_or("an address has 4 or 16 bytes")?;
            let port = u16::try_from(address.port).map_err(|_| "a port is at most 65535")?;
            Ok(ResourceName::Destination {
                caller: own.namespace.clone(),
                address: SocketAddr::new(canonical(ip), port),
            })
        }
        None => Err("a resource has a name of a known kind"),
    }
}

/// The name as the proxy of the pod knows it.
pub(super) fn name_to_wire(name: &ResourceName) -> v1::ResourceName {
    let kind = match name {
        ResourceName::Workload(_) => v1::resource_name::Kind::Workload(v1::OwnWorkload {}),
        ResourceName::Destination { address, .. } => {
            v1::resource_name::Kind::Destination(v1::Address { ip: octets(address.ip()), port: address.port().into() })
        }
    };
    v1::ResourceName { kind: Some(kind) }
}

/// A resource as it is sent. Its version is a digest of its body, so that every replica gives equal bodies equal versions, and a
/// proxy that reconnects elsewhere is sent nothing that it has.
///
/// `caller` is who is told: routes for others are none of its business. `None` for the workload of a pod that is gone, which has no form
/// on the wire.
pub(crate) fn resource_to_wire(name: &ResourceName, resource: &Resource, caller: &Caller) -> Option<v1::Resource> {
    let body = match &resource.body {
        Body::NoWorkload => return None,
        Body::Workload(w) => v1::resource::Body::Workload(workload(w)),
        Body::Destination(d) => v1::resource::Body::Destination(destination(d, caller)),
    };
    let mut message = v1::Resource { name: None, version: String::new(), body: Some(body) };
    message.version = version(&message.encode_to_vec());
    message.name = Some(name_to_wire(name));
    Some(message)
}

/// Half of a SHA-256: 128 bits, far beyond chance.
fn version(encoded: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, encoded);
    let mut half = [0; 16];
    half.copy_from_slice(&digest.as_ref()[..16]);
    format!("{:032x}", u128::from_be_bytes(half))
}

fn workload(w: &Workload) -> v1::Workload {
    v1::Workload {
        mtls: mtls(w.admission.mtls),
        port_mtls: port_mtls(&w.admission),
        port_protocols: w
            .port_protocols
            .iter()
            .map(|(port, p)| v1::PortProtocol { port: (*port).into(), protocol: protocol(*p) })
            .collect(),
        rate_limits: w.rate_limits.iter().map(rate_limit::rate_limit).collect(),
        authorization: Some(authorization::authorization(&w.admission)),
        trust_domain: w.trust_domain.clone(),
        identity: w.identity.clone(),
        handovers_from: w.handovers_from.iter().map(|ip| octets(*ip)).collect(),
        jwt_issuers: w.issuers.iter().map(authorization::issuer).collect(),
        rehearsal: w.rehearsal.as_ref().map(|admission| v1::Rehearsal {
            mtls: mtls(admission.mtls),
            port_mtls: port_mtls(admission),
            authorization: Some(authorization::authorization(admission)),
        }),
        handover: w.handover.as_ref().map(|ports| v1::Handover {
            ports: ports
                .iter()
                .map(|p| v1::HandoverPort {
                    port: p.port.into(),
                    endpoints: p.endpoints.iter().map(endpoint).collect(),
                    outlier_detection: Some(behaviour::outliers(&p.outliers)),
                })
                .collect(),
        }),
    }
}

fn port_mtls(admission: &Admission) -> Vec<v1::PortMtls> {
    let ports = admission.ports.iter();
    ports.map(|(port, mode)| v1::PortMtls { port: (*port).into(), mode: mtls(*mode) }).collect()
}

fn mtls(mode: MtlsMode) -> i32 {
    let mode = match mode {
        MtlsMode::Permissive => v1::MtlsMode::Permissive,
        MtlsMode::Strict => v1::MtlsMode::Strict,
        MtlsMode::Disabled => v1::MtlsMode::Disabled,
    };
    mode.into()
}

fn protocol(protocol: Protocol) -> i32 {
    let protocol = match protocol {
        Protocol::Detect => v1::Protocol::Detect,
        Protocol::Http1 => v1::Protocol::Http1,
        Protocol::Http1Only => v1::Protocol::Http1Only,
        Protocol::Http2 => v1::Protocol::Http2,
        Protocol::Opaque => v1::Protocol::Opaque,
    };
    protocol.into()
}

fn destination(d: &Destination, caller: &Caller) -> v1::Destination {
    let kind = match d {
        Destination::PassThrough => v1::destination::Kind::PassThrough(v1::PassThrough {}),
        Destination::Service(s) => v1::destination::Kind::Service(service(s, caller)),
        Destination::Pod(e) => v1::destination::Kind::Pod(endpoint(e)),
    };
    v1::Destination { kind: Some(kind) }
}

fn service(s: &Service, caller: &Caller) -> v1::Service {
    let (routes, opaque_backends) = route::routes(&s.routes, caller);
    let mut originations = origination::Table::default();
    let endpoint_sets = s.endpoint_sets.iter().map(|set| endpoint_set(set, &caller.place, &mut originations)).collect();
    v1::Service {
        namespace: s.namespace.clone(),
        name: s.name.clone(),
        port: s.port.into(),
        protocol: protocol(s.protocol),
        opaque_backends,
        routes,
        endpoint_sets,
        retry_budget: Some(tries::budget(s.retry_budget)),
        tls_originations: originations.into_wire(),
    }
}

/// `here` is where the caller is: how far endpoints are from it is all that it needs to know.
fn endpoint_set<'a>(s: &'a EndpointSet, here: &Place, originations: &mut origination::Table<'a>) -> v1::EndpointSet {
    let level = |there: &Place| s.behaviour.balancing.locality.as_ref().map_or(0, |l| l.level(here, there));
    let mut unready = Vec::new();
    for there in &s.unready {
        let level = level(there) as usize;
        unready.resize(unready.len().max(level + 1), 0);
        unready[level] += 1;
    }
    v1::EndpointSet {
        name: s.name.clone(),
        endpoints: s.endpoints.iter().map(|e| v1::Endpoint { level: level(&e.place), ..endpoint(e) }).collect(),
        unready,
        load_balancing: Some(behaviour::balancing(&s.behaviour.balancing)),
        outlier_detection: Some(behaviour::outliers(&s.behaviour.outliers)),
        limits: Some(behaviour::limits(&s.behaviour.limits)),
        tls_origination: s.behaviour.origination.as_ref().map(|tls| originations.index(tls)),
        health_check: s.behaviour.health_check.as_ref().map(behaviour::health_check),
    }
}

fn endpoint(e: &Endpoint) -> v1::Endpoint {
    v1::Endpoint {
        ip: octets(e.address.ip()),
        port: e.address.port().into(),
        identity: e.identity.clone(),
        zone: e.place.zone.clone(),
        group: e.group.clone(),
        level: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Backend, Balancing, Behaviour, Limits, Origination, Outliers, RetryBudget, Route, Rules, Target, Tries,
    };

    fn resource(weight: u32) -> Resource {
        let route = Route {
            name: "r".into(),
            matches: vec![],
            requests_only: false,
            backends: vec![Backend { weight, sticky: String::new(), target: Target::Unresolved("gone".into()) }],
            request_timeout_ms: 0,
            mirrors: vec![],
            rules: Rules::default(),
            tries: Tries::default(),
        };
        Resource {
            body: Body::Destination(Destination::Service(Service {
                namespace: "n".into(),
                name: "s".into(),
                port: 80,
                protocol: Protocol::Http2,
                routes: vec![route],
                endpoint_sets: vec![],
                retry_budget: RetryBudget { share: 200_000, min_per_second: 10 },
            })),
            sources: vec![],
        }
    }

    #[test]
    fn equal_bodies_have_equal_versions_and_others_have_others() {
        let at = |address: &str| ResourceName::Destination { caller: "n".into(), address: address.parse().unwrap() };
        let version = |name, weight| resource_to_wire(&name, &resource(weight), &Caller::default()).unwrap().version;
        assert_eq!(version(at("1.1.1.1:80"), 1), version(at("[fd00::1]:80"), 1));
        assert_ne!(version(at("1.1.1.1:80"), 1), version(at("1.1.1.1:80"), 2));
    }

    #[test]
    fn sets_refer_to_the_tls_of_their_endpoints() {
        let set = |origination| EndpointSet {
            name: "n/s:80".into(),
            endpoints: vec![],
            unready: vec![],
            behaviour: Behaviour {
                balancing: Balancing::default(),
                outliers: Outliers {
                    consecutive: 5,
                    error_share: 0,
                    min_requests: 0,
                    base_ms: 1,
                    max_ms: 1,
                    max_ejected: 0,
                    probe_path: String::new(),
                },
                limits: Limits {
                    connections: 1,
                    pending_requests: 1,
                    requests: 1,
                    connect_timeout_ms: 1,
                    idle_timeout_ms: 1,
                },
                origination,
                health_check: None,
            },
        };
        let tls = |name: &str| Some(Origination { server_name: name.into(), roots: Ok([b"root".to_vec()].into()) });
        let Body::Destination(Destination::Service(mut outside)) = resource(1).body else { panic!("a Service") };
        outside.endpoint_sets = vec![set(None), set(tls("a.example")), set(tls("b.example")), set(tls("a.example"))];
        let wire = service(&outside, &Caller::default());
        let indices: Vec<_> = wire.endpoint_sets.iter().map(|set| set.tls_origination).collect();
        assert_eq!(indices, [None, Some(0), Some(1), Some(0)]);
        let names: Vec<_> = wire.tls_originations.iter().map(|tls| tls.server_name.as_str()).collect();
        assert_eq!(names, ["a.example", "b.example"]);
    }

    #[test]
    fn names_survive_the_wire_and_nonsense_does_not() {
        let own = ObjectName::new("n", "p");
        let at = |address: &str| ResourceName::Destination { caller: "n".into(), address: address.parse().unwrap() };
        for name in [ResourceName::Workload(own.clone()), at("10.0.0.1:80"), at("[fd00::1]:443")] {
            assert_eq!(name_from_wire(&own, Some(name_to_wire(&name))), Ok(name));
        }
        let address = |ip: &[u8], port| {
            let address = v1::Address { ip: ip.to_vec(), port };
            let kind = Some(v1::resource_name::Kind::Destination(address));
            name_from_wire(&own, Some(v1::ResourceName { kind }))
        };
        assert!(address(&[1, 2, 3], 80).is_err());
        assert!(address(&[1, 2, 3, 4], 65_536).is_err());
        assert!(name_from_wire(&own, None).is_err());
        let mapped = address(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1], 80);
        assert_eq!(mapped, Ok(at("10.0.0.1:80")));
    }
}
