//! What only the bytes show: order, case, interim answers, pipelining, ends of connections.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
    time::{Instant, timeout},
};

use crate::support::*;

const HELLO: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

#[tokio::test]
async fn lines_keep_their_order_case_and_spaces_both_ways() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert_eq!(head, "GET /p?q HTTP/1.1\r\nB:1\r\na:  2 \r\nHOST: server\r\nb: 3\r\nA: 4\r\nX-Empty:\r\n\r\n");
        stream
            .write_all(b"HTTP/1.1 299 Quite Fine\r\nZ: 1\r\ny:2\r\nContent-LENGTH: 2\r\nz:  3\r\n\r\nok")
            .await
            .unwrap();
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client
        .write_all(b"GET /p?q HTTP/1.1\r\nB:1\r\na:  2 \r\nHOST: server\r\nb: 3\r\nA: 4\r\nX-Empty:\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut client, "ok").await.unwrap();
    assert_eq!(answer, "HTTP/1.1 299 Quite Fine\r\nZ: 1\r\ny:2\r\nContent-LENGTH: 2\r\nz:  3\r\n\r\nok");
}

#[tokio::test]
async fn hints_pass_before_the_answer_and_100_comes_from_the_application_alone() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 417 No\r\ncontent-length: 2\r\n\r\nno")
            .await
            .unwrap();
        read_head(&mut stream).await;
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client
        .write_all(b"PUT / HTTP/1.1\r\nHost: server\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await
        .unwrap();
    let hints = read_head(&mut client).await.unwrap();
    assert!(hints.starts_with("HTTP/1.1 103 ") && hints.contains("Link: </a>"), "{hints}");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 417 ") && answer.ends_with("no"), "{answer}");
}

#[tokio::test]
async fn requests_that_do_not_wait_for_answers_are_answered_in_order() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let requests: Vec<_> = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: server\r\n\r\n")).collect();
    let requests = requests.concat() + "GET /last HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
    let answers = talk(pair.client.outbound, &requests).await;
    let order: Vec<_> = answers.lines().filter_map(|line| line.strip_prefix("GET /")?.split(' ').next()).collect();
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).chain(["last".to_owned()]).collect();
    assert_eq!(order, expected);
}

#[tokio::test]
async fn a_body_that_ends_with_its_connection_arrives_whole() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        stream.write_all(&vec![b'x'; 300_000]).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let answer = get(pair.client.outbound, "/", "").await;
    assert_eq!(answer.matches('x').count(), 300_000);
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "in chunks, so that its end is seen");
}

#[tokio::test]
async fn megabytes_pass_both_ways_by_length_and_in_chunks() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        let mut body = vec![0; 3_000_000];
        if head.contains("chunked") {
            let mut all = Vec::new();
            while !all.ends_with(b"\r\n0\r\n\r\n") {
                assert!(stream.read_buf(&mut all).await.unwrap() > 0);
            }
            // Without the sizes of the chunks, which are not the client's.
            body = all.into_iter().filter(|byte| *byte == b'x').collect();
        } else {
            stream.read_exact(&mut body).await.unwrap();
        }
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&body).await.unwrap();
    })
    .await;
    let pair = pair(app.address);
    let body = "x".repeat(3_000_000);
    for request in [
        format!("POST / HTTP/1.1\r\nHost: s\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
        format!(
            "POST / HTTP/1.1\r\nHost: s\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x};e=1\r\n{body}\r\n0\r\n\r\n",
            body.len()
        ),
    ] {
        let answer = talk(pair.client.outbound, &request).await;
        assert_eq!(status(&answer), 200, "{}", &answer[..200.min(answer.len())]);
        assert!(answer.ends_with(&body), "{} bytes", answer.len());
    }
}

