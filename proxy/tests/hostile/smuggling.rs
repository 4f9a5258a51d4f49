//! Requests that two servers would read differently: refused, not repaired.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::*;

/// Everything that an application was sent. It answers each head, and takes all that follows for another one.
async fn recorder() -> (App, Arc<Mutex<String>>) {
    let seen = Arc::new(Mutex::new(String::new()));
    let record = seen.clone();
    let app = App::start(move |mut stream| {
        let record = record.clone();
        async move {
            let mut buffer = vec![0; 64 << 10];
            while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                record.lock().push_str(&text);
                if text.contains("\r\n\r\n")
                    && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.is_err()
                {
                    return;
                }
            }
        }
    })
    .await;
    (app, seen)
}

/// What is wrong, and the request up to where its body would begin.
const MALFORMED: &[(&str, &str)] = &[
    ("two lengths", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("the other order", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    ("different lengths", "Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"),
    ("a list of different lengths", "Content-Length: 5, 6\r\n\r\nabcdef"),
    ("a signed length", "Content-Length: +5\r\n\r\nabcde"),
    ("a negative length", "Content-Length: -5\r\n\r\n"),
    ("a length in hex", "Content-Length: 0x5\r\n\r\nabcde"),
    ("an empty length", "Content-Length: \r\n\r\n"),
    ("a length beyond 64 bits", "Content-Length: 99999999999999999999\r\n\r\n"),
    ("an unknown coding", "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    ("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a coding that is not last", "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
    ("a coding and another", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    ("a quoted coding", "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"),
    ("a coding after a tab of another kind", "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    ("a space before the colon", "Content-Length : 5\r\n\r\nabcde"),
    ("a space before the colon of a coding", "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"),
    ("a folded line", "X: a\r\n b\r\n\r\n"),
    ("a folded coding", "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"),
    ("a line that begins with a space", " X: a\r\n\r\n"),
    ("a name with a space", "X Y: a\r\n\r\n"),
    ("a line without a colon", "nonsense\r\n\r\n"),
    ("no name", ": a\r\n\r\n"),
    ("a NUL in a value", "X: a\0b\r\n\r\n"),
    ("a lone CR in a value", "X: a\rTransfer-Encoding: chunked\r\n\r\n"),
    ("two hosts", "Host: other\r\n\r\n"),
];

/// Malformed only once the head was taken: the connection must end, and what follows must never be a request.
const BODIES: &[(&str, &str)] = &[
    ("a chunk size in another notation", "0x5\r\nabcde\r\n0\r\n\r\n"),
    ("a negative chunk", "-1\r\n\r\n0\r\n\r\n"),
    ("a signed chunk", "+5\r\nabcde\r\n0\r\n\r\n"),
    ("an empty chunk size", "\r\nabcde\r\n0\r\n\r\n"),
    ("a chunk beyond 64 bits", "fffffffffffffffff\r\nabc"),
    ("a chunk that is longer than it says", "2\r\nabcde\r\n0\r\n\r\n"),
    ("a chunk size that ends in a lone LF", "5\nabcde\r\n0\r\n\r\n"),
    ("an extension with a lone LF", "5;a\nb\r\nabcde\r\n0\r\n\r\n"),
    ("a space before the size", " 5\r\nabcde\r\n0\r\n\r\n"),
];

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: server\r\n\r\n";

#[tokio::test]
async fn what_is_malformed_is_refused_and_ends_the_connection() {
    let (app, seen) = recorder().await;
    let pair = pair(app.address);
    for (what, head) in MALFORMED {
        seen.lock().clear();
        let answer = talk(pair.client.outbound, &format!("POST /a HTTP/1.1\r\nHost: server\r\n{head}{SMUGGLED}")).await;
        assert_eq!(status(&answer), 400, "{what}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{what}: one answer\n{answer}");
        assert_eq!(*seen.lock(), "", "{what}: nothing reached the application");
    }
}

#[tokio::test]
async fn request_lines_that_are_none_are_refused() {
    let (app, seen) = recorder().await;
    let mut service = service(vec![vec![endpoint(app.address, "")]]);
    // Stated, so that what is no request is malformed rather than something else.
    service.protocol = fairlead_proxy_api::v1::Protocol::Http1.into();
    let client = client_of(&Authority::new(), service);
    for line in [
        "GET /a HTTP/1.1 ",
        "GET  /a HTTP/1.1",
        "GET /a b HTTP/1.1",
        "GET /a\tHTTP/1.1",
        "GET /a HTTP/1.2x",
        "GET /a HTTP/2.0",
        "GET /a http/1.1",
        "GET a HTTP/1.1",
        "G\0T /a HTTP/1.1",
        "GET /\0 HTTP/1.1",
        "GET /a#fragment HTTP/1.1",
        "/a HTTP/1.1",
    ] {
        seen.lock().clear();
        let answer = talk(client.outbound, &format!("{line}\r\nHost: server\r\n\r\n{SMUGGLED}")).await;
        assert!([400, 505].contains(&status(&answer)), "{line:?}: {answer}");
        assert_eq!(*seen.lock(), "", "{line:?}: nothing reached the application");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_takes_its_connections_along() {
    let (app, seen) = recorder().await;
    let pair = pair(app.address);
    for (what, body) in BODIES {
        seen.lock().clear();
        let head = "POST /a HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = talk(pair.client.outbound, &format!("{head}{body}{SMUGGLED}")).await;
        assert!(answer.matches("HTTP/1.1 ").count() <= 1, "{what}: at most one answer\n{answer}");
        let seen = seen.lock().clone();
        assert!(!seen.contains("/smuggled"), "{what}: {seen}");
    }
}

#[tokio::test]
async fn what_is_sent_ahead_of_a_switch_that_is_refused_goes_nowhere() {
    let seen = Arc::new(Mutex::new(String::new()));
    let record = seen.clone();
    let app = App::start(move |mut stream| {
        let record = record.clone();
        async move {
            while let Some(head) = read_head(&mut stream).await {
                record.lock().push_str(&head);
                if stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let pair = pair(app.address);
    for switch in [
        "CONNECT server:80 HTTP/1.1\r\nHost: server:80\r\n\r\n",
        "GET /ws HTTP/1.1\r\nHost: server\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        seen.lock().clear();
        let answer = talk(pair.client.outbound, &format!("{switch}{SMUGGLED}")).await;
        assert_eq!(status(&answer), 403, "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "whatever it looks like, it is not a request: {answer}");
        let seen = seen.lock().clone();
        assert!(!seen.is_empty() && !seen.contains("smuggled"), "{seen}");
    }
}
