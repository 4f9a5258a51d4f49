//! The binary as tests on a cluster use it: `echo` serving, `call` asking, and a stop by signal.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::process::Stdio;
use std::time::Duration;

use common::{BINARY, get};
use fairlead_bookinfo::echo::http::Received;
use http::{StatusCode, Uri};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// A running echo role, and where it listens.
struct Echo {
    process: Child,
    web: String,
    greeter: String,
    plain: String,
}

impl Echo {
    async fn start(lameduck: &str) -> Self {
        let any = "127.0.0.1:0";
        let mut process = Command::new(BINARY)
            .args(["echo", "--listen", any, "--greeter-listen", any, "--tcp-listen", any])
            .args(["--pod", "echo-pod", "--version", "v7", "--lameduck", lameduck])
            .env("RUST_LOG", "info")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
        let mut address = async |role: &str| loop {
            let line = log.next_line().await.unwrap().expect("echo ended before it served");
            if line.contains(role) {
                let (_, address) = line.rsplit_once("address=").unwrap();
                return address.to_owned();
            }
        };
        let web = address("role=\"echo\"").await;
        let greeter = address("server first").await;
        let plain = address("client first").await;
        // The log goes on being read, so that the process never waits for its reader.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Self { process, web, greeter, plain }
    }

    fn url(&self) -> Uri {
        format!("http://{}", self.web).parse().unwrap()
    }
}

/// Runs `call` with these arguments; returns exit code, stdout and stderr.
async fn call(arguments: &str) -> (i32, String, String) {
    let output = Command::new(BINARY).arg("call").args(arguments.split(' ')).output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn http_is_echoed_in_both_versions() {
    let echo = Echo::start("0s").await;
    for (flag, protocol) in [("", "HTTP/1.1"), (" --http2", "HTTP/2.0")] {
        let address = format!("http://{}/a/b?c=d --method PUT --header end-user=jason --body hello{flag}", echo.web);
        let (code, stdout, stderr) = call(&address).await;
        assert_eq!(code, 0, "{stdout}{stderr}");
        assert!(stdout.starts_with(&format!("{protocol} 200 OK\n")), "{stdout}");
        assert!(stdout.contains("x-version: v7\n") && stdout.contains("x-pod: echo-pod\n"), "{stdout}");
        let (_, body) = stdout.split_once("\n\n").unwrap();
        let received: Received = serde_json::from_str(body).unwrap();
        assert_eq!((received.method.as_str(), received.path.as_str()), ("PUT", "/a/b"));
        assert_eq!((received.query.as_deref(), received.body.as_str()), (Some("c=d"), "hello"));
        assert_eq!((received.protocol.as_str(), received.body_bytes), (protocol, 5));
        assert_eq!(received.host.as_deref(), Some(echo.web.as_str()));
        assert_eq!(received.headers["end-user"], ["jason"]);
        assert_eq!(received.pod, "echo-pod");

        let (code, stdout, stderr) = call(&format!("http://{}/trailers{flag}", echo.web)).await;
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("\n\ntrailers\ntrailer x-checksum: 8\n"), "{protocol}: {stdout}");
    }
}

#[tokio::test]
async fn paths_with_a_behaviour_have_it() {
    let echo = Echo::start("0s").await;
    let url = echo.url();
    assert_eq!(get(&url, "/status/418").await.status, StatusCode::IM_A_TEAPOT);
    assert_eq!(get(&url, "/status/100").await.status, StatusCode::BAD_REQUEST);
    let answer = get(&url, "/bytes/100000").await;
    assert_eq!((answer.text.len(), answer.header("content-length")), (100_000, "100000"));
    assert_eq!(get(&url, "/bytes/99999999999").await.status, StatusCode::BAD_REQUEST);
    let start = tokio::time::Instant::now();
    assert_eq!(get(&url, "/delay/150").await.status, StatusCode::OK);
    assert!(start.elapsed() >= Duration::from_millis(150));
    assert_eq!(get(&url, "/health").await.text, "{\"status\":\"healthy\"}");

    let (code, stdout, _) = call(&format!("http://{}/status/503", echo.web)).await;
    assert_eq!(code, 1, "an answer that is not 2xx: {stdout}");
    let (code, _, stderr) = call(&format!("http://{}/delay/5000 --timeout 200ms", echo.web)).await;
    assert_eq!(code, 3, "no answer");
    assert!(stderr.contains("no complete answer within 200ms"), "{stderr}");
}

