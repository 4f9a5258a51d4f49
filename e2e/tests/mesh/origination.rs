//! TLS towards a server outside the mesh: the API server, which every cluster has, and whose authority every namespace knows.

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::{Mesh, TempNamespace, eventually, text};

use crate::{call, call_ok, client, mesh};

/// What the API server proves to be.
const NAME: &str = "kubernetes.default.svc";

/// What it tells everybody, and in plain nobody: it then says that it expects TLS.
const URL: &str = "http://outside/version";

/// A Service that leads to the API server, in the words of its own.
async fn outside(mesh: &Mesh, namespace: &str) -> Result<()> {
    let slices = mesh.list("EndpointSlice", "default", "kubernetes.io/service-name=kubernetes").await?;
    let slice = slices.first().context("the API server has no EndpointSlice")?;
    let address = text(&slice["endpoints"][0]["addresses"][0]);
    let (family, port) = (text(&slice["addressType"]), &slice["ports"][0]["port"]);
    mesh.apply(&format!(
        "apiVersion: v1
kind: Service
metadata: {{name: outside, namespace: {namespace}}}
spec:
  ports: [{{name: http, port: 80, appProtocol: http}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: outside-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: outside}}}}
addressType: {family}
ports: [{{name: http, port: {port}}}]
endpoints: [{{addresses: ['{address}']}}]
"
    ))
    .await
}

fn policy(namespace: &str, sni: &str) -> String {
    format!(
        "apiVersion: fairlead.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: outside, namespace: {namespace}}}
spec:
  targetRef: {{kind: Service, name: outside}}
  tls: {{mode: Originate, sni: {sni}, caRef: {{name: kube-root-ca.crt}}}}
"
    )
}

/// Waits until a request is answered by the proxy itself, with these words.
async fn unreached(mesh: &Mesh, namespace: &str, words: &str) -> Result<()> {
    eventually(&format!("{words:?} from {namespace}"), || async {
        let answer = call(mesh, namespace, &[URL]).await?.stdout;
        ensure!(answer.contains("503") && answer.contains("fairlead-proxy: connect-failure"), "{answer}");
        ensure!(answer.contains(words), "{answer}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_leads_out_of_the_mesh_is_reached_over_tls_and_only_if_it_proves_itself() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "origination").await?;
    mesh.apply(&client().yaml(ns.name())).await?;
    outside(&mesh, ns.name()).await?;
    mesh.rolled_out(ns.name(), "client").await?;
    eventually("the API server to ask for TLS", || async {
        let plain = call(&mesh, ns.name(), &[URL]).await?.stdout;
        ensure!(plain.contains("400") && plain.contains("HTTPS"), "{plain}");
        Ok(())
    })
    .await?;

    // Without the label nobody is believed, and nothing is sent; the author is told why.
    mesh.apply(&policy(ns.name(), NAME)).await?;
    unreached(&mesh, ns.name(), "lacks the label fairlead.dev/ca").await?;
    eventually("the author to be told", || async {
        let refs = mesh.condition("TrafficPolicy", ns.name(), "outside", "ResolvedRefs").await?;
        let refs = refs.context("no condition ResolvedRefs yet")?;
        ensure!(refs.status == "False" && refs.message.contains("kube-root-ca.crt"), "{}", refs.message);
        Ok(())
    })
    .await?;

    let label = ["label", "configmap", "-n", ns.name(), "kube-root-ca.crt", "fairlead.dev/ca=true"];
    mesh.kubectl().run(&label).await?.ok()?;
    let version = call_ok(&mesh, ns.name(), &[URL]).await?;
    ensure!(version.body.contains("gitVersion"), "not the API server's: {}", version.body);
    let http2 = call_ok(&mesh, ns.name(), &[URL, "--http2"]).await?;
    ensure!(http2.body.contains("gitVersion"), "not the API server's: {}", http2.body);
    mesh.programmed("TrafficPolicy", ns.name(), "outside").await?;

    mesh.apply(&policy(ns.name(), "elsewhere.example.com")).await?;
    unreached(&mesh, ns.name(), "did not prove to be elsewhere.example.com").await?;
    mesh.apply(&policy(ns.name(), NAME)).await?;
    call_ok(&mesh, ns.name(), &[URL]).await?;

    let mut of_a_namespace = policy(ns.name(), NAME);
    of_a_namespace =
        of_a_namespace.replace("kind: Service, name: outside", &format!("kind: Namespace, name: {}", ns.name()));
    let words = mesh.refused(&of_a_namespace).await?;
    ensure!(words.contains("tls: "), "{words}");
    Ok(())
}
