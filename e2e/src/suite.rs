//! `make test`: everything that must hold, the quick things first, the mesh on a real cluster last.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::cluster::Places;
use crate::durations::{self, What};
use crate::kit::{Mesh, OPERATOR_NAMESPACE, processes};
use crate::progress::Step;
use crate::{cluster, fuzz, images, prerequisites};

/// The version of cargo-deny that `deny.toml` is written for.
const CARGO_DENY: &str = "0.20.2";

/// Runs the whole suite. The cluster it starts is taken down again, also when a test failed, unless `keep` is set.
pub async fn run(keep: bool) -> Result<()> {
    let timed = durations::Run::begin(What::Test)?;
    // The proxy's own tests write real capture rules, so they need some of what the cluster does.
    prerequisites::cluster().await?;
    prerequisites::packages(&prerequisites::CAPTURE_PACKAGES).await?;
    step("formatting", &["fmt", "--all", "--check"]).await?;
    step("lints", &["clippy", "--workspace", "--all-targets", "--all-features", "--quiet", "--", "-D", "warnings"])
        .await?;
    dependencies().await?;
    step("unit and integration tests", &["test", "--workspace", "--quiet"]).await?;
    fuzz::shortly().await?;
    enforcement().await?;

    // Where KUBECONFIG names another cluster, the tests use that one and leave it as it is.
    let own = cluster::nodes().is_ok();
    if own {
        cluster::up().await?;
    }
    let mut result = on_cluster("").await;
    for (what, test) in [
        ("a damaged certificate authority", "authority"),
        ("rotation of roots and certificates", "rotation"),
        ("a node that is drained", "drain"),
        ("two replicas of the operator", "replicas"),
        ("taking the mesh away", "removal"),
    ] {
        if result.is_ok() {
            result = step(what, &["test", "-p", "fairlead-e2e", "--features", "cluster", "--test", test]).await;
        }
    }
    if result.is_err() {
        last_words().await;
    }
    if own && result.is_ok() {
        result = comes_back().await;
    }
    if own && !keep {
        cluster::down(true).await?;
        nothing_left().await?;
    }
    result.and_then(|()| timed.succeeded())
}

/// What the operator said last, for whoever reads a failed run of which the cluster is gone.
async fn last_words() {
    let Ok(mesh) = Mesh::connect().await else { return };
    let words = ["logs", "-n", OPERATOR_NAMESPACE, "deployment/fairlead-operator", "--tail=40"];
    if let Ok(output) = mesh.kubectl().run(&words).await {
        eprintln!("the operator's last lines:\n{}{}", output.stdout, output.stderr);
    }
}

/// `make e2e`: the tests on a running cluster alone; `filter` picks those whose name contains it.
pub async fn on_cluster(filter: &str) -> Result<()> {
    images::build_and_load(&images::IMAGES).await?;
    // Each test has a namespace of its own; more of them at once than there are cores only wait for each other.
    let words =
        ["test", "-p", "fairlead-e2e", "--features", "cluster", "--test", "mesh", "--", "--test-threads", "3", filter];
    let words = if filter.is_empty() { &words[..words.len() - 1] } else { &words[..] };
    step("the mesh on a real cluster", words).await
}

/// The cluster starts again on its data, and after everything of it was killed at once; what it held is still there.
async fn comes_back() -> Result<()> {
    let witness = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: witness, namespace: default}\n";
    Mesh::connect().await?.apply(witness).await?;
    cluster::down(false).await?;
    cluster::up().await?;
    let parts =
        ["fairlead-cluster", "containerd", "containerd-shim"].map(processes).into_iter().collect::<Result<Vec<_>>>()?;
    // Only what carries the cluster's mark: the machine may run containers of its own.
    for process in parts.iter().flatten().filter(|process| process.environment("FAIRLEAD_CLUSTER").is_some()) {
        process.kill()?;
    }
    cluster::up().await?;
    let found = Mesh::connect().await?.get("ConfigMap", "default", "witness").await?;
    anyhow::ensure!(found.is_some(), "the cluster came back without what it held");
    Ok(())
}

