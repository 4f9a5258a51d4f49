//! What crosses the network between pods, as someone sees it who listens on the nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use fairlead_e2e::kit::capture::{Capture, Segment};
use fairlead_e2e::kit::{Load, Mesh, TempNamespace, repository, text};

use crate::{call_ok, client, mesh};

/// Who calls whom in Bookinfo, and who calls Bookinfo in this test.
const LINKS: [(&str, &str); 5] = [
    ("load", "productpage"),
    ("productpage", "details"),
    ("productpage", "reviews"),
    ("reviews", "ratings"),
    ("ratings", "redis"),
];

/// The port of HTTP, and that of Redis.
const PORTS: [u16; 2] = [9080, 6379];

#[tokio::test]
async fn everything_between_the_pods_of_bookinfo_is_encrypted_on_the_wire() -> Result<()> {
    let mesh = mesh().await?;
    let ns = TempNamespace::injected(&mesh, "wire").await?;
    let outside = TempNamespace::plain(&mesh, "wire-outside").await?;
    bookinfo(&mesh, ns.name()).await?;
    mesh.apply(&in_turns(ns.name())).await?;
    mesh.programmed("TrafficPolicy", ns.name(), "reviews").await?;
    mesh.apply(&client().yaml(outside.name())).await?;
    mesh.rolled_out(outside.name(), "client").await?;
    let page = format!("http://productpage.{}:9080/productpage", ns.name());
    call_ok(&mesh, outside.name(), &[&page]).await?;

    // Every role hands this header on, so each request of the page carries it.
    let capture = Capture::start(&PORTS).await?;
    let load = Load::of(&page).rate(20).seconds(10).header("baggage=the-meshed-word");
    let report = load.run(&mesh, ns.name()).await?;
    call_ok(&mesh, outside.name(), &[&page, "--header", "baggage=the-plain-word"]).await?;
    let seen = capture.stop().await?;

    ensure!(report.ok > 100 && report.failed == 0, "the page was not asked for as it should: {report:?}");
    let pods = addresses(&mesh, ns.name()).await?;
    let inside = |segment: &&Segment| pods.contains_key(&segment.from) && pods.contains_key(&segment.to);
    let plain = seen.iter().filter(|segment| !pods.contains_key(&segment.from) && segment.contains("the-plain-word"));
    ensure!(
        plain.filter(|segment| pods.get(&segment.to).is_some_and(|app| app == "productpage")).count() > 0,
        "the capture did not even see what a caller without a sidecar said in plain: this test proves nothing"
    );
    for (from, to) in LINKS {
        let link = |segment: &&Segment| {
            let ends = (pods.get(&segment.from).map(String::as_str), pods.get(&segment.to).map(String::as_str));
            ends == (Some(from), Some(to)) || ends == (Some(to), Some(from))
        };
        let records = seen.iter().filter(link).filter(|segment| segment.begins_tls_record()).count();
        ensure!(records > 0, "no TLS was seen between {from} and {to}");
    }
    for word in ["HTTP/1.", "the-meshed-word", "the-plain-word", "\r\nGET\r\n", "spiffe://"] {
        if let Some(leak) = seen.iter().filter(inside).find(|segment| segment.contains(word)) {
            let (from, to) = (&pods[&leak.from], &pods[&leak.to]);
            anyhow::bail!("{word:?} went from {from} to {to} in plain: {:?}", String::from_utf8_lossy(&leak.data));
        }
    }
    ensure!(!seen.iter().any(|segment| segment.contains("the-meshed-word")), "a header left the mesh in plain");
    Ok(())
}

/// The sample application as users apply it, in a namespace of this test's own.
async fn bookinfo(mesh: &Mesh, namespace: &str) -> Result<()> {
    let yaml = std::fs::read_to_string(repository()?.join("manifests/samples/bookinfo.yaml"))?;
    let yaml = yaml.replace("namespace: bookinfo", &format!("namespace: {namespace}"));
    mesh.apply(&yaml.replace("  name: bookinfo\n", &format!("  name: {namespace}\n"))).await?;
    for name in ["redis", "ratings", "details", "reviews", "reviews-v2", "productpage"] {
        mesh.rolled_out(namespace, name).await?;
    }
    Ok(())
}

/// Has both versions of reviews answer, of which one alone calls ratings: by default the faster one may get every request of a short time.
fn in_turns(namespace: &str) -> String {
    format!(
        "apiVersion: fairlead.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: reviews, namespace: {namespace}}}\nspec:\n  targetRef: {{kind: Service, name: reviews}}\n  \
         loadBalancing: {{algorithm: RoundRobin}}\n"
    )
}

/// The pods of a namespace by their addresses, as their label `app` names them.
async fn addresses(mesh: &Mesh, namespace: &str) -> Result<BTreeMap<IpAddr, String>> {
    let mut found = BTreeMap::new();
    for pod in mesh.list("Pod", namespace, "").await? {
        for ip in pod["status"]["podIPs"].as_array().into_iter().flatten() {
            found.insert(text(&ip["ip"]).parse()?, text(&pod["metadata"]["labels"]["app"]));
        }
    }
    Ok(found)
}
