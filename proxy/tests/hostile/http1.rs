//! Slow clients, and heads that are too large.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    bystander::{Answer, Path, app},
    support::*,
};

/// Has `many` clients say `hello` and then `drop` every now and then, for two seconds.
async fn trickle(address: std::net::SocketAddr, many: usize, hello: &str, drop: &str) {
    let mut clients = Vec::new();
    for _ in 0..many {
        let mut client = connect(address).await;
        client.write_all(hello.as_bytes()).await.unwrap();
        clients.push(client);
    }
    for _ in 0..20 {
        for client in &mut clients {
            // It may have been shown the door.
            let _ = client.write_all(drop.as_bytes()).await;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn heads_that_come_byte_by_byte() {
    let path = Path::to(app(Answer::Short).await);
    for (door, address) in path.doors() {
        path.survives(trickle(address, 300, "GET /attack HTTP/1.1\r\nHost: server\r\nX-Slow: ", "a")).await;
        assert_eq!(path.attacked(), 0, "{door}: no request was complete");
    }
}

#[tokio::test]
async fn bodies_that_come_byte_by_byte() {
    let path = Path::to(app(Answer::Never).await);
    for (_, address) in path.doors() {
        path.survives(trickle(
            address,
            200,
            "POST /attack HTTP/1.1\r\nHost: server\r\nContent-Length: 1000000\r\n\r\n",
            "a",
        ))
        .await;
        path.survives(trickle(
            address,
            200,
            "POST /attack HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n",
            "1\r\na\r\n",
        ))
        .await;
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_are_not_gathered() {
    let path = Path::to(app(Answer::Large).await);
    for (_, address) in path.doors() {
        path.survives(async {
            let mut clients = Vec::new();
            // 800 MB of answers.
            for _ in 0..100 {
                let mut client = small_window(address).await;
                client.write_all(b"GET /attack HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
                clients.push(client);
            }
            sleep(Duration::from_secs(2)).await;
        })
        .await;
    }
}

#[tokio::test]
async fn requests_that_are_sent_ahead_and_never_read_are_not_gathered() {
    let path = Path::to(app(Answer::Large).await);
    for (door, address) in path.doors() {
        path.survives(async {
            let mut client = small_window(address).await;
            let requests = "GET /attack HTTP/1.1\r\nHost: server\r\n\r\n".repeat(10_000);
            // 400 MB of requests.
            for _ in 0..1000 {
                if timeout(Duration::from_secs(2), client.write_all(requests.as_bytes())).await.is_err() {
                    break;
                }
            }
        })
        .await;
        assert!(path.attacked() < 200, "{door}: {} were asked for", path.attacked());
    }
}

#[tokio::test]
async fn heads_without_end_are_refused_before_they_fill_anything() {
    let path = Path::to(app(Answer::Short).await);
    let many_lines = "X: y\r\n".repeat(1000);
    let long_line = format!("X: {}", "y".repeat(16 << 20));
    let long_target = format!("/{}", "y".repeat(16 << 20));
    for (door, address) in path.doors() {
        path.survives(async {
            let attacks = [
                ("many lines", format!("GET /attack HTTP/1.1\r\nHost: server\r\n{many_lines}"), 431),
                ("a long line", format!("GET /attack HTTP/1.1\r\nHost: server\r\n{long_line}"), 431),
                ("a long target", format!("GET {long_target}"), 414),
            ];
            for (attack, bytes, expected) in attacks {
                let mut client = connect(address).await;
                let (mut read, mut write) = client.split();
                let mut answer = Vec::new();
                let all = async {
                    // The proxy need not take all of it.
                    let _ = write.write_all(bytes.as_bytes()).await;
                };
                let read = async {
                    let _ = read.read_to_end(&mut answer).await;
                };
                timeout(SOON, async { tokio::join!(all, read) })
                    .await
                    .unwrap_or_else(|_| panic!("{door}: {attack}: no end"));
                // The answer may be lost with the reset that what was not read causes.
                if !answer.is_empty() {
                    let answer = String::from_utf8_lossy(&answer);
                    let got = status(&answer);
                    assert!(got == expected || got == 431, "{door}: {attack}: {answer}");
                }
            }
        })
        .await;
        assert_eq!(path.attacked(), 0, "{door}");
    }
}

/// A client that takes little at a time.
pub async fn small_window(address: std::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(address).await.unwrap()
}
