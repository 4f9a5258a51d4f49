//! The plan of the embedded cluster: names, addresses and where things lie. Plain values; everything else in this
//! folder asks here, so that no address or path is written twice.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

/// The Kubernetes release that `e2e/cluster/go.mod` pins.
pub(crate) const KUBERNETES: &str = "1.35.4";

/// The network namespace that holds the link between the nodes and the machine.
pub(crate) const BRIDGE_NETNS: &str = "fairlead-bridge";
/// The machine's end of the link to the cluster.
pub(crate) const HOST_LINK: &str = "fairlead0";

/// The nodes' network: from the block for benchmarks of network gear (RFC 2544), which no real network should use.
pub(crate) const NODE_NETWORK: &str = "198.18.77.0/24";
/// The machine's own address on it.
pub(crate) const HOST_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 1);
/// The bridge's addresses: the nodes' default route, and a place outside of the cluster for tests to listen on.
pub(crate) const BRIDGE_ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 77, 2);
pub(crate) const BRIDGE_ADDRESS6: Ipv6Addr = Ipv6Addr::new(0xfdfa, 0x171e, 0xad00, 0, 0, 0, 0, 2);

/// What all pods' addresses lie in, IPv4 and IPv6, as kube-proxy and the controller manager want it.
pub(crate) const POD_NETWORKS: &str = "10.244.0.0/16,fdfa:171e:ad00:1000::/52";
/// What Services' addresses are taken from.
pub(crate) const SERVICE_NETWORKS: &str = "10.96.0.0/16,fdfa:171e:ad00:2000::/112";
/// The first Service address, which the API server gives to itself.
pub(crate) const API_SERVICE: &str = "10.96.0.1";
/// The Service address of the cluster's DNS.
pub(crate) const DNS_SERVICE: &str = "10.96.0.10";
/// The Service address of the metrics API.
pub(crate) const METRICS_SERVICE: &str = "10.96.0.11";
pub(crate) const API_PORT: u16 = 6443;

/// The image that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "fairlead.dev/pause:1";

/// The nodes. The first also runs the control plane.
static NODES: [Node; 2] =
    [Node { name: "node-a", zone: "a", number: 1 }, Node { name: "node-b", zone: "b", number: 2 }];

/// The nodes of the embedded cluster, in the order of their zones.
pub(crate) fn nodes() -> &'static [Node; 2] {
    &NODES
}

/// The node that runs the control plane.
pub(crate) fn control_plane() -> &'static Node {
    &NODES[0]
}

/// A node of the embedded cluster: a network namespace with its own containerd, kubelet and kube-proxy.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// The name of its Node object.
    pub name: &'static str,
    /// Its `topology.kubernetes.io/zone`.
    pub zone: &'static str,
    number: u8,
}

impl Node {
    /// Its address on the nodes' network.
    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 77, 10 + self.number)
    }

    pub(crate) fn address6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0xfdfa, 0x171e, 0xad00, 0, 0, 0, 0, 0x10 + u16::from(self.number))
    }

    /// The IPv4 network of its pods.
    pub(crate) fn pod_network(&self) -> String {
        format!("10.244.{}.0/24", self.number)
    }

    pub(crate) fn pod_network6(&self) -> String {
        format!("fdfa:171e:ad00:10{:02x}::/64", self.number)
    }

    /// The name of its network namespace.
    pub fn netns(&self) -> String {
        format!("fairlead-{}", self.name)
    }

    /// A command that runs inside the node's network namespace and otherwise as the caller: a packet capture, a load
    /// generator, a client that is not in the mesh. It needs root, and is killed when its handle is dropped.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        in_netns(&self.netns(), program)
    }

    /// Where its processes keep sockets and what must not outlive them.
    pub(crate) fn run_folder(&self) -> PathBuf {
        run_folder().join(self.name)
    }

    pub(crate) fn containerd_socket(&self) -> PathBuf {
        self.run_folder().join("containerd.sock")
    }

    /// `ctr` as this node's images are reached with it.
    pub(crate) fn ctr<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Command {
        let mut command = crate::command::command("ctr", ["--namespace", "k8s.io", "--address"]);
        command.arg(self.containerd_socket()).args(arguments);
        command
    }
}

