//! Applications that attack whoever asks them.

use std::{convert::Infallible, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::support::*;

/// Answers `/modest` as it should, and everything else with `attack`, over and over.
async fn hostile(attack: &'static str, times: usize, after: &'static str) -> App {
    App::start(move |mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            if head.contains("/modest") {
                if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                    return;
                }
                continue;
            }
            for _ in 0..times {
                if stream.write_all(attack.as_bytes()).await.is_err() {
                    return;
                }
            }
            let _ = stream.write_all(after.as_bytes()).await;
            idle(stream).await;
            return;
        }
    })
    .await
}

/// Keeps a connection open.
async fn idle(stream: TcpStream) -> Infallible {
    let _open = stream;
    loop {
        sleep(Duration::from_secs(60)).await;
    }
}

/// A client that asks for something else than `/modest`, and what it is answered.
async fn ask(pair: &Pair) -> String {
    let answer = timeout(SOON, get(pair.client.outbound, "/attack", "")).await;
    let modest = get(pair.client.outbound, "/modest", "").await;
    assert_eq!(status(&modest), 200, "{modest}");
    answer.expect("it is not waited for")
}

#[tokio::test]
async fn answers_that_are_malformed_become_502() {
    for attack in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nab",
        "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nab",
        "nonsense\r\n\r\n",
    ] {
        let app = hostile(attack, 1, "").await;
        let pair = pair(app.address);
        let answer = ask(&pair).await;
        assert_eq!(status(&answer), 502, "{attack:?}: {answer}");
        assert!(answer.to_ascii_lowercase().contains("fairlead-proxy: upstream-reset"), "{attack:?}: {answer}");
    }
}

#[tokio::test]
async fn heads_without_end_are_not_gathered() {
    for attack in ["X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", "y"] {
        let app = App::start(move |mut stream| async move {
            while let Some(head) = read_head(&mut stream).await {
                let attacked = !head.contains("/modest");
                let begin =
                    if attacked { "HTTP/1.1 200 OK\r\nX: " } else { "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok" };
                if stream.write_all(begin.as_bytes()).await.is_err() {
                    return;
                }
                let piece = attack.repeat(64 << 10);
                if attacked {
                    while stream.write_all(piece.as_bytes()).await.is_ok() {}
                    return;
                }
            }
        })
        .await;
        let pair = pair(app.address);
        let answer = ask(&pair).await;
        assert_eq!(status(&answer), 502, "{answer}");
    }
}
