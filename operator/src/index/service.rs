//! What the index keeps of Services and `EndpointSlice`s.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Service as KubeService;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{ObjectName, Protocol, canonical};

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// What the index keeps of a Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Service {
    /// None for headless Services, which are reached by their pods' addresses, and external names.
    pub cluster_ips: Vec<IpAddr>,
    /// TCP only.
    pub ports: Vec<ServicePort>,
}

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ServicePort {
    pub port: u16,
    /// Empty if it is the only one. What slices refer to it by.
    pub name: String,
    pub protocol: Protocol,
}

impl Service {
    pub(super) fn parse(service: KubeService) -> Self {
        let spec = service.spec.unwrap_or_default();
        let mut ips = spec.cluster_ips.unwrap_or_default();
        if ips.is_empty() {
            ips.extend(spec.cluster_ip);
        }
        if spec.type_.as_deref() == Some("ExternalName") {
            ips.clear();
        }
        let ports = spec
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|p| {
                Some(ServicePort {
                    port: u16::try_from(p.port).ok()?,
                    name: p.name.unwrap_or_default(),
                    protocol: protocol(p.app_protocol.as_deref()),
                })
            })
            .collect();
        Self {
            // A headless Service states "None", which is no address.
            cluster_ips: ips.iter().filter_map(|ip| ip.parse().ok()).map(canonical).collect(),
            ports,
        }
    }

    pub(super) fn port(&self, port: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|p| p.port == port)
    }
}

/// What `appProtocol` says of a port's bytes. Names are Kubernetes' own and IANA's; what is not listed is told from the bytes,
/// so that a name unknown here never breaks a connection.
fn protocol(app_protocol: Option<&str>) -> Protocol {
    let Some(name) = app_protocol else {
        return Protocol::Detect;
    };
    match name.to_ascii_lowercase().as_str() {
        // Callers with prior knowledge of HTTP/2 are common on ports that say only this.
        "http" => Protocol::Http1,
        "fairlead.dev/http1" | "kubernetes.io/ws" => Protocol::Http1Only,
        "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => Protocol::Http2,
        // Inside TLS of the application's own nothing can be read.
        "tcp" | "tls" | "https" | "kubernetes.io/wss" | "grpcs" | "redis" | "mysql" | "mongo" | "mongodb"
        | "postgres" | "postgresql" | "amqp" | "kafka" | "memcached" | "mssql" | "ldap" | "ldaps" | "smtp" | "ssh" => {
            Protocol::Opaque
        }
        _ => Protocol::Detect,
    }
}

/// What the index keeps of an EndpointSlice.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Slice {
    /// The Service that it belongs to.
    pub service: String,
    /// Port names and the pods' own port numbers; TCP only.
    pub ports: Vec<(String, u16)>,
    pub endpoints: Vec<SliceEndpoint>,
}

/// An endpoint of a slice.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct SliceEndpoint {
    pub ip: IpAddr,
    pub pod: Option<PodRef>,
    pub zone: String,
    /// Empty: not stated.
    pub node: String,
    pub ready: bool,
    pub terminating: bool,
}

/// The pod behind an endpoint.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodRef {
    pub name: ObjectName,
    /// Empty: not stated.
    pub uid: String,
}

impl Slice {
    /// None: it belongs to no Service, or states names instead of addresses.
    pub(super) fn parse(slice: EndpointSlice) -> Option<Self> {
        let service = slice.metadata.labels?.remove(SERVICE_NAME_LABEL)?;
        let namespace = slice.metadata.namespace?;
        if slice.address_type == "FQDN" {
            return None;
        }
        let ports = slice
            .ports
            .unwrap_or_default()
            .into_iter()
            .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|p| {
                let port = u16::try_from(p.port?).ok()?;
                Some((p.name.unwrap_or_default(), port))
            })
            .collect();
        let endpoints = slice
            .endpoints
            .into_iter()
            .filter_map(|e| {
                let conditions = e.conditions.unwrap_or_default();
                // The addresses of one endpoint are interchangeable, Kubernetes says, and consumers take the first.
                let ip = canonical(e.addresses.first()?.parse().ok()?);
                let pod = e.target_ref.filter(|r| r.kind.as_deref() == Some("Pod")).and_then(|r| {
                    Some(PodRef {
                        // A slice speaks for its own namespace alone, whatever it claims.
                        name: ObjectName::new(namespace.clone(), r.name?),
                        uid: r.uid.unwrap_or_default(),
                    })
                });
                Some(SliceEndpoint {
                    ip,
                    pod,
                    zone: e.zone.unwrap_or_default(),
                    node: e.node_name.unwrap_or_default(),
                    ready: conditions.ready.unwrap_or(true),
                    terminating: conditions.terminating.unwrap_or(false),
                })
            })
            .collect();
        Some(Self { service, ports, endpoints })
    }

    /// The pods' own port behind a Service port of this name.
    pub(super) fn target_port(&self, name: &str) -> Option<u16> {
        self.ports.iter().find(|(n, _)| n == name).map(|(_, port)| *port)
    }

    /// The pods that it names.
    pub(super) fn pods(&self) -> impl Iterator<Item = &ObjectName> {
        self.endpoints.iter().filter_map(|e| Some(&e.pod.as_ref()?.name))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn headless_and_external_services_have_no_address() {
        let parse = |spec: serde_json::Value| {
            Service::parse(serde_json::from_value(json!({"spec": spec})).unwrap()).cluster_ips
        };
        assert!(parse(json!({"clusterIP": "None", "clusterIPs": ["None"]})).is_empty());
        assert!(parse(json!({"type": "ExternalName", "externalName": "x.org"})).is_empty());
        assert_eq!(parse(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"]})).len(), 2);
    }

    #[test]
    fn an_unknown_application_protocol_is_told_from_the_bytes() {
        assert_eq!(protocol(None), Protocol::Detect);
        assert_eq!(protocol(Some("example.org/new")), Protocol::Detect);
        assert_eq!(protocol(Some("kubernetes.io/h2c")), Protocol::Http2);
        assert_eq!(protocol(Some("HTTP")), Protocol::Http1);
        assert_eq!(protocol(Some("fairlead.dev/http1")), Protocol::Http1Only);
        assert_eq!(protocol(Some("https")), Protocol::Opaque);
        assert_eq!(protocol(Some("redis")), Protocol::Opaque);
    }

    #[test]
    fn a_slice_cannot_speak_for_another_namespace() {
        let slice = Slice::parse(serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"name": "s-1", "namespace": "evil", "labels": {"kubernetes.io/service-name": "s"}},
            "ports": [{"name": "http", "port": 8080}, {"name": "dns", "port": 53, "protocol": "UDP"}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "namespace": "good", "name": "p", "uid": "u"}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": true, "terminating": true}},
                {"addresses": ["nonsense"]},
            ],
        })).unwrap()).unwrap();
        assert_eq!(slice.pods().next().unwrap(), &ObjectName::new("evil", "p"));
        assert_eq!(slice.target_port("http"), Some(8080));
        assert_eq!(slice.target_port("dns"), None);
        assert_eq!(slice.endpoints.iter().map(|e| e.terminating).collect::<Vec<_>>(), [false, true]);
    }
}
