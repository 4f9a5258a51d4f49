//! What the index keeps of a pod.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use fairlead_crds::CLONE_OF_LABEL;
use k8s_openapi::api::core::v1::Pod as KubePod;

/// The sidecar's container: a pod that has it among its init containers is in the mesh.
pub const PROXY_CONTAINER: &str = "fairlead-proxy";
const SKIP_INBOUND_ANNOTATION: &str = "fairlead.dev/skip-inbound-ports";
/// Where the sidecar answers the kubelet. It is never captured, so it is plain.
pub const HEALTH_PORT: u16 = 15020;
const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";
/// More ranges than any pod has use for: an annotation is not a place to keep the operator busy.
const MAX_RANGES: usize = 64;

/// What the index keeps of a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Pod {
    pub uid: String,
    pub labels: BTreeMap<String, String>,
    /// Its own addresses: none while it has none, after it ended, or if it uses its node's.
    pub ips: Vec<IpAddr>,
    pub service_account: String,
    /// Empty: it has none yet.
    pub node: String,
    /// The Deployment that made it, told from the name of its ReplicaSet.
    pub deployment: Option<String>,
    /// The Deployment that it is a canary's clone of.
    pub clone_of: Option<String>,
    pub meshed: bool,
    /// Ports that its proxy does not capture.
    pub plain_ports: Vec<RangeInclusive<u16>>,
    /// TCP ports that its containers declare, ascending.
    pub ports: Vec<u16>,
    pub ready: bool,
    pub terminating: bool,
}

impl Pod {
    /// The Deployment whose release it takes part in, on either side.
    pub(super) fn released_deployment(&self) -> Option<&str> {
        self.clone_of.as_deref().or(self.deployment.as_deref())
    }

    pub(super) fn parse(pod: KubePod) -> Self {
        let spec = pod.spec.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let labels = pod.metadata.labels.unwrap_or_default();
        let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ips = if ended || spec.host_network == Some(true) {
            Vec::new()
        } else {
            let listed = status.pod_ips.unwrap_or_default();
            let mut ips: Vec<IpAddr> = listed.iter().filter_map(|p| p.ip.parse().ok()).collect();
            if ips.is_empty() {
                ips.extend(status.pod_ip.iter().filter_map(|ip| ip.parse::<IpAddr>().ok()));
            }
            ips
        };
        let replica_set = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|o| o.controller == Some(true) && o.kind == "ReplicaSet");
        let deployment = replica_set.and_then(|owner| {
            let hash = labels.get(TEMPLATE_HASH_LABEL)?;
            owner.name.strip_suffix(hash.as_str())?.strip_suffix('-').map(str::to_owned)
        });
        let init = spec.init_containers.unwrap_or_default();
        // A native sidecar may serve as well, so init containers count.
        let mut ports: Vec<u16> = spec
            .containers
            .iter()
            .chain(&init)
            .flat_map(|c| c.ports.iter().flatten())
            .filter(|p| p.protocol.as_deref().unwrap_or("TCP") == "TCP")
            .filter_map(|p| u16::try_from(p.container_port).ok())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        let plain_ports = pod
            .metadata
            .annotations
            .iter()
            .flatten()
            .find(|(key, _)| *key == SKIP_INBOUND_ANNOTATION)
            .map(|(_, value)| ranges(value))
            .unwrap_or_default();
        Self {
            uid: pod.metadata.uid.unwrap_or_default(),
            clone_of: labels.get(CLONE_OF_LABEL).cloned(),
            ips,
            service_account: spec
                .service_account_name
                .filter(|name| !name.is_empty())
                .unwrap_or_else(|| "default".to_owned()),
            node: spec.node_name.unwrap_or_default(),
            deployment,
            meshed: init.iter().any(|c| c.name == PROXY_CONTAINER),
            plain_ports,
            ports,
            ready: status.conditions.iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True"),
            terminating: ended || pod.metadata.deletion_timestamp.is_some(),
            labels,
        }
    }

    /// Whether the pod's proxy captures what arrives at this port.
    pub(super) fn captures(&self, port: u16) -> bool {
        self.meshed && port != HEALTH_PORT && !self.plain_ports.iter().any(|r| r.contains(&port))
    }

    /// Whether the pod carries all these labels.
    pub(super) fn has_labels(&self, wanted: &BTreeMap<String, String>) -> bool {
        wanted.iter().all(|(key, value)| self.labels.get(key) == Some(value))
    }
}

/// `80,9000-9010`: the injector refuses what does not parse, so that here it is left out.
fn ranges(list: &str) -> Vec<RangeInclusive<u16>> {
    list.split(',')
        .take(MAX_RANGES)
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
            (first <= last).then_some(first..=last)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(value: serde_json::Value) -> Pod {
        Pod::parse(serde_json::from_value(value).unwrap())
    }

    #[test]
    fn keeps_what_routing_needs() {
        let pod = parse(json!({
            "metadata": {
                "name": "reviews-6d5f-x", "namespace": "bookinfo", "uid": "u1",
                "labels": {"app": "reviews", "pod-template-hash": "6d5f"},
                "annotations": {"fairlead.dev/skip-inbound-ports": "80, 9000-9010,junk,9-1"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-6d5f", "uid": "r", "controller": true}],
            },
            "spec": {
                "serviceAccountName": "reviews",
                "initContainers": [{"name": "fairlead-init"}, {"name": "fairlead-proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "app", "ports": [{"containerPort": 9080}, {"containerPort": 53, "protocol": "UDP"}]}],
            },
            "status": {"phase": "Running", "podIPs": [{"ip": "10.0.0.5"}, {"ip": "fd00::5"}], "conditions": [{"type": "Ready", "status": "True"}]},
        }));
        assert_eq!(pod.deployment.as_deref(), Some("reviews"));
        assert_eq!(pod.ips.len(), 2);
        assert_eq!(pod.ports, [9080]);
        assert_eq!(pod.plain_ports, [80..=80, 9000..=9010]);
        assert!(pod.meshed && pod.ready && !pod.terminating);
        assert!(pod.captures(9080) && !pod.captures(9005) && !pod.captures(15020));
    }

    #[test]
    fn an_address_that_is_not_the_pods_own_is_not_kept() {
        let ended = parse(json!({
            "metadata": {"name": "job"}, "spec": {"containers": []},
            "status": {"phase": "Succeeded", "podIPs": [{"ip": "10.0.0.5"}]},
        }));
        assert!(ended.ips.is_empty() && ended.terminating);
        let host = parse(json!({
            "metadata": {"name": "node-agent"}, "spec": {"containers": [], "hostNetwork": true},
            "status": {"phase": "Running", "podIPs": [{"ip": "192.168.0.1"}]},
        }));
        assert!(host.ips.is_empty());
        assert_eq!(host.service_account, "default");
    }

    #[test]
    fn a_replica_set_of_its_own_is_no_deployment() {
        let pod = parse(json!({
            "metadata": {"name": "a", "labels": {"pod-template-hash": "1"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "alone", "uid": "r", "controller": true}]},
            "spec": {"containers": []},
        }));
        assert_eq!(pod.deployment, None);
    }
}
