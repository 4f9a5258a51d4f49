use http::{Method, StatusCode};
use parking_lot::Mutex;
use proptest::prelude::*;

use super::{
    view::{Unchunked, unchunked},
    *,
};

fn framing_of(request_head: &str) -> Framing {
    request(request_head.as_bytes()).unwrap().expect("a whole head").0.framing
}

fn refused(head: &str) -> bool {
    matches!(request(head.as_bytes()), Err(Refusal::Malformed(_)))
}

fn names(fields: &crate::http::Fields) -> Vec<String> {
    fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
}

#[test]
fn a_head_is_read_when_it_is_whole_and_not_before() {
    let text = "POST /a%2Fb?x=/y HTTP/1.1\r\nHost: a:80\r\nContent-Length: 3\r\n\r\n";
    for len in 0..text.len() {
        assert!(request(&text.as_bytes()[..len]).unwrap().is_none(), "{len}");
    }
    let with_more = format!("{text}abc");
    let (parsed, len) = request(with_more.as_bytes()).unwrap().unwrap();
    assert_eq!((len, parsed.framing, parsed.keep_alive), (text.len(), Framing::Length(3), true));
    assert_eq!((parsed.head.method, parsed.head.uri.path()), (Method::POST, "/a%2Fb"));
}

#[test]
fn requests_that_two_servers_may_read_differently_are_refused() {
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\ncontent-length: 0\r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length:\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 3 4\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding:\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\u{b}: chunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n\tTransfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: a\0b\r\n",
        "X\r\n",
        ": x\r\n",
        "Host: b\r\n",
    ] {
        assert!(refused(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")), "{lines:?}");
    }
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /#f HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET / http/1.1\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://a,b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT u@a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert!(refused(head), "{head:?}");
    }
}

#[test]
fn what_is_allowed_is_not_refused() {
    for (head, framing) in [
        ("GET / HTTP/1.0\r\n\r\n", Framing::None),
        ("\r\nGET / HTTP/1.1\r\nHost:\r\n\r\n", Framing::None),
        ("GET http://a.example/x?y HTTP/1.1\r\nHost: a.example\r\n\r\n", Framing::None),
        ("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", Framing::None),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Framing::None),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", Framing::None),
        ("PUT / HTTP/1.1\r\nhost: a_b\r\ncontent-length: 07\r\n\r\n", Framing::Length(7)),
        ("GET / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING:Chunked\r\nX:\r\nY: \u{e9}\t;\r\n\r\n", Framing::Chunked),
        ("GET /\u{e9}{\"a\"}?|~ HTTP/1.1\r\nHost: a\r\n\r\n", Framing::None),
    ] {
        assert_eq!(framing_of(head), framing, "{head:?}");
    }
}

#[test]
fn a_target_without_a_path_is_given_the_one_that_it_means() {
    for (line, sent_on) in [
        ("GET http://a", "GET / "),
        ("GET http://a?x=/", "GET /?x=/ "),
        ("GET http://a/?x", "GET /?x "),
        ("OPTIONS http://a:80", "OPTIONS * "),
        ("OPTIONS http://a/", "OPTIONS / "),
        ("OPTIONS http://a?x", "OPTIONS /?x "),
    ] {
        let (parsed, _) = request(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).unwrap().unwrap();
        let mut out = Vec::new();
        write::request(&mut out, &parsed.head, parsed.framing, None);
        assert!(out.starts_with(sent_on.as_bytes()), "{line}: {}", out.escape_ascii());
    }
}

#[test]
fn too_much_is_told_from_malformed() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "x".repeat(crate::http::MAX_HEAD));
    assert_eq!(request(long.as_bytes()).unwrap_err(), Refusal::HeadTooLarge);
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(100));
    assert_eq!(request(many.as_bytes()).unwrap_err(), Refusal::HeadTooLarge);
    let target = format!("GET /{}", "x".repeat(crate::http::MAX_HEAD));
    assert_eq!(request(target.as_bytes()).unwrap_err(), Refusal::TargetTooLong);
    // However much of it one read brings.
    for (long, refusal) in [(long, Refusal::HeadTooLarge), (target + " HTTP/1.1\r\nHost: a", Refusal::TargetTooLong)] {
        assert_eq!(request(format!("{long}\r\n\r\n").as_bytes()).unwrap_err(), refusal);
    }
}

#[test]
fn what_concerns_the_connection_alone_is_left_out() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X-Secret\r\nConnection: close, content-type\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Secret: 1\r\nx-Kept: 2\r\nTE: gzip, trailers\r\nProxy-Authorization: x\r\nContent-Type: t\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (parsed, _) = request(head.as_bytes()).unwrap().unwrap();
    assert_eq!(names(&parsed.head.headers), ["Host", "x-Kept", "te", "Proxy-Authorization", "Content-Type"]);
    assert!(!parsed.keep_alive && !parsed.upgrade);
}

