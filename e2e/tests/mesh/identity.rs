//! Who may speak with whom.

use anyhow::{Result, bail, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{TempNamespace, eventually};

use crate::{call, call_ok, client, mesh};

#[tokio::test]
async fn strict_refuses_plain_callers_and_probes_still_pass() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "strict").await?;
    let outside = TempNamespace::plain(&mesh, "strict-outside").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    // A tcpSocket probe on a captured port is the case that a proxy gets wrong most easily.
    mesh.apply(&App::echo("tcp").probe("tcpSocket: {port: 9082}").yaml(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    mesh.apply(&client().yaml(outside.name())).await?;
    for (namespace, name) in [(&ns, "echo"), (&ns, "tcp"), (&ns, "client"), (&outside, "client")] {
        mesh.rolled_out(namespace.name(), name).await?;
    }
    let url = format!("http://echo.{}:9080/", ns.name());
    // Permissive is the default: both are answered.
    call_ok(&mesh, ns.name(), &[&url]).await?;
    call_ok(&mesh, outside.name(), &[&url]).await?;

    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: PeerAuth\nmetadata: {{name: strict, namespace: {}}}\nspec:\n  mtls: {{mode: Strict}}\n",
        ns.name()
    ))
    .await?;
    mesh.programmed("PeerAuth", ns.name(), "strict").await?;

    call_ok(&mesh, ns.name(), &[&url]).await?;
    for words in [vec![url.as_str()], vec!["tcp", &format!("echo.{}:9082", ns.name())]] {
        let refused = call(&mesh, outside.name(), &words).await?;
        ensure!(!refused.success, "a caller without a sidecar was answered under Strict: {}", refused.stdout);
    }
    // New pods have to pass their probes under Strict as well, all kinds of them.
    for name in ["echo", "tcp"] {
        mesh.kubectl().run(&["rollout", "restart", "-n", ns.name(), &format!("deployment/{name}")]).await?.ok()?;
        mesh.rolled_out(ns.name(), name).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_probe_fails_when_the_application_does_not_listen() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "probe").await?;
    mesh.apply(&App::echo("deaf").probe("tcpSocket: {port: 7}").yaml(ns.name())).await?;
    eventually("kubelet to say that the probe fails", || async {
        let events = mesh.list("Event", ns.name(), "").await?;
        ensure!(
            events.iter().any(|e| e["reason"] == "Unhealthy"),
            "no event Unhealthy: a captured port must not answer for the application"
        );
        Ok(())
    })
    .await?;
    let pods = mesh.list("Pod", ns.name(), "app=deaf").await?;
    for pod in pods {
        let ready = pod["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        if ready {
            bail!("the pod is ready although nothing listens where its probe asks");
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_health_port_reaches_only_what_the_pod_declared() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "healthport").await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.rolled_out(ns.name(), "client").await?;
    let pod = mesh.running_pod(ns.name(), "app=echo").await?;
    let pod = mesh.get("Pod", ns.name(), &pod).await?.unwrap_or_default();
    let ip = fairlead_e2e::kit::text(&pod["status"]["podIP"]);

    let declared = call(&mesh, ns.name(), &[&format!("http://{ip}:15020/probe/app/readiness")]).await?;
    ensure!(declared.success, "the declared probe does not answer: {}{}", declared.stdout, declared.stderr);
    for path in ["/probe/app/startup", "/probe/other/readiness", "/metrics", "/config", "/status/200"] {
        let answer = call(&mesh, ns.name(), &[&format!("http://{ip}:15020{path}")]).await?;
        ensure!(!answer.success, "{path} on the health port answered: {}", answer.stdout);
    }
    // The admin port is for the pod itself.
    let admin = call(&mesh, ns.name(), &[&format!("http://{ip}:15000/config")]).await?;
    ensure!(!admin.success, "the admin port answers other pods: {}", admin.stdout);
    Ok(())
}
