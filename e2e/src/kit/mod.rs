//! What the tests, the demo and the benchmark do to a cluster, in words that let them read as prose.
//!
//! [`Mesh::connect`] is the way in. Changes go through `kubectl`, as users make them; questions go through the API, because a test asks often.

pub mod apps;
pub mod capture;
mod fairlead;
mod kubectl;
mod load;
mod metrics;
mod namespace;
pub mod outside;
mod process;
mod wait;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use serde_json::Value;

use crate::cluster::Places;

pub use fairlead::Fairlead;
pub use kubectl::{Kubectl, Output};
pub use load::{Failure, Latency, Load, LoadReport, RunningLoad, Tally};
pub use metrics::Metrics;
pub use namespace::TempNamespace;
pub use process::{Process, processes};
pub use wait::{eventually, eventually_within};

/// The namespace that `manifests/install.yaml` makes.
pub const OPERATOR_NAMESPACE: &str = "fairlead-system";

/// The label of its pods.
pub const OPERATOR: &str = "app.kubernetes.io/name=fairlead-operator";

/// A cluster to work on.
#[derive(Clone)]
pub struct Mesh {
    client: kube::Client,
    kubectl: Kubectl,
}

impl Mesh {
    /// Connects to the cluster that [`crate::cluster::kubeconfig`] names.
    pub async fn connect() -> Result<Self> {
        let kubeconfig = crate::cluster::kubeconfig()?;
        let client = crate::cluster::client().await?;
        Ok(Self { client, kubectl: Kubectl::new(&kubeconfig)? })
    }

    /// The client, for what has no word here.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// `kubectl`, for what has no word here.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// `kubectl apply` of YAML; the error is what kubectl said.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.kubectl.with_input(&["apply", "-f", "-"], yaml).await?.ok()?;
        Ok(())
    }

    /// `kubectl apply` of a file of the repository.
    pub async fn apply_file(&self, path: &str) -> Result<()> {
        let path = repository()?.join(path);
        self.kubectl.run(&["apply", "-f", &path.to_string_lossy()]).await?.ok()?;
        Ok(())
    }

    /// `kubectl apply` that the API server must refuse; returns its words.
    pub async fn refused(&self, yaml: &str) -> Result<String> {
        let output = self.kubectl.with_input(&["apply", "-f", "-"], yaml).await?;
        if output.success {
            bail!("the API server accepted what it should have refused:\n{yaml}");
        }
        Ok(output.stderr)
    }

    /// One object as JSON; `None` when it does not exist. `kind` as in [`kind`].
    pub async fn get(&self, kind: &str, namespace: &str, name: &str) -> Result<Option<Value>> {
        let found = self.api(kind, namespace)?.get_opt(name).await?;
        Ok(found.map(serde_json::to_value).transpose()?)
    }

    /// Objects of a namespace that carry the labels of `selector`.
    pub async fn list(&self, kind: &str, namespace: &str, selector: &str) -> Result<Vec<Value>> {
        let list = self.api(kind, namespace)?.list(&ListParams::default().labels(selector)).await?;
        list.items.into_iter().map(|item| Ok(serde_json::to_value(item)?)).collect()
    }

    fn api(&self, name: &str, namespace: &str) -> Result<Api<DynamicObject>> {
        let (resource, namespaced) = kind(name)?;
        Ok(if namespaced && !namespace.is_empty() {
            Api::namespaced_with(self.client(), namespace, &resource)
        } else {
            Api::all_with(self.client(), &resource)
        })
    }

    /// Runs a command in a container of the first running pod with these labels.
    pub async fn exec(&self, namespace: &str, selector: &str, container: &str, command: &[&str]) -> Result<Output> {
        let pod = self.running_pod(namespace, selector).await?;
        let mut words = vec!["exec", "-n", namespace, &pod, "-c", container, "--"];
        words.extend_from_slice(command);
        self.kubectl.run(&words).await
    }

    /// The name of a running pod with these labels that is not on its way out.
    pub async fn running_pod(&self, namespace: &str, selector: &str) -> Result<String> {
        let pods = self.list("Pod", namespace, selector).await?;
        pods.iter()
            .find(|pod| pod["status"]["phase"] == "Running" && pod["metadata"]["deletionTimestamp"].is_null())
            .and_then(|pod| pod["metadata"]["name"].as_str())
            .map(str::to_owned)
            .with_context(|| format!("no running pod with labels {selector} in namespace {namespace}"))
    }

    /// Waits until the newest template of a Deployment runs in all its replicas.
    pub async fn rolled_out(&self, namespace: &str, deployment: &str) -> Result<()> {
        let name = format!("deployment/{deployment}");
        let output = self.kubectl.run(&["rollout", "status", "-n", namespace, &name, "--timeout=180s"]).await?;
        if !output.success {
            bail!(
                "{name} in {namespace} did not roll out: {}\n{}",
                output.stderr.trim(),
                self.describe_pods(namespace).await
            );
        }
        Ok(())
    }

    /// Installs the operator as the README says, and waits until it is ready.
    pub async fn install(&self) -> Result<()> {
        self.apply_file("manifests/install.yaml").await?;
        self.rolled_out(OPERATOR_NAMESPACE, "fairlead-operator").await
    }

    /// A condition of an object's status, as `(status, reason, message)`; `None` while it is not there.
    pub async fn condition(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        condition: &str,
    ) -> Result<Option<Condition>> {
        let Some(object) = self.get(kind, namespace, name).await? else { return Ok(None) };
        let found =
            object["status"]["conditions"].as_array().and_then(|all| all.iter().find(|c| c["type"] == condition)).map(
                |c| Condition { status: text(&c["status"]), reason: text(&c["reason"]), message: text(&c["message"]) },
            );
        Ok(found)
    }

    /// Waits until every proxy that a TrafficPolicy or PeerAuth concerns has said that it applied it.
    pub async fn programmed(&self, kind: &str, namespace: &str, name: &str) -> Result<()> {
        eventually(&format!("{kind} {namespace}/{name} to be programmed"), || async {
            let object = self.get(kind, namespace, name).await?.context("it does not exist")?;
            let condition =
                self.condition(kind, namespace, name, "Programmed").await?.context("no condition Programmed yet")?;
            if object["status"]["observedGeneration"] == object["metadata"]["generation"] && condition.status == "True"
            {
                return Ok(());
            }
            bail!("Programmed={} {}: {}", condition.status, condition.reason, condition.message)
        })
        .await
    }

    /// What the pods of a namespace are doing, for the message of a failed test.
    pub async fn describe_pods(&self, namespace: &str) -> String {
        let pods = self
            .kubectl
            .run(&["get", "pods", "-n", namespace, "-o", "wide"])
            .await
            .map(|o| o.stdout)
            .unwrap_or_default();
        let events = self
            .kubectl
            .run(&["get", "events", "-n", namespace, "--sort-by=.lastTimestamp"])
            .await
            .map(|o| o.stdout)
            .unwrap_or_default();
        let last: Vec<&str> = events.lines().rev().take(15).collect();
        format!("{pods}\nlast events:\n{}", last.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }
}

