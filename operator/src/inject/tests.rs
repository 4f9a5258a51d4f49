use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn settings() -> Settings {
    Settings {
        image: "fairlead.dev/proxy:dev".into(),
        image_pull_policy: "IfNotPresent".into(),
        version: "0.1.0".into(),
        operator_address: "fairlead-operator.fairlead-system.svc.cluster.local:8443".into(),
        operator_identity: "spiffe://cluster.local/ns/fairlead-system/sa/fairlead-operator".into(),
        trust_domain: "cluster.local".into(),
        proxy_log: "info".into(),
        proxy_access_log: "1%".parse().unwrap(),
        proxy_log_format: "json".into(),
    }
}

fn namespace(labels: &[(&str, &str)]) -> NamespaceInfo {
    NamespaceInfo {
        name: "bookinfo".into(),
        labels: labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
    }
}

fn enabled() -> NamespaceInfo {
    namespace(&[(INJECT_LABEL, "enabled")])
}

/// As the API server sends the pod of a `ReplicaSet`: no name yet, a default token mounted.
fn deployment_pod() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "reviews-v1-5d4c-",
            "namespace": "bookinfo",
            "labels": {"app": "reviews", "pod-template-hash": "5d4c"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "reviews-v1-5d4c", "uid": "1", "controller": true}],
        },
        "spec": {
            "serviceAccountName": "reviews",
            "containers": [{
                "name": "reviews",
                "image": "reviews:1",
                "ports": [{"name": "http", "containerPort": 9080}],
                "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 2},
                "volumeMounts": [{"name": "kube-api-access-x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
            }],
            "volumes": [{"name": "kube-api-access-x", "projected": {"sources": []}}],
        },
    })
}

fn minimal_pod() -> Value {
    json!({"metadata": {"name": "a"}, "spec": {"containers": [{"name": "app", "image": "a"}]}})
}

fn injected(pod: &Value, namespace: &NamespaceInfo) -> Value {
    match inject(pod, namespace, &settings()) {
        Decision::Inject(injection) => {
            let mut pod = pod.clone();
            json_patch::patch(&mut pod, &injection.patch).expect("the patch applies to the pod it was made for");
            pod
        }
        other => panic!("expected an injection, got {other:?}"),
    }
}

fn refusal(pod: &Value) -> String {
    match inject(pod, &enabled(), &settings()) {
        Decision::Deny(sentence) => sentence,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

fn env<'a>(pod: &'a Value, name: &str) -> Option<&'a str> {
    let proxy =
        pod["spec"]["initContainers"].as_array()?.iter().find(|container| container["name"] == PROXY_CONTAINER)?;
    proxy["env"].as_array()?.iter().find(|variable| variable["name"] == name)?["value"].as_str()
}

fn probes(pod: &Value) -> Value {
    serde_json::from_str(env(pod, "FAIRLEAD_PROBES").expect("the proxy was told the probes")).unwrap()
}

#[test]
fn deployment_pod_gets_a_sidecar() {
    insta::assert_yaml_snapshot!(injected(&deployment_pod(), &enabled()));
}

#[test]
fn job_pod_gets_a_native_sidecar_before_its_own_init_containers() {
    let mut pod = deployment_pod();
    pod["metadata"] = json!({"generateName": "migrate-", "annotations": {"team": "a"}});
    pod["spec"]["restartPolicy"] = json!("Never");
    pod["spec"]["initContainers"] = json!([{"name": "wait-for-db", "image": "wait:1"}]);
    insta::assert_yaml_snapshot!(injected(&pod, &enabled()));
}

#[test]
fn stateful_set_pod_keeps_its_claims_and_asks_for_its_ports_to_be_skipped() {
    let mut pod = deployment_pod();
    pod["metadata"] = json!({
        "name": "db-0",
        "labels": {"apps.kubernetes.io/pod-index": "0"},
        "annotations": {
            "fairlead.dev/skip-inbound-ports": "7000-7001, 9042",
            "fairlead.dev/skip-outbound-ports": "443",
            "fairlead.dev/proxy-log": "debug",
            "fairlead.dev/drain-timeout": "1m30s",
        },
    });
    pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}}]);
    insta::assert_yaml_snapshot!(injected(&pod, &enabled()));
}

#[test]
fn host_network_pod_is_left_alone() {
    let mut pod = deployment_pod();
    pod["spec"]["hostNetwork"] = json!(true);
    assert_eq!(inject(&pod, &enabled(), &settings()), Decision::Skip(SkipReason::HostNetwork));
}

