//! What a route does to a request, seen from both ends: the caller's answer and what the application says that it received.

use anyhow::{Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Load, Mesh, TempNamespace, eventually};

use crate::{call, call_ok, client, mesh};

/// A policy of the Service `echo`: its routes, and whatever else, already indented by two.
fn policy(namespace: &str, rest: &str) -> String {
    format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: echo, namespace: {namespace}}}\nspec:\n  targetRef: {{kind: Service, name: echo}}\n{rest}"
    )
}

async fn echo_and_client(mesh: &Mesh, namespace: &str) -> Result<()> {
    mesh.apply(&App::echo("echo").replicas(2).yaml(namespace)).await?;
    mesh.apply(&client().yaml(namespace)).await?;
    mesh.rolled_out(namespace, "echo").await?;
    mesh.rolled_out(namespace, "client").await
}

#[tokio::test]
async fn rules_change_answer_break_and_copy_requests() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "rules").await?;
    echo_and_client(&mesh, ns.name()).await?;
    mesh.apply(&App::echo("dark").yaml(ns.name())).await?;
    mesh.rolled_out(ns.name(), "dark").await?;
    mesh.apply(&policy(
        ns.name(),
        "  routes:
  - {name: moved, matches: [{path: {type: Exact, value: /old}}], redirect: {path: {full: /new}, status: 308}}
  - {name: teapot, matches: [{queryParams: [{name: tea, value: \"1\"}]}], respond: {status: 418, body: short and stout}}
  - {name: broken, matches: [{cookies: [{name: unlucky, type: Present}]}], fault: {abort: {percent: 100, status: 503}}}
  - {name: changed, matches: [{path: {type: PathPrefix, value: /shop}}], rewrite: {path: {prefix: /v2}, host: shop.internal},
     headers: {request: {set: [{name: x-env, value: staging}], remove: [x-debug]}, response: {add: [{name: x-seen, value: 'yes'}]}}}
  - {name: browser, matches: [{path: {type: Exact, value: /cors}}], cors: {allowOrigins: ['https://shop.example'], allowMethods: [PUT]}}
  - {name: mine, matches: [{path: {type: Exact, value: /whose}, source: {serviceAccounts: [NS/default]}}], respond: {status: 200, body: known caller}}
  - {name: copied, matches: [{path: {type: Exact, value: /copied}}], mirror: [{service: {name: dark, port: 9080}, copies: 2}]}
"
        .replace("NS", ns.name())
        .as_str(),
    ))
    .await?;
    mesh.programmed("TrafficPolicy", ns.name(), "echo").await?;
    call_ok(&mesh, ns.name(), &["http://echo:9080/"]).await?;
    let ask = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let (mesh, ns) = (mesh.clone(), ns.name().to_owned());
        async move { call(&mesh, &ns, &words.iter().map(String::as_str).collect::<Vec<_>>()).await }
    };

    let moved = ask(&["http://echo:9080/old?a=b"]).await?;
    ensure!(moved.stdout.contains("308") && moved.stdout.contains("/new?a=b"), "redirect: {}", moved.stdout);
    let teapot = ask(&["http://echo:9080/any?x=y&tea=1"]).await?;
    ensure!(teapot.stdout.contains("418") && teapot.stdout.contains("short and stout"), "respond: {}", teapot.stdout);
    let broken = ask(&["http://echo:9080/any", "--header", "cookie=a=b; unlucky=x"]).await?;
    ensure!(
        broken.stdout.contains("503") && broken.stdout.contains("fairlead-proxy: fault-abort"),
        "fault: {}",
        broken.stdout
    );
    let changed = call_ok(&mesh, ns.name(), &["http://echo:9080/shop/1?q=2", "--header", "x-debug=1"]).await?;
    for (what, expected) in [("path", "/v2/1"), ("query", "q=2"), ("host", "shop.internal"), ("header set", "staging")]
    {
        ensure!(changed.body.contains(expected), "{what}: the application received {}", changed.body);
    }
    ensure!(!changed.body.contains("x-debug"), "x-debug was to be removed: {}", changed.body);
    ensure!(changed.header("x-seen") == "yes", "the answer's header is missing: {changed:?}");
    let preflight = ask(&[
        "http://echo:9080/cors",
        "--method",
        "OPTIONS",
        "--header",
        "origin=https://shop.example",
        "--header",
        "access-control-request-method=PUT",
    ])
    .await?;
    ensure!(
        preflight.stdout.contains("204")
            && preflight.stdout.contains("access-control-allow-origin: https://shop.example"),
        "cors: {}",
        preflight.stdout
    );
    let mine = call_ok(&mesh, ns.name(), &["http://echo:9080/whose"]).await?;
    ensure!(mine.body.contains("known caller"), "source: {}", mine.body);

    call_ok(&mesh, ns.name(), &["http://echo:9080/copied"]).await?;
    eventually("both copies to be answered", || async {
        let metrics = mesh.sidecar_metrics(ns.name(), "client").await?;
        let copies = metrics.sum("fairlead_proxy_mirrored_total", &["outcome=\"answered\""])?;
        ensure!(copies == 2, "{copies} copies were answered");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_endpoint_holds_each_caller_to_its_rate() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "rates").await?;
    echo_and_client(&mesh, ns.name()).await?;
    mesh.kubectl().run(&["scale", "-n", ns.name(), "deployment/echo", "--replicas=1"]).await?.ok()?;
    mesh.apply(&policy(ns.name(), "  rateLimits: [{name: per-caller, requests: 3, per: 1h, burst: 3, scope: Endpoint, key: [{identity: true}, {header: x-tenant}]}]\n"))
        .await?;
    mesh.programmed("TrafficPolicy", ns.name(), "echo").await?;
    let tenant = |name: &'static str| {
        let (mesh, ns) = (mesh.clone(), ns.name().to_owned());
        async move { call(&mesh, &ns, &["http://echo:9080/", "--header", &format!("x-tenant={name}")]).await }
    };
    let over = eventually("the limit to be reached", || async {
        let answer = tenant("a").await?;
        ensure!(answer.stdout.contains("429"), "{}{}", answer.stdout, answer.stderr);
        Ok(answer.stdout)
    })
    .await?;
    ensure!(over.contains("retry-after: "), "it does not say when to come back: {over}");
    ensure!(over.contains("fairlead-proxy: rate-limited"), "it does not say why: {over}");
    let other = tenant("b").await?;
    ensure!(other.success, "another tenant was refused as well: {}{}", other.stdout, other.stderr);
    Ok(())
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_out_until_it_is_well() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "outlier").await?;
    // Three pods of one Service, one of which answers every request with 500.
    let good = App::reviews("reviews", "v1").replicas(2);
    mesh.apply(&good.yaml(ns.name())).await?;
    let bad = App::reviews("reviews", "v2").arg("--error-rate=100");
    mesh.apply(&bad.beside_the_first(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    for name in ["reviews", "reviews-v2", "client"] {
        mesh.rolled_out(ns.name(), name).await?;
    }
    let report = Load::of("http://reviews:9080/reviews/0").rate(100).seconds(12).run(&mesh, ns.name()).await?;
    // Without detection a fast failure attracts more than a third of the requests. What is left is the evidence itself, from the
    // proxy's two workers, and a request on trial now and then.
    ensure!(report.failed_by("v2") > 0, "the faulty pod was never asked: {report:?}");
    ensure!(report.failed < report.sent / 20, "the faulty pod was not left out: {report:?}");
    Ok(())
}
