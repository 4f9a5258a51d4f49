//! Which endpoint gets a request, and who is left out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use fairlead_proxy_api::v1;
use tokio::io::AsyncWriteExt;

use crate::support::*;

const EVENTS: &str = r#"fairlead_proxy_outlier_events_total{direction="outbound",service="test/server:9080",event="#;

/// An application that counts its requests, and fails them while it is broken.
struct Fragile {
    app: App,
    broken: Arc<AtomicBool>,
    requests: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
}

impl Fragile {
    async fn start() -> Self {
        let broken = Arc::new(AtomicBool::new(false));
        let (requests, probes) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = (broken.clone(), requests.clone(), probes.clone());
        let app = App::start(move |mut stream| {
            let (broken, requests, probes) = shared.clone();
            async move {
                while let Some(head) = read_head(&mut stream).await {
                    let count = if head.starts_with("GET /healthz") { &probes } else { &requests };
                    count.fetch_add(1, Relaxed);
                    let status = if broken.load(Relaxed) { "500 Broken" } else { "200 OK" };
                    let response = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                    if stream.write_all(response.as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        Self { app, broken, requests, probes }
    }

    fn requests(&self) -> usize {
        self.requests.load(Relaxed)
    }
}

fn set_of(apps: &[&Fragile], change: impl FnOnce(&mut v1::EndpointSet)) -> v1::Service {
    let mut service = service(vec![apps.iter().map(|fragile| endpoint(fragile.app.address, "")).collect()]);
    change(&mut service.endpoint_sets[0]);
    service
}

fn detection(ejection_ms: u64) -> v1::OutlierDetection {
    v1::OutlierDetection {
        consecutive_errors: 3,
        ejection_base_ms: ejection_ms,
        ejection_max_ms: ejection_ms,
        max_ejected: 500_000,
        ..v1::OutlierDetection::default()
    }
}

async fn ask(sidecar: &Sidecar, times: usize, headers: &str) {
    for _ in 0..times {
        get(sidecar.outbound, "/", headers).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_and_returns_when_it_is_well() {
    let (good, bad) = (Fragile::start().await, Fragile::start().await);
    bad.broken.store(true, Relaxed);
    let service = set_of(&[&good, &bad], |set| {
        // In turn, so that nothing else keeps requests away from it.
        set.load_balancing = Some(v1::LoadBalancing { algorithm: 2, ..v1::LoadBalancing::default() });
        set.outlier_detection = Some(detection(1000));
    });
    let client = client_of(&Authority::new(), service);
    ask(&client, 6, "").await;
    client.counted(&format!("{EVENTS}\"ejected-consecutive-errors\"}} 1")).await;
    assert_eq!(bad.requests(), 3);
    let before = good.requests();
    ask(&client, 10, "").await;
    assert_eq!((good.requests() - before, bad.requests()), (10, 3));

    // Its time is over: one request finds it still broken.
    tokio::time::sleep(Duration::from_millis(1010)).await;
    ask(&client, 4, "").await;
    assert_eq!(bad.requests(), 4);
    client.counted(&format!("{EVENTS}\"ejected-trial\"}} 1")).await;

    bad.broken.store(false, Relaxed);
    tokio::time::sleep(Duration::from_millis(1010)).await;
    ask(&client, 11, "").await;
    client.counted(&format!("{EVENTS}\"returned\"}} 1")).await;
    assert_eq!(bad.requests(), 4 + 1 + 5);
}

#[tokio::test]
async fn a_probe_asks_in_place_of_a_caller() {
    let (good, bad) = (Fragile::start().await, Fragile::start().await);
    bad.broken.store(true, Relaxed);
    let service = set_of(&[&good, &bad], |set| {
        set.load_balancing = Some(v1::LoadBalancing { algorithm: 2, ..v1::LoadBalancing::default() });
        set.outlier_detection = Some(v1::OutlierDetection { probe_path: "/healthz".into(), ..detection(100) });
    });
    let client = client_of(&Authority::new(), service);
    ask(&client, 6, "").await;
    client.counted(&format!("{EVENTS}\"ejected-trial\"}}")).await;
    assert!(bad.probes.load(Relaxed) > 0);
    ask(&client, 4, "").await;
    assert_eq!(bad.requests(), 3, "no caller was its trial");
    bad.broken.store(false, Relaxed);
    client.counted(&format!("{EVENTS}\"returned\"}} 1")).await;
    ask(&client, 4, "").await;
    assert_eq!(bad.requests(), 5);
}

#[tokio::test]
async fn the_last_endpoints_are_kept_whatever_they_answer() {
    let bad = Fragile::start().await;
    bad.broken.store(true, Relaxed);
    let service = set_of(&[&bad], |set| set.outlier_detection = Some(detection(10_000)));
    let client = client_of(&Authority::new(), service);
    ask(&client, 6, "").await;
    assert_eq!(bad.requests(), 6);
    client.counted(&format!("{EVENTS}\"kept\"}} 2")).await;
}

#[tokio::test]
async fn a_key_decides_where_a_request_goes() {
    let apps = [Fragile::start().await, Fragile::start().await, Fragile::start().await, Fragile::start().await];
    let service = set_of(&apps.each_ref(), |set| {
        set.load_balancing = Some(v1::LoadBalancing {
            algorithm: 4,
            hash_key: Some(v1::load_balancing::HashKey::Header("x-user".into())),
            ..v1::LoadBalancing::default()
        });
    });
    let client = client_of(&Authority::new(), service);
    ask(&client, 8, "x-user: ada\r\n").await;
    let mut counts: Vec<_> = apps.iter().map(Fragile::requests).collect();
    counts.sort_unstable();
    assert_eq!(counts, [0, 0, 0, 8]);
    for user in 0..24 {
        ask(&client, 1, &format!("x-user: u{user}\r\n")).await;
    }
    assert!(apps.iter().filter(|app| app.requests() > 0).count() > 2, "keys are spread");
}

#[tokio::test]
async fn requests_stay_near_until_too_few_are_well_there() {
    let (near, far) = (Fragile::start().await, Fragile::start().await);
    let service = set_of(&[&near, &far], |set| {
        set.endpoints[1].level = 1;
        set.load_balancing = Some(v1::LoadBalancing { min_healthy: 700_000, ..v1::LoadBalancing::default() });
        set.outlier_detection = Some(detection(60_000));
    });
    let client = client_of(&Authority::new(), service.clone());
    ask(&client, 10, "").await;
    assert_eq!((near.requests(), far.requests()), (10, 0));
    near.broken.store(true, Relaxed);
    ask(&client, 3, "").await;
    client.counted(&format!("{EVENTS}\"ejected-consecutive-errors\"}} 1")).await;
    ask(&client, 10, "").await;
    assert_eq!((near.requests(), far.requests()), (13, 10));

    // Two more that are not ready yet: a third of what is there is well, 48 % of what is needed.
    near.broken.store(false, Relaxed);
    let mut half = service;
    half.endpoint_sets[0].unready = vec![2];
    let client = client_of(&Authority::new(), half);
    let before = near.requests();
    ask(&client, 200, "").await;
    let stayed = near.requests() - before;
    // Six standard deviations of seven: never by chance.
    assert!((53..=138).contains(&stayed), "{stayed} of 200");
}

fn check(interval_ms: u64) -> v1::HealthCheck {
    v1::HealthCheck { path: "/healthz".into(), interval_ms, timeout_ms: 5000, unhealthy: 2, healthy: 2 }
}

#[tokio::test]
async fn checks_over_mtls_find_an_endpoint_unhealthy_before_any_request_does() {
    let authority = Authority::new();
    let (good, bad) = (Fragile::start().await, Fragile::start().await);
    let sidecar = server_of(&authority, bad.app.address, v1::MtlsMode::Strict);
    bad.broken.store(true, Relaxed);
    let mut service = service(vec![vec![endpoint(good.app.address, ""), endpoint(sidecar.inbound, "server")]]);
    service.endpoint_sets[0].health_check = Some(check(100));
    let client = client_of(&authority, service.clone());
    client.counted(&format!("{EVENTS}\"unhealthy\"}} 1")).await;
    ask(&client, 10, "").await;
    assert_eq!((good.requests(), bad.requests()), (10, 0));
    bad.broken.store(false, Relaxed);
    client.counted(&format!("{EVENTS}\"healthy\"}} 1")).await;
    // One with no history is tried first.
    ask(&client, 10, "").await;
    assert!(bad.requests() > 0);

    // All are unhealthy: all are used.
    good.broken.store(true, Relaxed);
    bad.broken.store(true, Relaxed);
    client.counted(&format!("{EVENTS}\"unhealthy\"}} 3")).await;
    let before = (good.requests(), bad.requests());
    ask(&client, 20, "").await;
    assert_eq!(good.requests() + bad.requests(), before.0 + before.1 + 20);

    service.endpoint_sets[0].health_check = Some(v1::HealthCheck { healthy: 0, ..check(100) });
    let refused =
        fairlead_proxy::route::compile(None, v1::Destination { kind: Some(v1::destination::Kind::Service(service)) });
    assert!(refused.is_err(), "it would never be healthy again");
}