#[test]
fn static_and_windows_pods_are_left_alone() {
    let mut pod = minimal_pod();
    pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "abc"});
    assert_eq!(inject(&pod, &enabled(), &settings()), Decision::Skip(SkipReason::MirrorPod));
    let mut pod = minimal_pod();
    pod["spec"]["os"] = json!({"name": "windows"});
    assert_eq!(inject(&pod, &enabled(), &settings()), Decision::Skip(SkipReason::Windows));
}

#[test]
fn the_pods_label_wins_over_the_namespaces() {
    let labelled = |value: &str| {
        let mut pod = minimal_pod();
        pod["metadata"]["labels"] = json!({INJECT_LABEL: value});
        pod
    };
    let decide = |pod: &Value, namespace: &NamespaceInfo| inject(pod, namespace, &settings());
    assert_eq!(decide(&labelled("disabled"), &enabled()), Decision::Skip(SkipReason::OptedOut));
    assert!(matches!(decide(&labelled("enabled"), &namespace(&[])), Decision::Inject(_)));
    assert!(matches!(decide(&labelled("enabled"), &namespace(&[(INJECT_LABEL, "disabled")])), Decision::Inject(_)));
    assert_eq!(decide(&minimal_pod(), &namespace(&[])), Decision::Skip(SkipReason::NotSelected));
    assert_eq!(
        decide(&minimal_pod(), &namespace(&[(INJECT_LABEL, "disabled")])),
        Decision::Skip(SkipReason::NotSelected)
    );
    assert!(refusal(&labelled("true")).contains(INJECT_LABEL));
}

#[test]
fn probes_of_all_kinds_go_through_the_proxy() {
    let mut pod = minimal_pod();
    pod["spec"]["terminationGracePeriodSeconds"] = json!(45);
    pod["spec"]["containers"] = json!([
        {
            "name": "web",
            "ports": [{"name": "https", "containerPort": 8443}],
            "startupProbe": {"httpGet": {"port": "https", "scheme": "HTTPS", "path": "/up", "host": "example.org",
                "httpHeaders": [{"name": "Host", "value": "web.local"}, {"name": "x-cost", "value": "$(POD_IP)"}]}, "timeoutSeconds": 3, "failureThreshold": 30},
            "livenessProbe": {"tcpSocket": {"port": 8443}, "initialDelaySeconds": 5},
            "readinessProbe": {"exec": {"command": ["true"]}},
            "lifecycle": {"postStart": {"httpGet": {"port": "8080"}}, "preStop": {"httpGet": {"port": 8080, "path": "/quit"}}},
        },
        {"name": "grpc", "livenessProbe": {"grpc": {"port": 50051, "service": "live"}}, "readinessProbe": {"grpc": {"port": 50051}},
            "lifecycle": {"preStop": {"sleep": {"seconds": 5}}}},
        {"name": "lost", "readinessProbe": {"httpGet": {"port": "nowhere"}}},
    ]);
    pod["spec"]["initContainers"] = json!([
        {"name": "once"},
        {"name": "logs", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 24224, "host": "127.0.0.1"}}},
    ]);
    let pod = injected(&pod, &enabled());
    insta::assert_yaml_snapshot!(
        "probes_for_the_kubelet",
        json!({"containers": pod["spec"]["containers"], "sidecar": pod["spec"]["initContainers"][3]})
    );
    insta::assert_yaml_snapshot!("probes_for_the_proxy", probes(&pod));
}

#[test]
fn the_kubelet_finds_nothing_to_expand_in_the_probes() {
    let mut pod = minimal_pod();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"port": 80, "path": "/$(POD_UID)/$$"}});
    let pod = injected(&pod, &enabled());
    assert!(!env(&pod, "FAIRLEAD_PROBES").unwrap().contains('$'));
    assert_eq!(probes(&pod)["app/liveness"]["path"], "/$(POD_UID)/$$");
}

#[test]
fn fields_newer_than_our_types_survive() {
    let mut pod = deployment_pod();
    pod["spec"]["containers"][0]["fromTheFuture"] = json!({"a": [1, null]});
    pod["spec"]["containers"][0]["readinessProbe"]["newer"] = json!("x");
    pod["spec"]["alsoNew"] = json!(null);
    pod["metadata"]["unknown"] = json!(3);
    let after = injected(&pod, &enabled());
    assert_eq!(after["spec"]["containers"][0]["fromTheFuture"], json!({"a": [1, null]}));
    assert_eq!(after["spec"]["containers"][0]["readinessProbe"]["newer"], "x");
    assert!(after["spec"].as_object().unwrap().contains_key("alsoNew"));
    assert_eq!(after["metadata"]["unknown"], 3);
}

