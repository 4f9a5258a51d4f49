//! Which `ConfigMaps` and Secrets a pod template names: a change of what they hold is a change of the version.

use std::collections::BTreeSet;

use serde_json::Value;

/// How many count as part of a version: more than pods have, few enough to be read at each look.
const MOST: usize = 64;

/// A kind of object that holds configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// In plain.
    ConfigMap,
    /// For few eyes.
    Secret,
}

/// The objects that a pod template names, in order and once: volumes and environment, not what images are pulled with.
pub fn named(template: &Value) -> Vec<(Kind, String)> {
    let spec = &template["spec"];
    let mut found = BTreeSet::new();
    let mut add = |kind, name: &Value| {
        found.extend(name.as_str().filter(|name| !name.is_empty()).map(|name| (kind, name.to_owned())));
    };
    for volume in list(&spec["volumes"]) {
        add(Kind::ConfigMap, &volume["configMap"]["name"]);
        add(Kind::Secret, &volume["secret"]["secretName"]);
        for source in list(&volume["projected"]["sources"]) {
            add(Kind::ConfigMap, &source["configMap"]["name"]);
            add(Kind::Secret, &source["secret"]["name"]);
        }
    }
    for container in ["initContainers", "containers"].into_iter().flat_map(|field| list(&spec[field])) {
        for source in list(&container["envFrom"]) {
            add(Kind::ConfigMap, &source["configMapRef"]["name"]);
            add(Kind::Secret, &source["secretRef"]["name"]);
        }
        for variable in list(&container["env"]) {
            add(Kind::ConfigMap, &variable["valueFrom"]["configMapKeyRef"]["name"]);
            add(Kind::Secret, &variable["valueFrom"]["secretKeyRef"]["name"]);
        }
    }
    found.into_iter().take(MOST).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_way_to_name_one_is_known() {
        let template = json!({"spec": {
            "imagePullSecrets": [{"name": "registry"}],
            "volumes": [
                {"configMap": {"name": "c1"}}, {"secret": {"secretName": "s1"}}, {"emptyDir": {}},
                {"projected": {"sources": [{"configMap": {"name": "c2"}}, {"secret": {"name": "s2"}}, {"serviceAccountToken": {}}]}},
            ],
            "initContainers": [{"envFrom": [{"configMapRef": {"name": "c3"}}, {"secretRef": {"name": "s3"}}]}],
            "containers": [{"env": [
                {"name": "A", "value": "plain"},
                {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
                {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}},
            ]}],
        }});
        let all: Vec<_> = named(&template).into_iter().map(|(_, name)| name).collect();
        assert_eq!(all, ["c1", "c2", "c3", "s1", "s2", "s3", "s4"]);
        assert!(named(&json!({})).is_empty());
        assert!(named(&json!({"spec": {"volumes": "nonsense", "containers": [7]}})).is_empty());
    }
}
