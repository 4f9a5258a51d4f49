//! Whether the mesh is well: what was found becomes findings, and those become text.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use fairlead_crds::INJECT_LABEL;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::ResourceExt;
use kube::api::DynamicObject;
use serde_json::Value;

/// The sidecar's container, among the init containers of a pod in the mesh.
const PROXY_CONTAINER: &str = "fairlead-proxy";
/// Lines under one head; a mesh in which all is wrong must still be readable.
const MAX_LINES: usize = 20;

/// What is looked at.
pub(crate) struct Facts {
    pub(crate) operator_namespace: String,
    /// Its Deployment; `None`: there is none.
    pub(crate) operator: Option<Deployment>,
    /// Every `TrafficPolicy`, `PeerAuth` and `Canary`.
    pub(crate) objects: Vec<DynamicObject>,
    pub(crate) namespaces: Vec<Namespace>,
    pub(crate) pods: Vec<Pod>,
}

/// What came of one look.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    level: Level,
    /// What holds, or does not.
    head: String,
    /// Of each that it is about a line, with what to do.
    lines: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Well,
    /// Worth knowing; nothing is wrong yet.
    Warning,
    Wrong,
}

impl Finding {
    /// `bad` where there are lines, otherwise well.
    fn of(bad: Level, well: &str, head: &str, lines: Vec<String>) -> Self {
        let (level, head) = if lines.is_empty() { (Level::Well, well) } else { (bad, head) };
        Self { level, head: head.to_owned(), lines }
    }
}

/// One finding for each look, always in the same order.
pub(crate) fn judge(facts: &Facts) -> Vec<Finding> {
    let conditions = facts.objects.iter().flat_map(broken).collect();
    let plain = facts.objects.iter().flat_map(plain_callers).collect();
    vec![
        operator(facts),
        Finding::of(
            Level::Wrong,
            "policies and releases are in force",
            "policies or releases are not in force",
            conditions,
        ),
        Finding::of(
            Level::Warning,
            "no workload under a PeerAuth has plain callers",
            "plain callers, whom Strict refuses",
            plain,
        ),
        Finding::of(
            Level::Wrong,
            "every pod of an injected namespace has a sidecar",
            "pods of injected namespaces without a sidecar: no policy is enforced there (kubectl get events says why; restart those that are older than the label)",
            without_sidecar(facts),
        ),
    ]
}

/// Whether nothing is wrong.
pub(crate) fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.level != Level::Wrong)
}

/// What to print.
pub(crate) fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Well => '√',
            Level::Warning => '‼',
            Level::Wrong => '×',
        };
        let _ = writeln!(text, "{mark} {}", finding.head);
        for line in finding.lines.iter().take(MAX_LINES) {
            let _ = writeln!(text, "    {line}");
        }
        if let Some(more) = finding.lines.len().checked_sub(MAX_LINES).filter(|more| *more > 0) {
            let _ = writeln!(text, "    and {more} more");
        }
    }
    text
}

fn operator(facts: &Facts) -> Finding {
    let name = format!("{}/fairlead-operator", facts.operator_namespace);
    let Some(operator) = &facts.operator else {
        let line = format!("there is no Deployment {name}: install Fairlead, or say --operator-namespace");
        return Finding::of(Level::Wrong, "", "the operator is not installed", vec![line]);
    };
    let wanted = operator.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let ready = operator.status.as_ref().and_then(|status| status.ready_replicas).unwrap_or(0);
    let lacking = (ready < wanted.max(1)).then(|| {
        format!(
            "Deployment {name}: {ready} of {wanted} replicas are ready; see kubectl -n {} get pods",
            facts.operator_namespace
        )
    });
    let (level, head) = if ready > 0 {
        (Level::Warning, "the operator runs, but not every replica")
    } else {
        (Level::Wrong, "the operator does not run: labelled namespaces start no pods, and nothing changes")
    };
    Finding::of(
        level,
        &format!("the operator runs ({ready} of {wanted} replicas are ready)"),
        head,
        lacking.into_iter().collect(),
    )
}

fn named(object: &DynamicObject) -> String {
    let kind = object.types.as_ref().map_or("object", |types| types.kind.as_str());
    format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

/// Conditions that are False.
fn broken(object: &DynamicObject) -> impl Iterator<Item = String> {
    let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|condition| condition["status"] == "False").map(|condition| {
        let part = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
        format!("{}: {} is False, {}: {}", named(object), part("type"), part("reason"), part("message"))
    })
}

