//! Kubernetes objects become the plain data that [`plan`](super::plan) decides on. Works on raw JSON, so that fields newer than our
//! types count as part of a template.

use std::collections::{BTreeMap, HashMap};

use fairlead_crds::{CANARY_LABEL, CONFIG_ANNOTATION, CanarySpec, CanaryStatus, CheckPhase, INJECT_LABEL};
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use super::Fresh;
use super::counts::Counts;
use super::hold::{HELD, REFUSED};
use super::outside::{CheckAnswer, Look};
use super::revision::{revision, version};
use super::{Acknowledgements, TEMPLATE};

/// How often a container must have restarted before its crashing is held against the canary: the first time, what it needs may not
/// have been there yet.
const CRASHES: u64 = 2;

/// Reasons for which a container waits and that do not pass by themselves.
const HOPELESS: [&str; 3] = ["ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"];

/// The longest quotation of another program's message.
const QUOTATION: usize = 300;

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Wall clock.
    pub now: Timestamp,
    /// The Canary itself.
    pub canary: Subject,
    /// `None`: there is none by that name.
    pub deployment: Option<Deployment>,
    /// The Deployment `<name>-canary`, whosever it is.
    pub clone: Option<CloneDeployment>,
    /// Why the clone's pods do not run, in their own words.
    pub trouble: Trouble,
    /// Secrets that its template names may not be read.
    pub unseen_secrets: bool,
    /// A Service that leads to pods of the Deployment and not to those of the clone, and the labels that it wants and these lack.
    pub missed_by: Option<String>,
    /// An older Canary that is about the same Deployment.
    pub rival: Option<String>,
    /// Whether pods of this Deployment get a sidecar.
    pub injected: bool,
    /// What proxies counted of the canary in the present step.
    pub canary_counts: Counts,
    /// And of the running version.
    pub stable_counts: Counts,
    /// Of these what can be taken for evidence: of the canary, and of the running version.
    pub fresh: (Fresh, Fresh),
    /// How far proxies follow the present split.
    pub proxies: Acknowledgements,
    /// What checks of this release answered.
    pub checks: HashMap<CheckPhase, CheckAnswer>,
    /// What metrics of the present step were seen at.
    pub looks: Vec<Look>,
}

/// Why pods do not run, in their own words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// It does not pass by itself.
    pub hopeless: Option<String>,
    /// No node takes them.
    pub unschedulable: Option<String>,
    /// They run and are not ready.
    pub unready: Option<String>,
}

/// A Canary.
#[derive(Clone, Debug)]
pub struct Subject {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// As the user wrote it.
    pub spec: CanarySpec,
    /// As it was persisted last.
    pub status: CanaryStatus,
    /// The annotation with which a user asks for something, as it stands there.
    pub request: Option<String>,
}

/// The user's Deployment.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// Of its template and its configuration.
    pub revision: String,
    /// The digest of the configuration that was promoted last.
    pub noted_config: Option<String>,
    /// `spec.paused`.
    pub paused: bool,
    /// It was paused by the webhook.
    pub held: bool,
    /// Its template is marked as one that was proved bad.
    pub refused: bool,
    /// The Canary that its label names.
    pub managed_by: Option<String>,
    /// `spec.replicas`.
    pub replicas: i64,
    /// How many pods may be away while it is rolled out.
    pub unavailable: i64,
    /// `spec.progressDeadlineSeconds`.
    pub progress_deadline: Option<i64>,
    /// How its rollout goes.
    pub rollout: Rollout,
}

/// A Deployment by the name of the clone.
#[derive(Clone, Debug)]
pub struct CloneDeployment {
    /// Of the template it was made from; empty where it is not ours.
    pub revision: String,
    /// It belongs to this Canary.
    pub ours: bool,
    /// It has a deletion timestamp.
    pub deleting: bool,
    /// `spec.replicas`.
    pub replicas: i64,
    /// `spec.progressDeadlineSeconds`.
    pub progress_deadline: Option<i64>,
    /// How its rollout goes.
    pub rollout: Rollout,
}

