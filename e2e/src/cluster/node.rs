//! A node: containerd, kubelet and kube-proxy in the node's network namespace and in a mount namespace of their own.
//!
//! The mount namespace is what keeps the machine clean. Kubelet and containerd mount volumes, root file systems and
//! pod namespaces, and use fixed folders (`/var/lib/kubelet`, `/var/log/pods`, `/run/containerd`) that two nodes on
//! one machine would share. Inside, these folders are the node's own, and when its last process ends, however it
//! ends, the kernel drops every mount with the namespace.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::json;

use super::cgroups;
use super::pki::Pki;
use super::plan::{DNS_SERVICE, Node, PAUSE_IMAGE, POD_NETWORKS, Places};
use super::process::{option, words};
use super::state::Process;

/// Folders that the components use by a fixed name, and what they are inside of a node's own data.
const OWN_FOLDERS: [(&str, &str); 5] = [
    ("/var/lib/kubelet", "kubelet"),
    ("/var/lib/cni", "cni-state"),
    ("/var/log/pods", "pod-logs"),
    ("/var/log/containers", "container-logs"),
    ("/run/containerd", "containerd-run"),
];

/// Puts the node's own folders in place of the machine's (`$1` from, `$2` to, …, up to `--`) and becomes the program
/// that follows. The mounts are shared among the node's processes, so that volumes may ask for mount propagation,
/// and with nobody else.
const ENTER: &str = r#"
    mount --make-rshared /
    while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
    shift
    exec "$@"
"#;

/// The folders that must exist on the machine for something else to be put in their place.
pub(crate) fn mount_points() -> impl Iterator<Item = PathBuf> {
    OWN_FOLDERS.iter().map(|(point, _)| PathBuf::from(point))
}

/// Writes the node's configuration and returns the command line of its containerd, which opens the node's mount
/// namespace.
///
/// # Errors
/// If a folder or file cannot be written.
pub(crate) fn containerd(places: &Places, node: &Node) -> Result<Vec<OsString>> {
    let home = places.node(node);
    make_folder(&node.run_folder())?;
    // What belongs to running containers must not be found by the next start.
    for stale in ["containerd-run", "cni-state"] {
        remove_folder(&home.join(stale))?;
    }
    for (_, own) in OWN_FOLDERS {
        make_folder(&home.join(own))?;
    }
    make_folder(&home.join("cni"))?;
    write(&home.join("cni/10-fairlead.conflist"), &serde_json::to_string_pretty(&cni(node))?)?;
    write(&home.join("containerd.toml"), &containerd_config(node, &home))?;

    let mut line = words(["nsenter", &format!("--net=/run/netns/{}", node.netns())]);
    line.extend(words(["unshare", "--mount", "--propagation", "private", "sh", "-euc", ENTER, "sh"]));
    for (point, own) in OWN_FOLDERS {
        line.extend([home.join(own).into(), point.into()]);
    }
    line.extend(words(["--", "containerd"]));
    line.push(option("config", &home.join("containerd.toml")));
    Ok(line)
}

/// The command line of the node's kubelet, which joins containerd's namespaces.
///
/// # Errors
/// If its configuration cannot be written.
pub(crate) fn kubelet(
    places: &Places,
    pki: &Pki,
    node: &Node,
    binary: &Path,
    containerd: &Process,
) -> Result<Vec<OsString>> {
    let home = places.node(node);
    write(&home.join("kubelet.yaml"), &serde_yaml::to_string(&kubelet_config(node, pki, &home))?)?;
    // Pods must not inherit the search domains of the machine.
    write(&home.join("resolv.conf"), &format!("nameserver {DNS_SERVICE}\n"))?;
    let mut line = inside(node, containerd, binary, "kubelet");
    line.push(option("config", &home.join("kubelet.yaml")));
    line.push(option("kubeconfig", &pki.file(&format!("{}.kubeconfig", node.name))));
    line.extend(words([
        format!("--hostname-override={}", node.name),
        format!("--node-ip={},{}", node.address(), node.address6()),
        format!("--node-labels=topology.kubernetes.io/zone={},topology.kubernetes.io/region=local", node.zone),
    ]));
    Ok(line)
}

