//! Releases that people and other programs have a say in, and those whose new version is kept out: every kind of step, requests, checks, configuration.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Fairlead, eventually, eventually_within, text};
use serde_json::Value;

use crate::canary::{RELEASE, Shop, phase, reviews};
use crate::{Answer, call};

/// The version that a user gets whose requests carry this header.
async fn answered_by(shop: &Shop, header: Option<&str>) -> Result<String> {
    let mut words = vec!["http://reviews:9080/reviews/0"];
    words.extend(header.into_iter().flat_map(|header| ["--header", header]));
    let answer = Answer::parse(&call(&shop.mesh, shop.ns.name(), &words).await?.ok()?)?;
    Ok(answer.header("x-pod").to_owned())
}

async fn step(shop: &Shop, index: i64) -> Result<Value> {
    eventually_within(&format!("step {index}"), RELEASE, || async {
        let canary = shop.mesh.get("Canary", shop.ns.name(), "reviews").await?.context("no Canary")?;
        ensure!(canary["status"]["step"]["index"] == index, "status: {:#}", canary["status"]);
        Ok(canary)
    })
    .await
}

/// Runs the command about the Canary; answers what it printed and its exit code.
async fn canary(shop: &Shop, fairlead: &Fairlead, words: &[&str]) -> Result<(String, Option<i32>)> {
    let words = [&["canary"], words, &["-n", shop.ns.name()]].concat();
    let (output, code) = fairlead.run(&words).await?;
    Ok((output.stdout + &output.stderr, code))
}

