//! Root, intermediate, leaves and the operator's own certificate are replaced under load, and a leader is killed in each phase. Runs alone: while
//! another test's pods come and go, a rotation waits for them.

mod issuer;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fairlead_e2e::kit::apps::{App, BINARY, CONTAINER};
use fairlead_e2e::kit::{
    Load, Mesh, OPERATOR, OPERATOR_NAMESPACE, RunningLoad, TempNamespace, eventually, eventually_within, text,
};
use issuer::Issuer;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

const ROOT: &str = "fairlead-root";
const ISSUER: &str = "fairlead-issuer";
/// A phase lasts ten seconds at least; replicas look every two to ten, and proxies are asked to renew within some.
const ROTATION: Duration = Duration::from_secs(300);

/// There is one root.
static TURN: Mutex<()> = Mutex::const_new(());

/// Two pods behind a Service, a caller, and a load that must lose nothing.
struct World {
    mesh: Mesh,
    namespace: TempNamespace,
    load: RunningLoad,
    pods: Vec<(String, i64)>,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    async fn new(name: &str) -> Result<Self> {
        let turn = TURN.lock().await;
        let mesh = Mesh::connect().await?;
        mesh.install().await?;
        let namespace = TempNamespace::injected(&mesh, name).await?;
        mesh.apply(&App::echo("echo").replicas(2).yaml(namespace.name())).await?;
        mesh.apply(&App::echo("client").yaml(namespace.name())).await?;
        // Whoever is not authenticated is refused: a handshake that fails cannot hide behind plain text.
        mesh.apply(&format!(
            "apiVersion: fairlead.dev/v1alpha1\nkind: PeerAuth\nmetadata: {{name: strict, namespace: {}}}\nspec:\n  mtls: {{mode: Strict}}\n",
            namespace.name()
        ))
        .await?;
        mesh.rolled_out(namespace.name(), "echo").await?;
        mesh.rolled_out(namespace.name(), "client").await?;
        mesh.programmed("PeerAuth", namespace.name(), "strict").await?;
        let call = [BINARY, "call", "http://echo:9080/"];
        eventually("a first answer", || async {
            mesh.exec(namespace.name(), "app=client", CONTAINER, &call).await?.ok()
        })
        .await?;
        let load = Load::of("http://echo:9080/").rate(100).seconds(1800).start(&mesh, namespace.name()).await?;
        let pods = restarts(&mesh, namespace.name()).await?;
        Ok(Self { mesh, namespace, load, pods, _turn: turn })
    }

    async fn annotate(&self, secret: &str, annotation: &str, value: &str) -> Result<()> {
        let words = format!("{annotation}={value}");
        self.mesh
            .kubectl()
            .run(&["annotate", "secret", "-n", OPERATOR_NAMESPACE, secret, "--overwrite", &words])
            .await?
            .ok()?;
        Ok(())
    }

    /// The phase, as it is kept.
    async fn phase(&self) -> Result<String> {
        let root = self.mesh.get("Secret", OPERATOR_NAMESPACE, ROOT).await?.context("no root")?;
        let record = text(&root["metadata"]["annotations"]["fairlead.dev/rotation"]);
        let record: Value = serde_json::from_str(&record).context("no record of a rotation")?;
        Ok(text(&record["phase"]))
    }

    async fn reach(&self, phase: &str) -> Result<()> {
        eventually_within(&format!("the phase {phase}"), ROTATION, || async {
            let (now, waits) = (self.phase().await?, self.standing("waitsFor").await.unwrap_or_default());
            ensure!(now == phase, "it is {now} and waits for {waits:?}");
            Ok(())
        })
        .await
    }

    /// One key of what people are told.
    async fn standing(&self, key: &str) -> Result<String> {
        let map = self.mesh.get("ConfigMap", OPERATOR_NAMESPACE, "fairlead-identity").await?.context("no record")?;
        Ok(text(&map["data"][key]))
    }

    async fn certificate(&self, secret: &str) -> Result<String> {
        let found = self.mesh.get("Secret", OPERATOR_NAMESPACE, secret).await?;
        Ok(text(&found.with_context(|| format!("no Secret {secret}"))?["data"]["tls.crt"]))
    }

