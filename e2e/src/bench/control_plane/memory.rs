//! Resident memory of the processes that run in the cluster's pods.

use anyhow::{Result, ensure};

use crate::bench::Figure;
use crate::kit::{Process, processes};

/// Of all idle proxies the median, of the operator what it has.
pub(super) async fn measure() -> Result<Vec<Figure>> {
    // Buffers of the start are given back within a few seconds.
    tokio::time::sleep(std::time::Duration::from_secs(10)).await;
    let proxies = resident("fairlead-proxy")?;
    let operators = resident("fairlead-operator")?;
    ensure!(
        !proxies.is_empty() && !operators.is_empty(),
        "no process of a proxy or of the operator runs on this machine"
    );
    Ok(vec![
        Figure::of("proxy that idles", "resident memory", "MiB", 10.0, proxies),
        Figure::of("operator", "resident memory", "MiB", 40.0, operators),
    ])
}

/// Resident memory in MiB of every process of this name.
fn resident(name: &str) -> Result<Vec<f64>> {
    Ok(processes(name)?.iter().filter_map(Process::resident).collect())
}
