//! From `kubectl apply` to the word of every proxy that it has applied it.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::api::{Api, DynamicObject, Patch, PatchParams, WatchEvent, WatchParams};
use tokio::time::{Instant, timeout};

use super::metrics::Histogram;
use crate::bench::{Figure, quantile};
use crate::kit::apps::BINARY;
use crate::kit::apps::CONTAINER;
use crate::kit::{Mesh, eventually, kind};

/// How often the policy is changed.
const CHANGES: u64 = 60;

/// Changes a policy again and again; the time until its status says `Programmed` for the new generation, as a watch sees it.
pub(super) async fn measure(mesh: &Mesh, namespace: &str) -> Result<Vec<Figure>> {
    // A proxy subscribes to a destination when its application first connects to it.
    let call = [BINARY, "call", "http://reviews:9080/reviews/0"];
    eventually("a first answer", || async { mesh.exec(namespace, "app=client", CONTAINER, &call).await?.ok() }).await?;
    let (resource, _) = kind("TrafficPolicy")?;
    let policies: Api<DynamicObject> = Api::namespaced_with(mesh.client(), namespace, &resource);
    let name = "fairlead_operator_config_acknowledge_seconds";
    let before = Histogram::parse(&mesh.operator_metrics().await?.0, name, "")?;
    let mut samples = Vec::new();
    for n in 0..CHANGES {
        let policy = serde_json::json!({
            "apiVersion": "fairlead.dev/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "reviews", "namespace": namespace},
            "spec": {"targetRef": {"kind": "Service", "name": "reviews"}, "routes": [{"name": "all", "timeouts": {"request": format!("{}s", n + 1)}}]}
        });
        let begin = Instant::now();
        let applied = policies.patch("reviews", &PatchParams::apply("fairlead-bench"), &Patch::Apply(&policy)).await?;
        let version = applied.metadata.resource_version.clone().unwrap_or_default();
        let generation = applied.metadata.generation;
        let watch = WatchParams::default().fields("metadata.name=reviews");
        let mut events = policies.watch(&watch, &version).await?.boxed();
        let seen = async {
            while let Some(event) = events.next().await {
                if let WatchEvent::Modified(object) = event?
                    && programmed(&object, generation)
                {
                    return anyhow::Ok(());
                }
            }
            anyhow::bail!("the watch ended")
        };
        timeout(Duration::from_secs(30), seen).await.context("the policy was not programmed within 30 s")??;
        samples.push(begin.elapsed().as_secs_f64() * 1000.0);
    }
    let operator = Histogram::parse(&mesh.operator_metrics().await?.0, name, "")?.since(&before);
    let p50 = quantile(&mut samples, 0.5);
    let p99 = quantile(&mut samples, 0.99);
    let seen_by_operator = operator.quantile(0.99) * 1000.0;
    Ok(vec![
        Figure::of("change seen by the operator → acknowledged by a proxy", "p99", "ms", 500.0, vec![seen_by_operator]),
        Figure::of("policy applied → acknowledged by its proxies, seen in its status", "p50", "ms", 500.0, vec![p50]),
        Figure::of("policy applied → acknowledged by its proxies, seen in its status", "p99", "ms", 500.0, vec![p99]),
    ])
}

fn programmed(object: &DynamicObject, generation: Option<i64>) -> bool {
    let status = &object.data["status"];
    let conditions = status["conditions"].as_array();
    status["observedGeneration"].as_i64() == generation
        && conditions.is_some_and(|all| {
            all.iter().any(|c| {
                c["type"] == "Programmed" && c["status"] == "True" && c["observedGeneration"].as_i64() == generation
            })
        })
}
