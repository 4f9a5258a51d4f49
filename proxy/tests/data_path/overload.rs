//! Limits of what a caller's proxy has under way.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use fairlead_proxy_api::v1;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2::SendRequest;
use tokio::{io::AsyncWriteExt, net::TcpSocket, sync::Semaphore, time::sleep};

use crate::{
    http2::{self, Body},
    support::*,
};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// Far above what a test takes, so that what happens before was not for want of patience.
const PATIENT: u64 = 60_000;

fn limits() -> v1::Limits {
    v1::Limits {
        connections: 10,
        pending_requests: 10,
        requests: 10,
        connect_timeout_ms: PATIENT,
        idle_timeout_ms: PATIENT,
    }
}

fn limited(endpoints: Vec<v1::Endpoint>, limits: v1::Limits) -> v1::Service {
    let mut service = service(vec![endpoints]);
    service.endpoint_sets[0].limits = Some(limits);
    service.endpoint_sets[0].outlier_detection = Some(v1::OutlierDetection {
        consecutive_errors: 1,
        ejection_base_ms: PATIENT,
        ejection_max_ms: PATIENT,
        max_ejected: 1_000_000,
        ..v1::OutlierDetection::default()
    });
    service
}

fn over(limit: &str) -> String {
    format!(r#"fairlead_proxy_over_limit_total{{direction="outbound",service="test/server:9080",limit="{limit}"}} 1"#)
}

/// An application that answers each request when it is told to, and knows how many connections it had at once.
struct Held {
    app: App,
    answers: Arc<Semaphore>,
    asked: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Held {
    async fn start() -> Self {
        let (answers, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (open, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = (answers.clone(), asked.clone(), open, most.clone());
        let app = App::start(move |mut stream| {
            let (answers, asked, open, most) = shared.clone();
            async move {
                most.fetch_max(open.fetch_add(1, SeqCst) + 1, SeqCst);
                while read_head(&mut stream).await.is_some() {
                    asked.fetch_add(1, SeqCst);
                    answers.acquire().await.unwrap().forget();
                    if stream.write_all(OK.as_bytes()).await.is_err() {
                        break;
                    }
                }
                open.fetch_sub(1, SeqCst);
            }
        })
        .await;
        Self { app, answers, asked, most }
    }

    /// Waits until it has so many requests.
    async fn asked(&self, count: usize) {
        let deadline = tokio::time::Instant::now() + SOON;
        while self.asked.load(SeqCst) < count {
            assert!(tokio::time::Instant::now() < deadline, "it was not asked");
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn client(&self, limits: v1::Limits) -> Sidecar {
        client_of(&Authority::new(), limited(vec![endpoint(self.app.address, "")], limits))
    }
}

fn asking(client: &Sidecar) -> tokio::task::JoinHandle<String> {
    let address = client.outbound;
    tokio::spawn(async move { get(address, "/", "").await })
}

#[tokio::test]
async fn what_is_over_the_requests_in_flight_is_answered_at_once_and_blames_no_endpoint() {
    let held = Held::start().await;
    let client = held.client(v1::Limits { requests: 1, ..limits() });
    let first = asking(&client);
    held.asked(1).await;
    let refused = get(client.outbound, "/", "").await;
    assert_eq!(status(&refused), 503);
    assert!(refused.contains("fairlead-proxy: overload\r\n"), "{refused}");
    assert!(refused.contains("set-0: 1 requests are in flight, as many as limits.requests allows"), "{refused}");
    let grpc = get(client.outbound, "/a.B/C", "Content-Type: application/grpc\r\n").await;
    assert!(grpc.contains("grpc-status: 8\r\n"), "{grpc}");
    held.answers.add_permits(2);
    assert_eq!(status(&first.await.unwrap()), 200);
    assert_eq!(status(&get(client.outbound, "/", "").await), 200, "there is room again");
    let text = client.telemetry.render().unwrap();
    assert!(text.contains(&over("requests").replace("} 1", "} 2")), "{text}");
    assert!(!text.contains("fairlead_proxy_outlier_events_total{"), "{text}");
}

#[tokio::test]
async fn requests_take_turns_on_the_connections_that_there_may_be() {
    let held = Held::start().await;
    let client = held.client(v1::Limits { connections: 1, ..limits() });
    let asking: Vec<_> = (0..6).map(|_| asking(&client)).collect();
    held.asked(1).await;
    held.answers.add_permits(6);
    for answer in asking {
        assert_eq!(status(&answer.await.unwrap()), 200);
    }
    // A connection of one worker may end a moment after that of the other began: the application sees them both for that long.
    assert!(held.most.load(SeqCst) <= 2, "{}", held.most.load(SeqCst));
}

#[tokio::test]
async fn nobody_waits_for_a_connection_for_longer_than_one_may_take() {
    let held = Held::start().await;
    let client = held.client(v1::Limits { connections: 1, connect_timeout_ms: 100, ..limits() });
    let first = asking(&client);
    held.asked(1).await;
    let refused = get(client.outbound, "/", "").await;
    assert!(refused.contains("1 connections are in use, as many as limits.connections allows"), "{refused}");
    client.counted(&over("connections")).await;
    held.answers.add_permits(1);
    assert_eq!(status(&first.await.unwrap()), 200);
}

#[tokio::test]
async fn so_many_wait_and_the_rest_is_answered_at_once() {
    let held = Held::start().await;
    let client = held.client(v1::Limits { connections: 1, pending_requests: 1, ..limits() });
    let first = asking(&client);
    held.asked(1).await;
    let (one, other) = (asking(&client), asking(&client));
    client.counted(&over("pendingRequests")).await;
    held.answers.add_permits(2);
    assert_eq!(status(&first.await.unwrap()), 200);
    let mut answers = [status(&one.await.unwrap()), status(&other.await.unwrap())];
    answers.sort_unstable();
    assert_eq!(answers, [200, 503]);
}

#[tokio::test]
async fn a_connection_that_rests_makes_room_for_another_endpoint() {
    let (one, other) = (App::answering(OK).await, App::answering(OK).await);
    let mut service = limited(
        vec![endpoint(one.address, ""), endpoint(other.address, "")],
        v1::Limits { connections: 1, ..limits() },
    );
    service.endpoint_sets[0].load_balancing = Some(v1::LoadBalancing { algorithm: 2, ..v1::LoadBalancing::default() });
    let client = client_of(&Authority::new(), service);
    for _ in 0..6 {
        assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    }
    assert!(one.connections() > 1 && other.connections() > 1, "each was closed for the other");
}

#[tokio::test]
async fn opaque_connections_have_places_as_well() {
    let app = App::start(|mut stream| async move {
        stream.write_all(b"hello").await.ok();
        read_head(&mut stream).await;
    })
    .await;
    let limits = v1::Limits { connections: 1, connect_timeout_ms: 100, ..limits() };
    let mut service = limited(vec![endpoint(app.address, "")], limits);
    service.protocol = v1::Protocol::Opaque.into();
    let client = client_of(&Authority::new(), service);
    let mut open = connect(client.outbound).await;
    assert!(read_until(&mut open, "hello").await.is_some());
    assert_eq!(read_until(&mut connect(client.outbound).await, "hello").await, None);
    client.counted(r#"fairlead_proxy_connections_refused_total{direction="outbound",reason="overload"} 1"#).await;
    client.counted(&over("connections")).await;
    drop(open);
    let deadline = tokio::time::Instant::now() + SOON;
    while read_until(&mut connect(client.outbound).await, "hello").await.is_none() {
        assert!(tokio::time::Instant::now() < deadline, "its place is free again");
    }
}

#[tokio::test]
async fn a_connection_that_rests_for_too_long_is_closed() {
    let app = App::answering(OK).await;
    let authority = Authority::new();
    let server = server_of(&authority, app.address, v1::MtlsMode::Strict);
    let resting = v1::Limits { idle_timeout_ms: 1000, ..limits() };
    let client = client_of(&authority, limited(vec![endpoint(server.inbound, "server")], resting));
    assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    server.counted(r#"fairlead_proxy_connections_open{direction="inbound",protocol="http1",tls="mutual"} 0"#).await;
}

#[tokio::test]
async fn an_endpoint_that_does_not_accept_in_time_has_failed() {
    // Nobody accepts here, and what the kernel does in its place is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let stuck = socket.listen(1).unwrap();
    let address = stuck.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(Duration::from_millis(300), tokio::net::TcpStream::connect(address)).await
    {
        queue.push(stream);
        assert!(queue.len() < 64, "the queue is bounded");
    }
    let app = App::answering(OK).await;
    let mut service = limited(
        vec![endpoint(address, ""), endpoint(app.address, "")],
        v1::Limits { connect_timeout_ms: 200, ..limits() },
    );
    service.endpoint_sets[0].load_balancing = Some(v1::LoadBalancing { algorithm: 2, ..v1::LoadBalancing::default() });
    let client = client_of(&Authority::new(), service);
    for _ in 0..2 {
        assert_eq!(status(&get(client.outbound, "/", "").await), 200);
    }
    client
        .counted(r#"fairlead_proxy_retries_total{direction="outbound",service="test/server:9080",cause="refused"} 1"#)
        .await;
    client
        .counted(r#"fairlead_proxy_outlier_events_total{direction="outbound",service="test/server:9080",event="ejected-consecutive-errors"} 1"#)
        .await;
}

/// An application of HTTP/2 that answers each request when it is told to.
async fn held_http2() -> (App, Arc<Semaphore>, Arc<AtomicUsize>) {
    let (answers, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let shared = (answers.clone(), asked.clone());
    let app = http2::app(move |_| {
        let (answers, asked) = shared.clone();
        async move {
            asked.fetch_add(1, SeqCst);
            answers.acquire().await.unwrap().forget();
            Response::new(Full::from("ok").boxed())
        }
    })
    .await;
    (app, answers, asked)
}

/// The status of one more request over a connection, and the reason if the proxy answered.
async fn ask(mut client: SendRequest<Body>) -> (u16, Option<String>) {
    let request = Request::get("http://server/").body(Empty::new().boxed()).unwrap();
    let answer = client.send_request(request).await.unwrap();
    let reason = answer.headers().get("fairlead-proxy").map(|reason| reason.to_str().unwrap().to_owned());
    (answer.status().as_u16(), reason)
}

const OVERLOAD: u16 = 503;

#[tokio::test]
async fn streams_above_the_requests_in_flight_are_answered_at_once() {
    let (app, answers, asked) = held_http2().await;
    let sidecar =
        client_of(&Authority::new(), limited(vec![endpoint(app.address, "")], v1::Limits { requests: 3, ..limits() }));
    let client = http2::client(sidecar.outbound).await;
    let first: Vec<_> = (0..3).map(|_| tokio::spawn(ask(client.clone()))).collect();
    while asked.load(SeqCst) < 3 {
        sleep(Duration::from_millis(5)).await;
    }
    for _ in 0..5 {
        let refused = tokio::time::timeout(SOON, ask(client.clone())).await.expect("at once");
        assert_eq!(refused, (OVERLOAD, Some("overload".into())));
    }
    sidecar.counted(&over("requests").replace("} 1", "} 5")).await;
    answers.add_permits(4);
    for answer in first {
        assert_eq!(answer.await.unwrap(), (200, None), "the others of the connection go on");
    }
    assert_eq!(ask(client).await, (200, None), "there is room again");
    assert_eq!((app.connections(), asked.load(SeqCst)), (1, 4));
    assert!(!sidecar.telemetry.render().unwrap().contains("fairlead_proxy_outlier_events_total{"));
}

#[tokio::test]
async fn streams_share_the_connections_that_there_may_be() {
    let (app, answers, asked) = held_http2().await;
    let one = v1::Limits { connections: 1, requests: 1000, pending_requests: 1000, ..limits() };
    let sidecar = client_of(&Authority::new(), limited(vec![endpoint(app.address, "")], one));
    let client = http2::client(sidecar.outbound).await;
    // More than a proxy puts on one connection where it may open another.
    let streams: Vec<_> = (0..150).map(|_| tokio::spawn(ask(client.clone()))).collect();
    while asked.load(SeqCst) < 150 {
        sleep(Duration::from_millis(5)).await;
    }
    answers.add_permits(150);
    for answer in streams {
        assert_eq!(answer.await.unwrap(), (200, None));
    }
    assert_eq!(app.connections(), 1);
}

#[tokio::test]
async fn streams_that_wait_for_a_connection_are_counted() {
    // Another proxy that accepts, and then says nothing.
    let app = App::start(|stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let few = v1::Limits { pending_requests: 2, ..limits() };
    let sidecar = client_of(&Authority::new(), limited(vec![endpoint(app.address, "server")], few));
    let client = http2::client(sidecar.outbound).await;
    let waiting: Vec<_> = (0..2).map(|_| tokio::spawn(ask(client.clone()))).collect();
    let deadline = tokio::time::Instant::now() + SOON;
    while app.connections() == 0 {
        assert!(tokio::time::Instant::now() < deadline, "nobody connects");
        sleep(Duration::from_millis(5)).await;
    }
    let refused = tokio::time::timeout(Duration::from_secs(2), ask(client)).await.expect("at once");
    assert_eq!(refused, (OVERLOAD, Some("overload".into())));
    sidecar.counted(&over("pendingRequests")).await;
    assert!(waiting.iter().all(|waiting| !waiting.is_finished()));
}

#[tokio::test]
async fn what_an_application_says_beyond_its_answer_is_not_the_answer_of_who_waits() {
    // Both requests may be with either of two workers, and only one worker hands connections on.
    for _ in 0..5 {
        let (answers, asked) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let shared = (answers.clone(), asked.clone());
        let app = App::start(move |mut stream| {
            let (answers, asked) = shared.clone();
            async move {
                while read_head(&mut stream).await.is_some() {
                    let first = asked.fetch_add(1, SeqCst) == 0;
                    answers.acquire().await.unwrap().forget();
                    let more = if first { "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong" } else { "" };
                    if stream.write_all(format!("{OK}{more}").as_bytes()).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await;
        let held = Held { app, answers, asked, most: Arc::default() };
        let client = held.client(v1::Limits { connections: 1, ..limits() });
        let first = asking(&client);
        held.asked(1).await;
        let second = asking(&client);
        sleep(Duration::from_millis(50)).await;
        held.answers.add_permits(2);
        for asking in [first, second] {
            let answer = asking.await.unwrap();
            assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
        }
    }
}