#[test]
fn only_a_list_that_everybody_reads_keeps_a_connection_of_http_1_0() {
    let keeps = |connection: &[u8]| {
        let head = [&b"GET / HTTP/1.0\r\nConnection: "[..], connection, b"\r\n\r\n"].concat();
        request(&head).unwrap().unwrap().0.keep_alive
    };
    assert!(keeps(b"x, Keep-Alive") && !keeps(b"x") && !keeps(b"keep-alive, close"));
    assert!(!keeps(b"\xb4, keep-alive"));
}

#[test]
fn an_upgrade_is_passed_on_where_it_is_announced_but_never_one_to_http2() {
    let upgrade = |protocol: &str, connection: &str| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {connection}\r\nUpgrade: {protocol}\r\n\r\n");
        let (parsed, _) = request(head.as_bytes()).unwrap().unwrap();
        (parsed.upgrade, names(&parsed.head.headers).len())
    };
    assert_eq!(upgrade("websocket", "Upgrade, keep-alive"), (true, 3));
    assert_eq!(upgrade("websocket", "keep-alive"), (false, 1));
    assert_eq!(upgrade("H2C", "upgrade, http2-settings"), (false, 1));
    assert_eq!(upgrade("websocket, h2c", "upgrade"), (false, 1));
}

fn answered(head: &str, asked: Asked) -> Result<Answered, Refusal> {
    response(head.as_bytes(), asked).map(|answered| answered.expect("a whole head").0)
}

#[test]
fn the_end_of_an_answer_follows_from_its_head_and_the_question() {
    let plain = Asked::default();
    let head = Asked { head: true, ..plain };
    let connect = Asked { connect: true, ..plain };
    for (text, asked, framing, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", plain, Framing::Length(3), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", head, Framing::None, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n", plain, Framing::Length(3), false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", plain, Framing::Length(3), false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\n", plain, Framing::Length(3), true),
        ("HTTP/1.1 200\r\n\r\n", plain, Framing::Close, false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", plain, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", plain, Framing::Chunked, false),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\n", plain, Framing::None, true),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\n\r\n", plain, Framing::None, true),
        ("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", plain, Framing::None, true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", connect, Framing::None, true),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n", connect, Framing::Length(3), true),
    ] {
        let answered = answered(text, asked).unwrap();
        assert_eq!((answered.framing, answered.keep_alive), (framing, keep_alive), "{text:?} {asked:?}");
    }
    let both = answered("HTTP/1.1 200 Fine\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", plain).unwrap();
    assert!(names(&both.headers).is_empty());
    assert_eq!((both.status, both.reason.as_deref()), (StatusCode::OK, Some(&b"Fine"[..])));
}

#[test]
fn answers_are_judged_as_strictly_as_requests() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
    ] {
        assert!(matches!(answered(text, Asked::default()), Err(Refusal::Malformed(_))), "{text:?}");
    }
    let asked = Asked { upgrade: true, ..Asked::default() };
    assert!(answered("HTTP/1.1 101 Switching Protocols\r\n\r\n", asked).is_err(), "it does not say to what");
    let switched =
        answered("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n", asked).unwrap();
    assert_eq!(names(&switched.headers), ["Upgrade", "connection"]);
}

/// Feeds pieces of `step` bytes; data, trailers, and how many bytes were left over.
#[test]
fn chunks_are_read_wherever_reads_end() {
    let text = "5\r\nhello\r\n00A;x=\"1\"\r\n0123456789\r\n0;last\r\nSum: 7\r\n\r\nGET";
    for step in 1..=text.len() {
        let read = unchunked(text.as_bytes(), step).unwrap();
        assert_eq!((read.data.as_slice(), read.behind), (&b"hello0123456789"[..], Some(3)), "{step}");
        assert_eq!(read.trailers.unwrap()["sum"], "7");
    }
    assert_eq!(unchunked(b"0\r\n\r\n", 1).unwrap(), Unchunked { behind: Some(0), ..Unchunked::default() });
}

#[test]
fn chunks_that_two_servers_may_read_differently_are_refused() {
    for text in [
        "\r\n",
        "x\r\n",
        "-1\r\n",
        "+1\r\n",
        "0x1\r\na\r\n0\r\n\r\n",
        "1 \r\na\r\n0\r\n\r\n",
        " 1\r\na\r\n0\r\n\r\n",
        "1\na\n0\n\n",
        "1\r\nab\r\n0\r\n\r\n",
        "2\r\na\r\n0\r\n\r\n",
        "1\r\na\n0\r\n\r\n",
        "1;a\nb\r\na\r\n0\r\n\r\n",
        "1;a\rb\r\na\r\n0\r\n\r\n",
        "1\rX\r\n",
        "1111111111111111\r\n",
        "0\r\nx : y\r\n\r\n",
        "0\r\nx: y\n\r\n\r\n",
        "0\r\nContent-Length: 1\r\n\r\n",
        "0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "0\r\nHost: b\r\n\r\n",
    ] {
        for step in [1, 2, text.len()] {
            assert!(!matches!(unchunked(text.as_bytes(), step), Ok(Unchunked { behind: Some(_), .. })), "{text:?}");
        }
    }
}

