//! The kubelet's probes, kept working where only the mesh may call: they go to the proxy's health port, and the proxy asks the app from
//! inside the pod. It is told what was declared, and asks nothing else.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::{HEALTH_PORT, INIT_CONTAINER, PROXY_CONTAINER, items, name_of};

/// What the kubelet waits where a probe does not say.
const DEFAULT_PROBE_TIMEOUT_MS: u64 = 1_000;
/// What a pod has to stop in where it does not say, in seconds.
const DEFAULT_GRACE_PERIOD: u64 = 30;
/// The kubelet bounds a start hook by nothing; we must.
const POST_START_TIMEOUT_MS: u64 = 600_000;

/// Field of the container, and its name in the proxy's path.
const PROBES: [(&str, &str); 3] =
    [("startupProbe", "startup"), ("readinessProbe", "readiness"), ("livenessProbe", "liveness")];
const HOOKS: [(&str, &str); 2] = [("postStart", "poststart"), ("preStop", "prestop")];

/// The outcome of [`rewrite`].
#[derive(Debug, Default, PartialEq)]
pub(super) struct Rewritten {
    /// `<container>/<kind>` to what was declared, in the form of `FAIRLEAD_PROBES`.
    pub(super) originals: BTreeMap<String, Value>,
    /// Paths into the pod, and what takes the place there.
    pub(super) replacements: Vec<(Vec<String>, Value)>,
}

/// Points the network probes of every long-running container of the user at the proxy. Commands (`exec`) and pauses run inside the container
/// and stay; so does what names a port that the container does not have, since the kubelet has the better words for that.
pub(super) fn rewrite(spec: &Map<String, Value>) -> Rewritten {
    let grace_ms =
        spec.get("terminationGracePeriodSeconds").and_then(Value::as_u64).unwrap_or(DEFAULT_GRACE_PERIOD).max(1)
            * 1_000;
    let mut rewritten = Rewritten::default();
    for list in ["containers", "initContainers"] {
        for (index, container) in items(spec.get(list).unwrap_or(&Value::Null)).enumerate() {
            let ours = container["name"] == INIT_CONTAINER || container["name"] == PROXY_CONTAINER;
            // An init container that ends has no probes; a native sidecar has.
            if ours || (list == "initContainers" && container["restartPolicy"] != "Always") {
                continue;
            }
            let path = ["spec".to_owned(), list.to_owned(), index.to_string()];
            for (field, kind) in PROBES {
                let timeout = container[field]["timeoutSeconds"]
                    .as_u64()
                    .map_or(DEFAULT_PROBE_TIMEOUT_MS, |seconds| seconds.max(1) * 1_000);
                let path = path.iter().cloned().chain([field.to_owned()]).collect();
                rewritten.handler(container, kind, &container[field], timeout, path);
            }
            for (field, kind) in HOOKS {
                let timeout = if field == "preStop" { grace_ms } else { POST_START_TIMEOUT_MS };
                let path = path.iter().cloned().chain(["lifecycle".to_owned(), field.to_owned()]).collect();
                rewritten.handler(container, kind, &container["lifecycle"][field], timeout, path);
            }
        }
    }
    rewritten
}

impl Rewritten {
    fn handler(&mut self, container: &Value, kind: &str, handler: &Value, timeout_ms: u64, path: Vec<String>) {
        let (Some(original), Some(fields)) = (original(container, handler, timeout_ms), handler.as_object()) else {
            return;
        };
        let key = format!("{}/{kind}", name_of(container));
        let mut fields = fields.clone();
        for way in ["httpGet", "tcpSocket", "grpc"] {
            fields.remove(way);
        }
        fields.insert(
            "httpGet".to_owned(),
            json!({"path": format!("/probe/{key}"), "port": HEALTH_PORT, "scheme": "HTTP"}),
        );
        self.originals.insert(key, original);
        self.replacements.push((path, Value::Object(fields)));
    }
}

fn original(container: &Value, handler: &Value, timeout_ms: u64) -> Option<Value> {
    if let Some(http) = handler.get("httpGet").filter(|http| http.is_object()) {
        let headers: Vec<[&str; 2]> = items(&http["httpHeaders"])
            .map(|header| [name_of(header), header["value"].as_str().unwrap_or_default()])
            .collect();
        let path = http["path"].as_str().filter(|path| !path.is_empty()).unwrap_or("/");
        return Some(json!({
            "kind": "http",
            "port": port(container, &http["port"])?,
            "path": path,
            "scheme": http["scheme"].as_str().unwrap_or("HTTP"),
            "headers": headers,
            "host": host(http),
            "timeoutMs": timeout_ms,
        }));
    }
    if let Some(tcp) = handler.get("tcpSocket").filter(|tcp| tcp.is_object()) {
        return Some(
            json!({"kind": "tcp", "port": port(container, &tcp["port"])?, "host": host(tcp), "timeoutMs": timeout_ms}),
        );
    }
    let grpc = handler.get("grpc").filter(|grpc| grpc.is_object())?;
    let service = grpc["service"].as_str().unwrap_or_default();
    Some(json!({"kind": "grpc", "port": port(container, &grpc["port"])?, "service": service, "timeoutMs": timeout_ms}))
}

/// Empty means the pod itself, as absent does.
fn host(handler: &Value) -> Option<&str> {
    handler["host"].as_str().filter(|host| !host.is_empty())
}

/// As the kubelet resolves it: a number, the name of a port of this container, or a number in quotes.
fn port(container: &Value, port: &Value) -> Option<u16> {
    let number = match port {
        Value::Number(number) => number.as_u64()?,
        Value::String(name) => items(&container["ports"])
            .find(|port| port["name"] == name.as_str())
            .and_then(|port| port["containerPort"].as_u64())
            .or_else(|| name.parse().ok())?,
        _ => return None,
    };
    u16::try_from(number).ok().filter(|port| *port != 0)
}
