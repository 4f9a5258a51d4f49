//! An autoscaler goes on working while a canary runs: it scales the Deployment, and the clone follows.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::{Load, eventually};
use serde_json::Value;

use crate::orders::{Orders, url};

/// An autoscaler that always wants more pods than it may have while there is any load: a fiftieth of what pods ask for is enough.
fn autoscaler(namespace: &str, at_most: u32) -> String {
    format!(
        "apiVersion: autoscaling/v2\nkind: HorizontalPodAutoscaler\nmetadata: {{name: orders, namespace: {namespace}}}\nspec:\n  \
         scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: orders}}\n  minReplicas: 2\n  maxReplicas: {at_most}\n  \
         metrics:\n  - {{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 2}}}}}}\n"
    )
}

async fn observed(orders: &Orders) -> Result<Value> {
    let autoscaler = orders.mesh.get("HorizontalPodAutoscaler", orders.name(), "orders").await?;
    Ok(autoscaler.context("no autoscaler")?["status"].clone())
}

/// Its metrics are there, and what it would do is limited by `maxReplicas` alone.
async fn works(orders: &Orders) -> Result<()> {
    let status = observed(orders).await?;
    let condition = |name: &str| {
        let conditions = status["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().find(|known| known["type"] == name).map(|known| known["status"].clone())
    };
    ensure!(condition("ScalingActive") == Some("True".into()), "it has no metrics: {status:#}");
    ensure!(condition("ScalingLimited") == Some("True".into()), "it wants no more pods: {status:#}");
    Ok(())
}

#[tokio::test]
async fn an_autoscaler_scales_the_deployment_up_in_the_middle_of_a_canary() -> Result<()> {
    let orders = Orders::open("autoscaler").await?;
    let (mesh, ns) = (&orders.mesh, orders.name());
    let load = Load::of(&url(ns)).rate(60).seconds(900).start(mesh, ns).await?;
    mesh.apply(&autoscaler(ns, 2)).await?;
    eventually("the autoscaler to work", || works(&orders)).await?;
    let top = mesh.kubectl().run(&["top", "pods", "-n", ns]).await?.ok()?;
    ensure!(top.contains("orders-"), "kubectl top knows none of the pods:\n{top}");

    orders.release().await?;
    // The clone's pods carry the application's labels, so the autoscaler's metrics are of both versions.
    eventually("the metrics to cover both versions", || async {
        let metrics = mesh.list("PodMetrics", ns, "app=orders").await?;
        let clones = metrics.iter().filter(|pod| !pod["metadata"]["labels"]["fairlead.dev/clone-of"].is_null()).count();
        ensure!((metrics.len(), clones) == (4, 2), "metrics of {} pods, {clones} of them the canary's", metrics.len());
        Ok(())
    })
    .await?;
    // Pods that just started have no metrics of their own yet, and for as long the autoscaler may have none: here, and after the promotion.
    eventually("the autoscaler to work with both versions", || works(&orders)).await?;

    // More load, or a higher ceiling: either way it is the user's Deployment that it scales.
    mesh.apply(&autoscaler(ns, 3)).await?;
    eventually("the autoscaler to scale the Deployment up", || async {
        let stable = orders.deployment("orders").await?;
        ensure!(
            stable["spec"]["replicas"] == 3 && stable["status"]["readyReplicas"] == 3,
            "{} of {} pods are ready; the autoscaler says: {:#}",
            stable["status"]["readyReplicas"],
            stable["spec"]["replicas"],
            observed(&orders).await?
        );
        ensure!(stable["spec"]["paused"] == true, "scaling ended the hold");
        Ok(())
    })
    .await?;
    eventually("the canary to follow the number of pods", || async {
        let clone = orders.deployment("orders-canary").await?;
        ensure!(
            clone["spec"]["replicas"] == 3 && clone["status"]["readyReplicas"] == 3,
            "{} of {} pods are ready",
            clone["status"]["readyReplicas"],
            clone["spec"]["replicas"]
        );
        Ok(())
    })
    .await?;
    let report = load.report().await?;
    ensure!(report.of_version("v2") > 0, "the canary answered nothing: {report:?}");

    orders.finish().await?;
    eventually("the autoscaler to work with the promoted pods", || works(&orders)).await?;
    let stable = orders.deployment("orders").await?;
    ensure!(
        stable["spec"]["replicas"] == 3 && stable["status"]["updatedReplicas"] == 3,
        "what was scaled up was not promoted as it was: {:#}",
        stable["status"]
    );
    let report = load.report().await?;
    ensure!(report.failed == 0, "requests failed while the number of pods changed: {report:?}");
    Ok(())
}
