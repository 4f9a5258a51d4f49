//! What constant load loses while everything moves that can move.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::bench::Figure;
use crate::kit::apps::App;
use crate::kit::{Load, LoadReport, Mesh, OPERATOR_NAMESPACE, RunningLoad, eventually, eventually_within};

/// Requests a second.
const RATE: u32 = 500;

/// Failed requests of each event, at 500 requests a second.
pub(super) async fn measure(mesh: &Mesh, namespace: &str) -> Result<Vec<Figure>> {
    let load = Load::of("http://reviews:9080/reviews/0").rate(RATE).seconds(900).start(mesh, namespace).await?;
    let mut figures = Vec::new();
    let mut before = load.report().await?;
    let mut event = async |what: &str, load: &RunningLoad| -> Result<()> {
        // The load reports each second; what failed last must be in.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let after = load.report().await?;
        figures.push(lost(what, &before, &after));
        before = after;
        Ok(())
    };

    mesh.kubectl().run(&["rollout", "restart", "-n", namespace, "deployment/reviews"]).await?.ok()?;
    mesh.rolled_out(namespace, "reviews").await?;
    event("rollout", &load).await?;

    mesh.kubectl()
        .run(&["rollout", "restart", "-n", OPERATOR_NAMESPACE, "deployment/fairlead-operator"])
        .await?
        .ok()?;
    mesh.rolled_out(OPERATOR_NAMESPACE, "fairlead-operator").await?;
    event("operator restart", &load).await?;

    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: reviews, namespace: {namespace}}}\nspec:\n  workloadRef: {{kind: Deployment, name: reviews}}\n  \
         steps: [{{weight: 10, hold: 5s}}, {{weight: 50, hold: 10s}}]\n  analysis: {{errors: {{margin: 2}}}}\n"
    ))
    .await?;
    reaches(mesh, namespace, "Initialized", 0).await?;
    release(mesh, namespace, "second").await?;
    reaches(mesh, namespace, "", 50).await?;
    event("canary step", &load).await?;
    // Back to what runs in the middle of the release: it is aborted.
    release(mesh, namespace, "").await?;
    clone_is_gone(mesh, namespace).await?;
    event("abort", &load).await?;
    release(mesh, namespace, "third").await?;
    reaches(mesh, namespace, "Succeeded", 0).await?;
    clone_is_gone(mesh, namespace).await?;
    event("promotion", &load).await?;

    let end = load.report().await?;
    figures.push(Figure::of(
        "load of the above",
        "p99 latency",
        "ms",
        1000.0,
        end.latency_ms.p99.into_iter().collect(),
    ));
    Ok(figures)
}

fn lost(what: &str, before: &LoadReport, after: &LoadReport) -> Figure {
    for error in after.errors.iter().skip(before.errors.len()) {
        eprintln!("  {what}: after {} ms: {}", error.after_ms, error.reason);
    }
    let failed = (after.failed - before.failed) as f64;
    Figure::of(
        format!("{what} at {RATE} requests/s ({} requests)", after.sent - before.sent),
        "failed",
        "requests",
        0.0,
        vec![failed],
    )
}

/// Applies `reviews` with a label of its pods changed, which is a new version of the same code.
async fn release(mesh: &Mesh, namespace: &str, label: &str) -> Result<()> {
    let app = App::reviews("reviews", "v1").replicas(2).arg("--ratings-url=http://client:9080");
    let app = if label.is_empty() { app } else { app.label("release", label) };
    mesh.apply(&app.deployment(namespace)).await
}

async fn reaches(mesh: &Mesh, namespace: &str, phase: &str, weight: i64) -> Result<()> {
    eventually_within(&format!("the Canary to be {phase} at {weight} %"), Duration::from_secs(240), || async {
        let canary = mesh.get("Canary", namespace, "reviews").await?.context("no Canary")?;
        let status = &canary["status"];
        if (phase.is_empty() || status["phase"] == *phase) && status["step"]["weight"].as_i64().unwrap_or(0) >= weight {
            return Ok(());
        }
        bail!("status: {status:#}")
    })
    .await
}

async fn clone_is_gone(mesh: &Mesh, namespace: &str) -> Result<()> {
    eventually("the clone to be gone", || async {
        match mesh.get("Deployment", namespace, "reviews-canary").await? {
            None => Ok(()),
            Some(_) => bail!("Deployment reviews-canary is there"),
        }
    })
    .await
}
