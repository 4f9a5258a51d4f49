//! The load role: GET requests at a constant rate, and an account of every one of them.
//!
//! The generator is open-loop: a request is due by the clock, whatever has become of those before it, and its latency
//! counts from when it was due. So a server that stalls is seen to stall. What is in flight is bounded by the number of
//! connections; a request that finds none free is counted as dropped.
//!
//! Every second it prints a line of JSON with `"event": "progress"`, at the end (or at SIGTERM) one with
//! `"event": "summary"`; [`report::Report::json`] has the fields.

pub mod connection;
pub mod histogram;
pub mod report;
pub mod schedule;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::server::{Stop, X_VERSION};
use crate::units;
use connection::{Connection, Sent, Target};
use report::{Outcome, Report};
use schedule::Schedule;

/// Options of the load role.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Address to call, such as `http://reviews:9080/reviews/0`.
    #[arg(long, value_parser = units::http_url)]
    pub url: Uri,
    /// Requests per second.
    #[arg(long, default_value = "50", value_parser = rate)]
    pub rate: f64,
    /// How long to send, such as 30s.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    pub duration: Duration,
    /// Header as name=value; may be repeated.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = units::header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Most requests in flight at once, each on a connection of its own.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub connections: u16,
    /// How long one request may take.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    pub timeout: Duration,
    /// Header of the answers by which to count versions; productpage tells that of reviews in x-reviews-version.
    #[arg(long, default_value_t = X_VERSION)]
    pub version_header: HeaderName,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 100_000.0 => Ok(rate),
        _ => Err(format!("`{text}` is not a rate: write a number of requests per second, up to 100000")),
    }
}

/// Sends, and prints the account. Exit code 0 whatever was counted: who reads the summary judges.
///
/// # Errors
/// Only what keeps it from starting; a request that fails is a figure.
pub async fn run(args: Args) -> Result<ExitCode> {
    let stop = Stop::on_signal(Duration::ZERO)?;
    let start = Instant::now();
    let report = generate(&args, stop.closing(), |report| {
        println!("{}", report.json("progress", start.elapsed()));
    })
    .await?;
    println!("{}", report.json("summary", start.elapsed()));
    Ok(ExitCode::SUCCESS)
}

/// Sends until the duration is over or `stop` resolves, waits for what is in flight, and returns the account.
/// `progress` sees it every second.
///
/// # Errors
/// An address from which no `host` header can be made.
pub async fn generate(
    args: &Args,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(&Report),
) -> Result<Report> {
    let target = Arc::new(target(args)?);
    let schedule = Schedule::new(args.rate, args.duration);
    let mut report = Report::default();
    let mut idle: Vec<Connection> = Vec::new();
    let mut in_flight: JoinSet<(Sent, Duration)> = JoinSet::new();
    let mut next = 0;
    let mut total = schedule.total();
    let start = Instant::now();
    let mut seconds = tokio::time::interval_at(start + Duration::from_secs(1), Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut stop = std::pin::pin!(stop);
    let mut stopped = false;
    while next < total || !in_flight.is_empty() {
        tokio::select! {
            () = tokio::time::sleep_until(start + schedule.at(next)), if next < total => {
                let due = schedule.due(start.elapsed()).min(total);
                for index in next..due {
                    if in_flight.len() >= usize::from(args.connections) {
                        report.dropped += 1;
                        continue;
                    }
                    report.sent += 1;
                    // The one used last is the least likely to have been closed.
                    in_flight.spawn(one(target.clone(), idle.pop(), start + schedule.at(index), args.timeout));
                }
                next = due;
            }
            Some(ended) = in_flight.join_next() => {
                let (sent, latency) = ended.context("a request ended by a panic")?;
                idle.extend(sent.connection);
                report.retried_stale += u64::from(sent.retried_stale);
                report.record(sent.outcome, start.elapsed(), latency);
            }
            _ = seconds.tick() => progress(&report),
            () = &mut stop, if !stopped => {
                stopped = true;
                total = next;
            }
        }
    }
    Ok(report)
}

fn target(args: &Args) -> Result<Target> {
    let mut headers = HeaderMap::new();
    for (name, value) in &args.headers {
        headers.append(name.clone(), value.clone());
    }
    if !headers.contains_key(header::HOST) {
        let host = args.url.authority().map(Authority::as_str).unwrap_or_default();
        headers.insert(header::HOST, host.parse().context("make the host header")?);
    }
    Ok(Target {
        authority: units::authority(&args.url),
        path: args.url.path_and_query().map_or("/", |path| path.as_str()).parse().context("read the path")?,
        headers,
        version_header: args.version_header.clone(),
    })
}

async fn one(target: Arc<Target>, kept: Option<Connection>, due: Instant, timeout: Duration) -> (Sent, Duration) {
    let sent = tokio::time::timeout(timeout, connection::send(&target, kept)).await.unwrap_or_else(|_| Sent {
        outcome: Outcome::Failure(format!("no complete answer within {timeout:?}")),
        connection: None,
        retried_stale: false,
    });
    (sent, due.elapsed())
}
