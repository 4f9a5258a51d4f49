//! Constant load on a Service from inside the mesh, and what became of it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::apps::{IMAGE, in_zone};
use super::{Mesh, eventually, eventually_within};

/// A load to put on a Service: HTTP/1.1 GET at a constant rate, whether answers come or not.
#[derive(Debug, Clone)]
pub struct Load {
    url: String,
    rate: u32,
    seconds: u32,
    headers: Vec<String>,
    zone: Option<String>,
}

/// What the load generator counted since its start, as it prints it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct LoadReport {
    /// Requests sent.
    pub sent: u64,
    /// Answers with a status of 2xx.
    pub ok: u64,
    /// Other answers, and requests without one.
    pub failed: u64,
    /// Requests that were due but not sent, because all connections were in use.
    pub dropped: u64,
    /// Answers by the version that gave them; `none` are answers without that header, such as a proxy's own.
    pub versions: BTreeMap<String, Tally>,
    /// The first reasons of failures.
    pub errors: Vec<Failure>,
    /// Latencies in milliseconds, from when a request was due.
    pub latency_ms: Latency,
}

/// Answers of one version.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Tally {
    /// With a status of 2xx.
    pub ok: u64,
    /// With another.
    pub failed: u64,
}

/// Why a request failed.
#[derive(Debug, Clone, Deserialize)]
pub struct Failure {
    /// Milliseconds since the load began.
    pub after_ms: u64,
    /// In words.
    pub reason: String,
}

/// Quantiles in milliseconds; `None` while there is no answer.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// Half of all.
    pub p50: Option<f64>,
    /// All but one in a hundred.
    pub p99: Option<f64>,
}

impl LoadReport {
    /// Good answers of this version.
    pub fn of_version(&self, version: &str) -> u64 {
        self.versions.get(version).map_or(0, |tally| tally.ok)
    }

    /// Failed answers of this version.
    pub fn failed_by(&self, version: &str) -> u64 {
        self.versions.get(version).map_or(0, |tally| tally.failed)
    }
}

impl Load {
    /// On this address, as pods of the namespace see it.
    pub fn of(url: &str) -> Self {
        Self { url: url.into(), rate: 100, seconds: 10, headers: Vec::new(), zone: None }
    }

    /// Requests a second.
    pub fn rate(mut self, rate: u32) -> Self {
        self.rate = rate;
        self
    }

    /// For how long at most.
    pub fn seconds(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// With this header, `name=value`.
    pub fn header(mut self, header: &str) -> Self {
        self.headers.push(header.into());
        self
    }

    /// From a node of this zone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// Starts it as pod `load`; comes back when the first answers are in.
    pub async fn start(&self, mesh: &Mesh, namespace: &str) -> Result<RunningLoad> {
        mesh.kubectl()
            .run(&["delete", "pod", "load", "-n", namespace, "--ignore-not-found", "--grace-period=0", "--force"])
            .await?
            .ok()?;
        let mut args = vec![
            "load".to_owned(),
            format!("--url={}", self.url),
            format!("--rate={}", self.rate),
            format!("--duration={}s", self.seconds),
        ];
        args.extend(self.headers.iter().map(|header| format!("--header={header}")));
        let args = args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>().join(", ");
        mesh.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: load, namespace: {namespace}, labels: {{app: load}}}}\nspec:\n  {}restartPolicy: Never\n  \
             terminationGracePeriodSeconds: 2\n  containers:\n  - {{name: app, image: \"{IMAGE}\", imagePullPolicy: IfNotPresent, args: [{args}]}}\n",
            in_zone(self.zone.as_deref())
        ))
        .await?;
        let running = RunningLoad { mesh: mesh.clone(), namespace: namespace.into() };
        eventually("the load to begin", || async {
            let report = running.report().await?;
            anyhow::ensure!(report.ok > 0, "no answer yet: {report:?}");
            Ok(())
        })
        .await?;
        Ok(running)
    }

    /// Starts it and waits for its end.
    pub async fn run(&self, mesh: &Mesh, namespace: &str) -> Result<LoadReport> {
        let running = self.start(mesh, namespace).await?;
        let limit = std::time::Duration::from_secs(u64::from(self.seconds) + 60);
        eventually_within("the load to end", limit, || async {
            let pod = mesh.get("Pod", namespace, "load").await?.context("the pod of the load is gone")?;
            anyhow::ensure!(pod["status"]["phase"] == "Succeeded", "phase {}", pod["status"]["phase"]);
            Ok(())
        })
        .await?;
        running.report().await
    }
}

/// A load under way.
pub struct RunningLoad {
    mesh: Mesh,
    namespace: String,
}

impl RunningLoad {
    /// What it has counted until about a second ago.
    pub async fn report(&self) -> Result<LoadReport> {
        let logs =
            self.mesh.kubectl().run(&["logs", "-n", &self.namespace, "load", "-c", "app", "--tail=1"]).await?.ok()?;
        let line = logs.lines().last().context("the load has said nothing yet")?;
        serde_json::from_str(line).with_context(|| format!("not a report of the load: {line}"))
    }
}
