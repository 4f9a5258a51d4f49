//! The admin port over a connection.

use std::{net::SocketAddr, time::Duration};

use fairlead_proxy_api::v1;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    config::{Metrics, stream::Store},
    identity::testing::{Authority, domain},
};

const OWN: &str = "spiffe://cluster.local/ns/bookinfo/sa/reviews";

struct Setup {
    address: SocketAddr,
    store: Store,
    phase: watch::Sender<Phase>,
    connection: watch::Sender<Connection>,
}

async fn setup() -> Setup {
    let authority = Authority::new();
    let identity = Identity::new(domain(), authority.leaf(OWN), authority.bundle(3)).unwrap();
    let store = Store {
        identity: Arc::new(identity),
        workload: Arc::default(),
        destinations: Arc::default(),
        telemetry: Arc::default(),
        metrics: Metrics::default(),
    };
    store.telemetry.register(|registry| store.metrics.register(registry));
    let (phase, phases) = watch::channel(Phase::Configuring);
    let (connection, connections) = watch::channel(Connection::Connected);
    let (_, identities) = watch::channel(Some(store.identity.clone()));
    let admin = Admin {
        phase: phases,
        identity: identities,
        connection: connections,
        operator: "operator:8443".into(),
        workload: store.workload.clone(),
        destinations: store.destinations.clone(),
        telemetry: store.telemetry.clone(),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve::serve(listener, Duration::from_secs(1), move |request| {
        let answer = admin.answer(&request);
        async move { answer }
    }));
    Setup { address, store, phase, connection }
}

async fn ask(address: SocketAddr, line: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn ready_follows_the_phase_and_live_does_not() {
    let setup = setup().await;
    assert_eq!(ask(setup.address, "GET /ready").await.0, 503);
    assert_eq!(ask(setup.address, "GET /live").await.0, 200);
    setup.phase.send_replace(Phase::Ready);
    assert_eq!(ask(setup.address, "GET /ready").await.0, 200);
    assert_eq!(ask(setup.address, "GET /other").await.0, 404);
    assert_eq!(ask(setup.address, "POST /ready").await.0, 405);
}

#[tokio::test]
async fn config_shows_what_is_programmed_and_no_secret() {
    let setup = setup().await;
    let service = v1::Service {
        namespace: "bookinfo".into(),
        name: "ratings".into(),
        port: 9080,
        routes: vec![v1::Route {
            name: "default".into(),
            backends: vec![v1::Backend { weight: 1, target: Some(v1::backend::Target::EndpointSet(0)) }],
            ..Default::default()
        }],
        endpoint_sets: vec![v1::EndpointSet {
            name: "bookinfo/ratings:9080".into(),
            endpoints: vec![v1::Endpoint {
                ip: vec![10, 0, 0, 7],
                port: 9080,
                identity: "spiffe://cluster.local/ns/bookinfo/sa/ratings".into(),
                ..Default::default()
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let resource = v1::Resource {
        name: Some(crate::config::destination_name("10.96.0.5:9080".parse().unwrap())),
        version: "v17".into(),
        body: Some(v1::resource::Body::Destination(v1::Destination {
            kind: Some(v1::destination::Kind::Service(service)),
        })),
    };
    let limit = v1::RateLimit {
        name: "bookinfo/reviews/per-caller".into(),
        port: 9081,
        requests: 1,
        per_ms: 1000,
        burst: 1,
        ..Default::default()
    };
    let workload = v1::Workload { mtls: v1::MtlsMode::Strict.into(), rate_limits: vec![limit], ..Default::default() };
    let body = Some(v1::resource::Body::Workload(workload));
    let workload = v1::Resource { name: None, version: "w3".into(), body };
    setup.store.restore(Some(workload), vec![resource]);
    setup.connection.send_replace(Connection::Away { reason: "connection refused".into() });

    let (status, body) = ask(setup.address, "GET /config").await;
    assert_eq!(status, 200);
    let config: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(config["identity"], OWN);
    assert_eq!(config["trustBundle"]["sequence"], 3);
    assert_eq!(config["operator"]["connected"], false);
    assert_eq!(config["operator"]["reason"], "connection refused");
    assert_eq!(config["workload"]["version"], "w3");
    assert_eq!(config["workload"]["rateLimits"][0]["name"], "bookinfo/reviews/per-caller");
    let destination = &config["destinations"][0];
    assert_eq!(destination["address"], "10.96.0.5:9080");
    assert_eq!(destination["version"], "v17");
    let endpoint = &destination["leadsTo"]["service"]["endpointSets"][0]["endpoints"][0];
    assert_eq!(endpoint["address"], "10.0.0.7:9080");
    assert!(config["certificate"]["notAfter"].as_str().unwrap().ends_with('Z'));
    assert!(!body.to_ascii_lowercase().contains("key"), "{body}");
}

#[tokio::test]
async fn metrics_hold_what_configuration_counts() {
    let setup = setup().await;
    setup.store.metrics.connected.set(1);
    setup.store.metrics.refused.inc();
    let (status, body) = ask(setup.address, "GET /metrics").await;
    assert_eq!(status, 200);
    for line in [
        "fairlead_proxy_operator_connected 1",
        "fairlead_proxy_config_versions_refused_total 1",
        "fairlead_proxy_certificate_expiry_timestamp_seconds 0",
    ] {
        assert!(body.contains(line), "{line} in {body}");
    }
}