#[test]
fn nothing_else_runs_as_the_proxys_user() {
    let mut pod = minimal_pod();
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 2102});
    assert!(refusal(&pod).contains("\"app\" runs as user 2102"));

    let mut pod = minimal_pod();
    pod["spec"]["securityContext"] = json!({"runAsUser": 2102});
    assert!(refusal(&pod).contains("runAsUser"));
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    injected(&pod, &enabled());

    pod["spec"]["initContainers"] = json!([{"name": "setup"}]);
    assert!(refusal(&pod).contains("\"setup\""));

    // Also where another webhook added the container after we were called first.
    let mut pod = injected(&minimal_pod(), &enabled());
    pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 2102});
    assert!(refusal(&pod).contains("\"app\""));
}

#[test]
fn nothing_else_bears_our_names_or_mounts_our_volumes() {
    let mut pod = minimal_pod();
    pod["spec"]["volumes"] = json!([{"name": "fairlead-state", "emptyDir": {}}]);
    assert!(refusal(&pod).contains("\"fairlead-state\""));

    let mut pod = minimal_pod();
    pod["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "fairlead-token", "mountPath": "/t"}]);
    assert!(refusal(&pod).contains("\"app\" mounts \"fairlead-token\""));

    for (list, name) in
        [("containers", "fairlead-proxy"), ("containers", "fairlead-init"), ("initContainers", "fairlead-init")]
    {
        let mut pod = minimal_pod();
        pod["spec"][list] = json!([{"name": name}]);
        assert!(refusal(&pod).contains(name), "{list} {name}");
    }
}

#[test]
fn an_app_on_a_port_of_ours_is_refused_before_it_fails_to_start() {
    for port in [15000, 15001, 15006, 15020] {
        let mut pod = minimal_pod();
        pod["spec"]["containers"][0]["ports"] = json!([{"containerPort": port}]);
        assert!(refusal(&pod).contains(&port.to_string()));
    }
}

#[test]
fn an_invalid_annotation_refuses_the_pod() {
    let mut pod = minimal_pod();
    pod["metadata"]["annotations"] = json!({"fairlead.dev/skip-inbound-ports": "80; nft flush ruleset"});
    assert!(refusal(&pod).starts_with("annotation fairlead.dev/skip-inbound-ports"));
}

#[test]
fn what_is_no_pod_is_refused() {
    for object in [json!(null), json!([]), json!({}), json!({"metadata": {}, "spec": 3})] {
        assert!(refusal(&object).contains("not a pod"));
    }
}

#[test]
fn pod_security_that_will_refuse_the_sidecar_is_announced() {
    let warning = |level: &str| match inject(
        &minimal_pod(),
        &namespace(&[(INJECT_LABEL, "enabled"), ("pod-security.kubernetes.io/enforce", level)]),
        &settings(),
    ) {
        Decision::Inject(injection) => injection.warning,
        other => panic!("expected an injection, got {other:?}"),
    };
    assert!(warning("restricted").unwrap().contains("NET_ADMIN"));
    assert!(warning("baseline").unwrap().contains("bookinfo"));
    assert_eq!(warning("privileged"), None);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z$]{0,6}".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(
                prop_oneof![
                    Just("name"),
                    Just("port"),
                    Just("httpGet"),
                    Just("tcpSocket"),
                    Just("lifecycle"),
                    Just("preStop"),
                    Just("livenessProbe"),
                    Just("securityContext"),
                    Just("runAsUser"),
                    Just("ports"),
                    Just("volumeMounts")
                ],
                inner,
                0..4
            )
            .prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    /// Whatever a pod holds: the patch applies, a second pass changes nothing, and the same input gives the same answer.
    #[test]
    fn injecting_twice_is_injecting_once(
        containers in prop::option::of(any_json()),
        init in prop::option::of(any_json()),
        volumes in prop::option::of(any_json()),
        annotations in prop::option::of(any_json()),
    ) {
        let mut pod = minimal_pod();
        for (field, value) in [("containers", containers), ("initContainers", init), ("volumes", volumes)] {
            if let Some(value) = value {
                pod["spec"][field] = value;
            }
        }
        if let Some(annotations) = annotations {
            pod["metadata"]["annotations"] = annotations;
        }
        let decision = inject(&pod, &enabled(), &settings());
        prop_assert_eq!(&decision, &inject(&pod, &enabled(), &settings()));
        if let Decision::Inject(injection) = decision {
            json_patch::patch(&mut pod, &injection.patch).unwrap();
            prop_assert_eq!(&pod["spec"]["initContainers"][0]["name"], INIT_CONTAINER);
            prop_assert_eq!(&pod["spec"]["initContainers"][1]["name"], PROXY_CONTAINER);
            prop_assert_eq!(inject(&pod, &enabled(), &settings()), Decision::Skip(SkipReason::AlreadyInjected));
        }
    }
}
