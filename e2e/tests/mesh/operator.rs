//! The operator comes and goes; what runs goes on.

use std::time::Duration;

use anyhow::{Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Load, OPERATOR_NAMESPACE, TempNamespace, eventually, text};

use crate::{call_ok, client, mesh};

#[tokio::test]
async fn rollouts_and_operator_restarts_lose_no_request() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "rollout").await?;
    mesh.apply(&App::echo("echo").replicas(2).yaml(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    call_ok(&mesh, ns.name(), &["http://echo:9080/"]).await?;
    let load = Load::of("http://echo:9080/").rate(150).seconds(300).start(&mesh, ns.name()).await?;

    mesh.kubectl().run(&["rollout", "restart", "-n", ns.name(), "deployment/echo"]).await?.ok()?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.kubectl()
        .run(&["rollout", "restart", "-n", OPERATOR_NAMESPACE, "deployment/fairlead-operator"])
        .await?
        .ok()?;
    mesh.rolled_out(OPERATOR_NAMESPACE, "fairlead-operator").await?;
    tokio::time::sleep(Duration::from_secs(5)).await;

    let report = load.report().await?;
    ensure!(report.ok > 1000, "too little load to show anything: {report:?}");
    ensure!(report.failed == 0, "requests were lost: {report:?}");
    Ok(())
}

#[tokio::test]
async fn the_webhooks_trust_the_operators_certificate_again_after_someone_broke_it() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "cabundle").await?;
    let hooks = mesh.list("MutatingWebhookConfiguration", "", "").await?;
    let name = hooks
        .iter()
        .map(|hook| text(&hook["metadata"]["name"]))
        .find(|name| name.contains("fairlead"))
        .unwrap_or_default();
    let patch = r#"[{"op": "replace", "path": "/webhooks/0/clientConfig/caBundle", "value": ""}]"#;
    mesh.kubectl().run(&["patch", "mutatingwebhookconfiguration", &name, "--type=json", "-p", patch]).await?.ok()?;
    eventually("the caBundle to be put back", || async {
        let hook = mesh.get("MutatingWebhookConfiguration", "", &name).await?.unwrap_or_default();
        ensure!(!text(&hook["webhooks"][0]["clientConfig"]["caBundle"]).is_empty(), "still empty");
        Ok(())
    })
    .await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await
}