#[test]
fn what_says_nothing_is_bounded() {
    let endless = format!("1;{}\r\n", "x".repeat(20_000));
    assert!(unchunked(endless.as_bytes(), 1000).is_err());
    let trailers = format!("0\r\n{}\r\n", "x: y\r\n".repeat(4_000));
    assert_eq!(unchunked(trailers.as_bytes(), 1000).unwrap_err(), Refusal::HeadTooLarge);
}

struct Nobody(Mutex<Vec<crate::http::Reason>>);

impl crate::http::server::Service for Nobody {
    async fn handle(&self, _: crate::http::Request) -> crate::http::Response<crate::http::body::Body> {
        panic!("there is no whole request")
    }

    fn refused(&self, reason: crate::http::Reason) {
        self.0.lock().push(reason);
    }
}

/// What a client sees that says this much and then nothing, and how long that takes.
async fn silence_after(said: &str) -> (String, std::time::Duration, Vec<crate::http::Reason>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut client = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    client.write_all(said.as_bytes()).await.unwrap();
    let (server, _) = listener.accept().await.unwrap();
    let began = tokio::time::Instant::now();
    let nobody = Nobody(Mutex::default());
    let draining = tokio_util::sync::CancellationToken::new();
    let reading = async {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        (answer, began.elapsed())
    };
    let serving = serve(server.into(), &draining, &nobody);
    assert!(size_of_val(&serving) < 3072, "a connection at rest costs {} bytes", size_of_val(&serving));
    let (served, (answer, took)) = tokio::join!(serving, reading);
    served.unwrap();
    (answer, took, nobody.0.into_inner())
}

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_end_gets_408_but_a_connection_may_rest_for_long() {
    let (answer, took, reasons) = silence_after("GET / HTTP/1.1\r\nHost: ").await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert_eq!(reasons, [crate::http::Reason::HeadTimeout]);
    assert!((29..35).contains(&took.as_secs()), "{took:?}");
    let (answer, took, reasons) = silence_after("").await;
    assert_eq!((answer.as_str(), reasons), ("", vec![]));
    assert!(took.as_secs() >= 3500, "{took:?}");
}

fn piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "GET ",
        "POST ",
        "HEAD ",
        "OPTIONS ",
        "/",
        "/a?b",
        "*",
        "http://a/",
        " HTTP/1.1\r\n",
        " HTTP/1.0\r\n",
        "Host: a\r\n",
        "Host:b\r\n",
        "\r\n",
        "\n",
        "\r",
        "Content-Length: 3\r\n",
        "Content-Length: 10\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:CHUNKED\r\n",
        "Connection: close\r\n",
        "Connection: x\r\n",
        "X: y\r\n",
        "x:  z \r\n",
        " folded\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nT: u\r\n\r\n",
        "A;b\r\n0123456789\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]);
    prop_oneof![20 => fixed.prop_map(str::to_owned), 1 => "[ -~]{1,3}"]
}

fn answer_piece() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.1 404 Nowhere\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n",
        "\r\n",
        "\n",
        "Content-Length: 3\r\n",
        "Content-Length: 0\r\n",
        "content-length:10\r\n",
        "Transfer-Encoding: chunked\r\n",
        "transfer-encoding:CHUNKED\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "X: y\r\n",
        " folded\r\n",
        "abc",
        "3\r\nabc\r\n",
        "0\r\n\r\n",
        "0\r\nT: u\r\n\r\n",
        "A;b\r\n0123456789\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]);
    prop_oneof![20 => fixed.prop_map(str::to_owned), 1 => "[ -~]{1,3}"]
}

proptest! {
    /// What this module takes for a request is one for hyper, with the same target, lines and body: nobody behind this proxy sees another.
    #[test]
    fn hyper_sees_the_same_requests(pieces in prop::collection::vec(piece(), 1..14)) {
        fuzz::requests(pieces.concat().as_bytes());
    }

    /// The same of answers, so that nobody before this proxy is told of another than its caller.
    #[test]
    fn hyper_sees_the_same_answers(asked: u8, pieces in prop::collection::vec(answer_piece(), 1..14)) {
        fuzz::answers(&[&[asked], pieces.concat().as_bytes()].concat());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, asked: (bool, bool, bool)) {
        let _ = request(&bytes);
        let _ = response(&bytes, Asked { head: asked.0, connect: asked.1, upgrade: asked.2 });
        let mut chunked = Chunked::default();
        let mut rest = &bytes[..];
        while let Ok((skip, item)) = chunked.next(rest) {
            let taken = skip + if let Item::Data(len) = item { len } else { 0 };
            prop_assert!(taken <= rest.len());
            if !matches!(item, Item::Data(_)) {
                break;
            }
            rest = &rest[taken..];
        }
    }
}
