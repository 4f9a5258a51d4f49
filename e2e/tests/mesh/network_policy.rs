//! NetworkPolicies go on working while a canary runs: whom they admit is served, whom they do not is refused by both versions.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::{BINARY, CONTAINER};
use fairlead_e2e::kit::{Load, Mesh, TempNamespace, eventually};

use crate::orders::{Orders, addresses, url};
use crate::{Answer, client};

/// Admits the load generators of both namespaces to the application, and nobody else, not even the application itself. Going out, it
/// may ask for names and reach the operator.
fn policy(namespace: &str, outside: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: orders, namespace: {namespace}}}\nspec:\n  \
         podSelector: {{matchLabels: {{app: orders}}}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  - from:\n    \
         - podSelector: {{matchLabels: {{app: load}}}}\n    \
         - namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {outside}}}}}\n      podSelector: {{matchLabels: {{app: load}}}}\n    \
         ports: [{{port: 9080}}]\n  egress:\n  - ports: [{{port: 53, protocol: UDP}}, {{port: 53}}]\n  \
         - to: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: fairlead-system}}}}}}]\n"
    )
}

/// Whether a pod that no policy names gets an answer from this address.
async fn stranger_reaches(mesh: &Mesh, outside: &str, address: &str) -> Result<bool> {
    let words = [BINARY, "call", "--timeout=3s", address];
    let output = mesh.exec(outside, "app=client", CONTAINER, &words).await?;
    Ok(output.success && Answer::parse(&output.stdout).is_ok())
}

#[tokio::test]
async fn a_canary_answers_and_refuses_the_same_callers_as_the_running_version() -> Result<()> {
    let orders = Orders::open("policy").await?;
    let (mesh, ns) = (&orders.mesh, orders.name());
    let outside = TempNamespace::plain(mesh, "policy-outside").await?;
    mesh.apply(&client().yaml(outside.name())).await?;
    mesh.rolled_out(outside.name(), "client").await?;

    // Without a policy everybody is served; with it, the same pod is not. So policies are enforced here.
    let stable = addresses(&orders.stable_pods().await?);
    ensure!(stable.len() == 2, "two pods run: {stable:?}");
    for address in &stable {
        ensure!(stranger_reaches(mesh, outside.name(), address).await?, "{address} answers nobody");
    }
    mesh.apply(&policy(ns, outside.name())).await?;
    eventually("the policy to be enforced", || async {
        for address in &stable {
            let reached = stranger_reaches(mesh, outside.name(), address).await?;
            ensure!(
                !reached,
                "{address} still answers a pod that no policy admits: does this cluster enforce NetworkPolicies?"
            );
        }
        Ok(())
    })
    .await?;

    let load = Load::of(&url(ns)).rate(80).seconds(900).start(mesh, ns).await?;
    // A new connection for each request, so that it keeps coming to the pods of both versions.
    let plain = Load::of(&url(ns)).rate(20).seconds(900).header("connection=close");
    let plain = plain.start(mesh, outside.name()).await?;
    orders.release().await?;

    // Half of these connections arrive at the clone, whose proxy hands them over to the running version.
    let before = plain.report().await?.ok;
    let report = eventually("the caller without a sidecar to make 200 requests", || async {
        let report = plain.report().await?;
        let requests = report.ok + report.failed - before;
        ensure!(requests >= 200, "it made {requests}");
        Ok(report)
    })
    .await?;
    ensure!(report.failed == 0, "a caller that the policy admits failed during the canary: {report:?}");
    ensure!(report.of_version("v1") == report.ok, "a caller without a sidecar was answered by the canary: {report:?}");
    let passage = mesh.get("NetworkPolicy", ns, "orders-canary-ingress").await?;
    let passage = passage.context("nothing lets the canary's pods in at those of the running version")?;
    ensure!(
        passage["metadata"]["ownerReferences"][0]["name"] == "orders",
        "it does not go with the policy that it adds to: {:#}",
        passage["metadata"]
    );

    let (stable, clone) = (addresses(&orders.stable_pods().await?), addresses(&orders.clone_pods().await?));
    ensure!(!clone.is_empty(), "a weight, but no pods of the canary");
    for (version, addresses) in [("running version", stable), ("canary", clone)] {
        for address in addresses {
            ensure!(
                !stranger_reaches(mesh, outside.name(), &address).await?,
                "the {version} at {address} answered a pod that no policy admits"
            );
        }
    }
    let report = load.report().await?;
    ensure!(report.of_version("v2") > 0, "the canary answered nothing: {report:?}");

    orders.finish().await?;
    eventually("the canary's own policies to be gone", || async {
        let left = mesh.list("NetworkPolicy", ns, "fairlead.dev/canary=orders").await?;
        ensure!(left.is_empty(), "{} are left", left.len());
        Ok(())
    })
    .await?;
    for (who, load) in [("a sidecar", load), ("no sidecar", plain)] {
        let report = load.report().await?;
        ensure!(report.failed == 0, "requests of the caller with {who} failed: {report:?}");
        ensure!(
            report.of_version("v2") > 0,
            "the caller with {who} was never answered by what was promoted: {report:?}"
        );
    }
    Ok(())
}
