//! How etcd, the API server, the controller manager and the scheduler are started. They all run in the first node's
//! network namespace, so that the API server reaches webhooks by Service and pod addresses.

use std::ffi::OsString;
use std::path::Path;

use super::pki::Pki;
use super::plan::{self, API_PORT, POD_NETWORKS, SERVICE_NETWORKS};
use super::process::{option, words};

/// Only the API server, on the same loopback, talks to it.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// The components and their arguments, in the order in which they are started.
pub(crate) fn components(data: &Path, pki: &Pki) -> Vec<(&'static str, Vec<OsString>)> {
    vec![
        ("etcd", etcd(data)),
        ("kube-apiserver", apiserver(pki)),
        ("kube-controller-manager", controller_manager(pki)),
        ("kube-scheduler", scheduler(pki)),
    ]
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
        // Tests wait for autoscalers; metrics are 10 s old at most.
        "--horizontal-pod-autoscaler-sync-period=5s".to_owned(),
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