/// A command inside a named network namespace. `nsenter`, because `ip netns exec` mounts a fresh `/sys`, which hides
/// the cgroups.
pub(crate) fn in_netns(netns: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = crate::command::command("nsenter", [format!("--net=/run/netns/{netns}")]);
    command.arg(program);
    command
}

/// What lives only as long as the cluster runs: sockets and the record of what was started. A fixed place, because a
/// machine runs one embedded cluster at a time (its addresses and names are fixed too), and a short one, because a
/// socket's path has at most 107 bytes.
pub(crate) fn run_folder() -> &'static Path {
    Path::new("/run/fairlead")
}

/// The places inside a checkout, and the cache beside all of them.
#[derive(Debug, Clone)]
pub struct Places {
    /// The checkout's top folder.
    pub checkout: PathBuf,
    /// Where builds are kept that outlive a checkout.
    pub cache: PathBuf,
}

impl Places {
    /// Finds the checkout that the working directory lies in.
    ///
    /// # Errors
    /// If it lies in none, or there is no home directory for the cache.
    pub fn find() -> Result<Self> {
        let here = std::env::current_dir().context("reading the working directory")?;
        let checkout = here
            .ancestors()
            .find(|folder| folder.join("e2e/cluster/go.mod").is_file())
            .with_context(|| format!("{} is not inside a checkout of Fairlead: run this from there", here.display()))?;
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .filter(|path| !path.is_empty())
            .map(PathBuf::from)
            .or_else(|| std::env::home_dir().map(|home| home.join(".cache")))
            .context("no place for the cache: set HOME or XDG_CACHE_HOME")?;
        Ok(Self { checkout: checkout.to_owned(), cache: cache.join("fairlead") })
    }

    /// Everything the cluster keeps between runs.
    pub(crate) fn data(&self) -> PathBuf {
        self.checkout.join(".cluster")
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.data().join("logs")
    }

    pub(crate) fn pki(&self) -> PathBuf {
        self.data().join("pki")
    }

    /// The administrator's kubeconfig, good from the machine and from the nodes.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data().join("kubeconfig")
    }

    /// A kubectl of the cluster's own release that knows where the cluster is.
    pub fn kubectl(&self) -> PathBuf {
        self.data().join("bin/kubectl")
    }

    pub(crate) fn node(&self, node: &Node) -> PathBuf {
        self.data().join(node.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether an address lies in a network that is written as `a.b.c.d/length`.
    fn contains(network: &str, address: Ipv4Addr) -> bool {
        let (base, length) = network.split_once('/').unwrap();
        let mask = u32::MAX << (32 - length.parse::<u32>().unwrap());
        base.parse::<Ipv4Addr>().unwrap().to_bits() & mask == address.to_bits() & mask
    }

    fn first(network: &str) -> Ipv4Addr {
        network.split_once('/').unwrap().0.parse().unwrap()
    }

    #[test]
    fn every_address_lies_in_its_network_and_is_taken_once() {
        let mut taken = vec![HOST_ADDRESS, BRIDGE_ADDRESS];
        taken.extend(nodes().iter().map(Node::address));
        assert!(taken.iter().all(|address| contains(NODE_NETWORK, *address)));
        taken.sort_unstable();
        taken.dedup();
        assert_eq!(taken.len(), 4);
    }

    #[test]
    fn pod_networks_are_parts_of_the_whole_and_disjoint() {
        let (all, _) = POD_NETWORKS.split_once(',').unwrap();
        let [a, b] = nodes();
        assert!(contains(all, first(&a.pod_network())) && contains(all, first(&b.pod_network())));
        assert!(!contains(&a.pod_network(), first(&b.pod_network())));
        assert_ne!(a.pod_network6(), b.pod_network6());
    }

    #[test]
    fn services_and_pods_do_not_meet() {
        let (services, _) = SERVICE_NETWORKS.split_once(',').unwrap();
        for service in [API_SERVICE, DNS_SERVICE, METRICS_SERVICE] {
            assert!(contains(services, service.parse().unwrap()));
        }
        assert!(nodes().iter().all(|node| !contains(services, first(&node.pod_network()))));
    }

    #[test]
    fn link_names_fit_the_kernel() {
        assert!(HOST_LINK.len() < 16 && nodes().iter().all(|node| node.name.len() < 16));
    }
}