    /// How many certificates the caller's sidecar has had, by the operator's log.
    async fn issued(&self) -> Result<usize> {
        let words = ["logs", "-n", OPERATOR_NAMESPACE, "deployment/fairlead-operator", "--tail=-1"];
        let log = self.mesh.kubectl().run(&words).await?.ok()?;
        let pod = self.mesh.running_pod(self.namespace.name(), "app=client").await?;
        Ok(log.lines().filter(|line| line.contains("certificate issued") && line.contains(&pod)).count())
    }

    /// Webhooks are called with the operator's present certificate: a pod that is made now gets its sidecar.
    async fn admits_a_pod(&self, name: &str) -> Result<()> {
        self.mesh.apply(&App::echo(name).yaml(self.namespace.name())).await?;
        self.mesh.rolled_out(self.namespace.name(), name).await?;
        let url = format!("http://{name}:9080/");
        let call = [BINARY, "call", url.as_str()];
        eventually("the new pod to answer", || async {
            self.mesh.exec(self.namespace.name(), "app=client", CONTAINER, &call).await?.ok()
        })
        .await?;
        Ok(())
    }

    async fn kill_the_operator(&self) -> Result<()> {
        let pod = self.mesh.running_pod(OPERATOR_NAMESPACE, OPERATOR).await?;
        let words = ["delete", "pod", "-n", OPERATOR_NAMESPACE, &pod, "--grace-period=0", "--force"];
        self.mesh.kubectl().run(&words).await?.ok()?;
        self.mesh.rolled_out(OPERATOR_NAMESPACE, "fairlead-operator").await
    }

    async fn restart_the_operator(&self) -> Result<()> {
        let words = ["rollout", "restart", "-n", OPERATOR_NAMESPACE, "deployment/fairlead-operator"];
        self.mesh.kubectl().run(&words).await?.ok()?;
        self.mesh.rolled_out(OPERATOR_NAMESPACE, "fairlead-operator").await
    }

    /// Gives the mesh these settings, and none besides.
    async fn settings(&self, settings: &str) -> Result<()> {
        let map = config_map("fairlead-settings", "settings.yaml", settings);
        self.mesh.apply(&map).await?;
        self.restart_the_operator().await
    }

    /// Nothing was lost, and nobody restarted.
    async fn assert_unnoticed(&self) -> Result<()> {
        let report = self.load.report().await?;
        ensure!(report.ok > 500, "too little load to show anything: {report:?}");
        ensure!(report.failed == 0, "requests failed: {report:?}");
        let now = restarts(&self.mesh, self.namespace.name()).await?;
        for pod in &self.pods {
            ensure!(now.contains(pod), "a pod restarted: {pod:?} is not among {now:?}");
        }
        Ok(())
    }
}

/// Pods of the namespace, and how often their containers, sidecars among them, were restarted.
async fn restarts(mesh: &Mesh, namespace: &str) -> Result<Vec<(String, i64)>> {
    let count = |pod: &Value, field: &str| -> i64 {
        let statuses = pod["status"][field].as_array().into_iter().flatten();
        statuses.filter_map(|status| status["restartCount"].as_i64()).sum()
    };
    let pods = mesh.list("Pod", namespace, "").await?;
    let of = |pod: &Value| {
        (text(&pod["metadata"]["name"]), count(pod, "containerStatuses") + count(pod, "initContainerStatuses"))
    };
    Ok(pods.iter().map(of).collect())
}

#[tokio::test]
async fn all_four_are_rotated_under_load_though_the_operator_dies_in_each_phase() -> Result<()> {
    let world = World::new("rotation").await?;

    // Leaves, the operator's own among them.
    let before = world.issued().await?;
    world.annotate(ISSUER, "fairlead.dev/rotate-leaves", "first").await?;
    eventually("a new leaf of the caller", || async {
        ensure!(world.issued().await? > before, "none yet");
        Ok(())
    })
    .await?;
    world.admits_a_pod("after-leaves").await?;
    world.assert_unnoticed().await?;

    // The intermediate, and leaves below it.
    let (issuer, before) = (world.certificate(ISSUER).await?, world.issued().await?);
    world.annotate(ISSUER, "fairlead.dev/rotate-issuer", "first").await?;
    eventually("a new intermediate, and a leaf below it", || async {
        ensure!(world.certificate(ISSUER).await? != issuer, "the intermediate is the old one");
        ensure!(world.issued().await? > before, "the leaf is the old one");
        Ok(())
    })
    .await?;
    world.assert_unnoticed().await?;

    // The root.
    let root = world.certificate(ROOT).await?;
    world.annotate(ROOT, "fairlead.dev/rotate-root", "first").await?;
    for phase in ["Publishing", "Signing", "Dropping"] {
        world.reach(phase).await?;
        world.kill_the_operator().await?;
        world.assert_unnoticed().await?;
    }
    world.reach("Settled").await?;
    ensure!(world.certificate(ROOT).await? != root, "the old root is still there");
    world.admits_a_pod("with-the-new-root").await?;
    let map =
        world.mesh.get("ConfigMap", world.namespace.name(), "fairlead-trust-bundle").await?.context("no bundle")?;
    let roots = text(&map["data"]["ca.crt"]).matches("BEGIN CERTIFICATE").count();
    ensure!(roots == 1, "{roots} roots are published");
    ensure!(world.standing("problems").await?.is_empty(), "problems: {}", world.standing("problems").await?);
    world.assert_unnoticed().await
}

