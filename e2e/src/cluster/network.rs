//! The cluster's network: a namespace per node, one that holds the bridge between them, and a veth from it to the
//! machine. Everything inside goes away with the namespaces.
//!
//! ```text
//!   machine  198.18.77.1 ── fairlead0 ═ host0 ─┐
//!                                           [br0 198.18.77.2]  fairlead-bridge
//!   node-a   198.18.77.11 ── eth0 ═ node-a ────┤
//!   node-b   198.18.77.12 ── eth0 ═ node-b ────┘
//! ```
//!
//! The nodes' default route leads to the bridge, which knows the pods of both nodes and answers "unreachable" for
//! everything else: the cluster reaches nothing outside, and what tries fails at once instead of hanging.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::plan::{self, BRIDGE_ADDRESS, BRIDGE_ADDRESS6, BRIDGE_NETNS, HOST_ADDRESS, HOST_LINK, NODE_NETWORK, Node};
use super::{mounts, plan::in_netns};
use crate::command::{command, run};

const NETNS_FOLDER: &str = "/run/netns";

/// Settings of each namespace. Duplicate address detection is off because it keeps a fresh IPv6 address unusable for
/// a second; the last two make traffic between pods of one node pass the Service rules.
const SETTINGS: &str = "
    echo 1 > /proc/sys/net/ipv4/ip_forward
    echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
    echo 0 > /proc/sys/net/ipv6/conf/all/accept_dad
    echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-iptables
    echo 1 > /proc/sys/net/bridge/bridge-nf-call-ip6tables
";

/// Builds the network.
///
/// # Errors
/// If the machine already uses the nodes' network, or a namespace, link or route cannot be made.
pub(crate) async fn make() -> Result<()> {
    let taken = run(&mut command("ip", ["-4", "route", "show", "to", "root", NODE_NETWORK])).await?;
    if !taken.trim().is_empty() {
        bail!("this machine already routes {NODE_NETWORK}, which the cluster's nodes use: {}", taken.trim());
    }
    for netns in namespaces() {
        run(&mut command("ip", ["netns", "add", &netns])).await?;
        run(in_netns(&netns, "sh").args(["-euc", SETTINGS])).await?;
    }
    for line in script() {
        run(&mut command("ip", line.split(' '))).await?;
    }
    Ok(())
}

/// Removes the namespaces and with them everything in them; nothing to do where there are none.
///
/// # Errors
/// If a namespace or the link stays.
pub(crate) async fn remove() -> Result<()> {
    for netns in namespaces() {
        if Path::new(NETNS_FOLDER).join(&netns).exists() {
            run(&mut command("ip", ["netns", "delete", &netns])).await?;
        }
    }
    // Its other end was in the bridge's namespace, which the kernel takes down a moment after its name is gone.
    if Path::new("/sys/class/net").join(HOST_LINK).exists() {
        let deleted = run(&mut command("ip", ["link", "delete", HOST_LINK])).await;
        if deleted.is_err() && Path::new("/sys/class/net").join(HOST_LINK).exists() {
            deleted?;
        }
    }
    tidy_netns_folder().await
}

/// `ip netns` mounts its folder on itself the first time; where no namespace is left, that is undone too.
async fn tidy_netns_folder() -> Result<()> {
    let folder = Path::new(NETNS_FOLDER);
    if fs::read_dir(folder).is_ok_and(|mut names| names.next().is_none()) {
        mounts::detach_below(folder).await?;
        fs::remove_dir(folder).with_context(|| format!("removing {NETNS_FOLDER}"))?;
    }
    Ok(())
}

fn namespaces() -> impl Iterator<Item = String> {
    std::iter::once(BRIDGE_NETNS.to_owned()).chain(plan::nodes().iter().map(Node::netns))
}

/// What `ip` is told, line by line.
fn script() -> Vec<String> {
    let bridge = format!("-n {BRIDGE_NETNS}");
    let mut lines = vec![
        format!("{bridge} link set lo up"),
        format!("{bridge} link add br0 type bridge"),
        format!("{bridge} address add {BRIDGE_ADDRESS}/24 dev br0"),
        format!("{bridge} address add {BRIDGE_ADDRESS6}/64 dev br0"),
        format!("{bridge} link set br0 up"),
        format!("{bridge} route add unreachable default"),
        format!("{bridge} -6 route add unreachable default metric 1"),
        format!("link add {HOST_LINK} type veth peer name host0 netns {BRIDGE_NETNS}"),
        format!("{bridge} link set host0 master br0 up"),
        format!("address add {HOST_ADDRESS}/24 dev {HOST_LINK}"),
        format!("link set {HOST_LINK} up"),
    ];
    for node in plan::nodes() {
        let inside = format!("-n {}", node.netns());
        lines.extend([
            format!("{bridge} link add {} type veth peer name eth0 netns {}", node.name, node.netns()),
            format!("{bridge} link set {} master br0 up", node.name),
            format!("{inside} link set lo up"),
            format!("{inside} address add {}/24 dev eth0", node.address()),
            format!("{inside} address add {}/64 dev eth0", node.address6()),
            format!("{inside} link set eth0 up"),
            format!("{inside} route add default via {BRIDGE_ADDRESS}"),
            format!("{inside} -6 route add default via {BRIDGE_ADDRESS6}"),
            format!("{bridge} route add {} via {}", node.pod_network(), node.address()),
            format!("{bridge} -6 route add {} via {}", node.pod_network6(), node.address6()),
        ]);
        for other in plan::nodes().iter().filter(|other| other.name != node.name) {
            lines.push(format!("{inside} route add {} via {}", other.pod_network(), other.address()));
            lines.push(format!("{inside} -6 route add {} via {}", other.pod_network6(), other.address6()));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_routes_the_pods_of_the_other_and_not_its_own() {
        let script = script();
        assert!(script.contains(&"-n fairlead-node-a route add 10.244.2.0/24 via 198.18.77.12".to_owned()));
        assert!(
            script.contains(
                &"-n fairlead-node-b -6 route add fdfa:171e:ad00:1001::/64 via fdfa:171e:ad00::11".to_owned()
            )
        );
        assert!(!script.iter().any(|line| line.starts_with("-n fairlead-node-a route add 10.244.1.0/24")));
    }
}
