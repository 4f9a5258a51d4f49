//! Sidecars into pods: the decision and the patch.
//!
//! [`inject`] is the one call that enters: pure, on the raw JSON of a pod, so that fields newer than our types survive. The webhook
//! calls it; [`events`] tells the owner of a pod why it was left alone; [`namespaces`] knows the labels that it decides on.

mod access_log;
mod annotations;
pub mod events;
pub mod namespaces;
mod probes;
mod sidecar;

use std::collections::BTreeMap;
use std::fmt;

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, ReplaceOperation};
use serde_json::{Map, Value, json};

pub use self::access_log::AccessLog;
use self::annotations::PodOptions;
pub use crate::index::{HEALTH_PORT, PROXY_CONTAINER};

/// On a namespace or pod: `enabled` or `disabled`; the pod's wins.
pub const INJECT_LABEL: &str = "fairlead.dev/inject";
/// Written to injected pods: the version of the operator that did it.
pub const INJECTED_ANNOTATION: &str = "fairlead.dev/injected";
/// The init container that writes the capture rules.
pub const INIT_CONTAINER: &str = "fairlead-init";
/// The user that the proxy runs as; its traffic is exempt from capture, so nothing else in a pod may run as it.
pub const PROXY_UID: i64 = 2102;
/// A variable of the proxy's environment, and what its C library's allocator reads from it (glibc manual, "Tunables"): small pieces that are freed join their
/// neighbours at once. By default they wait until something large is asked for, which may be never in a proxy whose connections have closed,
/// and meanwhile keep megabytes from being given back.
pub const ALLOCATOR: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.mxfast=0");
/// Where the proxy takes captured outbound connections.
pub const OUTBOUND_PORT: u16 = 15001;
/// Where the proxy takes captured inbound connections.
pub const INBOUND_PORT: u16 = 15006;
/// The proxy's own answers on loopback.
pub const ADMIN_PORT: u16 = 15000;

const POD_SECURITY_LABEL: &str = "pod-security.kubernetes.io/enforce";
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// What of a namespace bears on injection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamespaceInfo {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// What the operator writes into every sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The proxy's image, also of the init container.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Of this operator; goes into [`INJECTED_ANNOTATION`].
    pub version: String,
    /// `host:port` of the operator's gRPC services.
    pub operator_address: String,
    /// The SPIFFE ID that the operator must prove to the proxy.
    pub operator_identity: String,
    /// The mesh's trust domain.
    pub trust_domain: String,
    /// The proxy's log filter where the pod states none.
    pub proxy_log: String,
    /// Which requests sidecars write into their logs.
    pub proxy_access_log: AccessLog,
    /// `json` or `text`.
    pub proxy_log_format: String,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets a sidecar.
    Inject(Injection),
    /// It runs as it is.
    Skip(SkipReason),
    /// It is refused, with one sentence for the person who made it.
    Deny(String),
}

/// The change to a pod.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection {
    /// Against the pod as it came.
    pub patch: Patch,
    /// What the pod will probably fail on later, one sentence.
    pub warning: Option<String>,
}

/// Why a pod runs without a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SkipReason {
    /// Its label says so.
    OptedOut,
    /// Neither it nor its namespace asks for a sidecar.
    NotSelected,
    /// It shares the node's network, whose traffic is not ours to capture.
    HostNetwork,
    /// A kubelet runs it from a file; the API server holds only its image.
    MirrorPod,
    /// Capture is written for Linux.
    Windows,
    /// It has a sidecar.
    AlreadyInjected,
}

impl SkipReason {
    /// In `PascalCase`: for events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::OptedOut => "OptedOut",
            Self::NotSelected => "NotSelected",
            Self::HostNetwork => "HostNetwork",
            Self::MirrorPod => "MirrorPod",
            Self::Windows => "Windows",
            Self::AlreadyInjected => "AlreadyInjected",
        }
    }

    /// Whether someone may wonder where the sidecar is: they asked for one, or explicitly against it.
    pub fn is_worth_telling(self) -> bool {
        !matches!(self, Self::NotSelected | Self::AlreadyInjected)
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OptedOut => "no sidecar: the pod's label fairlead.dev/inject is disabled",
            Self::NotSelected => {
                "no sidecar: neither the pod nor its namespace has the label fairlead.dev/inject: enabled"
            }
            Self::HostNetwork => {
                "no sidecar: the pod uses the node's network (hostNetwork), whose traffic Fairlead does not capture"
            }
            Self::MirrorPod => "no sidecar: the pod is a static pod, which the kubelet reads from a file",
            Self::Windows => "no sidecar: the pod runs on Windows, and Fairlead captures traffic on Linux only",
            Self::AlreadyInjected => "the pod has its sidecar already",
        })
    }
}