#[tokio::test]
async fn a_release_goes_through_steps_of_every_kind_and_waits_for_a_person() -> Result<()> {
    let fairlead = Fairlead::build().await?;
    let spec = "steps: [{mirror: {percent: 50}}, {matches: [{headers: [{name: end-user, value: jason}]}], approval: {}}, {weight: 20}, {weight: 100}]\n  \
                stickiness: {cookie: {name: fl-canary}}\n  analysis: {errors: {margin: 4, max: 20}}";
    let shop = Shop::open_as("steps", &reviews("v1"), spec).await?;
    shop.release(&reviews("v1").label("release", "second")).await?;

    // Copies alone: nobody is answered by the new version.
    let canary_of = |pod: &str| pod.starts_with("reviews-canary-");
    step(&shop, 0).await?;
    for _ in 0..10 {
        ensure!(!canary_of(&answered_by(&shop, None).await?), "dark traffic was answered");
    }
    // These requests, and they alone.
    let waiting = step(&shop, 1).await?;
    let dark = waiting["status"]["judgement"].as_str().unwrap_or_default();
    ensure!(!dark.is_empty(), "copies left no evidence: {:#}", waiting["status"]);
    eventually("proxies to follow", || async {
        ensure!(canary_of(&answered_by(&shop, Some("end-user=jason")).await?), "jason got the running version");
        Ok(())
    })
    .await?;
    for _ in 0..20 {
        ensure!(canary_of(&answered_by(&shop, Some("end-user=jason")).await?), "jason got the running version");
        ensure!(!canary_of(&answered_by(&shop, Some("end-user=maria")).await?), "maria got the new version");
    }
    // Jason has to ask often enough to show anything; then a person has to say so.
    let (mesh, ns) = (&shop.mesh, shop.ns.name());
    let load =
        fairlead_e2e::kit::Load::of("http://reviews:9080/reviews/0").rate(50).seconds(600).header("end-user=jason");
    let jason = load.start(mesh, ns).await?;
    phase(mesh, ns, "WaitingApproval").await?;
    // The same manifest again changes nothing.
    shop.release(&reviews("v1").label("release", "second")).await?;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    phase(mesh, ns, "WaitingApproval").await?;
    let (said, code) = canary(&shop, &fairlead, &["approve", "reviews", "--wait"]).await?;
    ensure!(code == Some(0), "exit code {code:?}: {said}");
    let ended = shop.ends_as("Succeeded").await?;
    ensure!(ended["status"]["history"][0]["outcome"] == "Succeeded", "status: {:#}", ended["status"]);
    shop.clone_is_gone().await?;
    for report in [shop.load.report().await?, jason.report().await?] {
        ensure!(report.ok > 100 && report.failed == 0, "requests failed: {report:?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_people_ask_of_a_release_is_done_once() -> Result<()> {
    let fairlead = Fairlead::build().await?;
    let spec = "steps: [{weight: 5, hold: 10m}]\n  analysis: {errors: {margin: 4}}";
    let shop = Shop::open_as("asked", &reviews("v1"), spec).await?;
    let (said, code) = canary(&shop, &fairlead, &["abort", "reviews"]).await?;
    ensure!(code == Some(2) && !said.is_empty(), "nothing is released, and abort said {code:?}: {said}");

    shop.release(&reviews("v1").label("release", "second")).await?;
    step(&shop, 0).await?;
    let (said, code) = canary(&shop, &fairlead, &["abort", "reviews", "--wait"]).await?;
    ensure!(code == Some(1), "exit code {code:?}: {said}");
    let aborted = shop.ends_as("Failed").await?;
    ensure!(aborted["status"]["history"][0]["outcome"] == "Aborted", "status: {:#}", aborted["status"]);
    shop.clone_is_gone().await?;

    let (said, code) = canary(&shop, &fairlead, &["retry", "reviews"]).await?;
    ensure!(code == Some(0), "exit code {code:?}: {said}");
    step(&shop, 0).await?;
    // Another template in the middle: who waits for the first learns that it did not make it.
    let watched = canary(&shop, &fairlead, &["watch", "reviews", "--wait", "--timeout", "3m"]);
    let changed = async {
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        shop.release(&reviews("v1").label("release", "third")).await
    };
    let ((said, code), changed) = tokio::join!(async { watched.await.unwrap_or_default() }, changed);
    changed?;
    ensure!(code == Some(1), "exit code {code:?}: {said}");
    step(&shop, 0).await?;
    let (said, code) = canary(&shop, &fairlead, &["promote", "reviews", "--wait"]).await?;
    ensure!(code == Some(0), "exit code {code:?}: {said}");
    let ended = shop.ends_as("Succeeded").await?;
    let outcomes: Vec<_> =
        ended["status"]["history"].as_array().into_iter().flatten().map(|release| text(&release["outcome"])).collect();
    ensure!(outcomes == ["Succeeded", "Superseded", "Aborted"], "{outcomes:?}");
    let (said, code) = canary(&shop, &fairlead, &["history", "reviews"]).await?;
    ensure!(code == Some(0) && said.contains("Aborted") && said.contains("Superseded"), "{said}");
    let report = shop.load.report().await?;
    ensure!(report.ok > 500 && report.failed == 0, "requests failed: {report:?}");
    Ok(())
}

#[tokio::test]
async fn checks_let_a_release_go_on_and_a_version_without_a_node_is_rolled_back() -> Result<()> {
    let app = || reviews("v1").annotation("fairlead.dev/test", "none");
    let spec = "steps: [{weight: 20}]\n  analysis: {errors: {margin: 4}}\n  \
                checks: [{phase: BeforeStart, url: 'http://checks.NAMESPACE:9080/status/200'}, {phase: Step, url: 'http://checks.NAMESPACE:9080/status/204'}, \
                {phase: AfterPromote, url: 'http://checks.NAMESPACE:9080/status/403'}]\n  rollout: {progressDeadline: 20s}";
    let shop = Shop::open_as("checks", &app(), spec).await?;
    let (mesh, ns) = (&shop.mesh, shop.ns.name());
    mesh.apply(&App::echo("checks").yaml(ns)).await?;
    mesh.rolled_out(ns, "checks").await?;
    let urls = spec.replace("NAMESPACE", ns);
    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: reviews, namespace: {ns}}}\nspec:\n  workloadRef: {{kind: Deployment, name: reviews}}\n  {urls}\n"
    ))
    .await?;
    shop.release(&app().label("release", "second")).await?;
    let ended = shop.ends_as("Succeeded").await?;
    let reason = text(&ended["status"]["history"][0]["reason"]);
    ensure!(reason.contains("403"), "what the last check answered is not told: {reason}");

    // More pods than nodes, each on a node of its own.
    let anti = r#"{"spec": {"template": {"spec": {"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "reviews"}}}]}}}}}}"#;
    mesh.kubectl().run(&["patch", "-n", ns, "deployment/reviews", "-p", anti]).await?.ok()?;
    eventually("the condition", || async {
        let condition = mesh.condition("Canary", ns, "reviews", "Accepted").await?.context("no condition")?;
        ensure!(condition.status == "False" && condition.reason == "Unschedulable", "{condition:?}");
        Ok(())
    })
    .await?;
    let failed = shop.ends_as("Failed").await?;
    let reason = text(&failed["status"]["history"][0]["reason"]);
    ensure!(reason.contains("nodes are available"), "the pod's own reason is not quoted: {reason}");
    shop.clone_is_gone().await?;
    let report = shop.load.report().await?;
    ensure!(report.ok > 500 && report.failed == 0, "requests failed: {report:?}");
    Ok(())
}