/// How the rollout of a Deployment goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// All pods are of the newest template and available, and none other is left.
    pub done: bool,
    /// `1 of 2 pods are ready`.
    pub progress: String,
    /// The controller gave it up, in its own words.
    pub stuck: Option<String>,
}

impl Deployment {
    /// From a Deployment as JSON; `config` is the digest of what its template names.
    pub fn read(object: &Value, config: Option<&str>) -> Self {
        let template = &object["spec"]["template"];
        let revision = version(&revision(template), config);
        Self {
            noted_config: template["metadata"]["annotations"][CONFIG_ANNOTATION].as_str().map(str::to_owned),
            refused: object["metadata"]["annotations"][REFUSED] == revision,
            revision,
            paused: object["spec"]["paused"].as_bool().unwrap_or(false),
            held: object["metadata"]["annotations"][HELD].is_string(),
            managed_by: object["metadata"]["labels"][CANARY_LABEL].as_str().map(str::to_owned),
            replicas: replicas(object),
            unavailable: unavailable(object),
            progress_deadline: object["spec"]["progressDeadlineSeconds"].as_i64(),
            rollout: Rollout::read(object),
        }
    }

    /// Whether it is rolled out when its Canary is gone: as it is, unless that was proved bad or is the user's own pause.
    pub fn rolls_out_on_release(&self) -> bool {
        self.held && !self.refused
    }
}

impl CloneDeployment {
    /// From a Deployment as JSON; `owner` is the UID of the Canary.
    pub fn read(object: &Value, owner: &str) -> Self {
        let owners = object["metadata"]["ownerReferences"].as_array();
        Self {
            revision: object["metadata"]["annotations"][TEMPLATE].as_str().unwrap_or_default().to_owned(),
            ours: owners.into_iter().flatten().any(|reference| reference["uid"] == owner),
            deleting: object["metadata"]["deletionTimestamp"].is_string(),
            replicas: replicas(object),
            progress_deadline: object["spec"]["progressDeadlineSeconds"].as_i64(),
            rollout: Rollout::read(object),
        }
    }
}

impl Rollout {
    fn read(object: &Value) -> Self {
        let status = &object["status"];
        let count = |field: &str| status[field].as_i64().unwrap_or(0);
        let wanted = replicas(object);
        let current = status["observedGeneration"].as_i64() >= object["metadata"]["generation"].as_i64();
        let condition = |type_: &str, value: &str| {
            let conditions = status["conditions"].as_array().into_iter().flatten();
            conditions.filter(|_| current).find(|condition| condition["type"] == type_ && condition["status"] == value)
        };
        let refused = condition("ReplicaFailure", "True").and_then(|condition| condition["message"].as_str());
        let ready = if current { count("availableReplicas").min(count("updatedReplicas")) } else { 0 };
        let progress = format!("{ready} of {wanted} pods are ready");
        Self {
            done: current
                && ["updatedReplicas", "replicas", "availableReplicas"].into_iter().all(|field| count(field) == wanted),
            progress: match refused {
                Some(message) => format!("{progress}: {}", quote(message)),
                None => progress,
            },
            stuck: condition("Progressing", "False").map(|condition| {
                quote(refused.or(condition["message"].as_str()).unwrap_or("progress deadline exceeded"))
            }),
        }
    }
}

/// One is the API server's own default.
fn replicas(object: &Value) -> i64 {
    object["spec"]["replicas"].as_i64().unwrap_or(1)
}

