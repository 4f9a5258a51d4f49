//! Which pods get a sidecar, and that each kind of workload lives well with it.

use anyhow::{Context, Result, bail, ensure};
use fairlead_e2e::kit::apps::{App, IMAGE};
use fairlead_e2e::kit::{Mesh, TempNamespace, eventually, text};
use serde_json::Value;

use crate::mesh;

/// The names of a pod's init containers, in order.
fn init_containers(pod: &Value) -> Vec<String> {
    pod["spec"]["initContainers"]
        .as_array()
        .map(|all| all.iter().map(|c| text(&c["name"])).collect())
        .unwrap_or_default()
}

async fn first_pod(mesh: &Mesh, namespace: &str, selector: &str) -> Result<Value> {
    eventually(&format!("a pod {selector} in {namespace}"), || async {
        mesh.list("Pod", namespace, selector).await?.into_iter().next().context("none yet")
    })
    .await
}

#[tokio::test]
async fn a_deployment_gets_a_sidecar_in_front_and_becomes_ready() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "inject-deployment").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;

    let pod = first_pod(&mesh, ns.name(), "app=echo").await?;
    assert_eq!(
        init_containers(&pod),
        ["fairlead-init", "fairlead-proxy"],
        "capture comes first, then the sidecar, then the app's own"
    );
    let sidecar = &pod["spec"]["initContainers"][1];
    assert_eq!(sidecar["restartPolicy"], "Always", "the proxy must be a native sidecar");
    let context = &sidecar["securityContext"];
    assert!(
        context["readOnlyRootFilesystem"] == true
            && context["runAsNonRoot"] == true
            && context["allowPrivilegeEscalation"] == false,
        "the sidecar has more rights than it needs: {context}"
    );
    Ok(())
}

#[tokio::test]
async fn a_job_completes_with_its_sidecar() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "inject-job").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.apply(&format!(
        "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: once, namespace: {ns}}}\nspec:\n  backoffLimit: 3\n  template:\n    metadata: {{labels: {{app: once}}}}\n    \
         spec:\n      restartPolicy: Never\n      containers:\n      - {{name: app, image: {IMAGE}, imagePullPolicy: IfNotPresent, args: [call, \"http://echo:9080/\"]}}\n",
        ns = ns.name()
    ))
    .await?;
    eventually("the Job to complete", || async {
        let job = mesh.get("Job", ns.name(), "once").await?.context("no Job")?;
        ensure!(job["status"]["succeeded"] == 1, "{}\n{}", job["status"], mesh.describe_pods(ns.name()).await);
        Ok(())
    })
    .await?;
    let pod = first_pod(&mesh, ns.name(), "app=once").await?;
    ensure!(init_containers(&pod).contains(&"fairlead-proxy".to_owned()), "the Job completed, but without a sidecar");
    Ok(())
}

#[tokio::test]
async fn the_pods_of_a_stateful_set_get_a_sidecar_and_keep_their_names() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "inject-stateful").await?;
    let app = App::echo("db");
    mesh.apply(&format!(
        "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db, namespace: {ns}}}\nspec:\n  serviceName: db\n  replicas: 2\n  \
         selector: {{matchLabels: {{app: db}}}}\n  template:\n{}---\n{}",
        app.template(4),
        app.service(ns.name()).replace("spec:\n", "spec:\n  clusterIP: None\n"),
        ns = ns.name()
    ))
    .await?;
    eventually("both pods of the StatefulSet to be ready", || async {
        let set = mesh.get("StatefulSet", ns.name(), "db").await?.context("no StatefulSet")?;
        ensure!(set["status"]["readyReplicas"] == 2, "{}\n{}", set["status"], mesh.describe_pods(ns.name()).await);
        Ok(())
    })
    .await?;
    for name in ["db-0", "db-1"] {
        let pod = mesh.get("Pod", ns.name(), name).await?.with_context(|| format!("no pod {name}"))?;
        ensure!(init_containers(&pod).contains(&"fairlead-proxy".to_owned()), "{name} has no sidecar");
    }
    // A pod reached by its own name, through a headless Service, is in the mesh as well.
    mesh.apply(&crate::client().yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "client").await?;
    let answer = crate::call_ok(&mesh, ns.name(), &["http://db-1.db:9080/"]).await?;
    assert_eq!(answer.header("x-pod"), "db-1");
    Ok(())
}

#[tokio::test]
async fn a_pod_that_opts_out_is_left_alone() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "inject-optout").await?;
    mesh.apply(&App::echo("plain").label("fairlead.dev/inject", "disabled").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "plain").await?;
    let pod = first_pod(&mesh, ns.name(), "app=plain").await?;
    assert!(init_containers(&pod).is_empty(), "it asked for no sidecar and got {:?}", init_containers(&pod));
    reason_is_told(&mesh, ns.name(), "disabled").await
}

#[tokio::test]
async fn a_pod_on_the_host_network_is_left_alone_with_a_reason() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "inject-host").await?;
    let yaml = App::new("host", "echo")
        .arg("--listen=0.0.0.0:19080")
        .arg("--greeter-listen=0.0.0.0:19081")
        .arg("--tcp-listen=0.0.0.0:19082")
        .probe("httpGet: {path: /health, port: 19080}")
        .deployment(ns.name())
        .replace(
            "spec:\n      terminationGracePeriodSeconds",
            "spec:\n      hostNetwork: true\n      terminationGracePeriodSeconds",
        );
    ensure!(yaml.contains("hostNetwork: true"), "the manifest of this test lost its point");
    mesh.apply(&yaml).await?;
    mesh.rolled_out(ns.name(), "host").await?;
    let pod = first_pod(&mesh, ns.name(), "app=host").await?;
    assert!(init_containers(&pod).is_empty(), "capturing a node's own network would cut the node off");
    reason_is_told(&mesh, ns.name(), "hostNetwork").await
}

#[tokio::test]
async fn a_bad_annotation_is_refused_with_the_fix() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "inject-bad").await?;
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: bad\n  namespace: {}\n  annotations: {{fairlead.dev/skip-outbound-ports: \"6379; reboot\"}}\nspec:\n  containers:\n  \
         - {{name: app, image: {IMAGE}, args: [echo]}}\n",
        ns.name()
    );
    let words = mesh.refused(&pod).await?;
    ensure!(words.contains("fairlead.dev/skip-outbound-ports"), "the refusal does not name the annotation: {words}");
    Ok(())
}

/// Whoever wonders why a pod has no sidecar finds an event.
async fn reason_is_told(mesh: &Mesh, namespace: &str, word: &str) -> Result<()> {
    eventually(&format!("an event in {namespace} that says why there is no sidecar"), || async {
        let events = mesh.list("Event", namespace, "").await?;
        if events.iter().any(|event| text(&event["message"]).contains(word) || text(&event["note"]).contains(word)) {
            return Ok(());
        }
        bail!(
            "no event mentions {word:?}; there are: {:?}",
            events.iter().map(|e| text(&e["message"])).collect::<Vec<_>>()
        )
    })
    .await
}
