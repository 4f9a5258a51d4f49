//! What is measured, how, and what was promised.

use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use tokio::time::sleep;

use super::contenders::{Contender, Kind};
use super::tools::{self, Load, Programs};

/// Requests a second of the scenario with a constant rate: about a fifth of what one pair of Envoys carries on two cores.
const RATE: u32 = 3400;
const IDLE_CONNECTIONS: usize = 1000;
/// A proxy's start is over.
const SETTLE: Duration = Duration::from_secs(3);
/// Connections of the load have ended.
const END: Duration = Duration::from_secs(2);
/// What was taken may be given back.
const GIVE_BACK: Duration = Duration::from_secs(10);
/// Length of the gRPC request's message.
const MESSAGE: u8 = 100;

/// A way to use the path from client to server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// As many small HTTP/1.1 requests as go through.
    Requests,
    /// What the proxies add to each at a constant rate.
    Latency,
    /// As many small HTTP/2 requests as go through.
    Http2,
    /// As many gRPC calls.
    Grpc,
    /// As many large answers.
    Large,
    /// As many requests with a connection of their own.
    Connections,
    /// The same as bytes that proxies do not look into.
    Opaque,
    /// One long stream.
    Stream,
    /// What proxies hold.
    Memory,
}

/// What a scenario's runs measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Metric {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
}

const fn metric(name: &'static str, unit: &'static str) -> Metric {
    Metric { name, unit }
}

const RATE_OF_REQUESTS: Metric = metric("requests", "1/s");
const RATE_OF_CONNECTIONS: Metric = metric("connections", "1/s");
const CPU: Metric = metric("CPU per request and proxy", "µs");
const CPU_USER: Metric = metric("of it user", "µs");
const SYSTEM_CALLS: Metric = metric("system calls per request and proxy", "");
pub(super) const P50: Metric = metric("p50", "ms");
pub(super) const P99: Metric = metric("p99", "ms");
pub(super) const ADDED_P50: Metric = metric("added p50", "ms");
pub(super) const ADDED_P99: Metric = metric("added p99", "ms");
const THROUGHPUT: Metric = metric("throughput", "Gbit/s");
const IDLE: Metric = metric("resident after the start", "MiB");
const AFTER_LOAD: Metric = metric("resident after A", "MiB");
const WITH_CONNECTIONS: Metric = metric("resident with 1,000 idle connections", "MiB");
const GIVEN_BACK: Metric = metric("resident 10 s after they closed", "MiB");

/// What was promised of a metric.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Goal {
    /// As a ratio to Envoy in the same round.
    RatioAtLeast(f64),
    RatioAtMost(f64),
    /// In the metric's unit.
    Below(f64),
}

impl Scenario {
    /// All, in the order in which they run.
    pub const ALL: [Self; 9] = [
        Self::Requests,
        Self::Latency,
        Self::Http2,
        Self::Grpc,
        Self::Large,
        Self::Connections,
        Self::Opaque,
        Self::Stream,
        Self::Memory,
    ];

