//! Pods come and go, in order and out of it, and no request that could be saved is lost: neither of callers of endpoints of HTTP/1, nor where
//! the endpoints speak HTTP/2 and are left by GOAWAY.

use anyhow::{Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Load, Mesh, TempNamespace, eventually, text};
use serde_json::Value;

use crate::{call, call_ok, client, mesh};

/// Three pods of echo behind the Services `echo` (HTTP/1) and `echo-http2`; failed requests are made again.
async fn echo(mesh: &Mesh, namespace: &str) -> Result<()> {
    let app = App::echo("echo").replicas(3);
    let http2 = App::new("echo", "echo").service(namespace).replace("name: echo,", "name: echo-http2,");
    let http2 = http2.replace("port: 9080", "port: 9080, appProtocol: kubernetes.io/h2c");
    mesh.apply(&format!("{}---\n{http2}", app.yaml(namespace))).await?;
    mesh.apply(&client().yaml(namespace)).await?;
    for service in ["echo", "echo-http2"] {
        mesh.apply(&format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: {service}, namespace: {namespace}}}\nspec:\n  targetRef: {{kind: Service, name: {service}}}\n  \
             routes: [{{name: all, retry: {{attempts: 3, on: [GatewayError]}}}}]\n"
        ))
        .await?;
    }
    for name in ["echo", "client"] {
        mesh.rolled_out(namespace, name).await?;
    }
    for service in ["echo", "echo-http2"] {
        mesh.programmed("TrafficPolicy", namespace, service).await?;
        call_ok(mesh, namespace, &[&format!("http://{service}:9080/")]).await?;
    }
    Ok(())
}

async fn pods(mesh: &Mesh, namespace: &str) -> Result<Vec<Value>> {
    let mut pods = mesh.list("Pod", namespace, "app=echo").await?;
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    Ok(pods)
}

fn restarts(pod: &Value) -> i64 {
    pod["status"]["containerStatuses"][0]["restartCount"].as_i64().unwrap_or_default()
}

/// A load through which pods are scaled away, deleted, and made to crash.
async fn nothing_is_lost(name: &str, service: &str, protocol: &str) -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, name).await?;
    echo(&mesh, ns.name()).await?;
    let url = format!("http://{service}:9080/");
    let answer = call_ok(&mesh, ns.name(), &[&url]).await?;
    ensure!(answer.body.contains(protocol), "the endpoints were to be asked in {protocol}: {}", answer.body);
    let load = Load::of(&url).rate(150).seconds(900).start(&mesh, ns.name()).await?;

    for replicas in ["--replicas=1", "--replicas=3"] {
        mesh.kubectl().run(&["scale", "-n", ns.name(), "deployment/echo", replicas]).await?.ok()?;
        mesh.rolled_out(ns.name(), "echo").await?;
        eventually("the pods to be as many as asked for", || async {
            let left = mesh.list("Pod", ns.name(), "app=echo").await?.len();
            ensure!(replicas.ends_with(&left.to_string()), "{left} pods after {replicas}");
            Ok(())
        })
        .await?;
        let report = load.report().await?;
        ensure!(report.failed == 0, "requests were lost while scaling to {replicas}: {report:?}");
    }

    // A pod is deleted that is in the middle of an answer.
    let victim = text(&pods(&mesh, ns.name()).await?[0]["metadata"]["name"]);
    let slow = format!("http://{service}:9080/delay/6000");
    let long = async { call(&mesh, ns.name(), &[&slow, "--timeout", "30s"]).await };
    let delete = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        mesh.kubectl().run(&["delete", "pod", "-n", ns.name(), &victim]).await
    };
    let (long, deleted) = tokio::join!(long, delete);
    deleted?.ok()?;
    let long = long?;
    ensure!(long.success, "an answer under way was lost with a pod that was deleted: {}{}", long.stdout, long.stderr);
    mesh.rolled_out(ns.name(), "echo").await?;
    let report = load.report().await?;
    ensure!(report.failed == 0, "requests were lost while a pod was deleted: {report:?}");

    // A process that ends without a word, three times.
    for crashes in 1..=3 {
        let crash = format!("http://{service}:9080/crash");
        // Sent with a method that is not repeated: one pod is to crash, not one after the other.
        call(&mesh, ns.name(), &[&crash, "--method", "POST"]).await?;
        eventually("a container to have crashed and be back", || async {
            let pods = pods(&mesh, ns.name()).await?;
            let restarts: i64 = pods.iter().map(restarts).sum();
            let ready = pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["ready"] == true);
            ensure!(restarts == crashes && ready, "{restarts} restarts, all ready: {ready}");
            Ok(())
        })
        .await?;
    }
    let report = load.report().await?;
    ensure!(report.ok > 1000, "too little load to show anything: {report:?}");
    ensure!(report.failed == 0, "requests were lost while endpoints crashed: {report:?}");
    Ok(())
}

#[tokio::test]
async fn pods_of_http1_scale_go_and_crash_without_a_lost_request() -> Result<()> {
    nothing_is_lost("lossless-http1", "echo", "HTTP/1.1").await
}

#[tokio::test]
async fn pods_of_http2_scale_go_and_crash_without_a_lost_request() -> Result<()> {
    nothing_is_lost("lossless-http2", "echo-http2", "HTTP/2.0").await
}