/// Decides on a pod as the API server sends it, and makes the patch.
///
/// # Guarantees
///
/// The same pod, namespace and settings give the same decision. A pod that the patch was applied to is skipped as
/// [`SkipReason::AlreadyInjected`]. Fields that are not ours to change stay as they are, known or not.
pub fn inject(pod: &Value, namespace: &NamespaceInfo, settings: &Settings) -> Decision {
    match decide(pod, namespace, settings) {
        Ok(decision) => decision,
        Err(sentence) => Decision::Deny(sentence),
    }
}

fn decide(pod: &Value, namespace: &NamespaceInfo, settings: &Settings) -> Result<Decision, String> {
    let (Some(metadata), Some(spec)) = (pod["metadata"].as_object(), pod["spec"].as_object()) else {
        return Err("the object is not a pod: it has no metadata or no spec".to_owned());
    };
    if let Some(reason) = skip(metadata, spec, namespace)? {
        return Ok(Decision::Skip(reason));
    }
    refuse_proxy_user(spec)?;
    if each(spec, "initContainers").any(|container| container["name"] == PROXY_CONTAINER) {
        return Ok(Decision::Skip(SkipReason::AlreadyInjected));
    }
    refuse_reserved_names(spec)?;
    refuse_reserved_ports(spec)?;
    let options = PodOptions::parse(metadata.get("annotations").unwrap_or(&Value::Null))?;

    let probes = probes::rewrite(spec);
    let mut patch = PatchBuilder::default();
    for (path, value) in probes.replacements {
        patch.replace(&path, value);
    }
    let init = sidecar::init_container(settings, &options);
    let proxy = sidecar::proxy_container(settings, &options, &probes.originals);
    if spec.get("initContainers").is_some_and(Value::is_array) {
        patch.add(&["spec", "initContainers", "0"], init);
        patch.add(&["spec", "initContainers", "1"], proxy);
    } else {
        patch.add(&["spec", "initContainers"], json!([init, proxy]));
    }
    if spec.get("volumes").is_some_and(Value::is_array) {
        for volume in sidecar::volumes() {
            patch.add(&["spec", "volumes", "-"], volume);
        }
    } else {
        patch.add(&["spec", "volumes"], Value::Array(sidecar::volumes().into()));
    }
    if metadata.get("annotations").is_some_and(Value::is_object) {
        patch.add(&["metadata", "annotations", INJECTED_ANNOTATION], json!(settings.version));
    } else {
        patch.add(&["metadata", "annotations"], json!({INJECTED_ANNOTATION: settings.version}));
    }
    Ok(Decision::Inject(Injection { patch: patch.0, warning: pod_security_warning(namespace) }))
}

fn skip(
    metadata: &Map<String, Value>,
    spec: &Map<String, Value>,
    namespace: &NamespaceInfo,
) -> Result<Option<SkipReason>, String> {
    let pod_label = metadata.get("labels").and_then(|labels| labels[INJECT_LABEL].as_str());
    let namespace_label = namespace.labels.get(INJECT_LABEL).map(String::as_str);
    Ok(match (pod_label, namespace_label) {
        (Some("disabled"), _) => Some(SkipReason::OptedOut),
        (Some("enabled"), _) | (None, Some("enabled")) => {
            if spec.get("hostNetwork") == Some(&Value::Bool(true)) {
                Some(SkipReason::HostNetwork)
            } else if metadata.get("annotations").is_some_and(|annotations| annotations[MIRROR_ANNOTATION].is_string())
            {
                Some(SkipReason::MirrorPod)
            } else if spec.get("os").is_some_and(|os| os["name"] == "windows") {
                Some(SkipReason::Windows)
            } else {
                None
            }
        }
        (Some(other), _) => {
            return Err(format!("label {INJECT_LABEL} is {other:?}: set it to \"enabled\" or \"disabled\""));
        }
        (None, _) => Some(SkipReason::NotSelected),
    })
}

