//! Callers of one version of HTTP, and endpoints that are stated to speak the other.

use bytes::Bytes;
use fairlead_proxy_api::v1;
use futures::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::{
    http2::{Body, app, client, extended_connect},
    support::*,
};

/// A client's sidecar, a server's, and an application that is stated to speak `protocol`.
fn stated(application: &App, protocol: v1::Protocol) -> Pair {
    let authority = Authority::new();
    let server = server_of(&authority, application.address, v1::MtlsMode::Strict);
    let mut service = service(vec![vec![endpoint(server.inbound, "server")]]);
    service.protocol = protocol.into();
    let client = client_of(&authority, service);
    Pair { client, server }
}

/// An application of HTTP/1 that answers each request with `answer`, and its own view of it: the head, and the body if it was chunked or had a
/// length.
async fn recorded(answer: &'static str) -> App {
    App::start(move |mut stream| async move {
        while let Some(mut seen) = read_head(&mut stream).await {
            if seen.contains("transfer-encoding: chunked") {
                seen += &read_until(&mut stream, "\r\n\r\n").await.unwrap();
            } else if let Some((_, length)) = seen.split_once("content-length: ") {
                let length = length.split("\r\n").next().unwrap().parse().unwrap();
                let mut body = vec![0; length];
                stream.read_exact(&mut body).await.unwrap();
                seen += &String::from_utf8_lossy(&body);
            }
            let answer = answer.replace("{len}", &format!("{:x}", seen.len())).replace("{seen}", &seen);
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await
}

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n\
                       {len}\r\n{seen}\r\n0\r\nx-after: all\r\n\r\n";

fn frames(frames: Vec<Frame<Bytes>>) -> Body {
    BodyExt::boxed(StreamBody::new(stream::iter(frames.into_iter().map(Ok))))
}

fn data(text: &'static str) -> Frame<Bytes> {
    Frame::data(Bytes::from_static(text.as_bytes()))
}

fn trailer(name: &'static str, value: &str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, value.parse().unwrap());
    Frame::trailers(trailers)
}

#[tokio::test]
async fn a_client_of_http2_meets_an_endpoint_of_http1_where_the_port_says_so() {
    let app = recorded(CHUNKED).await;
    let pair = stated(&app, v1::Protocol::Http1Only);
    let mut client = client(pair.client.outbound).await;
    let hello = || vec![data("hel"), data("lo")];
    let with_sum = || hello().into_iter().chain([trailer("x-sum", "5")]).collect();
    for (request, expected) in [
        (
            Request::get("http://server:9080/a?b=c")
                .header("cookie", "a=1")
                .header("x-kept", "yes")
                .header("cookie", "b=2")
                .header("te", "trailers")
                .body(Empty::new().boxed()),
            "GET /a?b=c HTTP/1.1\r\nhost: server:9080\r\ncookie: a=1; b=2\r\nx-kept: yes\r\nte: trailers\r\n\r\n",
        ),
        (
            // Its length is not known.
            Request::post("http://server/c").body(frames(with_sum())),
            "POST /c HTTP/1.1\r\nhost: server\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\nhel\r\n2\r\nlo\r\n0\r\nx-sum: 5\r\n\r\n",
        ),
        (
            Request::put("http://server/l").body(Full::from("hello").boxed()),
            "PUT /l HTTP/1.1\r\nhost: server\r\ncontent-length: 5\r\n\r\nhello",
        ),
        (
            // Trailers are announced, and would not fit behind a length.
            Request::post("http://server/t")
                .header("content-length", "5")
                .header("trailer", "x-sum")
                .body(frames(with_sum())),
            "POST /t HTTP/1.1\r\nhost: server\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n\
             3\r\nhel\r\n2\r\nlo\r\n0\r\nx-sum: 5\r\n\r\n",
        ),
        (
            Request::options("http://server/x").header("host", "server").body(Empty::new().boxed()),
            "OPTIONS /x HTTP/1.1\r\nhost: server\r\ncontent-length: 0\r\n\r\n",
        ),
    ] {
        let answer = timeout(SOON, client.send_request(request.unwrap())).await.unwrap().unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        for name in ["connection", "transfer-encoding", "keep-alive"] {
            assert!(!answer.headers().contains_key(name), "{answer:?}");
        }
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.trailers().unwrap()["x-after"], "all");
        let seen = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        // How DATA was cut is nobody's business.
        assert_eq!(seen.replace("5\r\nhello\r\n", "3\r\nhel\r\n2\r\nlo\r\n"), expected);
    }
    assert_eq!(app.connections(), 1, "one after the other");
}

#[tokio::test]
async fn answers_without_a_body_end_where_they_end() {
    let app = App::start(|mut stream| async move {
        while let Some(head) = read_head(&mut stream).await {
            let answer: &[u8] = match head.split(' ').nth(1) {
                Some("/head") => b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
                Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n",
                Some("/304") => b"HTTP/1.1 304 Not Modified\r\ncontent-length: 7\r\n\r\n",
                _ => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            };
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let pair = stated(&app, v1::Protocol::Http1Only);
    let mut client = client(pair.client.outbound).await;
    for (method, path, status, length, body) in [
        ("HEAD", "/head", 200, Some("1000"), ""),
        ("GET", "/204", 204, None, ""),
        ("GET", "/304", 304, Some("7"), ""),
        ("GET", "/", 200, Some("5"), "hello"),
    ] {
        let request = Request::builder().method(method).uri(format!("http://server{path}"));
        let answer = client.send_request(request.body(Empty::new().boxed()).unwrap()).await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        let said = answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
        assert_eq!(said.as_deref(), length, "{path}");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body, "{path}");
    }
    assert_eq!(app.connections(), 1, "the connection is still in step");
}

/// An application of HTTP/1 that becomes a WebSocket, or does what `otherwise` says.
async fn websocket(otherwise: Option<&'static str>) -> App {
    App::start(move |mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        let value = |name: &str| {
            let (_, rest) = head.split_once(&format!("{name}: "))?;
            rest.split("\r\n").next().map(str::to_owned)
        };
        assert!(head.starts_with("GET /chat HTTP/1.1\r\nhost: server:9080\r\n"), "{head}");
        assert_eq!(value("upgrade").as_deref(), Some("websocket"), "{head}");
        assert_eq!(value("connection").as_deref(), Some("upgrade"), "{head}");
        assert_eq!(value("sec-websocket-version").as_deref(), Some("13"), "{head}");
        let key = value("sec-websocket-key").unwrap();
        assert!(key != "theirs" && head.matches("sec-websocket-key").count() == 1, "{head}");
        if let Some(otherwise) = otherwise {
            stream.write_all(otherwise.as_bytes()).await.unwrap();
            return;
        }
        let accept = ring::digest::digest(
            &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
            format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
        );
        let accept = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, accept);
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: chat\r\n\r\nhi"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        let mut said = [0; 64];
        while let Ok(n @ 1..) = stream.read(&mut said).await {
            stream.write_all(&said[..n]).await.unwrap();
        }
        // The caller has said all; it may still listen.
        stream.write_all(b"bye").await.unwrap();
    })
    .await
}

/// What is heard until the end.
async fn rest(heard: &mut h2::RecvStream) -> String {
    let mut rest = String::new();
    while let Some(data) = timeout(SOON, heard.data()).await.unwrap() {
        rest += std::str::from_utf8(&data.unwrap()).unwrap();
    }
    rest
}

const ASKED: &[(&str, &str)] = &[("sec-websocket-version", "13"), ("sec-websocket-key", "theirs")];

#[tokio::test]
async fn a_websocket_over_http2_becomes_an_upgrade_of_http1() {
    let app = websocket(None).await;
    let pair = stated(&app, v1::Protocol::Http1Only);
    let (answer, mut say) = extended_connect(pair.client.outbound, "websocket", ASKED).await;
    assert_eq!(answer.status(), 200, "{answer:?}");
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for name in ["connection", "upgrade", "sec-websocket-accept"] {
        assert!(!answer.headers().contains_key(name), "{answer:?}");
    }
    let mut heard = answer.into_body();
    assert_eq!(timeout(SOON, heard.data()).await.unwrap().unwrap().unwrap(), "hi");
    for word in ["ping", "pong"] {
        say.send_data(Bytes::from(word), false).unwrap();
        assert_eq!(timeout(SOON, heard.data()).await.unwrap().unwrap().unwrap(), word);
    }
    say.send_data(Bytes::new(), true).unwrap();
    assert_eq!(rest(&mut heard).await, "bye", "the end is passed on");
}

#[tokio::test]
async fn what_is_no_websocket_is_not_taken_for_one() {
    const FORGED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                          Sec-WebSocket-Accept: AAAA\r\n\r\n";
    for (otherwise, status, reason) in [
        ("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno", 403, None),
        // Over HTTP/2 a success would be the tunnel itself.
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno", 502, Some("upstream-reset")),
        (FORGED, 502, Some("upstream-reset")),
    ] {
        let app = websocket(Some(otherwise)).await;
        let pair = stated(&app, v1::Protocol::Http1Only);
        let (answer, _say) = extended_connect(pair.client.outbound, "websocket", ASKED).await;
        assert_eq!(answer.status(), status, "{otherwise}");
        assert_eq!(answer.headers().get("fairlead-proxy").map(|value| value.to_str().unwrap()), reason, "{otherwise}");
    }
}

#[tokio::test]
async fn what_http1_has_no_words_for_is_refused() {
    let app = App::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let pair = stated(&app, v1::Protocol::Http1Only);
    for protocol in ["connect-udp", "h2c", "websocket\r\nx: y"] {
        let (answer, _say) = extended_connect(pair.client.outbound, protocol, &[]).await;
        assert_eq!(answer.status(), 400, "{protocol:?}");
        assert_eq!(answer.headers()["fairlead-proxy"], "malformed-request");
    }
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_tunnel_over_http2_is_one_over_http1() {
    let app = App::start(|mut stream| async move {
        let head = read_head(&mut stream).await.unwrap();
        assert_eq!(head, "CONNECT db.example:5432 HTTP/1.1\r\nhost: db.example:5432\r\n\r\n");
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        let mut said = [0; 4];
        stream.read_exact(&mut said).await.unwrap();
        stream.write_all(&said).await.unwrap();
    })
    .await;
    let pair = stated(&app, v1::Protocol::Http1Only);
    let (mut sender, connection) = h2::client::handshake(connect(pair.client.outbound).await).await.unwrap();
    tokio::spawn(connection);
    let request = Request::connect("db.example:5432").body(()).unwrap();
    let (answer, mut say) = sender.send_request(request, false).unwrap();
    let answer = timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    say.send_data(Bytes::from_static(b"ping"), false).unwrap();
    let mut heard = answer.into_body();
    assert_eq!(rest(&mut heard).await, "ping");
}

#[tokio::test]
async fn who_says_only_http_is_met_in_the_callers_version() {
    let app = app(|request: Request<Incoming>| async move {
        Response::new(Full::from(format!("{:?}", request.version())).boxed())
    })
    .await;
    let pair = stated(&app, v1::Protocol::Http1);
    let mut client = client(pair.client.outbound).await;
    let answer = client.send_request(Request::get("http://server/").body(Empty::new().boxed()).unwrap()).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "HTTP/2.0");
}

#[tokio::test]
async fn a_client_of_http1_meets_an_endpoint_of_http2_where_the_port_says_so() {
    let app = app(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let mut said = vec![format!("{:?} {} {}", head.version, head.method, head.uri)];
        for name in ["host", "connection", "transfer-encoding", "te", "keep-alive", "x-kept"] {
            if let Some(value) = head.headers.get(name) {
                said.push(format!("{name}={}", value.to_str().unwrap()));
            }
        }
        let body = body.collect().await.unwrap();
        let trailer = body.trailers().and_then(|t| t.get("x-sum")).map(|v| v.to_str().unwrap().to_owned());
        said.push(format!("[{}] {trailer:?}", String::from_utf8_lossy(&body.to_bytes())));
        let mut back = HeaderMap::new();
        back.insert("x-after", "all".parse().unwrap());
        let frames = [Ok(Frame::data(Bytes::from(said.join(" ")))), Ok(Frame::trailers(back))];
        Response::new(BodyExt::boxed(StreamBody::new(futures::stream::iter(frames))))
    })
    .await;
    let Pair { client, server: _server } = stated(&app, v1::Protocol::Http2);

    let answer = get(client.outbound, "/a?b=c", "X-Kept: yes\r\nKeep-Alive: 5\r\nTE: trailers, deflate\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("HTTP/2.0 GET http://server/a?b=c te=trailers x-kept=yes [] None"), "{answer}");
    assert!(answer.contains("x-after: all"), "{answer}");

    let chunked = "POST /c HTTP/1.1\r\nHost: server\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   3\r\nabc\r\n2\r\nde\r\n0\r\nX-Sum: 5\r\n\r\n";
    let answer = talk(client.outbound, chunked).await;
    assert!(answer.contains("HTTP/2.0 POST http://server/c [abcde] Some(\"5\")"), "{answer}");

    let sized = "POST /l HTTP/1.1\r\nHost: server\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabcde";
    let answer = talk(client.outbound, sized).await;
    assert!(answer.contains("[abcde] None"), "{answer}");

    let absolute = "GET http://other:81/x HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n";
    let answer = talk(client.outbound, absolute).await;
    assert!(answer.contains("HTTP/2.0 GET http://other:81/x [] None"), "{answer}");

    let mut head = connect(client.outbound).await;
    head.write_all(b"HEAD /h HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(status(&read_head(&mut head).await.unwrap()), 200);
}