/// How many pods may be away while a Deployment is rolled out, as its controller reads it: a percentage is rounded down, and where neither more nor
/// fewer pods were allowed, one may be away.
fn unavailable(object: &Value) -> i64 {
    let replicas = replicas(object);
    let strategy = &object["spec"]["strategy"];
    if strategy["type"] == "Recreate" {
        return replicas;
    }
    let number = |field: &str, up: bool| match &strategy["rollingUpdate"][field] {
        Value::String(text) => {
            let percent: i64 = text.strip_suffix('%').and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let hundredths = replicas.saturating_mul(percent.clamp(0, 100));
            if up { (hundredths + 99) / 100 } else { hundredths / 100 }
        }
        Value::Number(number) => number.as_i64().unwrap_or(0),
        _ if up => (replicas + 3) / 4,
        _ => replicas / 4,
    };
    match (number("maxUnavailable", false), number("maxSurge", true)) {
        (0, 0) => 1.min(replicas),
        (away, _) => away.clamp(0, replicas),
    }
}

/// Whether pods of this Deployment get a sidecar: the pod's label wins over its namespace's, and pods on the host's network get none.
pub fn injected(namespace: &Value, deployment: &Value) -> bool {
    let template = &deployment["spec"]["template"];
    let asked = template["metadata"]["labels"][INJECT_LABEL]
        .as_str()
        .or(namespace["metadata"]["labels"][INJECT_LABEL].as_str());
    asked == Some("enabled") && template["spec"]["hostNetwork"] != true
}

/// Why pods of this revision do not run, quoted from the first that says so.
pub fn trouble(pods: &[Value], revision: &str) -> Trouble {
    let ours = || {
        pods.iter()
            .filter(|pod| pod["metadata"]["annotations"][TEMPLATE] == revision)
            .filter(|pod| !pod["metadata"]["deletionTimestamp"].is_string())
    };
    let name = |pod: &Value| quote(pod["metadata"]["name"].as_str().unwrap_or("?"));
    let condition = |type_: &str| {
        ours().find_map(|pod| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let mut lacking = conditions.filter(|known| known["type"] == type_ && known["status"] == "False");
            let message = lacking.next()?["message"].as_str().filter(|message| !message.is_empty())?;
            Some(format!("pod {}: {}", name(pod), quote(message)))
        })
    };
    let hopeless = ours().find_map(|pod| {
        let statuses = ["initContainerStatuses", "containerStatuses"].map(|field| pod["status"][field].as_array());
        statuses.into_iter().flatten().flatten().find_map(|container| {
            let waiting = &container["state"]["waiting"];
            let reason = waiting["reason"].as_str()?;
            let crashing = reason == "CrashLoopBackOff" && container["restartCount"].as_u64().unwrap_or(0) >= CRASHES;
            if !crashing && !HOPELESS.contains(&reason) {
                return None;
            }
            let exit = container["lastState"]["terminated"]["exitCode"].as_i64();
            let exit = exit.map(|code| format!("; it exited with code {code}")).unwrap_or_default();
            Some(format!(
                "pod {}, container {}: {reason}: {}{exit}",
                name(pod),
                container["name"].as_str().unwrap_or("?"),
                quote(waiting["message"].as_str().unwrap_or("no message")),
            ))
        })
    });
    Trouble { hopeless, unschedulable: condition("PodScheduled"), unready: condition("Ready") }
}

/// The first Service that selects pods with one of the first sets of labels, and none with the second, with what it asks for in vain.
pub fn missed_by(
    services: &[Value],
    stable: &[BTreeMap<String, String>],
    clone: &BTreeMap<String, String>,
) -> Option<String> {
    services.iter().find_map(|service| {
        let selector = service["spec"]["selector"].as_object().filter(|selector| !selector.is_empty())?;
        let has = |labels: &BTreeMap<String, String>, key: &str, value: &Value| {
            labels.get(key).map(String::as_str) == value.as_str()
        };
        let leads = stable.iter().any(|labels| selector.iter().all(|(key, value)| has(labels, key, value)));
        let lacking: Vec<_> = selector
            .iter()
            .filter(|(key, value)| !has(clone, key, value))
            .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
            .collect();
        let name = service["metadata"]["name"].as_str().unwrap_or("?");
        (leads && !lacking.is_empty())
            .then(|| format!("Service {} selects {}", quote(name), quote(&lacking.join(", "))))
    })
}