/// What [`cluster::down`] promises: nothing that carries our name is left on this machine.
async fn nothing_left() -> Result<()> {
    let step = Step::begin("looking for anything left behind");
    for (what, program, words) in [
        ("network namespaces", "ip", &["netns", "list"][..]),
        ("links", "ip", &["-brief", "link"][..]),
        ("rules", "nft", &["list", "tables"][..]),
        ("mounts", "cat", &["/proc/self/mounts"][..]),
    ] {
        let output =
            Command::new(program).args(words).output().await.with_context(|| format!("{program} cannot be started"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let left: Vec<&str> =
            text.lines().filter(|line| line.contains("fairlead") || line.contains("/.cluster/")).collect();
        if !left.is_empty() {
            bail!("`make down` left {what} behind:\n{}", left.join("\n"));
        }
    }
    step.done_with("nothing");
    Ok(())
}

/// The tests of what enforces NetworkPolicies on the cluster, built as the cluster is, so that neither is built twice.
async fn enforcement() -> Result<()> {
    prerequisites::go().await?;
    let step = Step::begin("what enforces NetworkPolicies (first time about 3 min)");
    let status = Command::new("go")
        .current_dir(Places::find()?.checkout.join("e2e/cluster"))
        .args(["test", "-trimpath", "./networkpolicy"])
        .env("CGO_ENABLED", "0")
        .status()
        .await
        .context("go cannot be started")?;
    if !status.success() {
        bail!("its tests failed: `cd e2e/cluster && go test ./networkpolicy`");
    }
    step.done();
    Ok(())
}

/// Checks `deny.toml`, with cargo-deny from the cache, where it is built once.
async fn dependencies() -> Result<()> {
    let places = Places::find()?;
    let root = places.cache.join("tools");
    let program = root.join("bin/cargo-deny");
    if installed_version(&program).await.as_deref() != Some(CARGO_DENY) {
        let step = Step::begin("installing cargo-deny (first time about 4 min)");
        let target = root.join("build");
        let status = Command::new("cargo")
            .args(["install", "--locked", "--quiet", "--version", CARGO_DENY, "cargo-deny", "--root"])
            .arg(&root)
            .env("CARGO_TARGET_DIR", &target)
            .status()
            .await?;
        if !status.success() {
            bail!("cargo-deny {CARGO_DENY} could not be installed; what cargo said stands above");
        }
        // Its build is only wanted once; the binary stays.
        let _ = std::fs::remove_dir_all(&target);
        step.done();
    }
    let step = Step::begin("dependencies (deny.toml)");
    let status = Command::new(&program)
        .current_dir(Places::find()?.checkout)
        .args(["--log-level", "error", "check", "bans", "licenses", "sources"])
        .status()
        .await?;
    if !status.success() {
        bail!("deny.toml refuses a dependency; the reason stands above");
    }
    step.done();
    Ok(())
}

async fn installed_version(program: &PathBuf) -> Option<String> {
    let output = Command::new(program).arg("--version").output().await.ok()?;
    String::from_utf8_lossy(&output.stdout).split_whitespace().last().map(str::to_owned)
}

/// Runs cargo with its output where people see it.
async fn step(what: &str, words: &[&str]) -> Result<()> {
    let step = Step::begin(what);
    let status = Command::new("cargo")
        .current_dir(Places::find()?.checkout)
        .args(words)
        // A failed test explains itself in a sentence; the frames below it help nobody.
        .env("RUST_BACKTRACE", "0")
        .status()
        .await
        .context("cargo cannot be started")?;
    if !status.success() {
        bail!("{what} failed: `cargo {}`", words.join(" "));
    }
    step.done();
    Ok(())
}