/// Of a `PeerAuth`'s workloads those that plain callers speak to.
fn plain_callers(object: &DynamicObject) -> impl Iterator<Item = String> {
    let workloads = object.data["status"]["readiness"].as_array().into_iter().flatten();
    workloads.map(|workload| {
        let callers = workload["callers"].as_array().into_iter().flatten().filter_map(Value::as_str);
        format!(
            "{}: {} plain callers of {} in the last hour: {}",
            named(object),
            workload["plaintextCallers"],
            workload["workload"].as_str().unwrap_or_default(),
            callers.collect::<Vec<_>>().join(", ")
        )
    })
}

/// Pods that should have one: not those that opted out, use their node's network, or have ended.
fn without_sidecar(facts: &Facts) -> Vec<String> {
    let enabled =
        |labels: &std::collections::BTreeMap<String, String>| labels.get(INJECT_LABEL).map(|value| value == "enabled");
    let namespaces = facts.namespaces.iter().filter(|namespace| enabled(namespace.labels()) == Some(true));
    let namespaces: BTreeSet<String> = namespaces.map(ResourceExt::name_any).collect();
    let lacking = facts.pods.iter().filter(|pod| {
        let namespace = pod.namespace().unwrap_or_default();
        let spec = pod.spec.as_ref();
        let init = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        enabled(pod.labels()).unwrap_or_else(|| namespaces.contains(&namespace))
            && !matches!(ended, Some("Succeeded" | "Failed"))
            && pod.metadata.deletion_timestamp.is_none()
            && spec.is_some_and(|spec| spec.host_network != Some(true))
            && !init.into_iter().any(|container| container.name == PROXY_CONTAINER)
    });
    lacking.map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn facts(ready: i32) -> Facts {
        let condition = |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "Why", "message": "what to do"});
        let object = |kind: &str, name: &str, status: Value| {
            let metadata = json!({"namespace": "shop", "name": name});
            let object =
                json!({"apiVersion": "fairlead.dev/v1alpha1", "kind": kind, "metadata": metadata, "status": status});
            from_value::<DynamicObject>(object).unwrap()
        };
        let readiness = json!([{"workload": "shop/web", "plaintextCallers": 2, "callers": ["web/cron", "10.0.0.9"]}]);
        let pod = |name: &str, labels: Value, spec: Value, phase: &str| {
            let metadata =
                json!({"namespace": if labels.is_null() { "shop" } else { "free" }, "name": name, "labels": labels});
            from_value::<Pod>(json!({"metadata": metadata, "spec": spec, "status": {"phase": phase}})).unwrap()
        };
        let bare = || json!({"containers": []});
        Facts {
            operator_namespace: "fairlead-system".into(),
            operator: from_value(json!({"spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"readyReplicas": ready}})).unwrap(),
            objects: vec![
                object("TrafficPolicy", "good", json!({"conditions": [condition("Accepted", "True")]})),
                object("PeerAuth", "web", json!({"conditions": [condition("Programmed", "False")], "readiness": readiness})),
                object("Canary", "new", Value::Null),
            ],
            namespaces: from_value(json!([
                {"metadata": {"name": "shop", "labels": {"fairlead.dev/inject": "enabled"}}}, {"metadata": {"name": "free"}}
            ])).unwrap(),
            pods: vec![
                pod("bare", Value::Null, bare(), "Running"),
                pod("done", Value::Null, bare(), "Succeeded"),
                pod("host", Value::Null, json!({"containers": [], "hostNetwork": true}), "Running"),
                pod("meshed", Value::Null, json!({"containers": [], "initContainers": [{"name": "fairlead-proxy"}]}), "Running"),
                pod("asks", json!({"fairlead.dev/inject": "enabled"}), bare(), "Pending"),
                pod("other", json!({"app": "x"}), bare(), "Running"),
            ],
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do() {
        let findings = judge(&facts(1));
        assert!(!is_well(&findings));
        insta::assert_snapshot!(text(&findings));
    }

    #[test]
    fn a_mesh_that_is_well_says_so_and_warnings_are_no_failure() {
        let mut well = facts(2);
        well.objects.truncate(1);
        well.pods.retain(|pod| !["bare", "asks"].contains(&pod.name_any().as_str()));
        let findings = judge(&well);
        assert!(is_well(&findings));
        insta::assert_snapshot!(text(&findings));
        well.operator = facts(1).operator;
        assert!(is_well(&judge(&well)), "one replica of two still serves");
        well.operator = facts(0).operator;
        assert!(!is_well(&judge(&well)));
        well.operator = None;
        assert!(!is_well(&judge(&well)));
    }

    #[test]
    fn a_list_is_bounded() {
        let lines = (0..30).map(|n| n.to_string()).collect();
        let text = text(&[Finding::of(Level::Wrong, "", "many", lines)]);
        assert!(text.ends_with("    19\n    and 10 more\n"), "{text}");
    }
}
