//! Where requests go.

use anyhow::{Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Load, Mesh, TempNamespace};

use crate::{call, call_ok, client, mesh};

/// Two versions of reviews behind one Service: Deployments `reviews` (v1) and `reviews-v2`.
async fn two_versions(mesh: &Mesh, namespace: &str) -> Result<()> {
    let v1 = App::reviews("reviews", "v1");
    let v2 = App::reviews("reviews", "v2").replicas(1).arg("--ratings-url=http://echo:9080");
    mesh.apply(&v1.yaml(namespace)).await?;
    mesh.apply(&v2.beside_the_first(namespace)).await?;
    mesh.apply(&App::echo("echo").yaml(namespace)).await?;
    mesh.apply(&client().yaml(namespace)).await?;
    for name in ["reviews", "reviews-v2", "echo", "client"] {
        mesh.rolled_out(namespace, name).await?;
    }
    Ok(())
}

fn policy(namespace: &str, routes: &str) -> String {
    format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: reviews, namespace: {namespace}}}\nspec:\n  targetRef: {{kind: Service, name: reviews}}\n  \
         subsets:\n  - {{name: v1, labels: {{version: v1}}}}\n  - {{name: v2, labels: {{version: v2}}}}\n  - {{name: v9, labels: {{version: v9}}}}\n  routes:\n{routes}"
    )
}

#[tokio::test]
async fn a_header_picks_a_version() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "header").await?;
    two_versions(&mesh, ns.name()).await?;
    mesh.apply(&policy(
        ns.name(),
        "  - {name: testers, matches: [{headers: [{name: end-user, value: jason}]}], backends: [{subset: v2}]}\n  - {name: everyone, backends: [{subset: v1}]}\n",
    ))
    .await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    // The client's proxy learns of a destination when it is asked for first.
    call_ok(&mesh, ns.name(), &["http://reviews:9080/reviews/0"]).await?;
    for _ in 0..10 {
        let jason = call_ok(&mesh, ns.name(), &["http://reviews:9080/reviews/0", "--header", "end-user=jason"]).await?;
        assert_eq!(jason.header("x-version"), "v2", "jason was sent to the wrong version");
        let other =
            call_ok(&mesh, ns.name(), &["http://reviews:9080/reviews/0", "--header", "end-user=jasonette"]).await?;
        assert_eq!(other.header("x-version"), "v1", "someone who is not jason was sent to the testers' version");
    }
    Ok(())
}

#[tokio::test]
async fn weights_hold_within_three_points_over_two_thousand_requests() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "weights").await?;
    two_versions(&mesh, ns.name()).await?;
    mesh.apply(&policy(
        ns.name(),
        "  - {name: split, backends: [{subset: v1, weight: 80}, {subset: v2, weight: 20}]}\n",
    ))
    .await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    call_ok(&mesh, ns.name(), &["http://reviews:9080/health"]).await?;

    let report = Load::of("http://reviews:9080/health").rate(200).seconds(11).run(&mesh, ns.name()).await?;
    ensure!(report.ok >= 2000, "too few requests to judge by: {report:?}");
    ensure!(report.failed == 0, "requests failed: {report:?}");
    let share = 100.0 * report.of_version("v2") as f64 / report.ok as f64;
    ensure!((share - 20.0).abs() <= 3.0, "v2 got {share:.1} % of {} requests, not 20 ± 3 %", report.ok);
    Ok(())
}

