//! Connections from a node itself: outside of every pod, without a proxy.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cluster::Node;

/// For connecting, and for each read and write.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects from the network of a node.
pub fn connect_from(node: &Node, address: SocketAddr) -> Result<TcpStream> {
    let path = format!("/run/netns/{}", node.netns());
    let netns = File::open(&path).with_context(|| format!("opening {path}"))?;
    // A thread of its own, which ends with its place in that network; the socket stays there.
    let connect = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).context("entering the node")?;
        let stream =
            TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("connecting to {address}"))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(stream)
    };
    std::thread::spawn(connect).join().unwrap_or_else(|_| anyhow::bail!("connecting from {} panicked", node.name))
}
