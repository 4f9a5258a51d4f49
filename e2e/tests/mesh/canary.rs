//! Releases: a good version is promoted, a bad one rolled back, and nobody who was served by stable notices.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{
    Load, Mesh, OPERATOR, OPERATOR_NAMESPACE, RunningLoad, TempNamespace, eventually, eventually_within, text,
};
use serde_json::Value;

use crate::{Answer, call, call_ok, client, mesh};

/// A release has to come to its end in this time; the steps below need about a minute.
pub(crate) const RELEASE: Duration = Duration::from_secs(240);

/// Deployment `reviews` in version v1 with a Canary, under load, and a caller outside the mesh.
pub(crate) struct Shop {
    pub(crate) mesh: Mesh,
    pub(crate) ns: TempNamespace,
    outside: TempNamespace,
    pub(crate) load: RunningLoad,
}

impl Shop {
    async fn open(name: &str) -> Result<Self> {
        Self::open_with(name, "{errors: {margin: 2}}").await
    }

    async fn open_with(name: &str, analysis: &str) -> Result<Self> {
        let steps = "steps: [{weight: 20}, {weight: 50, hold: 5s}]";
        Self::open_as(name, &reviews("v1"), &format!("{steps}\n  analysis: {analysis}")).await
    }

    /// With this Deployment, and this in the Canary's spec.
    pub(crate) async fn open_as(name: &str, app: &App, spec: &str) -> Result<Self> {
        let mesh = mesh().await?;
        let ns = TempNamespace::injected(&mesh, name).await?;
        let outside = TempNamespace::plain(&mesh, &format!("{name}-outside")).await?;
        mesh.apply(&app.yaml(ns.name())).await?;
        mesh.apply(&client().yaml(ns.name())).await?;
        mesh.apply(&client().yaml(outside.name())).await?;
        mesh.apply(&format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: reviews, namespace: {}}}\nspec:\n  workloadRef: {{kind: Deployment, name: reviews}}\n  \
             {spec}\n",
            ns.name()
        ))
        .await?;
        mesh.rolled_out(ns.name(), "reviews").await?;
        mesh.rolled_out(ns.name(), "client").await?;
        mesh.rolled_out(outside.name(), "client").await?;
        phase(&mesh, ns.name(), "Initialized").await?;
        call_ok(&mesh, ns.name(), &["http://reviews:9080/reviews/0"]).await?;
        let load = Load::of("http://reviews:9080/reviews/0").rate(150).seconds(600).start(&mesh, ns.name()).await?;
        Ok(Self { mesh, ns, outside, load })
    }

    pub(crate) async fn release(&self, app: &App) -> Result<()> {
        self.mesh.apply(&app.deployment(self.ns.name())).await
    }

    pub(crate) async fn ends_as(&self, wanted: &str) -> Result<Value> {
        eventually_within(&format!("the release to end as {wanted}"), RELEASE, || async {
            let canary = self.mesh.get("Canary", self.ns.name(), "reviews").await?.context("no Canary")?;
            if canary["status"]["phase"] == *wanted { Ok(canary) } else { bail!("status: {:#}", canary["status"]) }
        })
        .await
    }

    /// No clone is left, and no pod of one.
    pub(crate) async fn clone_is_gone(&self) -> Result<()> {
        eventually("the clone to be gone", || async {
            ensure!(
                self.mesh.get("Deployment", self.ns.name(), "reviews-canary").await?.is_none(),
                "Deployment reviews-canary is there"
            );
            let pods = self.mesh.list("Pod", self.ns.name(), "fairlead.dev/clone-of=reviews").await?;
            ensure!(pods.is_empty(), "{} pods of the clone are there", pods.len());
            Ok(())
        })
        .await
    }
}

pub(crate) fn reviews(version: &str) -> App {
    // A Deployment's selector cannot change, so it selects by `app` alone.
    App::reviews("reviews", version).replicas(2).arg("--ratings-url=http://client:9080")
}

/// A version that fails one request in five.
fn faulty() -> App {
    App::reviews("reviews", "v3").replicas(2).arg("--ratings-url=http://client:9080").arg("--error-rate=20")
}

pub(crate) async fn phase(mesh: &Mesh, namespace: &str, wanted: &str) -> Result<()> {
    eventually(&format!("the Canary to be {wanted}"), || async {
        let canary = mesh.get("Canary", namespace, "reviews").await?.context("no Canary")?;
        ensure!(canary["status"]["phase"] == *wanted, "status: {:#}", canary["status"]);
        Ok(())
    })
    .await
}