#[tokio::test]
async fn websocket_grpc_and_tcp_are_echoed() {
    let echo = Echo::start("0s").await;
    let (code, stdout, stderr) = call(&format!("ws ws://{}/ws ahoy --messages 3", echo.web)).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.starts_with("HTTP/1.1 101") && stdout.ends_with("\n\nahoy\nahoy\nahoy\n"), "{stdout}");
    assert!(stdout.contains("x-version: v7"), "{stdout}");

    let (code, stdout, stderr) = call(&format!("grpc http://{} --messages 3", echo.web)).await;
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("\nmessage 1 of 3\nmessage 2 of 3\nmessage 3 of 3\n"), "{stdout}");
    assert!(stdout.ends_with("trailer grpc-status: 0\n"), "{stdout}");

    let (code, stdout, stderr) = call(&format!("tcp {} --server-first --line ahoy", echo.greeter)).await;
    assert_eq!((code, stdout.as_str()), (0, "220 welcome to echo-pod\nahoy\n"), "{stderr}");
    let (code, stdout, stderr) = call(&format!("tcp {} --line ahoy", echo.plain)).await;
    assert_eq!((code, stdout.as_str()), (0, "ahoy\n"), "{stderr}");

    let (code, stdout, stderr) = call(&format!("raw {} \\x00\\x01ahoy\\r\\n --end", echo.plain)).await;
    assert_eq!((code, stdout.as_str()), (0, "\0\u{1}ahoy\r\n"), "{stderr}");
    // A server that does not close has not answered.
    let (code, _, stderr) = call(&format!("raw {} ahoy --timeout 200ms", echo.plain)).await;
    assert_eq!(code, 3, "{stderr}");

    // The greeting is not the line that was sent.
    let (code, stdout, _) = call(&format!("tcp {}", echo.greeter)).await;
    assert_eq!((code, stdout.as_str()), (1, "220 welcome to echo-pod\n"));
    // Who waits for a greeting where there is none says so.
    let (code, _, stderr) = call(&format!("tcp {} --server-first --timeout 200ms", echo.plain)).await;
    assert_eq!(code, 3);
    assert!(stderr.contains("no complete answer"), "{stderr}");
    let (code, _, stderr) = call(&format!("grpc http://{}", echo.plain)).await;
    assert_eq!(code, 3, "not gRPC: {stderr}");
}

#[tokio::test]
async fn a_stop_answers_what_is_in_flight_and_goes_on_accepting_for_a_while() {
    let mut echo = Echo::start("2s").await;
    let url = echo.url();
    let _kept_open = TcpStream::connect(&echo.plain).await.unwrap();
    let slow = tokio::spawn({
        let url = url.clone();
        async move { get(&url, "/delay/4000").await }
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    let pid = Pid::from_raw(i32::try_from(echo.process.id().unwrap()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;

    let late = get(&url, "/").await;
    assert_eq!((late.status, late.header("connection")), (StatusCode::OK, "close"), "in the lameduck");
    let refused = async {
        while TcpStream::connect(&echo.web).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(8), refused).await.expect("still accepts after the lameduck");
    let slow = slow.await.unwrap();
    assert_eq!((slow.status, slow.text.as_str()), (StatusCode::OK, "answered after 4000 ms\n"));
    let status = tokio::time::timeout(Duration::from_secs(8), echo.process.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}
