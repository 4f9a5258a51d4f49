//! The load generator against roles on loopback: its account must be true.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use common::{listener, nobody, productpage, reviews, serve};
use fairlead_bookinfo::cli::{Cli, Role};
use fairlead_bookinfo::fault::Fault;
use fairlead_bookinfo::reviews::Version;
use fairlead_bookinfo::server::Stop;
use fairlead_bookinfo::{echo, load};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Runs the generator with these flags and returns its summary.
async fn run(flags: &str) -> Value {
    let Role::Load(args) =
        Cli::try_parse_from(format!("fairlead-bookinfo load {flags}").split_whitespace()).unwrap().role
    else {
        unreachable!("the subcommand is load")
    };
    let report = load::generate(&args, std::future::pending(), |_| {}).await.unwrap();
    report.json("summary", args.duration)
}

fn number(json: &Value) -> u64 {
    json.as_u64().unwrap_or_else(|| panic!("{json} is not a count"))
}

#[tokio::test]
async fn faulty_reviews_fail_at_their_rate_and_by_their_version() {
    let fault = Fault { error_rate: 20.0, ..Fault::NONE };
    let reviews = reviews(Version::V1, &nobody().await, fault).await;
    let summary = run(&format!("--url {reviews}reviews/0 --rate 500 --duration 2s --connections 1000")).await;
    assert_eq!(summary["sent"], 1000, "{summary}");
    assert_eq!(number(&summary["ok"]) + number(&summary["failed"]), 1000, "{summary}");
    // 20 % of 1,000, six standard deviations either way.
    assert!((124..=276).contains(&number(&summary["failed"])), "{summary}");
    assert_eq!(summary["status"]["500"], summary["failed"], "{summary}");
    assert_eq!(summary["versions"]["v1"]["failed"], summary["failed"], "{summary}");
    assert_eq!(summary["errors"].as_array().unwrap().len(), 20, "{summary}");
    assert_eq!(summary["errors"][0]["reason"], "status 500 from v1");
}

#[tokio::test]
async fn versions_behind_the_page_are_counted_by_its_header() {
    let nobody = nobody().await;
    let page = productpage(&nobody, &reviews(Version::V3, &nobody, Fault::NONE).await).await;
    let summary =
        run(&format!("--url {page}productpage --rate 40 --duration 500ms --version-header x-reviews-version")).await;
    assert_eq!(summary["versions"]["v3"]["ok"], 20, "{summary}");
}

#[tokio::test]
async fn a_slow_server_does_not_slow_the_schedule() {
    let echo = serve("echo", "v1", echo::http::routes("echo-pod", Stop::default())).await;
    let summary = run(&format!("--url {echo}delay/400 --rate 50 --duration 1s --connections 4")).await;
    // Four connections carry ten requests a second of the fifty that are due.
    let (sent, dropped) = (number(&summary["sent"]), number(&summary["dropped"]));
    assert_eq!(sent + dropped, 50, "{summary}");
    assert!((4..=12).contains(&sent), "{summary}");
    assert_eq!(summary["ok"], sent, "{summary}");
    assert!(summary["latency_ms"]["p50"].as_f64().unwrap() >= 399.0, "{summary}");
}

#[tokio::test]
async fn failures_name_their_reason() {
    let nobody = nobody().await;
    let summary = run(&format!("--url {nobody} --rate 10 --duration 300ms")).await;
    assert_eq!((&summary["sent"], &summary["failed"]), (&3.into(), &3.into()), "{summary}");
    let reason = summary["errors"][0]["reason"].as_str().unwrap();
    assert!(reason.starts_with("connect to 127.0.0.1:") && reason.contains("refused"), "{reason}");

    let echo = serve("echo", "v1", echo::http::routes("echo-pod", Stop::default())).await;
    let summary = run(&format!("--url {echo}delay/5000 --rate 10 --duration 100ms --timeout 200ms")).await;
    assert_eq!(summary["errors"][0]["reason"], "no complete answer within 200ms", "{summary}");
}

#[tokio::test]
async fn a_kept_connection_that_closes_fails_no_request() {
    let (address, connections) = closes_under_the_second_request().await;
    let summary = run(&format!("--url http://{address}/ --rate 20 --duration 1s")).await;
    assert_eq!((&summary["sent"], &summary["ok"]), (&20.into(), &20.into()), "{summary}");
    let stale = number(&summary["retried_stale"]);
    assert!(stale >= 1, "no request met a closing connection: {summary}");
    assert_eq!(connections.load(Ordering::Relaxed), 20, "each connection answers once");
}

/// A server that answers the first request of each connection, and hangs up when it has read a second one.
async fn closes_under_the_second_request() -> (SocketAddr, Arc<AtomicU64>) {
    let (listener, address) = listener().await;
    let connections = Arc::new(AtomicU64::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
                let _ = stream.read(&mut request).await;
            });
        }
    });
    (address, connections)
}

#[tokio::test]
async fn a_stop_ends_the_run_early_and_keeps_the_account() {
    let echo = serve("echo", "v2", echo::http::routes("echo-pod", Stop::default())).await;
    let Role::Load(args) =
        Cli::try_parse_from(format!("fairlead-bookinfo load --url {echo} --rate 100 --duration 1h").split_whitespace())
            .unwrap()
            .role
    else {
        unreachable!("the subcommand is load")
    };
    let mut seconds = 0;
    let stop = tokio::time::sleep(Duration::from_millis(1200));
    let report = load::generate(&args, stop, |_| seconds += 1).await.unwrap();
    let summary = report.json("summary", Duration::ZERO);
    assert!((100..1000).contains(&number(&summary["sent"])), "{summary}");
    assert_eq!(summary["versions"]["v2"]["ok"], summary["sent"], "nothing in flight was given up: {summary}");
    assert!(seconds >= 1, "progress is told each second");
}