/// The weight that the status says the proxies split by.
async fn weight(mesh: &Mesh, namespace: &str) -> Result<i64> {
    let canary = mesh.get("Canary", namespace, "reviews").await?.context("no Canary")?;
    Ok(canary["status"]["step"]["weight"].as_i64().unwrap_or(0))
}

#[tokio::test]
async fn a_good_version_is_promoted_without_a_failed_request() -> Result<()> {
    let shop = Shop::open("promote").await?;
    shop.mesh
        .apply(&format!(
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: reviews, namespace: {}}}\nspec: {{maxUnavailable: 1, selector: {{matchLabels: {{app: reviews}}}}}}\n",
            shop.ns.name()
        ))
        .await?;
    // Nothing but the version changes: v3 asks ratings, which nobody serves here, so v1's code runs under another name.
    shop.release(
        &App::reviews("reviews", "v1").replicas(2).arg("--ratings-url=http://client:9080").label("release", "second"),
    )
    .await?;

    // While the canary gets traffic, a caller without a sidecar sees stable alone.
    eventually("the first step", || async {
        ensure!(weight(&shop.mesh, shop.ns.name()).await? == 20, "no weight yet");
        Ok(())
    })
    .await?;
    let clones = shop.mesh.list("Pod", shop.ns.name(), "fairlead.dev/clone-of=reviews").await?;
    let clones: Vec<String> = clones.iter().map(|pod| text(&pod["metadata"]["name"])).collect();
    ensure!(!clones.is_empty(), "a weight, but no pods of the canary");
    // The budget covers both versions and still lets a pod be evicted.
    let budget = eventually("the budget to count the canary's pods", || async {
        let budget = shop.mesh.get("PodDisruptionBudget", shop.ns.name(), "reviews").await?.context("no budget")?;
        ensure!(budget["status"]["currentHealthy"].as_i64() > Some(2), "status: {:#}", budget["status"]);
        Ok(budget)
    })
    .await?;
    ensure!(budget["status"]["disruptionsAllowed"] == 1, "the canary blocks evictions: {:#}", budget["status"]);
    for _ in 0..20 {
        let words = format!("http://reviews.{}:9080/reviews/0", shop.ns.name());
        let answer = Answer::parse(&call(&shop.mesh, shop.outside.name(), &[&words]).await?.ok()?)?;
        ensure!(
            !clones.contains(&answer.header("x-pod").to_owned()),
            "a caller without a sidecar was answered by the canary"
        );
    }

    let canary = shop.ends_as("Succeeded").await?;
    shop.clone_is_gone().await?;
    let deployment = shop.mesh.get("Deployment", shop.ns.name(), "reviews").await?.context("no Deployment")?;
    ensure!(deployment["spec"]["paused"] != true, "promoted, but still paused");
    ensure!(deployment["status"]["updatedReplicas"] == 2, "promoted, but the Deployment does not run the new template");
    ensure!(
        canary["status"]["history"].as_array().is_some_and(|h| !h.is_empty()),
        "the release left no history: {:#}",
        canary["status"]
    );

    let report = shop.load.report().await?;
    ensure!(report.ok > 1000, "too little load to show anything: {report:?}");
    ensure!(report.failed == 0, "requests failed during a good release: {report:?}");
    Ok(())
}

