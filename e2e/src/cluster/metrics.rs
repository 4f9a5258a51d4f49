//! The cluster's metrics API (`kubectl top`, autoscalers): metrics-server as a process of the first node, and the objects
//! that make the API server ask it.

use std::ffi::OsString;
use std::fs;

use anyhow::{Context, Result};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::pki::Pki;
use super::plan::{self, METRICS_SERVICE};
use super::process::{option, words};

/// The name that the API server expects in its certificate.
pub(crate) const SERVER_NAME: &str = "metrics-server.kube-system.svc";
/// The name of the APIService object.
pub(crate) const API: &str = "v1beta1.metrics.k8s.io";
/// Where it listens on its node.
const PORT: u16 = 4443;

/// metrics-server's arguments.
pub(crate) fn arguments(pki: &Pki) -> Vec<OsString> {
    let mut arguments = words([
        format!("--bind-address={}", plan::control_plane().address()),
        format!("--secure-port={PORT}"),
        // The shortest that it takes, so that an autoscaler sees a change within seconds.
        "--metric-resolution=10s".to_owned(),
        "--kubelet-request-timeout=5s".to_owned(),
        // Node names resolve nowhere.
        "--kubelet-preferred-address-types=InternalIP".to_owned(),
    ]);
    let kubeconfig = pki.file("metrics-server.kubeconfig");
    arguments.extend(
        ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"].map(|name| option(name, &kubeconfig)),
    );
    arguments.extend(
        [
            ("kubelet-certificate-authority", "ca.crt"),
            ("tls-cert-file", "metrics-server.crt"),
            ("tls-private-key-file", "metrics-server.key"),
        ]
        .map(|(name, file)| option(name, &pki.file(file))),
    );
    arguments
}

/// What it may do, and a Service without a selector that leads to it.
pub(crate) fn objects() -> Vec<Value> {
    let rbac = "rbac.authorization.k8s.io";
    let subjects = json!([{"apiGroup": rbac, "kind": "User", "name": "metrics-server"}]);
    let binding = |name: &str, role: &str| {
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRoleBinding",
            "metadata": {"name": name},
            "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": role},
            "subjects": subjects,
        })
    };
    vec![
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "ClusterRole",
            "metadata": {"name": "system:metrics-server"},
            "rules": [
                {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
                {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
            ],
        }),
        binding("system:metrics-server", "system:metrics-server"),
        // It asks the API server who its callers are.
        binding("metrics-server:system:auth-delegator", "system:auth-delegator"),
        json!({
            "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding",
            "metadata": {"name": "metrics-server-auth-reader", "namespace": "kube-system"},
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "extension-apiserver-authentication-reader"},
            "subjects": subjects,
        }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "metrics-server", "namespace": "kube-system", "labels": {"k8s-app": "metrics-server"}},
            "spec": {"clusterIP": METRICS_SERVICE, "ports": [{"name": "https", "port": 443, "targetPort": PORT, "protocol": "TCP"}]},
        }),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "metrics-server", "namespace": "kube-system", "labels": {
                "kubernetes.io/service-name": "metrics-server",
                "endpointslice.kubernetes.io/managed-by": "fairlead.dev",
            }},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [plan::control_plane().address().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "https", "port": PORT, "protocol": "TCP"}],
        }),
    ]
}

/// What makes the API server pass on what it is asked about metrics.
///
/// # Errors
/// If the authority's certificate cannot be read.
pub(crate) fn api(pki: &Pki) -> Result<Value> {
    let path = pki.file("ca.crt");
    let authority = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
    Ok(json!({
        "apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": API},
        "spec": {
            "group": "metrics.k8s.io", "version": "v1beta1",
            "groupPriorityMinimum": 100, "versionPriority": 100,
            "caBundle": BASE64_STANDARD.encode(authority),
            "service": {"namespace": "kube-system", "name": "metrics-server"},
        },
    }))
}
