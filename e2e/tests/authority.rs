//! A damaged certificate authority: no certificate, one sentence with the fix, and nothing else stops. Runs alone, between `mesh` and
//! `replicas`: while the authority is broken no other test could start a pod.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::{App, BINARY, CONTAINER};
use fairlead_e2e::kit::{Load, Mesh, OPERATOR_NAMESPACE, TempNamespace, eventually};
use serde_json::{Value, json};

const ROOT: &str = "fairlead-root";
const ISSUER: &str = "fairlead-issuer";
const SIDECAR: &str = "fairlead-proxy";

/// One way to spoil a Secret, and what the operator says of it.
struct Damage {
    secret: &'static str,
    /// What is put into `data`, in base64.
    data: Value,
    /// Parts of the sentence: the Secret, what is wrong, the fix.
    said: [&'static str; 3],
}

/// The data of a Secret of the authority.
async fn data(mesh: &Mesh, secret: &str) -> Result<Value> {
    Ok(mesh.get("Secret", OPERATOR_NAMESPACE, secret).await?.with_context(|| format!("no Secret {secret}"))?["data"]
        .clone())
}

async fn put(mesh: &Mesh, secret: &str, data: &Value) -> Result<()> {
    let patch = json!({ "data": data }).to_string();
    mesh.kubectl()
        .run(&["patch", "secret", "-n", OPERATOR_NAMESPACE, secret, "--type=merge", "-p", &patch])
        .await?
        .ok()?;
    Ok(())
}

/// Whether the operator's metrics say that it can issue certificates.
async fn usable(mesh: &Mesh) -> Result<bool> {
    Ok(mesh.operator_metrics().await?.sum("fairlead_operator_certificate_authority_usable", &[])? == 1)
}

async fn logs(mesh: &Mesh, namespace: &str, of: &str, container: &[&str]) -> Result<String> {
    let words = [&["logs", "-n", namespace, of, "--tail=200"], container].concat();
    mesh.kubectl().run(&words).await?.ok()
}

#[tokio::test]
async fn a_damaged_authority_issues_nothing_says_why_and_disturbs_nobody() -> Result<()> {
    let mesh = Mesh::connect().await?;
    mesh.install().await?;
    let ns = TempNamespace::injected(&mesh, "authority").await?;
    mesh.apply(&App::echo("echo").replicas(2).yaml(ns.name())).await?;
    mesh.apply(&App::echo("client").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.rolled_out(ns.name(), "client").await?;
    let call = [BINARY, "call", "http://echo:9080/"];
    eventually("a first answer", || async { mesh.exec(ns.name(), "app=client", CONTAINER, &call).await?.ok() }).await?;
    let load = Load::of("http://echo:9080/").rate(100).seconds(600).start(&mesh, ns.name()).await?;

    let (root, issuer) = (data(&mesh, ROOT).await?, data(&mesh, ISSUER).await?);
    let damages = [
        Damage {
            secret: ISSUER,
            data: json!({"tls.crt": "Z2FyYmFnZQ=="}),
            said: [
                "fairlead-system/fairlead-issuer",
                "tls.crt is not one certificate",
                "or delete it: the operator then makes a new one",
            ],
        },
        Damage {
            secret: ISSUER,
            data: json!({"tls.key": root["tls.key"]}),
            said: [
                "fairlead-system/fairlead-issuer",
                "tls.key does not belong to tls.crt",
                "or delete it: the operator then makes a new one",
            ],
        },
        Damage {
            secret: ROOT,
            data: json!({"tls.key": issuer["tls.key"]}),
            said: ["fairlead-system/fairlead-root", "tls.key does not belong to tls.crt", "restore it from a backup"],
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        let (what, whole) = (damage.said[1], if damage.secret == ROOT { &root } else { &issuer });
        put(&mesh, damage.secret, &damage.data).await?;
        eventually(&format!("the operator to notice: {what}"), || async {
            ensure!(!usable(&mesh).await?, "it still takes its authority for usable");
            Ok(())
        })
        .await?;
        let said = logs(&mesh, OPERATOR_NAMESPACE, "deployment/fairlead-operator", &[]).await?;
        ensure!(
            said.lines().any(|line| line.contains("\"ERROR\"") && damage.said.iter().all(|part| line.contains(part))),
            "no error of the operator names the Secret, what is wrong and the fix ({:?}):\n{said}",
            damage.said
        );

        // A pod that starts now is given its sidecar, which gets no certificate, says why, and lets nothing start in its place.
        let late = format!("late-{number}");
        mesh.apply(&App::echo(&late).yaml(ns.name())).await?;
        eventually("the new pod's sidecar to say why it waits", || async {
            let said = logs(&mesh, ns.name(), &format!("deployment/{late}"), &["-c", SIDECAR]).await?;
            ensure!(said.contains(damage.said[0]) && said.contains(what), "it says:\n{said}");
            Ok(())
        })
        .await?;
        let pods = mesh.list("Pod", ns.name(), &format!("app={late}")).await?;
        ensure!(
            pods.len() == 1 && pods[0]["status"]["phase"] == "Pending",
            "it runs without an identity: {:#}",
            pods[0]["status"]
        );

        // Mended, everything goes on by itself, under the same root.
        put(&mesh, damage.secret, whole).await?;
        mesh.rolled_out(ns.name(), &late).await?;
        ensure!(usable(&mesh).await?, "certificates are issued, but the metric says otherwise");
    }
    let report = load.report().await?;
    ensure!(report.ok > 1000, "too little load to show anything: {report:?}");
    ensure!(report.failed == 0, "requests failed while the authority was damaged: {report:?}");
    Ok(())
}