#[tokio::test]
async fn a_changed_config_map_is_released_and_its_pods_are_replaced() -> Result<()> {
    let spec = "steps: [{weight: 20}]\n  analysis: {errors: {margin: 4}}";
    let shop = Shop::open_as("config", &reviews("v1"), spec).await?;
    let (mesh, ns) = (&shop.mesh, shop.ns.name());
    let map = |value: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: settings, namespace: {ns}}}\ndata: {{COLOUR: {value}}}\n"
        )
    };
    mesh.apply(&map("red")).await?;
    let from = r#"[{"op": "add", "path": "/spec/template/spec/containers/0/envFrom", "value": [{"configMapRef": {"name": "settings"}}]}]"#;
    mesh.kubectl().run(&["patch", "-n", ns, "deployment/reviews", "--type=json", "-p", from]).await?.ok()?;
    shop.ends_as("Succeeded").await?;
    shop.clone_is_gone().await?;
    let pods = |pods: Vec<Value>| pods.iter().map(|pod| text(&pod["metadata"]["name"])).collect::<Vec<_>>();
    let before = pods(mesh.list("Pod", ns, "app=reviews").await?);

    mesh.apply(&map("green")).await?;
    eventually_within("a release of the new configuration", RELEASE, || async {
        let canary = mesh.get("Canary", ns, "reviews").await?.context("no Canary")?;
        let history = canary["status"]["history"].as_array().map_or(0, Vec::len);
        ensure!(canary["status"]["phase"] == "Succeeded" && history == 2, "status: {:#}", canary["status"]);
        Ok(())
    })
    .await?;
    eventually("pods of the new configuration alone", || async {
        let after = pods(mesh.list("Pod", ns, "app=reviews").await?);
        ensure!(after.iter().all(|pod| !before.contains(pod)), "{before:?} were there, and now {after:?}");
        Ok(())
    })
    .await?;
    let report = shop.load.report().await?;
    ensure!(report.ok > 500 && report.failed == 0, "requests failed: {report:?}");
    Ok(())
}

#[tokio::test]
async fn a_deployment_whose_rollout_stops_all_pods_at_once_loses_no_request() -> Result<()> {
    let spec = "steps: [{weight: 20, replicas: 1}]\n  analysis: {errors: {margin: 4}}";
    let shop = Shop::open_as("recreate", &reviews("v1"), spec).await?;
    let (mesh, ns) = (&shop.mesh, shop.ns.name());
    let recreate = r#"{"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}}"#;
    mesh.kubectl().run(&["patch", "-n", ns, "deployment/reviews", "-p", recreate]).await?.ok()?;
    shop.release(&reviews("v1").label("release", "second")).await?;
    shop.ends_as("Succeeded").await?;
    shop.clone_is_gone().await?;
    let report = shop.load.report().await?;
    ensure!(report.ok > 500 && report.failed == 0, "requests failed: {report:?}");
    Ok(())
}