/// One line of bounded length.
pub(super) fn quote(message: &str) -> String {
    message.chars().map(|c| if c.is_control() { ' ' } else { c }).take(QUOTATION).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rolled(generation: i64, observed: i64, replicas: [i64; 4]) -> Value {
        json!({
            "metadata": {"generation": generation},
            "spec": {"replicas": replicas[0]},
            "status": {
                "observedGeneration": observed,
                "replicas": replicas[1],
                "updatedReplicas": replicas[2],
                "availableReplicas": replicas[3],
            },
        })
    }

    #[test]
    fn a_rollout_is_done_when_nothing_old_is_left_and_all_is_available() {
        for (object, done) in [
            (rolled(2, 2, [3, 3, 3, 3]), true),
            (rolled(2, 1, [3, 3, 3, 3]), false),
            (rolled(2, 2, [3, 4, 3, 3]), false),
            (rolled(2, 2, [3, 3, 3, 2]), false),
            (rolled(2, 2, [3, 3, 2, 3]), false),
            (json!({"metadata": {"generation": 1}, "spec": {}}), false),
            (
                json!({"metadata": {"generation": 1}, "spec": {"replicas": 0}, "status": {"observedGeneration": 1}}),
                true,
            ),
        ] {
            assert_eq!(Rollout::read(&object).done, done, "{object}");
        }
    }

    #[test]
    fn what_the_controller_gave_up_is_quoted_unless_it_is_of_an_older_generation() {
        let mut object = rolled(2, 2, [1, 1, 1, 0]);
        object["status"]["conditions"] = json!([
            {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "timed out progressing"},
        ]);
        assert_eq!(Rollout::read(&object).stuck.as_deref(), Some("timed out progressing"));
        object["status"]["observedGeneration"] = json!(1);
        assert_eq!(Rollout::read(&object).stuck, None);
    }

    #[test]
    fn a_quota_is_named_while_one_waits() {
        let mut object = rolled(1, 1, [2, 0, 0, 0]);
        object["status"]["conditions"] =
            json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: pods"}]);
        let rollout = Rollout::read(&object);
        assert_eq!(rollout.progress, "0 of 2 pods are ready: exceeded quota: pods");
        assert_eq!(rollout.stuck, None);
    }

    fn pod(revision: &str, container: &Value) -> Value {
        json!({
            "metadata": {"name": "reviews-canary-1", "annotations": {TEMPLATE: revision}},
            "status": {"containerStatuses": [container]},
        })
    }

    #[test]
    fn a_crash_loop_is_told_in_the_pods_words() {
        let crashing = |restarts: u64| {
            pod(
                "new",
                &json!({
                    "name": "reviews", "restartCount": restarts,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s restarting\nfailed container"}},
                    "lastState": {"terminated": {"exitCode": 1}},
                }),
            )
        };
        assert_eq!(trouble(&[crashing(1)], "new").hopeless, None, "once may be chance");
        assert_eq!(
            trouble(&[crashing(2)], "new").hopeless.unwrap(),
            "pod reviews-canary-1, container reviews: CrashLoopBackOff: back-off 20s restarting failed container; it exited with code 1"
        );
        assert_eq!(trouble(&[crashing(2)], "newer").hopeless, None, "another revision's pod says nothing");
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_trouble_and_one_that_is_being_pulled_is_not() {
        let waiting =
            |reason: &str| pod("new", &json!({"name": "a", "state": {"waiting": {"reason": reason, "message": "m"}}}));
        assert!(trouble(&[waiting("ImagePullBackOff")], "new").hopeless.is_some());
        assert!(trouble(&[waiting("ContainerCreating")], "new").hopeless.is_none());
        assert!(trouble(&[waiting("ErrImagePull")], "new").hopeless.is_none());
    }

    #[test]
    fn pods_that_no_node_takes_and_pods_that_are_not_ready_say_so() {
        let condition = |type_: &str, message: &str| json!({"type": type_, "status": "False", "message": message});
        let pod = |conditions: &[Value]| json!({"metadata": {"name": "p", "annotations": {TEMPLATE: "new"}}, "status": {"conditions": conditions}});
        let away = trouble(&[pod(&[condition("PodScheduled", "0/2 nodes are available")])], "new");
        assert_eq!(away.unschedulable.as_deref(), Some("pod p: 0/2 nodes are available"));
        assert_eq!((away.hopeless, away.unready), (None, None));
        let unready = trouble(&[pod(&[condition("Ready", "containers with unready status: [app]")])], "new");
        assert_eq!(unready.unready.as_deref(), Some("pod p: containers with unready status: [app]"));
    }

    #[test]
    fn a_service_that_selects_by_version_is_named() {
        let labels = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let service = |name: &str, selector: Value| json!({"metadata": {"name": name}, "spec": {"selector": selector}});
        let stable = [labels(&[("app", "reviews"), ("version", "v1")])];
        let clone = labels(&[("app", "reviews"), ("version", "v2")]);
        let by_version = service("reviews", json!({"app": "reviews", "version": "v1"}));
        let all = [
            service("whole", json!({"app": "reviews"})),
            service("other", json!({"app": "ratings", "version": "v1"})),
            service("none", json!({})),
            json!({"metadata": {"name": "external"}}),
        ];
        assert_eq!(missed_by(&all, &stable, &clone), None);
        let missed = missed_by(&[&all[..], &[by_version]].concat(), &stable, &clone);
        assert_eq!(missed.as_deref(), Some("Service reviews selects version=v1"));
    }

    #[test]
    fn how_many_pods_may_be_away_is_read_as_the_controller_reads_it() {
        for (strategy, replicas, away) in [
            (json!(null), 10, 2),
            (json!(null), 1, 0),
            (json!({"type": "Recreate"}), 7, 7),
            (json!({"rollingUpdate": {"maxUnavailable": 3}}), 10, 3),
            (json!({"rollingUpdate": {"maxUnavailable": 30}}), 10, 10),
            (json!({"rollingUpdate": {"maxUnavailable": "50%"}}), 3, 1),
            (json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}), 3, 1),
            (json!({"rollingUpdate": {"maxUnavailable": "nonsense", "maxSurge": 1}}), 3, 0),
        ] {
            let object = json!({"spec": {"replicas": replicas, "strategy": strategy}});
            assert_eq!(unavailable(&object), away, "{object}");
        }
    }

    #[test]
    fn the_pods_label_wins_over_the_namespaces() {
        let namespace = |value: Option<&str>| json!({"metadata": {"labels": value.map(|v| json!({INJECT_LABEL: v}))}});
        let deployment = |value: Option<&str>, host: bool| json!({"spec": {"template": {"metadata": {"labels": value.map(|v| json!({INJECT_LABEL: v}))}, "spec": {"hostNetwork": host}}}});
        for (ns, pod, host, expected) in [
            (Some("enabled"), None, false, true),
            (Some("enabled"), Some("disabled"), false, false),
            (None, Some("enabled"), false, true),
            (None, None, false, false),
            (Some("enabled"), None, true, false),
        ] {
            assert_eq!(injected(&namespace(ns), &deployment(pod, host)), expected, "{ns:?} {pod:?} {host}");
        }
    }

    #[test]
    fn a_clone_is_ours_by_its_owner() {
        let object = json!({
            "metadata": {"annotations": {TEMPLATE: "abc"}, "ownerReferences": [{"uid": "u1"}]},
            "spec": {"replicas": 2},
        });
        assert!(CloneDeployment::read(&object, "u1").ours);
        assert!(!CloneDeployment::read(&object, "u2").ours);
        assert!(!CloneDeployment::read(&json!({}), "u1").ours);
    }
}