#[tokio::test]
async fn paths_methods_and_timeouts_are_matched_and_kept() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "paths").await?;
    two_versions(&mesh, ns.name()).await?;
    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: echo, namespace: {ns}}}\nspec:\n  targetRef: {{kind: Service, name: echo}}\n  routes:\n  \
         - {{name: moved, matches: [{{path: {{type: PathPrefix, value: /reviews}}, methods: [GET]}}], backends: [{{service: {{name: reviews, port: 9080}}}}]}}\n  \
         - {{name: slow, matches: [{{path: {{type: PathPrefix, value: /delay}}}}], timeouts: {{request: 300ms}}}}\n",
        ns = ns.name()
    ))
    .await?;
    mesh.programmed("TrafficPolicy", ns.name(), "echo").await?;
    call_ok(&mesh, ns.name(), &["http://echo:9080/"]).await?;

    let moved = call_ok(&mesh, ns.name(), &["http://echo:9080/reviews/0"]).await?;
    ensure!(moved.body.contains("reviews"), "GET /reviews was not answered by reviews: {moved:?}");
    let posted = call_ok(&mesh, ns.name(), &["http://echo:9080/reviews/0", "--method", "POST"]).await?;
    ensure!(posted.body.contains("\"method\""), "POST /reviews must stay with echo: {posted:?}");
    let beside = call_ok(&mesh, ns.name(), &["http://echo:9080/reviewsx"]).await?;
    ensure!(beside.body.contains("\"method\""), "/reviewsx is not below /reviews: {beside:?}");

    call_ok(&mesh, ns.name(), &["http://echo:9080/delay/50"]).await?;
    let slow = call(&mesh, ns.name(), &["http://echo:9080/delay/2000"]).await?;
    ensure!(slow.stdout.contains("504"), "a request over its time did not get 504: {}{}", slow.stdout, slow.stderr);
    ensure!(
        slow.stdout.contains("fairlead-proxy: "),
        "the answer does not say that the proxy made it: {}",
        slow.stdout
    );
    Ok(())
}

#[tokio::test]
async fn a_subset_without_endpoints_answers_503_and_never_another_version() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "empty").await?;
    two_versions(&mesh, ns.name()).await?;
    mesh.apply(&policy(ns.name(), "  - {name: nowhere, backends: [{subset: v9}]}\n")).await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    fairlead_e2e::kit::eventually("the route to take effect", || async {
        let answer = call(&mesh, ns.name(), &["http://reviews:9080/reviews/0"]).await?;
        ensure!(
            answer.stdout.contains("503") && answer.stdout.contains("fairlead-proxy: "),
            "{}{}",
            answer.stdout,
            answer.stderr
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_invalid_policy_is_refused_and_a_dangling_one_says_so_without_disturbing() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "invalid").await?;
    two_versions(&mesh, ns.name()).await?;

    for (what, yaml, word) in [
        ("a weight below zero", policy(ns.name(), "  - {name: a, backends: [{subset: v1, weight: -1}]}\n"), "weight"),
        (
            "a backend that names both",
            policy(ns.name(), "  - {name: a, backends: [{subset: v1, service: {name: echo, port: 9080}}]}\n"),
            "backends",
        ),
        ("a duration in words", policy(ns.name(), "  - {name: a, timeouts: {request: soon}}\n"), "request"),
        (
            "steps that go back",
            format!(
                "apiVersion: fairlead.dev/v1alpha1\nkind: Canary\nmetadata: {{name: back, namespace: {}}}\nspec:\n  workloadRef: {{kind: Deployment, name: reviews}}\n  \
                 steps: [{{weight: 50}}, {{weight: 10}}]\n",
                ns.name()
            ),
            "steps",
        ),
        (
            "an unknown mode",
            format!(
                "apiVersion: fairlead.dev/v1alpha1\nkind: PeerAuth\nmetadata: {{name: loose, namespace: {}}}\nspec:\n  mtls: {{mode: Loose}}\n",
                ns.name()
            ),
            "mode",
        ),
    ] {
        let words = mesh.refused(&yaml).await?;
        ensure!(words.contains(word), "{what} was refused, but the message does not name {word}: {words}");
    }

    mesh.apply(&policy(ns.name(), "  - {name: everyone, backends: [{subset: v1}]}\n")).await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    call_ok(&mesh, ns.name(), &["http://reviews:9080/reviews/0"]).await?;
    // One that names a subset which does not exist: its route answers 500 or is not taken over, but the status must tell.
    mesh.apply(&policy(
        ns.name(),
        "  - {name: testers, matches: [{headers: [{name: end-user, value: jason}]}], backends: [{subset: v7}]}\n  - {name: everyone, backends: [{subset: v1}]}\n",
    ))
    .await?;
    fairlead_e2e::kit::eventually("the status to name the unknown subset", || async {
        let condition = mesh.condition("TrafficPolicy", ns.name(), "reviews", "ResolvedRefs").await?;
        let condition = anyhow::Context::context(condition, "no condition ResolvedRefs")?;
        ensure!(condition.status == "False" && condition.message.contains("v7"), "{condition:?}");
        Ok(())
    })
    .await?;
    let other = call_ok(&mesh, ns.name(), &["http://reviews:9080/reviews/0"]).await?;
    assert_eq!(other.header("x-version"), "v1", "the sound route of the policy was disturbed");
    Ok(())
}
