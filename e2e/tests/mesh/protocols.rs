//! Every protocol that pods speak goes through, unchanged.

use anyhow::{Result, ensure};
use fairlead_e2e::kit::TempNamespace;
use fairlead_e2e::kit::apps::App;

use crate::{call, call_ok, client, mesh};

#[tokio::test]
async fn all_protocols_pass_through_the_mesh_under_strict() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "protocols").await?;
    mesh.apply(&App::echo("echo").replicas(2).yaml(ns.name())).await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    // Under Strict nothing can pass by the mesh unnoticed.
    mesh.apply(&format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: PeerAuth\nmetadata: {{name: strict, namespace: {}}}\nspec:\n  mtls: {{mode: Strict}}\n",
        ns.name()
    ))
    .await?;
    mesh.rolled_out(ns.name(), "echo").await?;
    mesh.rolled_out(ns.name(), "client").await?;
    mesh.programmed("PeerAuth", ns.name(), "strict").await?;

    // HTTP/1.1: a body, its headers, trailers, and errors of the application's own.
    let http =
        call_ok(&mesh, ns.name(), &["http://echo:9080/a%2Fb?c=d", "--method", "POST", "--body", "hello"]).await?;
    ensure!(http.body.contains("/a%2Fb"), "the path was changed on its way: {}", http.body);
    ensure!(http.body.contains("hello"), "the body did not arrive: {}", http.body);
    let trailers = call_ok(&mesh, ns.name(), &["http://echo:9080/trailers"]).await?;
    ensure!(trailers.body.contains("trailer x-checksum"), "the trailers did not arrive: {}", trailers.body);
    let teapot = call(&mesh, ns.name(), &["http://echo:9080/status/418"]).await?;
    ensure!(teapot.stdout.contains("418"), "the application's own status was changed: {}", teapot.stdout);

    // HTTP/2 in plain from the application, encrypted between the pods.
    let h2 = call_ok(&mesh, ns.name(), &["http://echo:9080/h2", "--http2"]).await?;
    ensure!(h2.body.contains("HTTP/2.0"), "HTTP/2 did not stay HTTP/2: {}", h2.body);

    // WebSocket: an upgrade, then frames both ways.
    let ws = call(&mesh, ns.name(), &["ws", "ws://echo:9080/ws", "over the mesh", "--messages", "5"]).await?;
    ensure!(ws.success, "WebSocket: {}{}", ws.stdout, ws.stderr);

    // gRPC: each message waits for the answer to the one before, so a proxy that buffers would never end.
    let grpc = call(&mesh, ns.name(), &["grpc", "http://echo:9080", "--messages", "20"]).await?;
    ensure!(grpc.success, "gRPC streaming: {}{}", grpc.stdout, grpc.stderr);

    // TCP: the client speaks first, the server speaks first.
    let plain = call(&mesh, ns.name(), &["tcp", "echo:9082"]).await?;
    ensure!(plain.success, "TCP: {}{}", plain.stdout, plain.stderr);
    let greeter = call(&mesh, ns.name(), &["tcp", "echo:9081", "--server-first", "--timeout", "5s"]).await?;
    ensure!(greeter.success, "a server that speaks first: {}{}", greeter.stdout, greeter.stderr);

    // A large body in both directions, whole.
    let large = call_ok(&mesh, ns.name(), &["http://echo:9080/bytes/5000000"]).await?;
    ensure!(large.body.trim_end().len() == 5_000_000, "{} of 5,000,000 bytes arrived", large.body.trim_end().len());
    Ok(())
}

#[tokio::test]
async fn bookinfo_works_with_its_ratings_in_redis() -> Result<()> {
    let mesh = mesh().await?;
    mesh.apply_file("manifests/samples/bookinfo.yaml").await?;
    mesh.apply_file("manifests/samples/reviews-policy.yaml").await?;
    let result = async {
        for name in ["redis", "ratings", "details", "reviews", "reviews-v2", "productpage"] {
            mesh.rolled_out("bookinfo", name).await?;
        }
        mesh.apply(&client().yaml("bookinfo")).await?;
        mesh.rolled_out("bookinfo", "client").await?;
        let stars = call_ok(&mesh, "bookinfo", &["http://ratings:9080/ratings/0"]).await?;
        ensure!(stars.body.contains("ratings"), "no ratings out of Redis: {stars:?}");
        let page =
            call_ok(&mesh, "bookinfo", &["http://productpage:9080/productpage", "--header", "end-user=jason"]).await?;
        ensure!(page.body.contains("The Comedy of Errors"), "the page does not compose: {}", page.body);
        Ok(())
    }
    .await;
    mesh.kubectl().run(&["delete", "namespace", "bookinfo", "--wait=false"]).await?.ok()?;
    result
}
