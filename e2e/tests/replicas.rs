//! Two replicas of the operator: either serves proxies, one of them writes. Runs alone, between `mesh` and `removal`: it changes the installation.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{
    Load, Mesh, OPERATOR, OPERATOR_NAMESPACE, TempNamespace, eventually, eventually_within, repository, text,
};

#[tokio::test]
async fn a_release_survives_the_leader_and_counts_what_the_other_replica_heard() -> Result<()> {
    let mesh = Mesh::connect().await?;
    mesh.install().await?;
    let overlay = repository()?.join("manifests/ha");
    mesh.kubectl().run(&["apply", "-k", &overlay.to_string_lossy()]).await?.ok()?;
    mesh.rolled_out(OPERATOR_NAMESPACE, "fairlead-operator").await?;
    let operators = mesh.list("Pod", OPERATOR_NAMESPACE, OPERATOR).await?;
    let ready = operators.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).count();
    ensure!(ready == 2, "{ready} replicas instead of 2");

    let ns = TempNamespace::injected(&mesh, "replicas").await?;
    let reviews = App::reviews("reviews", "v1").replicas(2).arg("--ratings-url=http://reviews:9080");
    mesh.apply(&reviews.yaml(ns.name())).await?;
    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: reviews, namespace: {}}}\nspec:\n  workloadRef: {{kind: Deployment, name: reviews}}\n  \
         steps: [{{weight: 20}}, {{weight: 50, hold: 20s}}]\n  analysis: {{errors: {{margin: 2}}}}\n",
        ns.name()
    ))
    .await?;
    mesh.rolled_out(ns.name(), "reviews").await?;
    // Several callers, so that each replica hears some of them.
    let load = Load::of("http://reviews:9080/reviews/0").rate(100).seconds(600).start(&mesh, ns.name()).await?;
    eventually("the Canary to know its Deployment", || async {
        let canary = mesh.get("Canary", ns.name(), "reviews").await?.context("no Canary")?;
        ensure!(canary["status"]["phase"] == "Initialized", "status: {:#}", canary["status"]);
        Ok(())
    })
    .await?;
    mesh.apply(&reviews.clone().label("release", "second").deployment(ns.name())).await?;
    eventually("the last step", || async {
        let canary = mesh.get("Canary", ns.name(), "reviews").await?.context("no Canary")?;
        ensure!(canary["status"]["step"]["weight"] == 50, "status: {:#}", canary["status"]);
        Ok(())
    })
    .await?;
    let lease = mesh.get("Lease", OPERATOR_NAMESPACE, "fairlead-operator").await?.context("no Lease")?;
    let leader = text(&lease["spec"]["holderIdentity"]);
    mesh.kubectl()
        .run(&["delete", "pod", "-n", OPERATOR_NAMESPACE, &leader, "--grace-period=0", "--force"])
        .await?
        .ok()?;
    eventually_within("the release to succeed under another leader", Duration::from_secs(240), || async {
        let canary = mesh.get("Canary", ns.name(), "reviews").await?.context("no Canary")?;
        ensure!(canary["status"]["phase"] == "Succeeded", "status: {:#}", canary["status"]);
        Ok(())
    })
    .await?;
    let lease = mesh.get("Lease", OPERATOR_NAMESPACE, "fairlead-operator").await?.context("no Lease")?;
    ensure!(text(&lease["spec"]["holderIdentity"]) != leader, "the Lease still names the leader that was killed");
    let report = load.report().await?;
    ensure!(report.failed == 0, "requests failed: {report:?}");
    Ok(())
}
