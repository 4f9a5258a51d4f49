use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fairlead_proxy::telemetry::groups::Reported;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;

const APP: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nreal";

/// An application that remembers what it was sent, and never hurries: it answers after `pause`.
struct Shadow {
    app: App,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Shadow {
    async fn start(pause: Duration) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let app = App::start(move |mut stream| {
            let log = log.clone();
            async move {
                while let Some(mut request) = read_head(&mut stream).await {
                    if let Some(length) = value(&request, "content-length").and_then(|l| l.parse().ok()) {
                        let mut body = vec![0; length];
                        stream.read_exact(&mut body).await.unwrap();
                        request.push_str(&String::from_utf8_lossy(&body));
                    }
                    log.lock().push(request);
                    tokio::time::sleep(pause).await;
                    stream.write_all(b"HTTP/1.1 500 Oops\r\ncontent-length: 4\r\n\r\ndark").await.unwrap();
                }
            }
        })
        .await;
        Self { app, seen }
    }

    /// Waits for so many requests.
    async fn seen(&self, count: usize) -> Vec<String> {
        let deadline = Instant::now() + SOON;
        loop {
            let seen = self.seen.lock().clone();
            if seen.len() >= count {
                return seen;
            }
            assert!(Instant::now() < deadline, "only {seen:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// A client whose requests go to `real`, with copies to the shadow.
fn mirrored(real: &App, shadow: &Shadow, mirror: v1::Mirror) -> Sidecar {
    let group = "n/release/r/0/0/canary".to_owned();
    let dark = v1::Endpoint { group, ..endpoint(shadow.app.address, "") };
    let mut service = service(vec![vec![endpoint(real.address, "")], vec![dark]]);
    service.routes[0].mirrors = vec![mirror];
    client_of(&Authority::new(), service)
}

fn all(copies: u32) -> v1::Mirror {
    v1::Mirror { endpoint_set: 1, share: 1_000_000, copies, ..v1::Mirror::default() }
}

/// Copies that a release asked for.
fn evidence(copies: u32) -> v1::Mirror {
    v1::Mirror { counted: true, ..all(copies) }
}

/// Waits until so many copies are counted; of what side, and how many of them failed and were answered.
async fn counts(client: &Sidecar, requests: u64) -> (String, u64, u64) {
    let deadline = Instant::now() + SOON;
    loop {
        let mut groups = client.telemetry.groups.changed(&mut Reported::default());
        assert!(groups.len() <= 1, "{groups:?}");
        if let Some(counts) = groups.pop_if(|counts| counts.requests >= requests) {
            assert_eq!(counts.requests, requests);
            return (counts.group, counts.failures, counts.latency.iter().sum());
        }
        assert!(Instant::now() < deadline, "only {groups:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn outcome(outcome: &str, count: u32) -> String {
    format!(
        r#"fairlead_proxy_mirrored_total{{direction="outbound",service="test/server:9080",outcome="{outcome}"}} {count}"#
    )
}

#[tokio::test]
async fn the_caller_gets_the_real_answer_and_does_not_wait_for_copies() {
    let (real, shadow) = (App::answering(APP).await, Shadow::start(Duration::from_secs(2)).await);
    let client = mirrored(&real, &shadow, all(3));
    let began = Instant::now();
    let answer = get(client.outbound, "/a?b=c", "X-One: 1\r\n").await;
    assert!(answer.ends_with("real"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(1), "it waited for the shadow");
    let mut numbers = Vec::new();
    for copy in shadow.seen(3).await {
        assert!(copy.starts_with("GET /a?b=c HTTP/1.1\r\n"), "{copy}");
        assert_eq!(value(&copy, "x-one"), Some("1"));
        numbers.push(value(&copy, "fairlead-mirror").unwrap().to_owned());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, ["1", "2", "3"]);
    client.counted(&outcome("answered", 3)).await;
    let counts = client.telemetry.groups.changed(&mut Reported::default());
    assert!(counts.is_empty(), "copies are no evidence: {counts:?}");
}

#[tokio::test]
async fn copies_for_a_release_count_as_its_requests_would() {
    let (real, well) = (App::answering(APP).await, App::answering(APP).await);
    let canary = || "n/release/r/0/0/canary".to_owned();
    let dark = |address| v1::Endpoint { group: canary(), ..endpoint(address, "") };
    let of = |shadow| {
        let mut service = service(vec![vec![endpoint(real.address, "")], vec![dark(shadow)]]);
        service.routes[0].mirrors = vec![evidence(2)];
        client_of(&Authority::new(), service)
    };
    let client = of(well.address);
    assert!(get(client.outbound, "/", "").await.ends_with("real"));
    assert_eq!(counts(&client, 2).await, (canary(), 0, 2));

    let failing = Shadow::start(Duration::ZERO).await;
    let client = of(failing.app.address);
    assert!(get(client.outbound, "/", "").await.ends_with("real"));
    assert_eq!(counts(&client, 2).await, (canary(), 2, 2), "answered 500");

    let client = of(nobody());
    assert!(get(client.outbound, "/", "").await.ends_with("real"));
    assert_eq!(counts(&client, 2).await, (canary(), 2, 0), "nobody listens");

    let grpc = App::answering("HTTP/1.1 200 OK\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n").await;
    let client = of(grpc.address);
    get(client.outbound, "/a.B/C", "Content-Type: application/grpc\r\n").await;
    assert_eq!(counts(&client, 2).await, (canary(), 2, 2), "a call that failed");
}

#[tokio::test]
async fn a_copy_without_an_answer_has_failed_and_one_that_was_not_sent_says_nothing() {
    let (real, hanging) = (App::answering(APP).await, Shadow::start(Duration::from_secs(60)).await);
    let dark = v1::Endpoint { group: "canary".into(), ..endpoint(hanging.app.address, "") };
    let mut service = service(vec![vec![endpoint(real.address, "")], vec![dark]]);
    service.endpoint_sets[1].limits = Some(v1::Limits {
        connections: 1,
        pending_requests: 1,
        requests: 1,
        connect_timeout_ms: 100,
        idle_timeout_ms: 1000,
    });
    service.routes[0].mirrors = vec![evidence(3)];
    service.routes[0].request_timeout_ms = 500;
    let client = client_of(&Authority::new(), service);
    assert!(get(client.outbound, "/", "").await.ends_with("real"));
    client.counted(&outcome("failed", 3)).await;
    assert_eq!(counts(&client, 1).await, ("canary".into(), 1, 0));
}

#[tokio::test]
async fn a_body_that_was_kept_goes_along() {
    let (real, shadow) = (App::start(post).await, Shadow::start(Duration::ZERO).await);
    let client = mirrored(&real, &shadow, all(2));
    let request = "POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    assert!(talk(client.outbound, request).await.ends_with("real"));
    for copy in shadow.seen(2).await {
        assert!(copy.ends_with("\r\n\r\nhello"), "{copy}");
    }
}

#[tokio::test]
async fn copies_are_translated_like_their_requests() {
    let (real, shadow) = (App::start(post).await, Shadow::start(Duration::ZERO).await);
    let mut service = service(vec![vec![endpoint(real.address, "")], vec![endpoint(shadow.app.address, "")]]);
    service.routes[0].mirrors = vec![all(1)];
    service.protocol = v1::Protocol::Http1Only.into();
    let sidecar = client_of(&Authority::new(), service);
    let mut client = crate::http2::client(sidecar.outbound).await;
    let body = http_body_util::BodyExt::boxed(http_body_util::Full::from("hello"));
    let request = http::Request::post("http://server/a").header("cookie", "a=1").header("cookie", "b=2").body(body);
    assert_eq!(client.send_request(request.unwrap()).await.unwrap().status(), 200);
    let copies = shadow.seen(1).await;
    assert!(copies[0].starts_with("POST /a HTTP/1.1\r\nhost: server\r\n"), "{copies:?}");
    assert_eq!(value(&copies[0], "cookie"), Some("a=1; b=2"));
    assert!(copies[0].ends_with("\r\n\r\nhello"), "{copies:?}");
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_kept_is_not_copied_and_counted() {
    let (real, shadow) = (App::start(post).await, Shadow::start(Duration::ZERO).await);
    let client = mirrored(&real, &shadow, all(2));
    let body = "x".repeat(1024 * 1024);
    let request =
        format!("POST / HTTP/1.1\r\nHost: server\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    assert!(talk(client.outbound, &request).await.ends_with("real"));
    client.counted(&outcome("body", 2)).await;
    assert_eq!(shadow.app.connections(), 0);
}

#[tokio::test]
async fn a_shadow_that_hangs_holds_a_bounded_number_of_copies() {
    let (real, shadow) = (App::answering(APP).await, Shadow::start(Duration::from_secs(60)).await);
    let client = mirrored(&real, &shadow, all(100));
    // Two workers with 128 places each.
    for _ in 0..6 {
        assert!(get(client.outbound, "/", "").await.ends_with("real"));
    }
    let deadline = Instant::now() + SOON;
    while shadow.app.connections() < 128 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(shadow.app.connections() <= 256, "{}", shadow.app.connections());
    let text = client.telemetry.render().unwrap();
    assert!(text.contains(r#"outcome="dropped""#), "{text}");
}

#[tokio::test]
async fn nobody_to_copy_to_and_copies_of_copies_are_nobodys_trouble() {
    let (real, shadow) = (App::answering(APP).await, Shadow::start(Duration::ZERO).await);
    let client = mirrored(&real, &shadow, all(1));
    assert!(get(client.outbound, "/", "Fairlead-Mirror: 1\r\n").await.ends_with("real"));
    assert!(get(client.outbound, "/once", "").await.ends_with("real"));
    let seen = shadow.seen(1).await;
    assert!(seen[0].starts_with("GET /once"), "{seen:?}");

    let mut service = service(vec![vec![endpoint(real.address, "")], vec![]]);
    service.routes[0].mirrors = vec![all(1)];
    let client = client_of(&Authority::new(), service);
    assert!(get(client.outbound, "/", "").await.ends_with("real"));
    client.counted(&outcome("no-endpoints", 1)).await;
}

#[tokio::test]
async fn a_copy_has_a_deadline_of_its_own() {
    let authority = Authority::new();
    let (real, shadow) = (App::answering(APP).await, Shadow::start(Duration::ZERO).await);
    let dark = server_of(&authority, shadow.app.address, v1::MtlsMode::Strict);
    let plain = endpoint(shadow.app.address, "");
    let mut service =
        service(vec![vec![endpoint(real.address, "")], vec![endpoint(dark.inbound, "server")], vec![plain]]);
    service.routes[0].mirrors = vec![all(1)];
    let client = client_of(&authority, service.clone());
    let unix = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let callers = unix() + 3_600_000;
    assert!(get(client.outbound, "/", &format!("Fairlead-Deadline: {callers}\r\n")).await.ends_with("real"));
    let told: u64 = value(&shadow.seen(1).await[0], "fairlead-deadline").unwrap().parse().unwrap();
    assert!(told <= unix() + 10_000, "nobody waits for a copy for longer than that");

    // Where no proxy receives it, gRPC's own header alone says what the copy has; the mesh's words stay in the mesh.
    service.routes[0].mirrors[0].endpoint_set = 2;
    let client = client_of(&authority, service);
    let call = format!("Content-Type: application/grpc\r\ngrpc-timeout: 1H\r\nFairlead-Deadline: {callers}\r\n");
    get(client.outbound, "/a.B/C", &call).await;
    let copy = &shadow.seen(2).await[1];
    assert_eq!((value(copy, "fairlead-deadline"), value(copy, "fairlead-timeout")), (None, None), "{copy}");
    assert_eq!(value(copy, "grpc-timeout"), Some("10000000u"));
}

#[tokio::test]
async fn copies_do_not_go_where_requests_are_kept_from() {
    let (real, shadow) = (App::answering(APP).await, Shadow::start(Duration::ZERO).await);
    let well = Shadow::start(Duration::ZERO).await;
    let dark = vec![endpoint(shadow.app.address, ""), endpoint(well.app.address, "")];
    let mut service = service(vec![vec![endpoint(real.address, "")], dark]);
    service.endpoint_sets[1].load_balancing = Some(v1::LoadBalancing { algorithm: 2, ..v1::LoadBalancing::default() });
    service.endpoint_sets[1].outlier_detection = Some(v1::OutlierDetection {
        consecutive_errors: 1,
        ejection_base_ms: 1,
        ejection_max_ms: 1,
        max_ejected: 500_000,
        ..v1::OutlierDetection::default()
    });
    service.routes[0].mirrors = vec![all(4)];
    let dark = v1::Route { backends: vec![backend(1, 1)], ..v1::Route::default() };
    service.routes.splice(0..0, whole(v1::Route { matches: Vec::new(), ..dark }));
    service.routes[0].matches[0].path = Some(prefix("/dark"));
    let client = client_of(&Authority::new(), service);
    // One request finds that one of the two fails (both do, but no more may be left out).
    assert_eq!(status(&get(client.outbound, "/dark", "").await), 500);
    let out = if shadow.seen.lock().is_empty() { &well } else { &shadow };
    let other = if shadow.seen.lock().is_empty() { &shadow } else { &well };
    assert!(get(client.outbound, "/", "").await.ends_with("real"));
    other.seen(4).await;
    // Its time is over, but a copy is no trial.
    assert_eq!(out.seen.lock().len(), 1);
}

/// Reads a request with a body, then answers.
async fn post(mut stream: tokio::net::TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        let length = value(&head, "content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(APP.as_bytes()).await.unwrap();
    }
}
