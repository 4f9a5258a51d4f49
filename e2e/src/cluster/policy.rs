//! What enforces NetworkPolicies: a process on each node (`e2e/cluster/networkpolicy`), which keeps an nftables table in the
//! node's network namespace.

use std::ffi::OsString;

use serde_json::{Value, json};

use super::pki::Pki;
use super::plan::Node;
use super::process::{option, words};

/// The name of its table.
pub(crate) const TABLE: &str = "network-policy";

/// Its arguments on a node.
pub(crate) fn arguments(node: &Node, pki: &Pki) -> Vec<OsString> {
    let mut arguments = words([format!("--node={}", node.name)]);
    arguments.push(option("kubeconfig", &pki.file("network-policy.kubeconfig")));
    arguments
}

/// What it may do.
pub(crate) fn objects() -> Vec<Value> {
    vec![
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": "system:network-policy"},
            "rules": [
                {"apiGroups": [""], "resources": ["pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": ["list", "watch"]},
            ],
        }),
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": "system:network-policy"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "system:network-policy"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "network-policy"}],
        }),
    ]
}
