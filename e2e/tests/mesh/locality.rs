//! Which of several endpoints get requests, by where they are and by what they answer when they are asked.

use anyhow::{Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Load, LoadReport, Mesh, TempNamespace, eventually};

use crate::{call_ok, client, mesh};

const REVIEWS: &str = "http://reviews:9080/reviews/0";

fn policy(namespace: &str, rest: &str) -> String {
    format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: reviews, namespace: {namespace}}}\nspec:\n  targetRef: {{kind: Service, name: reviews}}\n  {rest}\n"
    )
}

async fn scale(mesh: &Mesh, namespace: &str, replicas: u32) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    mesh.kubectl().run(&["scale", "deployment/reviews", "-n", namespace, &replicas]).await?.ok()?;
    mesh.rolled_out(namespace, "reviews").await
}

/// Version v1 of reviews is in zone a, v2 in zone b, and who calls them in a.
#[tokio::test]
async fn requests_stay_in_their_zone_until_nobody_is_there() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "locality").await?;
    mesh.apply(&App::reviews("reviews", "v1").zone("a").yaml(ns.name())).await?;
    mesh.apply(&App::reviews("reviews", "v2").zone("b").beside_the_first(ns.name())).await?;
    for name in ["reviews", "reviews-v2"] {
        mesh.rolled_out(ns.name(), name).await?;
    }
    let ask = || async {
        let report = Load::of(REVIEWS).rate(50).seconds(4).zone("a").run(&mesh, ns.name()).await?;
        ensure!(report.failed == 0 && report.ok > 100, "{report:?}");
        Ok::<LoadReport, anyhow::Error>(report)
    };
    mesh.apply(&policy(ns.name(), "loadBalancing: {algorithm: RoundRobin}")).await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    let alike = ask().await?;
    ensure!(alike.of_version("v2") > alike.ok / 3, "without a preference both should be asked: {alike:?}");

    mesh.apply(&policy(ns.name(), "loadBalancing: {algorithm: RoundRobin, locality: {prefer: Zone}}")).await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    let near = ask().await?;
    ensure!(near.of_version("v1") == near.ok, "some left the zone: {near:?}");

    scale(&mesh, ns.name(), 0).await?;
    let far = ask().await?;
    ensure!(far.of_version("v2") == far.ok, "{far:?}");

    scale(&mesh, ns.name(), 1).await?;
    let back = ask().await?;
    ensure!(back.of_version("v1") == back.ok, "some stayed away: {back:?}");
    Ok(())
}

/// Version v2 of reviews is ready, but answers what the policy has it asked with 500.
#[tokio::test]
async fn an_endpoint_that_fails_its_checks_gets_no_requests() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "checks").await?;
    mesh.apply(&App::reviews("reviews", "v1").yaml(ns.name())).await?;
    mesh.apply(&App::reviews("reviews", "v2").arg("--error-rate=100").beside_the_first(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    for name in ["reviews", "reviews-v2", "client"] {
        mesh.rolled_out(ns.name(), name).await?;
    }
    let check = "healthCheck: {path: /reviews/0, interval: 1s, unhealthy: 2}";
    mesh.apply(&policy(ns.name(), check)).await?;
    // A proxy asks the endpoints of what its application uses.
    call_ok(&mesh, ns.name(), &[REVIEWS]).await?;
    eventually("the proxy to find the faulty pod", || async {
        let metrics = mesh.sidecar_metrics(ns.name(), "client").await?;
        let found = metrics.sum("fairlead_proxy_outlier_events_total", &[r#"event="unhealthy""#])?;
        ensure!(found == 1, "{found} endpoints were found unhealthy");
        Ok(())
    })
    .await?;
    for n in 0..20 {
        let status = crate::call(&mesh, ns.name(), &[REVIEWS]).await?;
        ensure!(status.success, "request {n} went to the faulty pod: {status:?}");
    }
    Ok(())
}
