//! Applications that attack whoever asks them.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{bystander::Path, frames::*, support::*};

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

/// Answers HTTP/1 as it should, and everybody who speaks HTTP/2 with settings and then with `attack`, over and over while it is read.
async fn hostile_http2(attack: Vec<u8>) -> App {
    let attack = Arc::new(attack);
    App::start(move |mut stream| {
        let attack = attack.clone();
        async move {
            let mut first = [0; 3];
            if stream.peek(&mut first).await.is_ok_and(|n| first[..n] != *b"PRI") {
                while read_head(&mut stream).await.is_some() {
                    if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err() {
                        return;
                    }
                }
                return;
            }
            if stream.write_all(&frame(SETTINGS, 0, 0, b"")).await.is_err() {
                return;
            }
            // Until there is a request to answer.
            let mut read = [0; 4096];
            let mut seen = 0;
            while seen < 64 {
                match stream.read(&mut read).await {
                    Ok(n @ 1..) => seen += n,
                    _ => return,
                }
            }
            while stream.write_all(&attack).await.is_ok() {}
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

#[tokio::test]
async fn an_answer_beyond_its_length_is_nobody_elses() {
    let both = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let app = hostile(both, 1, "").await;
    let pair = pair(app.address);
    for _ in 0..5 {
        let answer = ask(&pair).await;
        assert!(status(&answer) == 200 && answer.ends_with("ok"), "{answer}");
    }
}

#[tokio::test]
async fn frames_that_an_endpoint_should_not_send_cost_its_own_connection() {
    // :status 200, and 103.
    let (ok, hints) = (b"\x88".as_slice(), b"\x08\x03103".as_slice());
    let mut bomb = ok.to_vec();
    bomb.extend(b"\x40\x01x\x7f\xa1\x1e");
    bomb.resize(bomb.len() + 4000, b'v');
    bomb.resize(bomb.len() + 12_000, 0xbe);
    let mut field = b"\x00\x01x\x7f\xfb\x7e".to_vec();
    field.resize(16_384, b'v');
    let attacks: [(&str, Vec<u8>); 11] = [
        ("pings", frame(PING, 0, 0, b"12345678").repeat(1000)),
        ("settings", frame(SETTINGS, 0, 0, b"").repeat(1000)),
        ("hints without end", frame(HEADERS, END_HEADERS, stream(0), hints).repeat(100)),
        (
            "a head without end",
            [frame(HEADERS, 0, stream(0), ok), frame(CONTINUATION, 0, stream(0), &field).repeat(100)].concat(),
        ),
        ("a head that unpacks to a large one", frame(HEADERS, END_HEADERS, stream(0), &bomb)),
        (
            "more than there is room for",
            [frame(HEADERS, END_HEADERS, stream(0), ok), frame(DATA, 0, stream(0), &[b'x'; 16_384]).repeat(100)]
                .concat(),
        ),
        ("a frame that is too large", frame(DATA, 0, stream(0), &vec![b'x'; 1 << 20])),
        ("a promise", frame(5, END_HEADERS, stream(0), b"\0\0\0\x02\x82")),
        ("a stream that nobody opened", frame(HEADERS, END_HEADERS, stream(500), ok)),
        ("a window that overflows", frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2)),
        ("nonsense", vec![0xff; 4096]),
    ];
    for (what, attack) in attacks {
        let path = Path::to(hostile_http2(attack).await.into());
        path.survives(async {
            let mut client = open(path.doors()[0].1, &[]).await;
            client.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream(0), GET)).await.unwrap();
            // Whatever the client is told, it is not a gigabyte.
            let (mut buffer, mut total) = (vec![0; 64 << 10], 0);
            let until = tokio::time::Instant::now() + Duration::from_secs(1);
            while let Ok(Ok(n @ 1..)) = tokio::time::timeout_at(until, client.read(&mut buffer)).await {
                total += n;
            }
            assert!(total < 16 << 20, "{what}: {total}");
        })
        .await;
    }
}
