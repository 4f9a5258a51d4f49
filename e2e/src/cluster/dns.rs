//! The cluster's DNS: CoreDNS as a process of the first node (as a pod it would need an image of 140 MB on each node),
//! and the objects that lead pods to it.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::pki::Pki;
use super::plan::{self, DNS_SERVICE};

/// Where it says, on its node's loopback, that it has read all Services.
pub(crate) const READY_PORT: u16 = 8181;

/// CoreDNS's arguments.
///
/// # Errors
/// If its configuration cannot be written.
pub(crate) fn arguments(data: &Path, pki: &Pki) -> Result<Vec<OsString>> {
    let path = data.join("Corefile");
    fs::write(&path, corefile(&pki.file("coredns.kubeconfig")))
        .with_context(|| format!("writing {}", path.display()))?;
    Ok(vec!["-conf".into(), path.into()])
}

/// Names outside of the cluster do not exist: nothing outside can be reached. Answers are kept for a few seconds
/// only, so that tests see a deleted Service go.
fn corefile(kubeconfig: &Path) -> String {
    let address = plan::control_plane().address();
    format!(
        "cluster.local:53 in-addr.arpa:53 ip6.arpa:53 {{
    bind {address}
    errors
    ready 127.0.0.1:{READY_PORT}
    kubernetes cluster.local in-addr.arpa ip6.arpa {{
        kubeconfig \"{}\"
        pods insecure
        ttl 5
    }}
    cache 5
    loadbalance
}}
.:53 {{
    bind {address}
    errors
    template ANY ANY . {{
        rcode NXDOMAIN
    }}
}}
",
        kubeconfig.display()
    )
}

/// The objects that make CoreDNS known: its permissions, and a Service without a selector that leads to the first
/// node.
pub(crate) fn objects() -> Vec<serde_json::Value> {
    let ports = json!([
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
    ]);
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:coredns"},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces", "nodes"], "verbs": ["list", "watch", "get"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:coredns"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:coredns"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "coredns"}],
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_SERVICE, "ports": ports},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {
                "kubernetes.io/service-name": "kube-dns",
                "endpointslice.kubernetes.io/managed-by": "fairlead.dev",
            }},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [plan::control_plane().address().to_string()], "conditions": {"ready": true}}],
            "ports": ports,
        }),
    ]
}
