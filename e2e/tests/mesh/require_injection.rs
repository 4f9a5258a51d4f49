//! A namespace that requires injection lets nothing in without sidecar and capture, whatever the webhook did.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::{App, IMAGE};
use fairlead_e2e::kit::{Mesh, TempNamespace, eventually};

use crate::mesh;

/// Makes a namespace require injection, and waits until the API server does: policies become effective a moment after they match.
async fn require(mesh: &Mesh, ns: &TempNamespace) -> Result<()> {
    let label = ["label", "namespace", ns.name(), "fairlead.dev/require-injection=enabled"];
    mesh.kubectl().run(&label).await?.ok()?;
    eventually("the API server to refuse a pod that opts out", || async {
        refused_for_it(mesh, &pod(ns, "probe", OPTED_OUT, "")).await
    })
    .await
}

const OPTED_OUT: &str = "labels: {fairlead.dev/inject: disabled}";

/// A pod of its own; `metadata` and `spec` are lines of YAML.
fn pod(ns: &TempNamespace, name: &str, metadata: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: {ns}\n  {metadata}\nspec:\n  {spec}\n  containers:\n  \
         - {{name: app, image: {IMAGE}, imagePullPolicy: IfNotPresent, args: [echo]}}\n",
        ns = ns.name()
    )
}

/// A dry run of the server goes the whole way but to etcd.
async fn dry_run(mesh: &Mesh, yaml: &str) -> Result<std::result::Result<(), String>> {
    let output = mesh.kubectl().with_input(&["apply", "--dry-run=server", "-f", "-"], yaml).await?;
    Ok(if output.success { Ok(()) } else { Err(output.stderr) })
}

async fn refused_for_it(mesh: &Mesh, yaml: &str) -> Result<()> {
    let words = dry_run(mesh, yaml).await?.err().with_context(|| format!("nobody refused\n{yaml}"))?;
    ensure!(
        words.contains("fairlead-require-injection") && words.contains("fairlead.dev/without-sidecar"),
        "the refusal names neither the policy nor the way out: {words}"
    );
    Ok(())
}

#[tokio::test]
async fn injected_pods_start_where_injection_is_required() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "require-injected").await?;
    require(&mesh, &ns).await?;
    mesh.apply(&App::echo("echo").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "echo").await
}

#[tokio::test]
async fn what_has_no_sidecar_is_refused_where_one_is_required() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "require-refused").await?;
    require(&mesh, &ns).await?;
    let fake = |image: &str, args: &str| {
        format!(
            "initContainers:\n  - {{name: fairlead-init, image: {image}, args: [init]}}\n  \
             - {{name: fairlead-proxy, image: {image}, args: [{args}], restartPolicy: Always}}"
        )
    };
    for yaml in [
        pod(&ns, "opted-out", OPTED_OUT, ""),
        pod(&ns, "host", "labels: {}", "hostNetwork: true"),
        // The injector takes these for its own work, and leaves them alone.
        pod(&ns, "fake", "labels: {}", &fake(IMAGE, "echo")),
        pod(&ns, "fake-prefix", "labels: {}", &fake("fairlead.dev/proxy-of-mine:dev", "run")),
        pod(&ns, "fake-command", "labels: {}", &fake("fairlead.dev/proxy:dev, command: [/fairlead-proxy]", "run")),
        pod(&ns, "fake-arguments", "labels: {}", &fake("fairlead.dev/proxy:dev", "--help")),
    ] {
        refused_for_it(&mesh, &yaml).await?;
    }
    Ok(())
}

/// As after a webhook that was away or not registered: here it is not asked, because the namespace is not labelled for it.
#[tokio::test]
async fn a_webhook_that_was_not_asked_leaves_no_hole() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::plain(&mesh, "require-not-asked").await?;
    // One that was there before goes on: it can be changed and deleted.
    mesh.apply(&App::echo("before").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "before").await?;
    require(&mesh, &ns).await?;
    refused_for_it(&mesh, &pod(&ns, "plain", "labels: {}", "")).await?;
    let label = ["label", "pods", "-n", ns.name(), "-l", "app=before", "touched=yes"];
    mesh.kubectl().run(&label).await?.ok()?;
    mesh.kubectl().run(&["delete", "pods", "-n", ns.name(), "-l", "app=before", "--wait=true"]).await?.ok()?;
    eventually("the Deployment to say that its new pod is refused", || async {
        let set =
            mesh.list("ReplicaSet", ns.name(), "app=before").await?.into_iter().next().context("no ReplicaSet")?;
        let conditions = set["status"]["conditions"].to_string();
        ensure!(conditions.contains("fairlead-require-injection"), "{conditions}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_service_account_that_the_namespace_names_may_do_without() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "require-without").await?;
    require(&mesh, &ns).await?;
    for account in ["node-agent", "backup"] {
        mesh.kubectl().run(&["create", "serviceaccount", account, "-n", ns.name()]).await?.ok()?;
    }
    let annotation = ["annotate", "namespace", ns.name(), "fairlead.dev/without-sidecar=other,node-agent"];
    mesh.kubectl().run(&annotation).await?.ok()?;
    let of = |account: &str, rest: &str| format!("serviceAccountName: {account}\n  {rest}");
    eventually("the API server to know of the annotation", || async {
        for yaml in [
            pod(&ns, "opted-out", OPTED_OUT, &of("node-agent", "")),
            pod(&ns, "host", "labels: {}", &of("node-agent", "hostNetwork: true")),
        ] {
            if let Err(words) = dry_run(&mesh, &yaml).await? {
                anyhow::bail!("{words}");
            }
        }
        Ok(())
    })
    .await?;
    // The account alone is no reason, and neither is another one.
    let mine = "initContainers:\n  - {name: fairlead-proxy, image: fairlead.dev/bookinfo:dev, args: [echo], restartPolicy: Always}";
    refused_for_it(&mesh, &pod(&ns, "fake", "labels: {}", &of("node-agent", mine))).await?;
    refused_for_it(&mesh, &pod(&ns, "other", OPTED_OUT, &of("backup", ""))).await?;
    refused_for_it(&mesh, &pod(&ns, "default", OPTED_OUT, "")).await
}