#[tokio::test]
async fn an_abort_brings_the_old_root_back_though_the_operator_dies() -> Result<()> {
    let world = World::new("rotation-aborted").await?;
    let root = world.certificate(ROOT).await?;
    world.annotate(ROOT, "fairlead.dev/rotate-root", "aborted").await?;
    world.reach("Publishing").await?;
    world.admits_a_pod("with-both-roots").await?;
    world.reach("Signing").await?;
    world.annotate(ROOT, "fairlead.dev/abort-rotation", "now").await?;
    world.reach("Aborting").await?;
    world.kill_the_operator().await?;
    world.reach("Settled").await?;
    ensure!(world.certificate(ROOT).await? == root, "the abort did not bring the old root back");
    ensure!(world.standing("aborted").await? == "true", "the record does not say so");
    world.admits_a_pod("after-all-that").await?;
    world.assert_unnoticed().await
}

#[tokio::test]
async fn an_issuer_of_the_users_takes_over_under_load_and_gives_back() -> Result<()> {
    let world = World::new("issuer").await?;
    let issuer = Issuer::start(&world.mesh).await?;
    let own = world.certificate(ROOT).await?;
    world.mesh.apply(&config_map("fairlead-roots", "ca.crt", issuer.root())).await?;
    world.settings("certificateLifetime: 10m\ncertificateRequests:\n  issuerRef: {group: cert-manager.io, kind: Issuer, name: mesh}\n").await?;
    world.reach("Publishing").await?;
    world.reach("Signing").await?;
    world.kill_the_operator().await?;
    world.reach("Settled").await?;
    ensure!(world.certificate(ROOT).await? != own, "the former root is still there");
    ensure!(world.standing("signer").await?.contains("mesh"), "signer: {}", world.standing("signer").await?);
    world.admits_a_pod("signed-by-the-issuer").await?;
    world.assert_unnoticed().await?;
    let signed = issuer.signed();
    let accounts = format!("spiffe://cluster.local/ns/{}/sa/", world.namespace.name());
    let leaves: Vec<_> = signed.iter().filter(|signed| signed.identity.starts_with(&accounts)).collect();
    // Three pods that came over, and one that began with it.
    ensure!(leaves.len() >= 4 && leaves.iter().all(|leaf| leaf.duration == "600s"), "it signed {signed:?}");

    // And back to a root of the mesh's own.
    world
        .settings(
            "certificateRequests:\n  issuerRef: {group: cert-manager.io, kind: Issuer, name: mesh}\n  phaseOut: true\n",
        )
        .await?;
    world.reach("Publishing").await?;
    world.reach("Settled").await?;
    world.mesh.kubectl().run(&["delete", "configmap", "-n", OPERATOR_NAMESPACE, "fairlead-roots"]).await?.ok()?;
    world.mesh.kubectl().run(&["delete", "configmap", "-n", OPERATOR_NAMESPACE, "fairlead-settings"]).await?.ok()?;
    world.restart_the_operator().await?;
    ensure!(world.standing("signer").await?.contains("operator"), "signer: {}", world.standing("signer").await?);
    world.admits_a_pod("signed-by-the-mesh").await?;
    ensure!(world.standing("problems").await?.is_empty(), "problems: {}", world.standing("problems").await?);
    issuer.remove(&world.mesh).await?;
    world.assert_unnoticed().await
}

fn config_map(name: &str, key: &str, text: &str) -> String {
    let metadata = json!({"name": name, "namespace": OPERATOR_NAMESPACE});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {key: text}}).to_string()
}
