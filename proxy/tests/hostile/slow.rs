//! Callers that keep an exchange waiting, against proxies that do not wait for long.

use std::time::Duration;

use bytes::Bytes;
use fairlead_proxy::http::patience::Waits;
use http::Request;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{sleep, timeout},
};

use crate::{
    bystander::{Answer, Path, app},
    frames::*,
    http1::small_window,
    support::*,
};

/// In place of minutes.
const WAITS: Waits = Waits { body: Duration::from_secs(1), answer: Duration::from_secs(1) };

/// Longer than the proxies wait for anything.
const LONG: Duration = Duration::from_millis(2500);

impl Path {
    /// Waits until the proxy behind a door has counted such a line.
    async fn behind(&self, door: &str, metric: &str, labels: &str) {
        let (sidecar, service) = match door {
            "outbound" => (&self.client, "test/server:9080".into()),
            _ => (&self.server, self.port().to_string()),
        };
        sidecar
            .counted(&format!(r#"fairlead_proxy_{metric}{{direction="{door}",service="{service}",{labels}}} "#))
            .await;
    }
}

/// What a door's requests count as that came too slowly.
fn too_slow(door: &str) -> String {
    // To the endpoint the one proxy speaks mutual TLS, its callers speak plain.
    let tls = if door == "outbound" { "mutual" } else { "none" };
    format!(r#"tls="{tls}",class="4xx",reason="body-timeout""#)
}

const UNREAD: &str = r#"cause="unread""#;

/// Reads requests to their end, then answers.
async fn reading() -> App {
    App::start(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            if head.contains("chunked") {
                read_until(&mut stream, "\r\n0\r\n\r\n").await;
            }
            let length = head.split("Content-Length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            let mut body = vec![0; length.unwrap_or(0)];
            if stream.read_exact(&mut body).await.is_err()
                || stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err()
            {
                return;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_body_that_does_not_come_is_answered_with_408() {
    let path = Path::waiting(reading().await.into(), WAITS, |_| {});
    for (door, address) in path.doors() {
        for (framing, drops) in [
            ("Content-Length: 1000000\r\n\r\na", ""),
            ("Content-Length: 1000000\r\n\r\na", "b"),
            ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n", ""),
        ] {
            let mut client = connect(address).await;
            client.write_all(format!("POST /slow HTTP/1.1\r\nHost: server\r\n{framing}").as_bytes()).await.unwrap();
            let (mut read, mut write) = client.split();
            let trickle = async {
                // Ten bytes in a second, until the connection breaks.
                while !drops.is_empty() && write.write_all(drops.as_bytes()).await.is_ok() {
                    sleep(Duration::from_millis(100)).await;
                }
                std::future::pending::<()>().await;
            };
            let mut answer = Vec::new();
            let ended = tokio::select! {
                ended = timeout(SOON, read.read_to_end(&mut answer)) => ended,
                () = trickle => unreachable!(),
            };
            // A reset that follows what still came is an end as well.
            let _ = ended.unwrap_or_else(|_| panic!("{door}: {framing:?} is waited for"));
            let answer = String::from_utf8_lossy(&answer);
            assert_eq!(status(&answer), 408, "{door}: {answer}");
            assert!(answer.contains("fairlead-proxy: body-timeout\r\n"), "{door}: {answer}");
            assert!(answer.to_ascii_lowercase().contains("connection: close\r\n"), "{door}: {answer}");
        }
        path.behind(door, "requests_total", &too_slow(door)).await;
    }
}

#[tokio::test]
async fn uploads_with_pauses_arrive() {
    let path = Path::waiting(reading().await.into(), WAITS, |_| {});
    for (door, address) in path.doors() {
        let mut client = connect(address).await;
        client.write_all(b"POST /slow HTTP/1.1\r\nHost: server\r\nContent-Length: 1000\r\n\r\n").await.unwrap();
        for _ in 0..5 {
            sleep(LONG / 5).await;
            client.write_all(&[b'a'; 200]).await.unwrap();
        }
        let head = timeout(SOON, read_head(&mut client)).await.unwrap().unwrap();
        assert_eq!(status(&head), 200, "{door}: {head}");
    }
}

#[tokio::test]
async fn what_a_route_says_holds_instead() {
    let path = Path::waiting(reading().await.into(), WAITS, |service| service.routes[0].idle_timeout_ms = 20_000);
    let mut client = connect(path.client.outbound).await;
    client.write_all(b"POST /slow HTTP/1.1\r\nHost: server\r\nContent-Length: 2\r\n\r\na").await.unwrap();
    sleep(LONG).await;
    client.write_all(b"b").await.unwrap();
    let head = timeout(SOON, read_head(&mut client)).await.unwrap().unwrap();
    assert_eq!(status(&head), 200, "{head}");

    let path = Path::waiting(app(Answer::Large).await, Waits::default(), |service| {
        service.routes[0].idle_timeout_ms = 500;
    });
    let mut client = small_window(path.client.outbound).await;
    client.write_all(b"GET /large HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
    path.behind("outbound", "cut_off_total", UNREAD).await;
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_cut_off() {
    let path = Path::waiting(app(Answer::Large).await, WAITS, |_| {});
    for (door, address) in path.doors() {
        let mut client = small_window(address).await;
        client.write_all(b"GET /large HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        path.behind(door, "cut_off_total", UNREAD).await;
        let mut rest = Vec::new();
        assert!(client.read_to_end(&mut rest).await.is_err(), "{door}: a reset, so that it is not taken for all");
    }
}

/// A request over HTTP/2 whose body is not ended.
async fn open_request(
    address: std::net::SocketAddr,
    content_type: &str,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let (sender, connection) = h2::client::handshake(connect(address).await).await.unwrap();
    tokio::spawn(connection);
    let mut sender = sender.ready().await.unwrap();
    let request = Request::post("http://server/slow").header("content-type", content_type).body(()).unwrap();
    let (answer, mut say) = sender.send_request(request, false).unwrap();
    say.send_data(Bytes::from_static(b"a"), false).unwrap();
    (answer, say)
}

#[tokio::test]
async fn a_body_that_does_not_come_over_http2_is_answered_with_408_but_streams_of_grpc_rest() {
    let path = Path::waiting(app(Answer::Never).await, WAITS, |_| {});
    for (door, address) in path.doors() {
        let (answer, _say) = open_request(address, "text/plain").await;
        let answer = timeout(SOON, answer).await.expect(door).unwrap();
        assert_eq!(answer.status(), 408, "{door}: {answer:?}");
        assert_eq!(answer.headers()["fairlead-proxy"], "body-timeout");
        path.behind(door, "requests_total", &too_slow(door)).await;
        let (answer, _say) = open_request(address, "application/grpc").await;
        assert!(timeout(LONG, answer).await.is_err(), "{door}: it is for its peers to say how long");
    }
}

#[tokio::test]
async fn a_window_that_stays_shut_costs_its_stream() {
    let path = Path::waiting(app(Answer::Short).await, WAITS, |_| {});
    for (door, address) in path.doors() {
        // SETTINGS_INITIAL_WINDOW_SIZE
        let mut connection = open(address, &[(4, 0)]).await;
        connection.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream(0), GET)).await.unwrap();
        path.behind(door, "cut_off_total", UNREAD).await;
        let cancel = frame(RST_STREAM, 0, stream(0), &8_u32.to_be_bytes());
        let mut seen = Vec::new();
        while !seen.ends_with(&cancel) {
            let mut byte = [0];
            timeout(SOON, connection.read_exact(&mut byte)).await.expect(door).unwrap();
            seen.push(byte[0]);
        }
    }
}

#[tokio::test]
async fn whoever_waits_for_the_endpoint_is_not_hurried() {
    let app = App::start(|mut stream| async move {
        let upgrade = read_head(&mut stream).await.unwrap().contains("websocket");
        let head: &[u8] = if upgrade {
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
        } else {
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        };
        stream.write_all(head).await.unwrap();
        sleep(LONG).await;
        stream.write_all(b"5\r\nevent\r\n").await.unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let path = Path::waiting(app.into(), WAITS, |_| {});
    for (door, address) in path.doors() {
        for lines in ["", "Connection: upgrade\r\nUpgrade: websocket\r\n"] {
            let mut client = connect(address).await;
            client.write_all(format!("GET /events HTTP/1.1\r\nHost: server\r\n{lines}\r\n").as_bytes()).await.unwrap();
            let events = timeout(SOON, read_until(&mut client, "event")).await.unwrap();
            assert!(events.is_some(), "{door}: {lines}");
        }
    }
}
