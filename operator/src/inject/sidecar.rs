//! What goes into a pod: two containers and three volumes, as JSON.

use std::collections::BTreeMap;

use fairlead_proxy_api::TOKEN_AUDIENCE;
use serde_json::{Value, json};

use super::annotations::{PodOptions, duration_text};
use super::{
    ALLOCATOR, HEALTH_PORT, INBOUND_PORT, INIT_CONTAINER, OUTBOUND_PORT, PROXY_CONTAINER, PROXY_UID, Settings,
};
use crate::ca::bundles::{TRUST_BUNDLE_KEY, TRUST_BUNDLE_NAME};

const TOKEN_VOLUME: &str = "fairlead-token";
const TRUST_VOLUME: &str = "fairlead-trust";
const STATE_VOLUME: &str = "fairlead-state";
/// The names of the volumes that we add.
pub(super) const VOLUMES: [&str; 3] = [TOKEN_VOLUME, TRUST_VOLUME, STATE_VOLUME];

const TOKEN_FOLDER: &str = "/var/run/secrets/fairlead.dev";
const TRUST_FOLDER: &str = "/etc/fairlead/trust";
const STATE_FOLDER: &str = "/run/fairlead";
/// The kubelet replaces the token at 80 % of this; short, so that a stolen one soon is worth nothing.
const TOKEN_SECONDS: u32 = 3600;
/// Room for a key, a chain and the last configuration of a pod that talks to hundreds of Services.
const STATE_SIZE: &str = "32Mi";
/// How long a proxy may wait for its first certificate before the kubelet starts it anew, in seconds.
const START_SECONDS: u32 = 120;
/// What a proxy gives open requests to end where the pod does not say: the usual grace period of a pod.
const DEFAULT_DRAIN: &str = "30s";

/// Writes the capture rules of the pod and ends.
pub(super) fn init_container(settings: &Settings, options: &PodOptions) -> Value {
    let mut args = vec![
        "init".to_owned(),
        format!("--inbound-port={INBOUND_PORT}"),
        format!("--outbound-port={OUTBOUND_PORT}"),
        format!("--proxy-uid={PROXY_UID}"),
    ];
    args.extend(options.skip_inbound_ports.iter().map(|ports| format!("--skip-inbound-ports={ports}")));
    args.extend(options.skip_outbound_ports.iter().map(|ports| format!("--skip-outbound-ports={ports}")));
    json!({
        "name": INIT_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": args,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            // Rules are written with NET_ADMIN, which a user other than root does not receive from the runtime.
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    })
}

/// The proxy, as a native sidecar: it starts before the app, stops after it, and lets Jobs complete.
pub(super) fn proxy_container(settings: &Settings, options: &PodOptions, probes: &BTreeMap<String, Value>) -> Value {
    let drain = options.drain_timeout.map_or_else(|| DEFAULT_DRAIN.to_owned(), duration_text);
    let log = options.log.as_ref().unwrap_or(&settings.proxy_log);
    let mut env = vec![
        from_field("POD_NAME", "metadata.name"),
        from_field("POD_NAMESPACE", "metadata.namespace"),
        from_field("POD_UID", "metadata.uid"),
        from_field("POD_IPS", "status.podIPs"),
        from_field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        from_field("NODE_NAME", "spec.nodeName"),
        json!({"name": "FAIRLEAD_OPERATOR_ADDRESS", "value": settings.operator_address}),
        json!({"name": "FAIRLEAD_OPERATOR_IDENTITY", "value": settings.operator_identity}),
        json!({"name": "FAIRLEAD_TRUST_DOMAIN", "value": settings.trust_domain}),
        json!({"name": "FAIRLEAD_TRUST_BUNDLE", "value": format!("{TRUST_FOLDER}/{TRUST_BUNDLE_KEY}")}),
        json!({"name": "FAIRLEAD_TOKEN", "value": format!("{TOKEN_FOLDER}/token")}),
        json!({"name": "FAIRLEAD_STATE_DIR", "value": STATE_FOLDER}),
        json!({"name": "FAIRLEAD_LOG", "value": log}),
        json!({"name": "FAIRLEAD_ACCESS_LOG", "value": settings.proxy_access_log.as_str()}),
        json!({"name": "FAIRLEAD_LOG_FORMAT", "value": settings.proxy_log_format}),
        json!({"name": "FAIRLEAD_DRAIN_TIMEOUT", "value": drain}),
        json!({"name": ALLOCATOR.0, "value": ALLOCATOR.1}),
    ];
    if !probes.is_empty() {
        env.push(json!({"name": "FAIRLEAD_PROBES", "value": probes_text(probes)}));
    }
    json!({
        "name": PROXY_CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "args": ["run"],
        "restartPolicy": "Always",
        "env": env,
        "ports": [{"name": "fairlead-health", "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        // Asked every second: the app waits for it.
        "startupProbe": {
            "httpGet": {"path": "/ready", "port": HEALTH_PORT, "scheme": "HTTP"},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": START_SECONDS,
        },
        // An idle proxy needs less than 10 MiB; the limit is there for the day when it does not.
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "256Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": PROXY_UID,
            "runAsNonRoot": true,
            "runAsUser": PROXY_UID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": TOKEN_VOLUME, "mountPath": TOKEN_FOLDER, "readOnly": true},
            {"name": TRUST_VOLUME, "mountPath": TRUST_FOLDER, "readOnly": true},
            {"name": STATE_VOLUME, "mountPath": STATE_FOLDER},
        ],
    })
}

/// The token that proves the pod, the roots that prove the operator, and a place in memory for what a restart must find.
pub(super) fn volumes() -> [Value; 3] {
    [
        json!({
            "name": TOKEN_VOLUME,
            "projected": {"sources": [
                {"serviceAccountToken": {"audience": TOKEN_AUDIENCE, "expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            ]},
        }),
        json!({"name": TRUST_VOLUME, "configMap": {"name": TRUST_BUNDLE_NAME}}),
        json!({"name": STATE_VOLUME, "emptyDir": {"medium": "Memory", "sizeLimit": STATE_SIZE}}),
    ]
}

fn from_field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

/// JSON, in which `$` is written as an escape: the kubelet would expand `$(NAME)` in the value of a variable, but not in a probe.
fn probes_text(probes: &BTreeMap<String, Value>) -> String {
    json!(probes).to_string().replace('$', "\\u0024")
}
