//! Envoy doing the same work: captured by the same rules, mutual TLS 1.3 with certificates of the same authority that must prove the same
//! identities, a route and a least-request cluster on the way out, no access log. It is told each port's protocol instead of finding out, and
//! does without what a sidecar of it often adds (request ids, forwarded-for, its own headers), so that it is as quick as it can be.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::lab::{SERVER, SERVICE};
use super::operator::identity;

/// What one side needs for TLS, as files.
pub(super) struct Secrets {
    pub(super) chain: PathBuf,
    pub(super) key: PathBuf,
    pub(super) roots: PathBuf,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Http1,
    Http2,
    Tcp,
}

const PORTS: [(u16, Kind); 4] = [(8080, Kind::Http1), (8081, Kind::Http2), (9000, Kind::Tcp), (5201, Kind::Tcp)];

/// The client's side: captured connections to the Service, TLS to the server's pod.
pub(super) fn outbound(secrets: &Secrets) -> Value {
    let tls = tls(secrets, "Upstream", &identity("server"));
    configuration(15001, &PORTS.map(|port| chain(port, SERVICE, None)), &PORTS.map(|port| cluster(port, Some(&tls))))
}

/// The server's side: captured TLS connections, plain ones to the application.
pub(super) fn inbound(secrets: &Secrets) -> Value {
    let mut tls = tls(secrets, "Downstream", &identity("client"));
    tls["typed_config"]["require_client_certificate"] = json!(true);
    configuration(15006, &PORTS.map(|port| chain(port, SERVER, Some(&tls))), &PORTS.map(|port| cluster(port, None)))
}

fn configuration(port: u16, chains: &[Value; 4], clusters: &[Value; 4]) -> Value {
    json!({
        "static_resources": {
            "listeners": [{
                "name": "captured",
                "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
                "listener_filters": [{
                    "name": "envoy.filters.listener.original_dst",
                    "typed_config": typed("filters.listener.original_dst.v3.OriginalDst", json!({})),
                }],
                "filter_chains": chains,
                // With ten connections, chance alone would load its workers unevenly.
                "connection_balance_config": {"exact_balance": {}},
                "tcp_backlog_size": 4096,
            }],
            "clusters": clusters,
        },
    })
}

fn chain((port, kind): (u16, Kind), address: Ipv4Addr, tls: Option<&Value>) -> Value {
    let name = format!("port-{port}");
    let filter = match kind {
        Kind::Tcp => json!({
            "name": "envoy.filters.network.tcp_proxy",
            "typed_config": typed("filters.network.tcp_proxy.v3.TcpProxy", json!({"stat_prefix": name, "cluster": name})),
        }),
        http => json!({
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": typed("filters.network.http_connection_manager.v3.HttpConnectionManager", json!({
                "stat_prefix": name,
                "codec_type": if http == Kind::Http1 { "HTTP1" } else { "HTTP2" },
                "generate_request_id": false,
                "skip_xff_append": true,
                "server_header_transformation": "PASS_THROUGH",
                "route_config": {
                    "virtual_hosts": [{
                        "name": name, "domains": ["*"],
                        "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}],
                    }],
                },
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": typed("filters.http.router.v3.Router", json!({"suppress_envoy_headers": true})),
                }],
            })),
        }),
    };
    let mut chain = json!({
        "filter_chain_match": {
            "destination_port": port,
            "prefix_ranges": [{"address_prefix": address, "prefix_len": 32}],
        },
        "filters": [filter],
    });
    if let Some(tls) = tls {
        chain["transport_socket"] = tls.clone();
    }
    chain
}

fn cluster((port, kind): (u16, Kind), tls: Option<&Value>) -> Value {
    let name = format!("port-{port}");
    let address = json!({"socket_address": {"address": SERVER, "port_value": port}});
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "lb_policy": "LEAST_REQUEST",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        // The defaults would refuse what the scenarios ask for.
        "circuit_breakers": {"thresholds": [{
            "max_connections": 100_000, "max_pending_requests": 100_000, "max_requests": 100_000,
        }]},
    });
    if kind != Kind::Tcp {
        let protocol = if kind == Kind::Http1 { "http_protocol_options" } else { "http2_protocol_options" };
        cluster["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions":
                typed("upstreams.http.v3.HttpProtocolOptions", json!({"explicit_http_config": {protocol: {}}})),
        });
    }
    if let Some(tls) = tls {
        cluster["transport_socket"] = tls.clone();
    }
    cluster
}

fn tls(secrets: &Secrets, side: &str, peer: &str) -> Value {
    let file = |path: &Path| json!({"filename": path});
    json!({
        "name": "envoy.transport_sockets.tls",
        "typed_config": typed(&format!("transport_sockets.tls.v3.{side}TlsContext"), json!({
            "common_tls_context": {
                "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                "tls_certificates": [{"certificate_chain": file(&secrets.chain), "private_key": file(&secrets.key)}],
                "validation_context": {
                    "trusted_ca": file(&secrets.roots),
                    "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {"exact": peer}}],
                },
            },
        })),
    })
}

fn typed(name: &str, mut value: Value) -> Value {
    value["@type"] = json!(format!("type.googleapis.com/envoy.extensions.{name}"));
    value
}
