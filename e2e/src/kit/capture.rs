//! What an eavesdropper on the nodes' network sees.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;
use tokio::process::Child;

use crate::cluster;

/// A packet capture on every node, outside the pods.
pub struct Capture {
    folder: TempDir,
    children: Vec<Child>,
}

impl Capture {
    /// Starts to record TCP of this port on all interfaces of all nodes.
    pub async fn start(port: u16) -> Result<Self> {
        let folder = TempDir::with_prefix("fairlead-capture")?;
        let mut children = Vec::new();
        for node in cluster::nodes()? {
            let file = folder.path().join(format!("{}.pcap", node.name));
            let child = node
                .command("tcpdump")
                .args(["-i", "any", "-U", "-s", "0", "-Z", "root", "-w"])
                .arg(&file)
                .arg(format!("tcp port {port}"))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .context("tcpdump cannot be started")?;
            children.push(child);
        }
        // tcpdump says nowhere that it records; its file has a header once it does.
        super::eventually("tcpdump to record", || async {
            for node in cluster::nodes()? {
                let length = std::fs::metadata(folder.path().join(format!("{}.pcap", node.name)))?.len();
                anyhow::ensure!(length > 0, "no header yet");
            }
            Ok(())
        })
        .await?;
        Ok(Self { folder, children })
    }

    /// Ends the capture; all bytes that were seen, of all nodes.
    pub async fn stop(mut self) -> Result<Vec<u8>> {
        // Packets reach the file through a buffer of the kernel's.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut seen = Vec::new();
        for child in &mut self.children {
            child.kill().await?;
        }
        for entry in std::fs::read_dir(self.folder.path())? {
            seen.extend(std::fs::read(entry?.path())?);
        }
        Ok(seen)
    }
}

/// Whether these bytes hold that text.
pub fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
