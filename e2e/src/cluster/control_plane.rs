//! How etcd, the API server, the controller manager, the scheduler and CoreDNS are started. They all run in the first
//! node's network namespace, so that the API server reaches webhooks by Service and pod addresses.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use super::pki::Pki;
use super::plan::{self, API_PORT, DNS_SERVICE, POD_NETWORKS, SERVICE_NETWORKS};
use super::process::{option, words};

/// Only the API server, on the same loopback, talks to it.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// The components and their arguments, in the order in which they are started.
///
/// # Errors
/// If CoreDNS's configuration cannot be written.
pub(crate) fn components(data: &Path, pki: &Pki) -> Result<Vec<(&'static str, Vec<OsString>)>> {
    Ok(vec![
        ("etcd", etcd(data)),
        ("kube-apiserver", apiserver(pki)),
        ("kube-controller-manager", controller_manager(pki)),
        ("kube-scheduler", scheduler(pki)),
        ("coredns", coredns(data, pki)?),
    ])
}

fn etcd(data: &Path) -> Vec<OsString> {
    let mut arguments = words([
        "--name=fairlead".to_owned(),
        format!("--listen-client-urls={ETCD}"),
        format!("--advertise-client-urls={ETCD}"),
        format!("--listen-peer-urls={ETCD_PEER}"),
        format!("--initial-advertise-peer-urls={ETCD_PEER}"),
        format!("--initial-cluster=fairlead={ETCD_PEER}"),
        // A power cut may cost the data, which is fine here; a killed process does not.
        "--unsafe-no-fsync".to_owned(),
        "--log-level=warn".to_owned(),
    ]);
    arguments.push(option("data-dir", &data.join("etcd")));
    arguments
}

fn apiserver(pki: &Pki) -> Vec<OsString> {
    let mut arguments = words([
        format!("--advertise-address={}", plan::control_plane().address()),
        "--bind-address=0.0.0.0".to_owned(),
        format!("--secure-port={API_PORT}"),
        format!("--etcd-servers={ETCD}"),
        format!("--service-cluster-ip-range={SERVICE_NETWORKS}"),
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
        "--authorization-mode=Node,RBAC".to_owned(),
        "--enable-admission-plugins=NodeRestriction".to_owned(),
        // Node names resolve nowhere.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
        "--allow-privileged=true".to_owned(),
        "--requestheader-allowed-names=front-proxy-client".to_owned(),
        "--requestheader-username-headers=X-Remote-User".to_owned(),
        "--requestheader-group-headers=X-Remote-Group".to_owned(),
        "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
    ]);
    arguments.extend(
        [
            ("client-ca-file", "ca.crt"),
            ("tls-cert-file", "apiserver.crt"),
            ("tls-private-key-file", "apiserver.key"),
            ("kubelet-certificate-authority", "ca.crt"),
            ("kubelet-client-certificate", "kubelet-client.crt"),
            ("kubelet-client-key", "kubelet-client.key"),
            ("service-account-key-file", "sa.pub"),
            ("service-account-signing-key-file", "sa.key"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("proxy-client-cert-file", "front-proxy-client.crt"),
            ("proxy-client-key-file", "front-proxy-client.key"),
        ]
        .map(|(name, file)| option(name, &pki.file(file))),
    );
    arguments
}

fn controller_manager(pki: &Pki) -> Vec<OsString> {
    let mut arguments = words([
        format!("--cluster-cidr={POD_NETWORKS}"),
        format!("--service-cluster-ip-range={SERVICE_NETWORKS}"),
        // The nodes' pod networks are fixed in their CNI configuration.
        "--allocate-node-cidrs=false".to_owned(),
        "--use-service-account-credentials=true".to_owned(),
        // There is one of it; waiting for the lease of a killed one would cost 15 s.
        "--leader-elect=false".to_owned(),
        "--bind-address=127.0.0.1".to_owned(),
    ]);
    arguments.extend(kubeconfigs(pki, "controller-manager"));
    arguments.extend(
        [
            ("client-ca-file", "ca.crt"),
            ("requestheader-client-ca-file", "front-proxy-ca.crt"),
            ("root-ca-file", "ca.crt"),
            ("service-account-private-key-file", "sa.key"),
            ("cluster-signing-cert-file", "ca.crt"),
            ("cluster-signing-key-file", "ca.key"),
        ]
        .map(|(name, file)| option(name, &pki.file(file))),
    );
    arguments
}

fn scheduler(pki: &Pki) -> Vec<OsString> {
    let mut arguments = words(["--leader-elect=false", "--bind-address=127.0.0.1"]);
    arguments.extend(kubeconfigs(pki, "scheduler"));
    arguments
}

fn kubeconfigs(pki: &Pki, name: &str) -> [OsString; 3] {
    let file = pki.file(&format!("{name}.kubeconfig"));
    ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"].map(|name| option(name, &file))
}

/// The cluster's DNS as a process of the first node: as a pod it would need an image of 140 MB on each node.
fn coredns(data: &Path, pki: &Pki) -> Result<Vec<OsString>> {
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
    ready 127.0.0.1:8181
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
pub(crate) fn dns_objects() -> Vec<serde_json::Value> {
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
