//! A namespace of a test's own, which goes when the test is over.

use anyhow::Result;
use tokio::process::Command;

use super::{Kubectl, Mesh};

/// A namespace that is deleted when this is dropped, also when the test fails.
pub struct TempNamespace {
    name: String,
    kubectl: Kubectl,
}

impl TempNamespace {
    /// Makes namespace `e2e-<name>`, labelled for injection.
    pub async fn injected(mesh: &Mesh, name: &str) -> Result<Self> {
        Self::with_label(mesh, name, "enabled").await
    }

    /// Makes namespace `e2e-<name>` that the mesh leaves alone.
    pub async fn plain(mesh: &Mesh, name: &str) -> Result<Self> {
        Self::with_label(mesh, name, "disabled").await
    }

    async fn with_label(mesh: &Mesh, name: &str, inject: &str) -> Result<Self> {
        let name = format!("e2e-{name}");
        // One of an earlier run may still be on its way out.
        mesh.kubectl().run(&["delete", "namespace", &name, "--ignore-not-found", "--wait=true"]).await?.ok()?;
        mesh.apply(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n  labels: {{fairlead.dev/inject: {inject}}}\n"
        ))
        .await?;
        Ok(Self { name, kubectl: mesh.kubectl().clone() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for TempNamespace {
    fn drop(&mut self) {
        // Dropped in and out of a runtime, hence a blocking call; it only asks the API server, which does the rest.
        let command: Command = self.kubectl.command(&["delete", "namespace", &self.name, "--wait=false"]);
        let _ = command.into_std().stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
    }
}
