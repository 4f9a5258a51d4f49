//! Deleting the operator leaves running applications running, and deleting everything leaves nothing. Runs after `mesh`, alone: it
//! takes away what the other tests stand on.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::{App, BINARY, CONTAINER};
use fairlead_e2e::kit::{Load, Mesh, OPERATOR_NAMESPACE, TempNamespace, eventually, processes, repository, text};

#[tokio::test]
async fn without_the_operator_applications_run_on_and_nothing_is_left() -> Result<()> {
    let mesh = Mesh::connect().await?;
    mesh.install().await?;
    let ns = TempNamespace::injected(&mesh, "removal").await?;
    mesh.apply(&App::echo("echo").replicas(2).yaml(ns.name())).await?;
    mesh.apply(&App::echo("client").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.rolled_out(ns.name(), "client").await?;
    // One that rests: nothing of it may keep the definitions from being deleted.
    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: echo, namespace: {}}}\nspec: {{workloadRef: {{kind: Deployment, name: echo}}}}\n",
        ns.name()
    ))
    .await?;
    eventually("the Canary to know its Deployment", || async {
        let canary = mesh.get("Canary", ns.name(), "echo").await?.context("no Canary")?;
        ensure!(canary["status"]["phase"] == "Initialized", "status: {:#}", canary["status"]);
        Ok(())
    })
    .await?;
    let call = [BINARY, "call", "http://echo:9080/"];
    eventually("a first answer", || async { mesh.exec(ns.name(), "app=client", CONTAINER, &call).await?.ok() }).await?;
    let load = Load::of("http://echo:9080/").rate(100).seconds(300).start(&mesh, ns.name()).await?;

    // The operator goes; the proxies keep serving what they know.
    mesh.kubectl()
        .run(&["scale", "-n", OPERATOR_NAMESPACE, "deployment/fairlead-operator", "--replicas=0"])
        .await?
        .ok()?;
    eventually("the operator to be gone", || async {
        let pods = mesh.list("Pod", OPERATOR_NAMESPACE, "").await?;
        ensure!(pods.is_empty(), "{} pods are left", pods.len());
        Ok(())
    })
    .await?;
    // A sidecar that restarts alone comes back from what it kept in memory.
    let restarts_before = restarts(&mesh, ns.name()).await?;
    crash_proxy(&mesh, ns.name()).await?;
    eventually("the client's sidecar to have restarted alone", || async {
        let now = restarts(&mesh, ns.name()).await?;
        ensure!(now > restarts_before, "restart count is still {now}");
        Ok(())
    })
    .await?;
    eventually("calls to go on without an operator", || async {
        mesh.exec(ns.name(), "app=client", CONTAINER, &call).await?.ok()
    })
    .await?;
    let report = load.report().await?;
    ensure!(report.failed == 0, "requests failed without an operator: {report:?}");

    // All of it goes.
    let install = repository()?.join("manifests/install.yaml");
    mesh.kubectl()
        .run(&["delete", "-f", &install.to_string_lossy(), "--ignore-not-found", "--timeout=120s"])
        .await?
        .ok()?;
    let report = load.report().await?;
    ensure!(report.failed == 0, "requests failed when the installation was deleted: {report:?}");
    ensure!(mesh.get("Namespace", "", OPERATOR_NAMESPACE).await?.is_none(), "namespace {OPERATOR_NAMESPACE} is left");
    for kind in [
        "CustomResourceDefinition",
        "MutatingWebhookConfiguration",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
        "ClusterRole",
    ] {
        let left: Vec<String> = mesh
            .list(kind, "", "")
            .await?
            .iter()
            .map(|o| text(&o["metadata"]["name"]))
            .filter(|name| name.contains("fairlead"))
            .collect();
        ensure!(left.is_empty(), "{kind} left behind: {left:?}");
    }
    // What running pods mount stays until it is asked to go, as the README says.
    let part = "app.kubernetes.io/part-of=fairlead";
    mesh.kubectl().run(&["delete", "configmap", "--all-namespaces", "-l", part]).await?.ok()?;
    let left = mesh.list("ConfigMap", "", part).await?;
    ensure!(left.is_empty(), "{} ConfigMaps are left", left.len());
    // And pods start as if the mesh had never been.
    mesh.kubectl().run(&["rollout", "restart", "-n", ns.name(), "deployment/echo"]).await?.ok()?;
    mesh.rolled_out(ns.name(), "echo").await?;
    let pods = mesh.list("Pod", ns.name(), "app=echo").await?;
    let newest = pods.iter().find(|pod| pod["metadata"]["deletionTimestamp"].is_null()).context("no pod of echo")?;
    ensure!(newest["spec"]["initContainers"].is_null(), "a new pod still gets a sidecar");
    Ok(())
}

/// How often the client's sidecar has been started anew.
async fn restarts(mesh: &Mesh, namespace: &str) -> Result<i64> {
    let pod = mesh.running_pod(namespace, "app=client").await?;
    let pod = mesh.get("Pod", namespace, &pod).await?.context("the client's pod is gone")?;
    let statuses = pod["status"]["initContainerStatuses"].as_array().cloned().unwrap_or_default();
    Ok(statuses.iter().filter(|s| s["name"] == "fairlead-proxy").filter_map(|s| s["restartCount"].as_i64()).sum())
}

/// Kills the client's proxy as the kernel would.
async fn crash_proxy(mesh: &Mesh, namespace: &str) -> Result<()> {
    let pod = mesh.running_pod(namespace, "app=client").await?;
    let proxy = processes("fairlead-proxy")?
        .into_iter()
        .find(|process| process.environment("POD_NAME").as_deref() == Some(&pod));
    proxy.with_context(|| format!("no process of the proxy of {pod} on this machine"))?.kill()
}
