//! A node is drained while its pods are in use. Runs alone, as other tests need both nodes.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::{App, BINARY, CONTAINER};
use fairlead_e2e::kit::{Load, Mesh, TempNamespace, eventually, text};

#[tokio::test]
async fn draining_a_node_loses_no_request() -> Result<()> {
    let mesh = Mesh::connect().await?;
    mesh.install().await?;
    let ns = TempNamespace::injected(&mesh, "drain").await?;
    // Two pods on each node, and a budget that lets them go one by one.
    mesh.apply(&App::echo("echo").replicas(4).yaml(ns.name())).await?;
    mesh.apply(&format!(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: echo, namespace: {}}}\nspec: {{maxUnavailable: 1, selector: {{matchLabels: {{app: echo}}}}}}\n",
        ns.name()
    ))
    .await?;
    mesh.apply(&App::echo("client").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.rolled_out(ns.name(), "client").await?;
    let call = [BINARY, "call", "http://echo:9080/"];
    eventually("a first answer", || async { mesh.exec(ns.name(), "app=client", CONTAINER, &call).await?.ok() }).await?;
    let load = Load::of("http://echo:9080/").rate(200).seconds(600).start(&mesh, ns.name()).await?;

    let node_of = async |labels: &str| -> Result<Vec<String>> {
        let pods = mesh.list("Pod", ns.name(), labels).await?;
        Ok(pods.iter().map(|pod| text(&pod["spec"]["nodeName"])).collect())
    };
    let nodes = node_of("app=echo").await?;
    let drained = nodes.first().context("no pod of echo")?;
    let there = nodes.iter().filter(|node| *node == drained).count();
    let words = ["drain", drained, "--pod-selector=app=echo", "--delete-emptydir-data", "--timeout=180s"];
    let output = mesh.kubectl().run(&words).await;
    let left = eventually("the pods to run elsewhere", || async {
        let nodes = node_of("app=echo").await?;
        ensure!(nodes.len() == 4 && !nodes.contains(drained), "the pods are on {nodes:?}");
        Ok(())
    })
    .await;
    // Whatever became of it, the tests that follow need the node.
    mesh.kubectl().run(&["uncordon", drained]).await?.ok()?;
    output?.ok()?;
    left?;
    mesh.rolled_out(ns.name(), "echo").await?;
    let report = load.report().await?;
    ensure!(report.ok > 1000, "too little load to show anything: {report:?}");
    ensure!(report.failed == 0, "requests were lost while {there} pods were evicted: {report:?}");
    Ok(())
}
