//! The manifests that users apply: made of their parts, understood by Kubernetes' types, and in agreement with the code.

use std::path::PathBuf;

use fairlead_operator::ca::keeper::{ISSUER_SECRET, NEXT_ROOT_SECRET, ROOT_SECRET, USER_SECRET};
use fairlead_operator::inject::{INIT_CONTAINER, INJECT_LABEL, PROXY_CONTAINER};
use fairlead_operator::settings::{SETTINGS_FOLDER, SETTINGS_KEY, SETTINGS_NAME, Settings};
use fairlead_operator::webhook::registration::CONFIGURATIONS;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;

const HEADER: &str = "# Fairlead: kubectl apply -f install.yaml
#
# Made of crds.yaml and parts/*.yaml; do not edit. After a change of those: UPDATE_MANIFESTS=1 cargo test -p fairlead-operator --test manifests
";

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "..", "manifests", name].iter().collect()
}

fn read(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("manifests/{name}: {error}"))
}

fn documents(name: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(&read(name))
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("manifests/{name}: {error}")))
        .filter(|document| !document.is_null())
        .collect()
}

fn find(kind: &str, name: &str) -> Value {
    let documents = documents("install.yaml");
    let found = documents.into_iter().find(|document| document["kind"] == kind && document["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("install.yaml has no {kind} {name}"))
}

#[test]
fn install_yaml_is_made_of_its_parts() {
    let parts = ["crds.yaml", "parts/operator.yaml", "parts/require-injection.yaml"].map(read);
    let made = format!("{HEADER}{}", parts.concat());
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        std::fs::write(path("install.yaml"), &made).unwrap();
    }
    assert!(
        made == read("install.yaml"),
        "manifests/install.yaml differs from its parts: UPDATE_MANIFESTS=1 cargo test -p fairlead-operator --test manifests"
    );
}

/// Reads a document as its type; every field that it states must come out again, or Kubernetes would drop it as unknown.
fn check<T: DeserializeOwned + serde::Serialize>(document: &Value) {
    let typed: T = serde_json::from_value(document.clone())
        .unwrap_or_else(|error| panic!("{}: {error}", document["metadata"]["name"]));
    let known = serde_json::to_value(typed).expect("Kubernetes types can be written");
    check_known(document, &known, &format!("{} {}", document["kind"], document["metadata"]["name"]));
}

fn check_known(stated: &Value, known: &Value, place: &str) {
    match (stated, known) {
        (Value::Object(stated), Value::Object(known)) => {
            for (field, value) in stated {
                let place = format!("{place}.{field}");
                let known = known.get(field).unwrap_or_else(|| panic!("{place} is no field that Kubernetes knows"));
                check_known(value, known, &place);
            }
        }
        (Value::Array(stated), Value::Array(known)) => {
            assert_eq!(stated.len(), known.len(), "{place}");
            for (index, (stated, known)) in stated.iter().zip(known).enumerate() {
                check_known(stated, known, &format!("{place}[{index}]"));
            }
        }
        _ => assert_eq!(stated, known, "{place}"),
    }
}

#[test]
fn every_document_is_what_kubernetes_expects() {
    for name in ["install.yaml", "settings.yaml", "ha/replicas.yaml", "ha/disruption-budget.yaml"] {
        for document in documents(name) {
            match document["kind"].as_str().unwrap() {
                "Namespace" => check::<Namespace>(&document),
                "ConfigMap" => check::<ConfigMap>(&document),
                "ServiceAccount" => check::<ServiceAccount>(&document),
                "Service" => check::<Service>(&document),
                "ClusterRole" => check::<ClusterRole>(&document),
                "ClusterRoleBinding" => check::<ClusterRoleBinding>(&document),
                "Role" => check::<Role>(&document),
                "RoleBinding" => check::<RoleBinding>(&document),
                "MutatingWebhookConfiguration" => check::<MutatingWebhookConfiguration>(&document),
                "ValidatingAdmissionPolicy" => check::<ValidatingAdmissionPolicy>(&document),
                "ValidatingAdmissionPolicyBinding" => check::<ValidatingAdmissionPolicyBinding>(&document),
                "PodDisruptionBudget" => check::<PodDisruptionBudget>(&document),
                "CustomResourceDefinition" => {
                    serde_json::from_value::<CustomResourceDefinition>(document).unwrap();
                }
                // The overlay's is a patch, which lacks what the base has.
                "Deployment" if name == "install.yaml" => check::<Deployment>(&document),
                "Deployment" => assert_eq!(
                    document["metadata"],
                    serde_json::json!({"name": "fairlead-operator", "namespace": "fairlead-system"})
                ),
                other => panic!("{name} holds a {other}, which this test does not know"),
            }
        }
    }
}

#[test]
fn the_operator_runs_under_restricted_pod_security() {
    assert_eq!(
        find("Namespace", "fairlead-system")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
        "restricted"
    );
    let spec = &find("Deployment", "fairlead-operator")["spec"]["template"]["spec"];
    let (pod, container) = (&spec["securityContext"], &spec["containers"][0]["securityContext"]);
    assert_eq!((&pod["runAsNonRoot"], &pod["runAsUser"]), (&true.into(), &2103.into()));
    assert_eq!(pod["seccompProfile"]["type"], "RuntimeDefault");
    assert_eq!(container["capabilities"]["drop"][0], "ALL");
    assert_eq!(
        (&container["allowPrivilegeEscalation"], &container["readOnlyRootFilesystem"]),
        (&false.into(), &true.into())
    );
}

#[test]
fn secrets_are_reached_by_name_in_the_operators_namespace_alone() {
    let rules = |kind: &str| find(kind, "fairlead-operator")["rules"].as_array().unwrap().clone();
    let on = |rule: &Value, resource: &str| rule["resources"].as_array().unwrap().contains(&resource.into());
    assert!(!rules("ClusterRole").iter().any(|rule| on(rule, "secrets")));
    // The one that may is bound by users, where they want to.
    let bindings = documents("install.yaml");
    let bound = |document: &Value| document["roleRef"]["name"] == "fairlead-canary-secrets";
    assert!(find("ClusterRole", "fairlead-canary-secrets").is_object() && !bindings.iter().any(bound));
    for rule in rules("Role").iter().filter(|rule| on(rule, "secrets")) {
        let names = match rule["verbs"].as_array().unwrap().as_slice() {
            [verb] if verb == "create" => continue,
            [verb] if verb == "get" => serde_json::json!([USER_SECRET]),
            [verb] if verb == "delete" => serde_json::json!([NEXT_ROOT_SECRET]),
            _ => serde_json::json!([ROOT_SECRET, NEXT_ROOT_SECRET, ISSUER_SECRET]),
        };
        assert_eq!(rule["resourceNames"], names);
    }
    for rule in rules("ClusterRole").iter().chain(&rules("Role")) {
        for field in ["apiGroups", "resources", "verbs"] {
            assert!(!rule[field].as_array().unwrap().contains(&"*".into()), "a wildcard in {rule}");
        }
    }
}

#[test]
fn certificate_requests_are_the_operators_own_namespaces_alone() {
    let rules = |kind: &str| find(kind, "fairlead-operator")["rules"].as_array().unwrap().clone();
    let on = |rule: &Value| rule["apiGroups"].as_array().unwrap().contains(&"cert-manager.io".into());
    assert!(!rules("ClusterRole").iter().any(on), "in no other namespace");
    let [rule] = &rules("Role").into_iter().filter(on).collect::<Vec<_>>()[..] else { panic!("one rule") };
    assert_eq!(rule["resources"], serde_json::json!(["certificaterequests"]), "no approval, no status");
    assert_eq!(rule["verbs"], serde_json::json!(["create", "get", "list", "delete"]));
}

#[test]
fn the_settings_that_are_commented_out_are_settings() {
    let text = read("settings.yaml");
    let (_, requests) = text.split_once("    # certificateRequests:").unwrap();
    let lines: Vec<_> = requests.lines().map(|line| line.strip_prefix("    # ").unwrap_or(line)).collect();
    let settings = Settings::parse(&format!("certificateRequests:{}", lines.join("\n"))).unwrap();
    assert_eq!(settings.certificate_requests.unwrap().issuer.to_string(), "Issuer mesh (cert-manager.io)");
}

#[test]
fn the_webhooks_are_those_that_the_operator_keeps() {
    for name in CONFIGURATIONS {
        let configuration = find("MutatingWebhookConfiguration", name);
        assert_eq!(configuration["metadata"]["labels"]["app.kubernetes.io/part-of"], "fairlead");
        for webhook in configuration["webhooks"].as_array().unwrap() {
            assert_eq!((&webhook["failurePolicy"], &webhook["timeoutSeconds"]), (&"Fail".into(), &5.into()));
            assert!(
                webhook["clientConfig"].get("caBundle").is_none(),
                "kubectl apply would take away what the operator wrote"
            );
        }
    }
}

#[test]
fn the_settings_are_mounted_where_they_are_read_and_say_what_holds_without_them() {
    let [map] = documents("settings.yaml").try_into().unwrap();
    assert_eq!(
        (&map["metadata"]["name"], &map["metadata"]["namespace"]),
        (&SETTINGS_NAME.into(), &"fairlead-system".into())
    );
    let keys: Vec<_> = map["data"].as_object().unwrap().keys().collect();
    assert_eq!(keys, [SETTINGS_KEY]);
    let settings = Settings::parse(map["data"][SETTINGS_KEY].as_str().unwrap()).unwrap();
    assert_eq!(settings, Settings::default());
    let spec = &find("Deployment", "fairlead-operator")["spec"]["template"]["spec"];
    assert_eq!(spec["volumes"][0]["configMap"], serde_json::json!({"name": SETTINGS_NAME, "optional": true}));
    assert_eq!(spec["containers"][0]["volumeMounts"][0]["mountPath"], SETTINGS_FOLDER);
    // It is the user's: what is applied again must not undo it.
    assert!(!documents("install.yaml").iter().any(|document| document["kind"] == "ConfigMap"));
}

#[test]
fn the_policy_that_requires_injection_asks_for_what_the_injector_writes() {
    let name = "fairlead-require-injection";
    let (policy, binding) = (find("ValidatingAdmissionPolicy", name), find("ValidatingAdmissionPolicyBinding", name));
    assert_eq!((&policy["spec"]["failurePolicy"], &binding["spec"]["policyName"]), (&"Fail".into(), &name.into()));
    assert_eq!(binding["spec"]["validationActions"], serde_json::json!(["Deny"]));
    let variable = |name: &str| {
        let variables = policy["spec"]["variables"].as_array().unwrap();
        let found = variables.iter().find(|variable| variable["name"] == name);
        found.unwrap_or_else(|| panic!("no variable {name}"))["expression"].as_str().unwrap().to_owned()
    };
    assert!(variable("captured").contains(&format!("c.name == '{INIT_CONTAINER}'")));
    assert!(variable("proxied").contains(&format!("c.name == '{PROXY_CONTAINER}'")));
    assert!(variable("asksForNone").contains(&format!("[?'{INJECT_LABEL}']")));
    let container = &find("Deployment", "fairlead-operator")["spec"]["template"]["spec"]["containers"][0];
    let image = container["env"].as_array().unwrap().iter().find(|env| env["name"] == "FAIRLEAD_PROXY_IMAGE").unwrap();
    let (image, _tag) = image["value"].as_str().unwrap().rsplit_once(':').unwrap();
    assert_eq!(variable("image"), format!("'{image}'"), "it must ask for the image that the operator injects");
    // The webhooks leave the same namespaces alone.
    let webhook = &find("MutatingWebhookConfiguration", CONFIGURATIONS[0])["webhooks"][0];
    let but = |selector: &Value| selector["matchExpressions"][1].clone();
    assert_eq!(but(&binding["spec"]["matchResources"]["namespaceSelector"]), but(&webhook["namespaceSelector"]));
}