    /// The name by which it is chosen.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Requests => "A",
            Self::Latency => "B",
            Self::Http2 => "C",
            Self::Grpc => "G",
            Self::Large => "D",
            Self::Connections => "E",
            Self::Opaque => "T",
            Self::Stream => "F",
            Self::Memory => "M",
        }
    }

    /// For people, with its letter.
    pub fn title(self) -> &'static str {
        match self {
            Self::Requests => "A: HTTP/1.1, 1 KiB, 64 connections",
            Self::Latency => "B: 3,400 requests a second",
            Self::Http2 => "C: HTTP/2, 1 KiB, 10 connections × 20 streams",
            Self::Grpc => "G: gRPC-like unary, 10 connections × 20 streams",
            Self::Large => "D: HTTP/1.1, 64 KiB, 64 connections",
            Self::Connections => "E: a client connection for each request",
            Self::Opaque => "T: the same, opaque TCP",
            Self::Stream => "F: one opaque TCP stream",
            Self::Memory => "M: memory of the larger proxy",
        }
    }

    pub(super) fn goal(self, metric: Metric) -> Option<Goal> {
        use Goal::{Below, RatioAtLeast, RatioAtMost};
        Some(match (self, metric) {
            (Self::Requests, RATE_OF_REQUESTS) => RatioAtLeast(3.0),
            (Self::Requests, CPU) | (_, ADDED_P50) => RatioAtMost(0.28),
            (_, ADDED_P99) => RatioAtMost(0.30),
            (Self::Http2 | Self::Grpc, RATE_OF_REQUESTS) => RatioAtLeast(2.5),
            (Self::Large | Self::Connections, RATE_OF_REQUESTS) => RatioAtLeast(2.0),
            (_, RATE_OF_CONNECTIONS) => RatioAtLeast(6.0),
            (_, THROUGHPUT) => RatioAtLeast(1.25),
            (_, IDLE) => Below(8.0),
            (_, AFTER_LOAD | GIVEN_BACK) => Below(9.0),
            (_, WITH_CONNECTIONS) => Below(12.0),
            _ => return None,
        })
    }

    /// How often it is repeated.
    pub(super) fn rounds(self, quick: bool) -> usize {
        match (self, quick) {
            (Self::Memory, true) => 1,
            (Self::Memory, false) | (_, true) => 3,
            (_, false) => 5,
        }
    }

    /// Whether it says anything of a path without proxies.
    pub(super) fn has_direct(self) -> bool {
        self != Self::Memory
    }

    /// One run of so many seconds.
    pub(super) async fn run(
        self,
        programs: &Programs,
        contender: &mut Contender,
        seconds: u64,
    ) -> Result<Vec<(Metric, f64)>> {
        let client = &contender.pair.client;
        match self {
            Self::Requests | Self::Large | Self::Connections => {
                let path = if self == Self::Large { "/64k" } else { "/1k" };
                let url = contender.url(8080, path);
                let fresh = self == Self::Connections;
                let costs = costs(contender, tools::run_wrk(tools::wrk(client, seconds, &url, fresh))).await?;
                Ok(with_rate(RATE_OF_REQUESTS, &costs))
            }
            Self::Opaque => {
                let wrk = tools::wrk(client, seconds, &contender.url(9000, "/1k"), true);
                Ok(with_rate(RATE_OF_CONNECTIONS, &costs(contender, tools::run_wrk(wrk)).await?))
            }
            Self::Http2 => {
                let url = contender.url(8081, "/1k");
                let costs = costs(contender, tools::h2load(client, seconds, &url, None)).await?;
                Ok(with_rate(RATE_OF_REQUESTS, &costs))
            }
            Self::Grpc => {
                let mut message = tempfile::NamedTempFile::new()?;
                message.write_all(&[0, 0, 0, 0, MESSAGE])?;
                message.write_all(&[b'x'; MESSAGE as usize])?;
                let url = contender.url(8081, "/bench.Echo/Unary");
                let load = tools::h2load(client, seconds, &url, Some(message.path()));
                Ok(with_rate(RATE_OF_REQUESTS, &costs(contender, load).await?))
            }
            Self::Latency => {
                let latency = tools::oha_at(programs, client, seconds, RATE, &contender.url(8080, "/1k")).await?;
                Ok(vec![(P50, latency.p50), (P99, latency.p99)])
            }
            Self::Stream => {
                let rate = tools::iperf3(client, seconds, &contender.target().to_string()).await?;
                Ok(vec![(THROUGHPUT, rate)])
            }
            Self::Memory => memory(contender, seconds).await,
        }
    }

    /// What is counted once, in a run of its own because counting slows it down.
    pub(super) async fn count(self, contender: &Contender, seconds: u64) -> Result<Option<(Metric, f64)>> {
        let (port, path, fresh) = match self {
            Self::Requests => (8080, "/1k", false),
            Self::Large => (8080, "/64k", false),
            Self::Connections => (8080, "/1k", true),
            Self::Opaque => (9000, "/1k", true),
            _ => return Ok(None),
        };
        if contender.kind == Kind::Direct {
            return Ok(None);
        }
        let wrk = tools::wrk(&contender.pair.client, seconds, &contender.url(port, path), fresh);
        let (load, calls) = tools::wrk_with_system_calls(wrk, &contender.processes()).await?;
        Ok(Some((SYSTEM_CALLS, calls / load.requests / 2.0)))
    }
}

struct Costs {
    load: Load,
    /// Per request and proxy, microseconds: total, of it in user mode. None without proxies.
    cpu: Option<(f64, f64)>,
}

/// Runs a load and reads what the proxies used meanwhile.
async fn costs(contender: &Contender, load: impl Future<Output = Result<Load>>) -> Result<Costs> {
    let before = contender.cpu()?;
    let load = load.await?;
    let used = contender.cpu()?.since(before);
    let per_request = |time: f64| time / load.requests / 2.0;
    let cpu = (contender.kind != Kind::Direct).then(|| (per_request(used.total()), per_request(used.user)));
    Ok(Costs { load, cpu })
}

fn with_rate(rate: Metric, costs: &Costs) -> Vec<(Metric, f64)> {
    let mut all = vec![(rate, costs.load.per_second)];
    if let Some((total, user)) = costs.cpu {
        all.extend([(CPU, total), (CPU_USER, user)]);
    }
    all
}

/// A proxy's life: started, loaded, with many connections that do nothing, and without them again.
async fn memory(contender: &mut Contender, seconds: u64) -> Result<Vec<(Metric, f64)>> {
    contender.restart().await?;
    sleep(SETTLE).await;
    let idle = contender.resident()?;
    tools::run_wrk(tools::wrk(&contender.pair.client, seconds, &contender.url(8080, "/1k"), false)).await?;
    sleep(END).await;
    let after_load = contender.resident()?;
    let connections = contender.idle_connections(IDLE_CONNECTIONS).await?;
    sleep(END).await;
    let with_connections = contender.resident()?;
    drop(connections);
    sleep(GIVE_BACK).await;
    let given_back = contender.resident()?;
    Ok(vec![(IDLE, idle), (AFTER_LOAD, after_load), (WITH_CONNECTIONS, with_connections), (GIVEN_BACK, given_back)])
}
