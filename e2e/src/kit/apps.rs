//! The applications that tests run: the sample's binary in one of its roles.

use std::fmt::Write as _;

/// The image of the sample application.
pub const IMAGE: &str = "fairlead.dev/bookinfo:dev";
/// Its binary inside the image.
pub const BINARY: &str = "/fairlead-bookinfo";
/// The name of its container in every pod made here.
pub const CONTAINER: &str = "app";

/// One Deployment with its Service, as YAML.
///
/// The Service has the name of the Deployment and selects `app: <name>`; the pods carry `app` and `version`.
#[derive(Debug, Clone)]
pub struct App {
    name: String,
    args: Vec<String>,
    version: String,
    replicas: u32,
    ports: Vec<(String, u16, Option<String>)>,
    annotations: Vec<(String, String)>,
    labels: Vec<(String, String)>,
    probe: Option<String>,
    zone: Option<String>,
}

impl App {
    /// A Deployment of one replica that plays this role.
    pub fn new(name: &str, role: &str) -> Self {
        Self {
            name: name.into(),
            args: vec![role.into()],
            version: "v1".into(),
            replicas: 1,
            ports: vec![("web".into(), 9080, None)],
            annotations: Vec::new(),
            labels: Vec::new(),
            probe: Some("httpGet: {path: /health, port: 9080}".into()),
            zone: None,
        }
    }

    /// The echo role with all its ports: HTTP, a server that speaks first, and TCP.
    pub fn echo(name: &str) -> Self {
        Self::new(name, "echo").port("greeter", 9081, None).port("plain", 9082, None)
    }

    /// Reviews of a version; v1 calls nobody.
    pub fn reviews(name: &str, version: &str) -> Self {
        Self::new(name, "reviews").version(version).arg(&format!("--version={version}"))
    }

    /// One more argument.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// The label `version`.
    pub fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    /// How many pods.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.replicas = replicas;
        self
    }

    /// One more port of the Service.
    pub fn port(mut self, name: &str, port: u16, app_protocol: Option<&str>) -> Self {
        self.ports.push((name.into(), port, app_protocol.map(str::to_owned)));
        self
    }

    /// An annotation of the pods.
    pub fn annotation(mut self, name: &str, value: &str) -> Self {
        self.annotations.push((name.into(), value.into()));
        self
    }

    /// A label of the pods.
    pub fn label(mut self, name: &str, value: &str) -> Self {
        self.labels.push((name.into(), value.into()));
        self
    }

    /// The readiness and liveness probe, as YAML in flow style.
    pub fn probe(mut self, probe: &str) -> Self {
        self.probe = Some(probe.into());
        self
    }

    /// On the nodes of this zone alone.
    pub fn zone(mut self, zone: &str) -> Self {
        self.zone = Some(zone.into());
        self
    }

    /// The Deployment and the Service.
    pub fn yaml(&self, namespace: &str) -> String {
        format!("{}---\n{}", self.deployment(namespace), self.service(namespace))
    }

    /// The Deployment alone.
    pub fn deployment(&self, namespace: &str) -> String {
        self.deployment_as(namespace, &self.name, "")
    }

    /// The Deployment of another version behind the Service of a first one: `<name>-<version>`, which selects by the version as well.
    pub fn beside_the_first(&self, namespace: &str) -> String {
        let Self { name, version, .. } = self;
        self.deployment_as(namespace, &format!("{name}-{version}"), &format!(", version: {version}"))
    }

    fn deployment_as(&self, namespace: &str, deployment: &str, selector: &str) -> String {
        let Self { name, replicas, .. } = self;
        format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {deployment}, namespace: {namespace}}}\nspec:\n  replicas: {replicas}\n  \
             selector: {{matchLabels: {{app: {name}{selector}}}}}\n  template:\n{}",
            self.template(4)
        )
    }

    /// The Service alone.
    pub fn service(&self, namespace: &str) -> String {
        let Self { name, .. } = self;
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  selector: {{app: {name}}}\n  ports:\n"
        );
        for (port_name, port, app_protocol) in &self.ports {
            let protocol = app_protocol.as_ref().map(|p| format!(", appProtocol: {p}")).unwrap_or_default();
            let _ = writeln!(yaml, "  - {{name: {port_name}, port: {port}{protocol}}}");
        }
        yaml
    }

    /// A pod template, indented by this many spaces, for kinds that tests write out themselves.
    pub fn template(&self, indent: usize) -> String {
        let Self { name, version, .. } = self;
        let mut labels = format!("app: {name}, version: {version}");
        for (key, value) in &self.labels {
            let _ = write!(labels, ", {key}: {value:?}");
        }
        let annotations =
            self.annotations.iter().map(|(key, value)| format!("{key}: {value:?}")).collect::<Vec<_>>().join(", ");
        let args = self.args.iter().map(|arg| format!("{arg:?}")).collect::<Vec<_>>().join(", ");
        let mut yaml = format!(
            "metadata:\n  labels: {{{labels}}}\n  annotations: {{{annotations}}}\nspec:\n  {}terminationGracePeriodSeconds: 20\n  containers:\n  \
             - name: {CONTAINER}\n    image: {IMAGE}\n    imagePullPolicy: IfNotPresent\n    args: [{args}]\n    env:\n    \
             - {{name: POD_NAME, valueFrom: {{fieldRef: {{fieldPath: metadata.name}}}}}}\n    resources: {{requests: {{cpu: 5m, memory: 8Mi}}}}\n",
            in_zone(self.zone.as_deref())
        );
        if let Some(probe) = &self.probe {
            let _ = write!(
                yaml,
                "    readinessProbe: {{{probe}, periodSeconds: 1}}\n    livenessProbe: {{{probe}, periodSeconds: 5}}\n"
            );
        }
        let pad = " ".repeat(indent);
        yaml.lines().fold(String::new(), |text, line| text + &pad + line + "\n")
    }
}

/// The line of a pod's spec that keeps it in a zone, and the indent of the next.
pub(super) fn in_zone(zone: Option<&str>) -> String {
    zone.map(|zone| format!("nodeSelector: {{topology.kubernetes.io/zone: {zone}}}\n  ")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_yaml_is_a_deployment_and_a_service() {
        let yaml = App::echo("echo").label("fairlead.dev/inject", "disabled").annotation("a", "b").zone("a").yaml("ns");
        let documents: Vec<serde_json::Value> =
            serde_yaml::Deserializer::from_str(&yaml).map(|d| serde::Deserialize::deserialize(d).unwrap()).collect();
        assert_eq!(documents.len(), 2);
        assert_eq!(documents[0]["spec"]["template"]["metadata"]["labels"]["fairlead.dev/inject"], "disabled");
        assert_eq!(documents[0]["spec"]["template"]["spec"]["containers"][0]["args"][0], "echo");
        assert_eq!(documents[0]["spec"]["template"]["spec"]["nodeSelector"]["topology.kubernetes.io/zone"], "a");
        assert_eq!(documents[1]["spec"]["ports"][2]["port"], 9082);
    }
}
