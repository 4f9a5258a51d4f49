//! Who may do what: rules of `PeerAuth` on a real cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::App;
use fairlead_e2e::kit::{Mesh, Output, TempNamespace, eventually, text};
use tokio::time::{Instant, sleep};

use crate::{call, call_ok, client, mesh};

/// A server and a client in one namespace, a client in another, and one outside of the mesh.
struct Place {
    mesh: Mesh,
    own: TempNamespace,
    other: TempNamespace,
    outside: TempNamespace,
}

impl Place {
    async fn new(name: &str) -> Result<Self> {
        let mesh = mesh().await?;
        let own = TempNamespace::injected(&mesh, name).await?;
        let other = TempNamespace::injected(&mesh, &format!("{name}-other")).await?;
        let outside = TempNamespace::plain(&mesh, &format!("{name}-outside")).await?;
        mesh.apply(&App::echo("echo").yaml(own.name())).await?;
        for namespace in [&own, &other, &outside] {
            mesh.apply(&client().yaml(namespace.name())).await?;
        }
        mesh.rolled_out(own.name(), "echo").await?;
        for namespace in [&own, &other, &outside] {
            mesh.rolled_out(namespace.name(), "client").await?;
        }
        Ok(Self { mesh, own, other, outside })
    }

    /// A `PeerAuth` for the server, in force at its proxy.
    async fn policy(&self, spec: &str) -> Result<()> {
        let namespace = self.own.name();
        let yaml = format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: PeerAuth\nmetadata: {{name: echo, namespace: {namespace}}}\nspec:\n  \
             selector: {{matchLabels: {{app: echo}}}}\n{spec}"
        );
        self.mesh.apply(&yaml).await?;
        self.mesh.programmed("PeerAuth", namespace, "echo").await
    }

    /// What a call from a namespace gets: the status, or nothing where the connection was refused.
    async fn status(&self, from: &TempNamespace, target: &str) -> Result<String> {
        Ok(status(&call(&self.mesh, from.name(), &[target]).await?))
    }

    fn url(&self, path: &str) -> String {
        format!("http://echo.{}:9080{path}", self.own.name())
    }
}

