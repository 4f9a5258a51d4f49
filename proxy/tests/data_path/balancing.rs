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
