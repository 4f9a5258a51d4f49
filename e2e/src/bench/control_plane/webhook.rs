//! The injector under a steady stream of pods. They are created as a dry run, so the API server asks the webhook and no pod starts.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, PostParams};
use tokio::task::JoinSet;
use tokio::time::interval;

use super::metrics::Histogram;
use crate::bench::Figure;
use crate::kit::Mesh;
use crate::kit::apps::IMAGE;

/// Pods a second.
const RATE: u64 = 50;
/// How many in all.
const PODS: u64 = 1000;

/// What the operator measured of its own work, p99 as the upper bound of a bucket.
pub(super) async fn measure(mesh: &Mesh, namespace: &str) -> Result<Vec<Figure>> {
    let pods: Api<Pod> = Api::namespaced(mesh.client(), namespace);
    let before = Histogram::parse(&mesh.operator_metrics().await?.0, "fairlead_operator_admission_seconds", "")?;
    let mut ticks = interval(Duration::from_millis(1000 / RATE));
    let mut creations = JoinSet::new();
    for n in 0..PODS {
        ticks.tick().await;
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"name": format!("dry-{n}")},
            "spec": {"containers": [{"name": "app", "image": IMAGE, "args": ["echo"], "readinessProbe": {"httpGet": {"path": "/health", "port": 9080}}}]}
        }))?;
        let pods = pods.clone();
        creations.spawn(async move { pods.create(&PostParams { dry_run: true, ..PostParams::default() }, &pod).await });
    }
    let mut injected = 0;
    while let Some(created) = creations.join_next().await {
        injected += u64::from(created??.spec.and_then(|spec| spec.init_containers).is_some());
    }
    ensure!(injected == PODS, "only {injected} of {PODS} pods were injected");
    let histogram =
        Histogram::parse(&mesh.operator_metrics().await?.0, "fairlead_operator_admission_seconds", "")?.since(&before);
    ensure!(histogram.count() >= PODS as f64, "the operator counted {} of {PODS} calls", histogram.count());
    Ok(vec![Figure::of("webhook at 50 pods/s", "p99", "ms", 10.0, vec![histogram.quantile(0.99) * 1000.0])])
}