/// A condition as a status carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

/// The root of the repository, so that commands work from any folder of it.
pub fn repository() -> Result<PathBuf> {
    Ok(Places::find()?.checkout)
}

/// The text of a JSON string; empty for anything else.
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The resource of a kind that the tests use, and whether it lives in a namespace.
pub fn kind(name: &str) -> Result<(ApiResource, bool)> {
    let (group, version, plural, namespaced) = match name {
        "Pod" => ("", "v1", "pods", true),
        "Service" => ("", "v1", "services", true),
        "Secret" => ("", "v1", "secrets", true),
        "ConfigMap" => ("", "v1", "configmaps", true),
        "Event" => ("", "v1", "events", true),
        "Namespace" => ("", "v1", "namespaces", false),
        "Node" => ("", "v1", "nodes", false),
        "Deployment" => ("apps", "v1", "deployments", true),
        "StatefulSet" => ("apps", "v1", "statefulsets", true),
        "ReplicaSet" => ("apps", "v1", "replicasets", true),
        "Job" => ("batch", "v1", "jobs", true),
        "PodDisruptionBudget" => ("policy", "v1", "poddisruptionbudgets", true),
        "HorizontalPodAutoscaler" => ("autoscaling", "v2", "horizontalpodautoscalers", true),
        "EndpointSlice" => ("discovery.k8s.io", "v1", "endpointslices", true),
        "NetworkPolicy" => ("networking.k8s.io", "v1", "networkpolicies", true),
        "PodMetrics" => ("metrics.k8s.io", "v1beta1", "pods", true),
        "Lease" => ("coordination.k8s.io", "v1", "leases", true),
        "TrafficPolicy" => ("fairlead.dev", "v1alpha1", "trafficpolicies", true),
        "PeerAuth" => ("fairlead.dev", "v1alpha1", "peerauths", true),
        "Canary" => ("fairlead.dev", "v1alpha1", "canaries", true),
        "CustomResourceDefinition" => ("apiextensions.k8s.io", "v1", "customresourcedefinitions", false),
        "MutatingWebhookConfiguration" => {
            ("admissionregistration.k8s.io", "v1", "mutatingwebhookconfigurations", false)
        }
        "ValidatingAdmissionPolicy" => ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicies", false),
        "ValidatingAdmissionPolicyBinding" => {
            ("admissionregistration.k8s.io", "v1", "validatingadmissionpolicybindings", false)
        }
        "ClusterRole" => ("rbac.authorization.k8s.io", "v1", "clusterroles", false),
        other => bail!("the tests know no kind {other}: add it to kit::kind"),
    };
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let resource = ApiResource {
        group: group.into(),
        version: version.into(),
        api_version,
        kind: name.into(),
        plural: plural.into(),
    };
    Ok((resource, namespaced))
}