/// The command line of the node's kube-proxy.
///
/// # Errors
/// If its configuration cannot be written.
pub(crate) fn kube_proxy(
    places: &Places,
    pki: &Pki,
    node: &Node,
    binary: &Path,
    containerd: &Process,
) -> Result<Vec<OsString>> {
    let path = places.node(node).join("kube-proxy.yaml");
    write(&path, &serde_yaml::to_string(&kube_proxy_config(node, pki))?)?;
    let mut line = inside(node, containerd, binary, "kube-proxy");
    line.push(option("config", &path));
    Ok(line)
}

fn inside(node: &Node, containerd: &Process, binary: &Path, component: &str) -> Vec<OsString> {
    let mut line = words([
        "nsenter".to_owned(),
        format!("--net=/run/netns/{}", node.netns()),
        format!("--mount=/proc/{}/ns/mnt", containerd.pid),
    ]);
    line.extend([binary.into(), component.into()]);
    line
}

fn containerd_config(node: &Node, home: &Path) -> String {
    let run = node.run_folder();
    format!(
        r#"version = 2
root = '{root}'
state = '{state}'

[grpc]
address = '{socket}'

[plugins."io.containerd.internal.v1.opt"]
path = '{opt}'

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Machines without CAP_SYS_RESOURCE (containers, some CI) could start no sandbox at all otherwise.
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = '{cni}'

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"#,
        root = home.join("containerd").display(),
        state = run.join("containerd").display(),
        socket = node.containerd_socket().display(),
        opt = home.join("containerd-opt").display(),
        cni = home.join("cni").display(),
    )
}

/// A bridge per node; the routes to the other node's pods lie in the node's namespace. Nothing is masqueraded, so a
/// peer sees the pod's own address.
fn cni(node: &Node) -> serde_json::Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "fairlead",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    // Emptied by each start, as no pod survives one.
                    "dataDir": "/var/lib/cni/addresses",
                    "ranges": [[{"subnet": node.pod_network()}], [{"subnet": node.pod_network6()}]],
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kubelet_config(node: &Node, pki: &Pki, home: &Path) -> serde_json::Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.file("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": pki.file(&format!("{}.crt", node.name)),
        "tlsPrivateKeyFile": pki.file(&format!("{}.key", node.name)),
        "containerRuntimeEndpoint": format!("unix://{}", node.containerd_socket().display()),
        "clusterDNS": [DNS_SERVICE],
        "clusterDomain": "cluster.local",
        "resolvConf": home.join("resolv.conf"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroups::root(node),
        "failCgroupV1": false,
        "failSwapOn": false,
        // Lowering it needs CAP_SYS_RESOURCE.
        "oomScoreAdj": 0,
        // A full disk of the machine is the machine's affair, and an image that was removed could not be pulled again.
        "evictionHard": {
            "memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%",
            "imagefs.available": "0%", "imagefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        // kube-proxy works on nftables; nobody needs the kubelet's chains.
        "makeIPTablesUtilChains": false,
    })
}

fn kube_proxy_config(node: &Node, pki: &Pki) -> serde_json::Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": pki.file("kube-proxy.kubeconfig")},
        "hostnameOverride": node.name,
        "clusterCIDR": POD_NETWORKS,
        // The conntrack table is the machine's, not the namespace's: leave it alone.
        "conntrack": {"maxPerCore": 0},
        "oomScoreAdj": 0,
        // Endpoints change often in tests, and the rule sets are small.
        "nftables": {"minSyncPeriod": "200ms"},
    })
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).with_context(|| format!("making {}", path.display()))
}

fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
