//! The operator as its own process, so that what it takes is its own.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use crate::api::Api;

/// Where proxies reach it.
pub(crate) const PORT: u16 = 8443;
/// Its namespace.
pub(crate) const NAMESPACE: &str = "fairlead-system";
/// A file with the roots, PEM.
pub(crate) const ROOTS: &str = "roots.crt";
/// From its start to its port.
const START: Duration = Duration::from_secs(60);

/// Ends with this program.
pub(crate) struct Operator(Child);

impl Operator {
    /// Starts it with `api` as its cluster and waits until it certifies.
    pub(crate) async fn start(binary: &Path, api: &Api, folder: &Path) -> Result<Self> {
        let port = api.serve().await?;
        let kubeconfig = folder.join("kubeconfig");
        std::fs::write(
            &kubeconfig,
            json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "fleet",
                "clusters": [{"name": "fleet", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
                "users": [{"name": "fleet", "user": {}}],
                "contexts": [{"name": "fleet", "context": {"cluster": "fleet", "user": "fleet"}}],
            })
            .to_string(),
        )?;
        let log = std::fs::File::create(folder.join("operator.log"))?;
        let child = Command::new(binary)
            .args(["--proxy-image=none", "--pod-name=operator-0", "--pod-ip=127.0.0.1", "--log=warn"])
            .arg(format!("--namespace={NAMESPACE}"))
            .env("KUBECONFIG", &kubeconfig)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", binary.display()))?;
        let mut operator = Self(child);
        let deadline = Instant::now() + START;
        while TcpStream::connect(("127.0.0.1", PORT)).await.is_err() {
            if let Some(status) = operator.0.try_wait()? {
                bail!("the operator ended with {status}: {}", log_of(folder));
            }
            ensure!(Instant::now() < deadline, "the operator does not listen on port {PORT}: {}", log_of(folder));
            sleep(Duration::from_millis(50)).await;
        }
        Ok(operator)
    }

    /// The most memory that it ever had, and what it has, MiB.
    pub(crate) fn memory(&self) -> Result<(f64, f64)> {
        let id = self.0.id().context("the operator has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<f64>().ok());
            kib.map(|kib| kib / 1024.0).with_context(|| format!("/proc/{id}/status has no {name}"))
        };
        Ok((field("VmHWM:")?, field("VmRSS:")?))
    }
}

/// Leaves the roots that the operator made where proxies look for them.
pub(crate) fn write_roots(api: &Api, folder: &Path) -> Result<()> {
    Ok(std::fs::write(folder.join(ROOTS), roots(api)?)?)
}

/// The roots that the operator made, PEM.
fn roots(api: &Api) -> Result<Vec<u8>> {
    let root =
        api.get(&format!("/api/v1/namespaces/{NAMESPACE}/secrets/fairlead-root")).context("no Secret fairlead-root")?;
    let encoded = root["data"]["tls.crt"].as_str().context("Secret fairlead-root has no tls.crt")?;
    STANDARD.decode(encoded).context("tls.crt of Secret fairlead-root")
}

/// Its last words.
pub(crate) fn log_of(folder: &Path) -> String {
    let log = std::fs::read_to_string(folder.join("operator.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}

/// What has to be there before it starts.
pub(crate) fn cluster(api: &Api) {
    for name in [NAMESPACE, crate::proxies::NAMESPACE] {
        let namespace: Value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"fairlead.dev/inject": "enabled"}}});
        api.put(&format!("/api/v1/namespaces/{name}"), namespace);
    }
}
