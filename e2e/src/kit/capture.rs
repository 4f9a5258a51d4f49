//! What an eavesdropper on the nodes' network sees.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tokio::process::Child;

use crate::cluster;

/// A packet capture on every node, outside the pods.
pub struct Capture {
    folder: TempDir,
    children: Vec<Child>,
}

/// A TCP segment that carries data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Who sent it.
    pub from: IpAddr,
    /// Whom it is for.
    pub to: IpAddr,
    /// What it carries.
    pub data: Vec<u8>,
}

impl Segment {
    /// Whether it holds this text as it is.
    pub fn contains(&self, text: &str) -> bool {
        self.data.windows(text.len()).any(|window| window == text.as_bytes())
    }

    /// Whether a TLS record begins with it.
    pub fn begins_tls_record(&self) -> bool {
        // From change_cipher_spec to application_data; the version is written as that of an old TLS.
        matches!(self.data.as_slice(), [20..=23, 3, 1..=3, ..])
    }
}

impl Capture {
    /// Starts to record TCP of these ports on all interfaces of all nodes.
    pub async fn start(ports: &[u16]) -> Result<Self> {
        let folder = TempDir::with_prefix("fairlead-capture")?;
        let filter = ports.iter().map(|port| format!("tcp port {port}")).collect::<Vec<_>>().join(" or ");
        let mut children = Vec::new();
        for node in cluster::nodes()? {
            let file = folder.path().join(format!("{}.pcap", node.name));
            let child = node
                .command("tcpdump")
                // All interfaces at once come in a form of their own, of which there are two: this is the older one.
                .args(["-i", "any", "-y", "LINUX_SLL", "-U", "-s", "0", "-Z", "root", "-w"])
                .arg(&file)
                .arg(&filter)
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
                ensure!(length > 0, "no header yet");
            }
            Ok(())
        })
        .await?;
        Ok(Self { folder, children })
    }

    /// Ends the capture; everything that was seen, on all nodes.
    pub async fn stop(mut self) -> Result<Vec<Segment>> {
        // Packets reach the file through a buffer of the kernel's.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mut seen = Vec::new();
        for child in &mut self.children {
            child.kill().await?;
        }
        for entry in std::fs::read_dir(self.folder.path())? {
            seen.extend(segments(&std::fs::read(entry?.path())?)?);
        }
        Ok(seen)
    }
}

/// Reads a file of tcpdump's; a last packet that was cut off is left out.
fn segments(file: &[u8]) -> Result<Vec<Segment>> {
    let (header, mut rest) = file.split_at_checked(24).context("the capture has no header")?;
    let magic = u32::from_le_bytes(header[..4].try_into()?);
    // Times in micro- or nanoseconds, and the "cooked" form of Linux.
    ensure!(matches!(magic, 0xa1b2_c3d4 | 0xa1b2_3c4d) && header[20] == 113, "the capture has an unknown form");
    let mut found = Vec::new();
    while let Some((header, tail)) = rest.split_at_checked(16) {
        let length = u32::from_le_bytes(header[8..12].try_into()?) as usize;
        let Some((packet, tail)) = tail.split_at_checked(length) else { break };
        // Behind 16 bytes about the link.
        found.extend(packet.get(16..).and_then(ip).filter(|segment| !segment.data.is_empty()));
        rest = tail;
    }
    Ok(found)
}

/// The TCP segment in an IP packet.
fn ip(packet: &[u8]) -> Option<Segment> {
    let number = |at: usize| Some(usize::from(u16::from_be_bytes(packet.get(at..at + 2)?.try_into().ok()?)));
    let (from, to, tcp) = match packet.first()? >> 4 {
        4 => {
            let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            let header = usize::from(packet[0] & 0xf) * 4;
            (Ipv4Addr::from(from).into(), Ipv4Addr::from(to).into(), packet.get(header..number(2)?)?)
        }
        6 => {
            let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            (Ipv6Addr::from(from).into(), Ipv6Addr::from(to).into(), packet.get(40..40 + number(4)?)?)
        }
        _ => return None,
    };
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment { from, to, data: tcp.get(header..)?.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(data: &[u8]) -> Vec<u8> {
        // 24 bytes: an option follows the fixed part.
        let mut segment = vec![0; 24];
        segment[12] = 6 << 4;
        segment.extend(data);
        segment
    }

    fn v4(tcp: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(u16::try_from(20 + tcp.len()).unwrap().to_be_bytes());
        packet.extend([0; 8]);
        packet.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(tcp);
        // A short frame is padded.
        packet.extend([0; 6]);
        packet
    }

    fn v6(tcp: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(u16::try_from(tcp.len()).unwrap().to_be_bytes());
        packet.extend([6, 64]);
        packet.extend(Ipv6Addr::LOCALHOST.octets());
        packet.extend(Ipv6Addr::UNSPECIFIED.octets());
        packet.extend(tcp);
        packet
    }

    fn file(packets: &[Vec<u8>]) -> Vec<u8> {
        let mut file = 0xa1b2_c3d4_u32.to_le_bytes().to_vec();
        file.extend([0; 16]);
        file.extend(113_u32.to_le_bytes());
        for packet in packets {
            let length = u32::try_from(16 + packet.len()).unwrap().to_le_bytes();
            file.extend([&[0; 8][..], &length, &length, &[0; 16], packet].concat());
        }
        file
    }

    #[test]
    fn segments_are_read_out_of_both_versions_of_ip() {
        let mut file = file(&[v4(&tcp(b"GET /")), v4(&tcp(b"")), vec![], vec![0x45], v6(&tcp(&[22, 3, 1, 0, 1]))]);
        file.extend([0; 30]);
        let found = segments(&file).unwrap();
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            (found[0].from, found[0].to),
            (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into())
        );
        assert!(found[0].contains("GET") && found[0].data == b"GET /" && !found[0].begins_tls_record());
        assert_eq!((found[1].from, found[1].to), (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::UNSPECIFIED.into()));
        assert!(found[1].begins_tls_record());
    }

    #[test]
    fn another_form_is_refused() {
        assert!(segments(b"").is_err());
        assert!(segments(&[0; 24]).is_err());
    }
}
