//! `make demo`: from nothing to a released version, on a real cluster, told as it happens.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::durations::{self, What};
use crate::kit::{Load, Mesh, eventually, repository, text};
use crate::progress::Step;
use crate::{cluster, images};

/// The namespace of the sample application.
const NAMESPACE: &str = "bookinfo";
/// A release of the demo ends well before this, or something is wrong.
const RELEASE: Duration = Duration::from_secs(180);

/// Brings up a cluster, installs the operator, runs Bookinfo in the mesh, and releases two versions of `reviews`: one that errs
/// and is rolled back, one that is promoted. Leaves it all running.
pub async fn run() -> Result<()> {
    let begin = Instant::now();
    let timed = durations::Run::begin(What::Demo)?;
    cluster::up().await?;
    images::build_and_load(&images::IMAGES).await?;
    let mesh = Mesh::connect().await?;

    let step = Step::begin("installing the operator: kubectl apply -f manifests/install.yaml");
    mesh.install().await?;
    step.done_with("ready");

    let step = Step::begin("starting Bookinfo in a labelled namespace");
    mesh.apply_file("manifests/samples/bookinfo.yaml").await?;
    mesh.apply_file("manifests/samples/reviews-policy.yaml").await?;
    for name in ["redis", "ratings", "details", "reviews", "reviews-v2", "productpage"] {
        mesh.rolled_out(NAMESPACE, name).await?;
    }
    step.done_with("every pod has its proxy");
    println!("{}", mesh.kubectl().run(&["get", "pods", "-n", NAMESPACE]).await?.stdout);

    let step = Step::begin("putting 300 requests a second on reviews, from a pod in the mesh");
    let load = Load::of("http://reviews:9080/reviews/0").rate(300).seconds(900).start(&mesh, NAMESPACE).await?;
    step.done();

    // The four-line Canary with shorter steps: a demo has less patience, and more traffic, than most releases.
    mesh.apply_file("manifests/samples/reviews-canary-steps.yaml").await?;
    eventually("the Canary to know its Deployment", || async {
        let canary = canary(&mesh).await?;
        if canary["status"]["phase"] == "Initialized" { Ok(()) } else { bail!("status: {}", canary["status"]) }
    })
    .await?;

    println!(
        "\n▸ A faulty version: kubectl apply -f manifests/samples/reviews-v3-faulty.yaml (fails 20 % of its requests)"
    );
    release(&mesh, "manifests/samples/reviews-v3-faulty.yaml", "Failed").await?;
    // What was under way when the weight went to 0 is counted within a second.
    sleep(Duration::from_secs(2)).await;
    let before = load.report().await?;
    println!(
        "  {} requests answered, {} failed, {} of them by the faulty version",
        before.ok,
        before.failed,
        before.failed_by("v3")
    );

    println!("\n▸ A sound version: kubectl apply -f manifests/samples/reviews-v3.yaml");
    release(&mesh, "manifests/samples/reviews-v3.yaml", "Succeeded").await?;
    let after = load.report().await?;
    println!("  {} requests answered, {} failed since", after.ok - before.ok, after.failed - before.failed);

    timed.succeeded()?;
    mesh.kubectl().run(&["delete", "pod", "load", "-n", NAMESPACE, "--wait=false"]).await?.ok()?;
    let kubectl = cluster::kubeconfig()?.parent().map(|folder| folder.join("bin/kubectl")).unwrap_or_default();
    println!(
        "\n✓ done in {:.0} s. See the page with its red stars:\n    {} -n {NAMESPACE} port-forward svc/productpage 9080\n    http://localhost:9080/productpage   (sign in as jason: reviews v2)\n  End it all with `make down`.",
        begin.elapsed().as_secs_f64(),
        kubectl.strip_prefix(repository()?).unwrap_or(&kubectl).display()
    );
    Ok(())
}

async fn canary(mesh: &Mesh) -> Result<Value> {
    mesh.get("Canary", NAMESPACE, "reviews").await?.context("there is no Canary reviews")
}

/// Applies a version and tells what its Canary does until it has ended as `wanted`.
async fn release(mesh: &Mesh, file: &str, wanted: &str) -> Result<()> {
    let begin = Instant::now();
    mesh.apply_file(file).await?;
    let mut last = String::new();
    loop {
        let status = canary(mesh).await?["status"].take();
        let line = told(&status);
        if line != last {
            println!("  {:>5.1} s  {line}", begin.elapsed().as_secs_f64());
            last = line;
        }
        let phase = text(&status["phase"]);
        if phase == wanted && begin.elapsed() > Duration::from_secs(2) {
            return Ok(());
        }
        if begin.elapsed() > RELEASE {
            bail!("the release did not end as {wanted} within {} s; its status: {status:#}", RELEASE.as_secs());
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// A status in one line.
fn told(status: &Value) -> String {
    let weight = status["step"]["weight"].as_i64().unwrap_or(0);
    let reason = text(&status["verdict"]["reason"]);
    format!("{:<12} {weight:>3} %  {reason}", text(&status["phase"]))
}