#[tokio::test]
async fn an_answer_that_breaks_the_rules_is_not_passed_on() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 200 OK\ncontent-length: 3\n\nabc",
        "HTTP/1.1 200 OK\r\nx : y\r\ncontent-length: 3\r\n\r\nabc",
        "nonsense\r\n\r\n",
    ] {
        let app = App::answering(answer).await;
        let response = get(pair(app.address).client.outbound, "/", "").await;
        assert_eq!(status(&response), 502, "{answer:?}: {response}");
        assert!(response.contains("fairlead-proxy: upstream-reset\r\n"), "{response}");
    }
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_seen_to_be() {
    for head in ["content-length: 10", "transfer-encoding: chunked"] {
        let seen = Arc::new(Notify::new());
        let end = seen.clone();
        let app = App::start(move |mut stream| {
            let end = end.clone();
            async move {
                read_head(&mut stream).await;
                let body = if head.contains("chunked") { "3\r\nabc\r\n" } else { "abc" };
                stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{body}").as_bytes()).await.unwrap();
                end.notified().await;
            }
        })
        .await;
        let pair = pair(app.address);
        let mut client = connect(pair.client.outbound).await;
        client.write_all(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n").await.unwrap();
        assert!(read_until(&mut client, "abc").await.unwrap().contains(head));
        seen.notify_one();
        let mut rest = Vec::new();
        let _ = timeout(SOON, client.read_to_end(&mut rest)).await.expect("the connection ends");
        assert!(matches!(&rest[..], b"" | b"\r\n"), "{rest:?}");
    }
}

#[tokio::test]
async fn the_proxy_s_own_refusals_say_so_and_are_counted() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let long = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70 * 1024));
    for (request, expected, reason) in [
        ("GET / HTTP/1.1\r\nHost: a\nx: bare line feed\r\n\r\n", 400, "malformed-request"),
        (&long, 414, "target-too-long"),
    ] {
        let response = talk(pair.client.outbound, request).await;
        assert_eq!(status(&response), expected, "{response}");
        assert!(response.contains(&format!("fairlead-proxy: {reason}\r\n")), "{response}");
        pair.client
            .counted(&format!(
                r#"fairlead_proxy_requests_total{{direction="outbound",service="test/server:9080",tls="none",class="4xx",reason="{reason}"}} 1"#
            ))
            .await;
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_body_that_is_malformed_is_its_caller_s_fault() {
    let app = App::mirror().await;
    let canary = fairlead_proxy_api::v1::Endpoint { group: "canary".into(), ..endpoint(app.address, "") };
    let client = client_of(&Authority::new(), service(vec![vec![canary]]));
    for body in ["x\r\n", "3\r\nabcde\r\n0\r\n\r\n"] {
        let request = format!("POST / HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        let response = talk(client.outbound, &request).await;
        assert_eq!(status(&response), 400, "{response}");
        assert!(response.contains("fairlead-proxy: malformed-request\r\n"), "{response}");
    }
    let counts = client.telemetry.groups.changed(&mut fairlead_proxy::telemetry::groups::Reported::default());
    assert!(counts.iter().all(|counts| counts.requests == 0), "no evidence against the release");
}

#[tokio::test]
async fn a_client_of_http_1_0_can_keep_its_connection() {
    let app = App::answering(HELLO).await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    for _ in 0..3 {
        client.write_all(b"GET / HTTP/1.0\r\nHost: server\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
        let answer = read_until(&mut client, "hello").await.unwrap();
        assert!(answer.contains("connection: keep-alive\r\n"), "{answer}");
    }
}

#[tokio::test]
async fn what_follows_a_refused_upgrade_is_not_a_request() {
    let app = App::mirror().await;
    let pair = pair(app.address);
    let answer = talk(
        pair.client.outbound,
        "GET / HTTP/1.1\r\nHost: server\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: server\r\n\r\n",
    )
    .await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{answer}");
    assert!(!answer.contains("smuggled"), "{answer}");
}

#[tokio::test]
async fn a_client_that_asked_for_the_end_closes_first_if_it_does_so_soon() {
    let app = App::answering(HELLO).await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client.write_all(b"GET / HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n").await.unwrap();
    read_until(&mut client, "hello").await.unwrap();
    let answered = Instant::now();
    assert_eq!(timeout(SOON, client.read(&mut [0])).await.unwrap().unwrap(), 0);
    assert!(answered.elapsed() >= Duration::from_millis(30), "it was given the time");
}

#[tokio::test]
async fn an_upload_that_the_application_does_not_want_does_not_hide_its_answer() {
    let app = App::start(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(b"HTTP/1.1 413 Too Much\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        // Reads on for a while, as servers do.
        let mut sink = vec![0; 1 << 16];
        while timeout(Duration::from_millis(300), stream.read(&mut sink))
            .await
            .is_ok_and(|read| read.is_ok_and(|n| n > 0))
        {}
    })
    .await;
    let pair = pair(app.address);
    let mut client = connect(pair.client.outbound).await;
    client.write_all(b"POST / HTTP/1.1\r\nHost: server\r\nContent-Length: 1000000\r\n\r\n").await.unwrap();
    client.write_all(&[b'x'; 1000]).await.unwrap();
    let answer = read_until(&mut client, "\r\n\r\nno").await.unwrap();
    assert_eq!(status(&answer), 413);
}
