//! A release that stays in its first step until a test has seen enough: what autoscalers and NetworkPolicies are tried on.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Mesh, TempNamespace, eventually, eventually_within, text};
use serde_json::Value;

use crate::mesh;

/// The address of the Service, from any namespace of the cluster.
pub(crate) fn url(namespace: &str) -> String {
    format!("http://orders.{namespace}:9080/")
}

fn app(version: &str) -> App {
    App::echo("orders").replicas(2).version(version).arg(&format!("--version={version}"))
}

/// Deployment `orders` in version v1 with two pods, and its Canary.
pub(crate) struct Orders {
    /// The cluster.
    pub(crate) mesh: Mesh,
    /// Its namespace, in the mesh.
    pub(crate) ns: TempNamespace,
}

impl Orders {
    /// Runs v1, with the Canary in force.
    pub(crate) async fn open(name: &str) -> Result<Self> {
        let mesh = mesh().await?;
        let ns = TempNamespace::injected(&mesh, name).await?;
        let orders = Self { mesh, ns };
        orders.mesh.apply(&app("v1").yaml(orders.name())).await?;
        orders.canary("10m").await?;
        orders.mesh.rolled_out(orders.name(), "orders").await?;
        orders.is("Initialized", Duration::from_secs(120)).await?;
        Ok(orders)
    }

    /// The namespace.
    pub(crate) fn name(&self) -> &str {
        self.ns.name()
    }

    async fn canary(&self, hold: &str) -> Result<()> {
        self.mesh
            .apply(&format!(
                "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: orders, namespace: {}}}\nspec:\n  \
                 workloadRef: {{kind: Deployment, name: orders}}\n  steps: [{{weight: 50, hold: {hold}}}]\n  analysis: {{errors: {{margin: 5}}}}\n",
                self.name()
            ))
            .await
    }

    /// Changes the Deployment to v2, and waits until the canary gets half of the traffic.
    pub(crate) async fn release(&self) -> Result<()> {
        self.mesh.apply(&app("v2").deployment(self.name())).await?;
        eventually("the canary to get traffic", || async {
            let canary = self.status().await?;
            ensure!(canary["step"]["weight"] == 50, "status: {canary:#}");
            Ok(())
        })
        .await
    }

    /// Lets the release go on to its end, which must be good.
    pub(crate) async fn finish(&self) -> Result<()> {
        self.canary("0s").await?;
        self.is("Succeeded", Duration::from_secs(240)).await?;
        eventually("the clone to be gone", || async {
            ensure!(self.deployment("orders-canary").await.is_err(), "Deployment orders-canary is there");
            let pods = self.clone_pods().await?;
            ensure!(pods.is_empty(), "{} pods of the clone are there", pods.len());
            Ok(())
        })
        .await
    }

    async fn status(&self) -> Result<Value> {
        let canary = self.mesh.get("Canary", self.name(), "orders").await?.context("no Canary")?;
        Ok(canary["status"].clone())
    }

    async fn is(&self, phase: &str, within: Duration) -> Result<()> {
        eventually_within(&format!("the release to be {phase}"), within, || async {
            let status = self.status().await?;
            if status["phase"] == *phase { Ok(()) } else { bail!("status: {status:#}") }
        })
        .await
    }

    /// One of the Deployments.
    pub(crate) async fn deployment(&self, name: &str) -> Result<Value> {
        self.mesh.get("Deployment", self.name(), name).await?.with_context(|| format!("no Deployment {name}"))
    }

    /// The pods of the version that is tried.
    pub(crate) async fn clone_pods(&self) -> Result<Vec<Value>> {
        self.mesh.list("Pod", self.name(), "fairlead.dev/clone-of=orders").await
    }

    /// The pods of the version that runs.
    pub(crate) async fn stable_pods(&self) -> Result<Vec<Value>> {
        self.mesh.list("Pod", self.name(), "app=orders,!fairlead.dev/clone-of").await
    }
}

/// The addresses at which these pods serve.
pub(crate) fn addresses(pods: &[Value]) -> Vec<String> {
    pods.iter().map(|pod| format!("http://{}:9080/", text(&pod["status"]["podIP"]))).collect()
}