fn status(answer: &Output) -> String {
    answer.stdout.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

#[tokio::test]
async fn rules_let_in_whom_they_name_and_nobody_else() -> Result<()> {
    let place = Place::new("rules").await?;
    let (mesh, own) = (&place.mesh, place.own.name());
    for from in [&place.own, &place.other, &place.outside] {
        call_ok(mesh, from.name(), &[&place.url("/health")]).await?;
    }
    let namespace = place.other.name();
    place
        .policy(&format!(
            "  rules:\n  - name: other-reads\n    action: Allow\n    from: [{{namespaces: [{namespace}]}}]\n    to: [{{methods: [GET], paths: [/status/*, /health]}}]\n  \
             - name: no-teapots\n    action: Deny\n    to: [{{paths: [/status/418]}}]\n"
        ))
        .await?;
    let pod = mesh.running_pod(own, "app=echo").await?;
    let pod = mesh.get("Pod", own, &pod).await?.context("the pod is gone")?;
    let direct = format!("http://{}:9080/status/200", text(&pod["status"]["podIP"]));
    for (from, target, status) in [
        (&place.other, place.url("/status/200"), "200"),
        (&place.other, place.url("/status/418"), "403"),
        (&place.other, place.url("/echo"), "403"),
        (&place.own, place.url("/status/200"), "403"),
        (&place.outside, place.url("/status/200"), "403"),
        // Round the Service, at the pod itself.
        (&place.other, direct.clone(), "200"),
        (&place.own, direct.clone(), "403"),
        (&place.outside, direct, "403"),
        (&place.other, place.url("/status/..%2fstatus/200"), "403"),
        (&place.other, place.url("//status/200"), "403"),
    ] {
        let got = place.status(from, &target).await?;
        ensure!(got == status, "{target} from {} got {got:?} and not {status}", from.name());
    }
    // Of bytes nobody knows what they ask for.
    for from in [&place.other, &place.outside] {
        let refused = call(mesh, from.name(), &["tcp", &format!("echo.{own}:9082")]).await?;
        ensure!(!refused.success, "bytes were let in where only requests may come: {}", refused.stdout);
    }
    let log = mesh.kubectl().run(&["logs", "-n", own, "-l", "app=echo", "-c", "fairlead-proxy", "--tail=-1"]).await?;
    ensure!(log.stdout.contains("refused by policy"), "the log does not say who was refused:\n{}", log.stdout);

    // Kubelet's probes are not callers: new pods become ready.
    mesh.kubectl().run(&["rollout", "restart", "-n", own, "deployment/echo"]).await?.ok()?;
    mesh.rolled_out(own, "echo").await?;
    let got = place.status(&place.own, &place.url("/status/200")).await?;
    ensure!(got == "403", "a new pod lets in whom the old one did not: {got:?}");

    place.policy("  default: Allow\n").await?;
    for from in [&place.own, &place.outside] {
        call_ok(mesh, from.name(), &[&place.url("/status/200")]).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_rehearsal_refuses_nobody_and_names_whom_strict_would_cut_off() -> Result<()> {
    let place = Place::new("rehearsal").await?;
    let (mesh, own) = (&place.mesh, place.own.name());
    place.policy("  mtls: {mode: Strict}\n  audit: true\n").await?;
    for from in [&place.own, &place.outside] {
        call_ok(mesh, from.name(), &[&place.url("/health")]).await?;
    }
    let caller = format!("{}/client", place.outside.name());
    eventually("status.readiness to name the plain caller", || async {
        let object = mesh.get("PeerAuth", own, "echo").await?.context("no PeerAuth")?;
        let readiness = &object["status"]["readiness"];
        ensure!(readiness[0]["workload"] == format!("{own}/echo"), "{readiness}");
        ensure!(readiness[0]["callers"] == serde_json::json!([caller]), "{readiness}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_rules_no_longer_allow_ends_within_a_second() -> Result<()> {
    let place = Place::new("ended").await?;
    let (mesh, own) = (&place.mesh, place.own.name());
    call_ok(mesh, place.other.name(), &[&place.url("/health")]).await?;
    let slow = place.url("/delay/50000");
    let words = ["--timeout", "60s", &slow];
    let waiting = async { Ok::<_, anyhow::Error>((call(mesh, place.other.name(), &words).await?, Instant::now())) };
    let changing = async {
        // The request has to be on its way.
        sleep(Duration::from_secs(2)).await;
        place.policy(&format!("  rules: [{{name: own, action: Allow, from: [{{namespaces: [{own}]}}]}}]\n")).await?;
        Ok(Instant::now())
    };
    let ((answer, ended), changed) = tokio::try_join!(waiting, changing)?;
    ensure!(status(&answer) == "403", "the request was not ended by policy: {}{}", answer.stdout, answer.stderr);
    let late = ended.saturating_duration_since(changed);
    ensure!(late < Duration::from_secs(1), "it went on for {late:?} after the proxy had acknowledged the policy");
    Ok(())
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_are_told_in_the_status_and_cut_nobody_off() -> Result<()> {
    let place = Place::new("keys").await?;
    let (mesh, own) = (&place.mesh, place.own.name());
    for (url, why) in [("https://169.254.169.254/keys", "link-local"), ("https://localhost:8443/keys", "loopback")] {
        place.policy(&format!("  jwt: [{{issuer: https://issuer, jwks: {{url: \"{url}\"}}}}]\n")).await?;
        eventually("the status to say why there are no keys", || async {
            let refs = mesh.condition("PeerAuth", own, "echo", "ResolvedRefs").await?.context("no condition")?;
            ensure!(refs.status == "False" && refs.message.contains(url) && refs.message.contains(why), "{refs:?}");
            Ok(())
        })
        .await?;
    }
    call_ok(mesh, place.other.name(), &[&place.url("/health")]).await?;
    Ok(())
}