/// The proxy's own traffic is told from the app's by its user alone, so an app that ran as it would pass by the mesh.
fn refuse_proxy_user(spec: &Map<String, Value>) -> Result<(), String> {
    let of_pod = spec.get("securityContext").and_then(|context| context["runAsUser"].as_i64());
    for container in app_containers(spec) {
        if container["securityContext"]["runAsUser"].as_i64().or(of_pod) == Some(PROXY_UID) {
            return Err(format!(
                "container {:?} runs as user {PROXY_UID}, which is Fairlead's proxy and not captured: set runAsUser to another",
                name_of(container)
            ));
        }
    }
    Ok(())
}

/// What bears our names would collide with ours, and a mount that waits for our volumes would read the proxy's key.
fn refuse_reserved_names(spec: &Map<String, Value>) -> Result<(), String> {
    let reserved = |name: &Value| name.as_str().is_some_and(|name| sidecar::VOLUMES.contains(&name));
    for volume in each(spec, "volumes") {
        if reserved(&volume["name"]) {
            return Err(format!(
                "volume {:?} bears a name that Fairlead needs for its own: rename it",
                name_of(volume)
            ));
        }
    }
    for container in app_containers(spec).chain(each(spec, "initContainers")) {
        if container["name"] == INIT_CONTAINER || container["name"] == PROXY_CONTAINER {
            return Err(format!(
                "container {:?} bears a name that Fairlead needs for its own: rename it",
                name_of(container)
            ));
        }
        for list in ["volumeMounts", "volumeDevices"] {
            if let Some(mount) = items(&container[list]).find(|mount| reserved(&mount["name"])) {
                return Err(format!(
                    "container {:?} mounts {:?}, which only Fairlead's proxy may: remove the mount",
                    name_of(container),
                    name_of(mount)
                ));
            }
        }
    }
    Ok(())
}

fn refuse_reserved_ports(spec: &Map<String, Value>) -> Result<(), String> {
    for container in app_containers(spec) {
        for port in items(&container["ports"]).filter_map(|port| port["containerPort"].as_u64()) {
            if [ADMIN_PORT, OUTBOUND_PORT, INBOUND_PORT, HEALTH_PORT].iter().any(|ours| u64::from(*ours) == port) {
                return Err(format!(
                    "container {:?} listens on port {port}, which Fairlead's proxy needs: choose another, or label the pod {INJECT_LABEL}: disabled",
                    name_of(container)
                ));
            }
        }
    }
    Ok(())
}

fn pod_security_warning(namespace: &NamespaceInfo) -> Option<String> {
    let level = namespace.labels.get(POD_SECURITY_LABEL)?;
    (level == "baseline" || level == "restricted").then(|| {
        format!(
            "namespace {} enforces Pod Security {level:?}, which refuses {INIT_CONTAINER} its NET_ADMIN capability: set label {POD_SECURITY_LABEL} to privileged, or leave the pod out with label {INJECT_LABEL}: disabled",
            namespace.name
        )
    })
}

/// Every container of the user: the app's, its init containers, and its own sidecars; not ours.
fn app_containers(spec: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    each(spec, "containers").chain(
        each(spec, "initContainers")
            .filter(|container| container["name"] != INIT_CONTAINER && container["name"] != PROXY_CONTAINER),
    )
}

fn each<'a>(spec: &'a Map<String, Value>, field: &str) -> impl Iterator<Item = &'a Value> {
    items(spec.get(field).unwrap_or(&Value::Null))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn name_of(value: &Value) -> &str {
    value["name"].as_str().unwrap_or_default()
}

#[derive(Default)]
struct PatchBuilder(Patch);

impl PatchBuilder {
    fn add(&mut self, path: &[&str], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().copied());
        self.0.0.push(PatchOperation::Add(AddOperation { path, value }));
    }

    fn replace(&mut self, path: &[String], value: Value) {
        let path = PointerBuf::from_tokens(path.iter().map(String::as_str));
        self.0.0.push(PatchOperation::Replace(ReplaceOperation { path, value }));
    }
}

#[cfg(test)]
mod tests;