#[tokio::test]
async fn a_bad_version_is_rolled_back_and_only_its_own_requests_failed() -> Result<()> {
    let shop = Shop::open("rollback").await?;
    shop.release(&faulty()).await?;

    let canary = shop.ends_as("Failed").await?;
    shop.clone_is_gone().await?;
    let reason = text(&canary["status"]["verdict"]["reason"]);
    ensure!(
        canary["status"]["verdict"]["result"] == "Regressed",
        "rolled back, but not by the verdict: {:#}",
        canary["status"]
    );
    ensure!(reason.contains("requests failed"), "the reason does not say what was seen: {reason}");
    ensure!(weight(&shop.mesh, shop.ns.name()).await? == 0, "rolled back, but a weight is left");
    let deployment = shop.mesh.get("Deployment", shop.ns.name(), "reviews").await?.context("no Deployment")?;
    ensure!(deployment["spec"]["paused"] == true, "the failed template must not roll out: the Deployment stays paused");

    let report = shop.load.report().await?;
    ensure!(report.ok > 1000, "too little load to show anything: {report:?}");
    ensure!(report.failed_by("v3") > 0, "the faulty version was never asked: {report:?}");
    ensure!(
        report.failed == report.failed_by("v3"),
        "requests failed that the faulty version did not answer: {report:?}"
    );

    // The same template is not tried again: applying it once more changes nothing.
    shop.release(&faulty()).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    phase(&shop.mesh, shop.ns.name(), "Failed").await?;
    // Going back to what runs ends the matter.
    shop.release(&reviews("v1")).await?;
    eventually("the Deployment to go on", || async {
        let deployment = shop.mesh.get("Deployment", shop.ns.name(), "reviews").await?.context("no Deployment")?;
        ensure!(deployment["spec"]["paused"] != true, "still paused");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_slow_version_is_rolled_back_though_it_answers_every_request() -> Result<()> {
    let shop = Shop::open_with("slow", "{errors: {margin: 2}, latency: {threshold: 250ms, margin: 5}}").await?;
    shop.release(&reviews("v1").arg("--latency=600ms")).await?;
    let canary = shop.ends_as("Failed").await?;
    shop.clone_is_gone().await?;
    ensure!(canary["status"]["verdict"]["result"] == "Regressed", "status: {:#}", canary["status"]);
    let reason = text(&canary["status"]["verdict"]["reason"]);
    ensure!(
        reason.contains("answers took more than 256 ms") && reason.ends_with("worse by more than 5 points"),
        "the reason does not say what was seen: {reason}"
    );
    let report = shop.load.report().await?;
    ensure!(report.ok > 1000 && report.failed == 0, "requests failed: {report:?}");
    Ok(())
}

#[tokio::test]
async fn a_release_goes_on_when_the_operator_is_killed_in_the_middle() -> Result<()> {
    let shop = Shop::open("killed").await?;
    shop.release(&reviews("v1").label("release", "second")).await?;
    eventually("the first step", || async {
        ensure!(weight(&shop.mesh, shop.ns.name()).await? > 0, "no weight yet");
        Ok(())
    })
    .await?;
    shop.mesh
        .kubectl()
        .run(&["delete", "pod", "-n", OPERATOR_NAMESPACE, "-l", OPERATOR, "--grace-period=0", "--force"])
        .await?
        .ok()?;
    // An autoscaler writes the scale in the middle of a release, which must neither end it nor be lost.
    shop.mesh.kubectl().run(&["scale", "-n", shop.ns.name(), "deployment/reviews", "--replicas=3"]).await?.ok()?;
    shop.ends_as("Succeeded").await?;
    shop.clone_is_gone().await?;
    let deployment = shop.mesh.get("Deployment", shop.ns.name(), "reviews").await?.context("no Deployment")?;
    ensure!(deployment["status"]["readyReplicas"] == 3, "the scale was lost: {:#}", deployment["status"]);
    let report = shop.load.report().await?;
    ensure!(report.failed == 0, "requests failed while the operator was away: {report:?}");
    Ok(())
}

#[tokio::test]
async fn a_version_that_does_not_start_never_gets_traffic() -> Result<()> {
    let shop = Shop::open("crash").await?;
    shop.release(&reviews("v1").arg("--no-such-flag")).await?;
    let canary = shop.ends_as("Failed").await?;
    let status = canary["status"].to_string();
    ensure!(
        status.contains("CrashLoopBackOff") || status.contains("Error"),
        "the pod's own reason is not quoted: {:#}",
        canary["status"]
    );
    shop.clone_is_gone().await?;
    let report = shop.load.report().await?;
    ensure!(report.failed == 0, "requests failed although the new version never ran: {report:?}");
    Ok(())
}

#[tokio::test]
async fn a_canary_without_its_deployment_says_what_to_do() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "orphan").await?;
    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: lost, namespace: {}}}\nspec:\n  workloadRef: {{kind: Deployment, name: nowhere}}\n",
        ns.name()
    ))
    .await?;
    eventually("the condition that names the missing Deployment", || async {
        let condition =
            mesh.condition("Canary", ns.name(), "lost", "ResolvedRefs").await?.context("no condition ResolvedRefs")?;
        ensure!(condition.status == "False" && condition.message.contains("nowhere"), "{condition:?}");
        Ok(())
    })
    .await
}
