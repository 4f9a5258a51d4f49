//! Bringing the cluster up: the claim on the machine, the network, the processes in their order, and the wait until
//! a pod could run on both nodes. Whatever goes wrong on the way is taken down again.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::{Node as NodeObject, ServiceAccount};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, ResourceExt};

use super::binary::Binaries;
use super::plan::{self, DNS_SERVICE, METRICS_SERVICE, Node, PAUSE_IMAGE, Places};
use super::state::{Component, Process, Standing, State};
use super::{cgroups, control_plane, dns, down, metrics, network, node, pki, policy, process};
use crate::command::{run, tail};
use crate::progress::Step;
use crate::{images, prerequisites};

/// How long a part may take to become ready. A cold start needs 10 to 20 s on two idle cores.
const PATIENCE: Duration = Duration::from_secs(180);
/// How often readiness is looked at.
const PAUSE: Duration = Duration::from_millis(200);

/// Settings of the whole machine that a kubelet changes, put back by `down`.
const KUBELET_SYSCTLS: [&str; 6] = [
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
];

/// Starts the cluster, or says that it runs already.
///
/// # Errors
/// If a prerequisite is missing, another checkout's cluster runs on this machine, or a part does not come up. Nothing
/// stays behind then.
pub(super) async fn up(places: &Places) -> Result<()> {
    prerequisites::root()?;
    match State::read()? {
        // Nothing is recorded; should something be left all the same, it must not be in the way.
        None => down::clean(&State::new(&places.checkout)?).await?,
        Some(state) => match state.standing(&places.checkout)? {
            Standing::Running => {
                eprintln!("the cluster is running; its kubeconfig is {}", places.kubeconfig().display());
                return Ok(());
            }
            Standing::Starting(pid) => {
                bail!("process {pid} is starting the cluster already: wait for it or end it")
            }
            Standing::Foreign(other) => bail!(
                "the cluster of {0} is running, and a machine has room for one: end it with `make -C {0} down`",
                other.display()
            ),
            Standing::Remains => {
                eprintln!("removing what is left of an earlier run");
                down::clean(&state).await?;
            }
        },
    }
    prerequisites::cluster().await?;
    let binaries = super::binary::get(places).await?;
    let step = Step::begin("starting the cluster");
    let state = State::new(&places.checkout)?;
    state.claim()?;
    let mut start = Start { places, binaries: &binaries, state };
    let outcome = tokio::select! {
        outcome = start.run() => outcome,
        interrupted = tokio::signal::ctrl_c() => interrupted.context("waiting for signals").and_then(|()| bail!("interrupted")),
    };
    if let Err(error) = outcome {
        down::clean(&start.state).await.context("cleaning up after a failed start")?;
        return Err(error);
    }
    step.done_with("two nodes are ready");
    let kubectl = places.kubectl();
    eprintln!("reach it with {} or KUBECONFIG={}", kubectl.display(), places.kubeconfig().display());
    Ok(())
}

struct Start<'a> {
    places: &'a Places,
    binaries: &'a Binaries,
    state: State,
}

impl Start<'_> {
    async fn run(&mut self) -> Result<()> {
        let began = Timestamp::now();
        self.prepare_machine()?;
        network::make().await?;
        let pki = pki::make(&self.places.pki(), &self.places.kubeconfig())?;
        let mut kubelets = Vec::new();
        for node in plan::nodes() {
            let containerd = self.start(&format!("containerd-{}", node.name), &node::containerd(self.places, node)?)?;
            kubelets.push((node, containerd));
        }
        for (name, arguments) in control_plane::components(&self.places.data(), &pki) {
            self.start_on(plan::control_plane(), name, name, arguments)?;
        }
        self.alive(try_join_all(plan::nodes().iter().map(|node| self.containerd_with_pause(node)))).await?;
        for (node, containerd) in kubelets {
            let binary = self.binaries.cluster();
            let kubelet = node::kubelet(self.places, &pki, node, &binary, &containerd)?;
            self.start(&format!("kubelet-{}", node.name), &kubelet)?;
            let proxy = node::kube_proxy(self.places, &pki, node, &binary, &containerd)?;
            self.start(&format!("kube-proxy-{}", node.name), &proxy)?;
        }
        self.write_kubectl()?;
        let client = super::client_from(&self.places.kubeconfig()).await?;
        let known = async {
            api_ready(&client).await?;
            apply_all(&client, [dns::objects(), metrics::objects(), policy::objects()].concat()).await
        };
        self.alive(known).await?;
        // Without their permissions they would try again at ever longer intervals.
        let first = plan::control_plane();
        self.start_on(first, "coredns", "coredns", dns::arguments(&self.places.data(), &pki)?)?;
        self.start_on(first, "metrics-server", "metrics-server", metrics::arguments(&pki))?;
        for node in plan::nodes() {
            let name = format!("network-policy-{}", node.name);
            self.start_on(node, "network-policy", &name, policy::arguments(node, &pki))?;
        }
        let serving = async {
            nodes_ready(&client, began).await?;
            accounts_ready(&client).await?;
            dns_ready().await;
            join_all(plan::nodes().iter().map(services_ready)).await;
            join_all(plan::nodes().iter().map(policies_ready)).await;
            metrics_listen().await;
            // Made only now: the API server looks again 5 s after it could not reach the other side.
            apply_all(&client, vec![metrics::api(&pki)?]).await?;
            metrics_ready(&client).await
        };
        self.alive(serving).await?;
        self.state.ready = true;
        self.state.write()
    }

    /// Makes what the machine must offer, and records what `down` has to undo before it is done.
    fn prepare_machine(&mut self) -> Result<()> {
        let logs = self.places.logs();
        fs::create_dir_all(&logs).with_context(|| format!("making {}", logs.display()))?;
        self.state.sysctls = KUBELET_SYSCTLS
            .iter()
            .filter_map(|path| Some((PathBuf::from(path), fs::read_to_string(path).ok()?.trim().to_owned())))
            .collect::<BTreeMap<_, _>>();
        self.state.folders = node::mount_points().flat_map(|point| missing(&point)).collect();
        self.state.write()?;
        for point in node::mount_points() {
            fs::create_dir_all(&point).with_context(|| format!("making {}", point.display()))?;
        }
        plan::nodes().iter().try_for_each(cgroups::make)
    }

    /// Starts a component in a node's network namespace; `name` is what it is recorded as.
    fn start_on(&mut self, node: &Node, component: &str, name: &str, arguments: Vec<OsString>) -> Result<Process> {
        let mut line = process::words(["nsenter", &format!("--net=/run/netns/{}", node.netns())]);
        line.extend([self.binaries.cluster().into(), component.into()]);
        line.extend(arguments);
        self.start(name, &line)
    }

    fn start(&mut self, name: &str, line: &[OsString]) -> Result<Process> {
        let log = process::log(&self.places.logs(), name);
        let process = process::start(&self.places.checkout, &log, line).with_context(|| format!("starting {name}"))?;
        self.state.components.push(Component { name: name.to_owned(), process });
        self.state.write()?;
        Ok(process)
    }

    /// Waits for something that only happens while all parts live; the death of one is the better error.
    async fn alive<T>(&self, wait: impl Future<Output = Result<T>>) -> Result<T> {
        let death = async {
            loop {
                if let Some(dead) = self.state.components.iter().find(|component| !component.process.is_alive()) {
                    return &dead.name;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::select! {
            outcome = tokio::time::timeout(PATIENCE, wait) => match outcome {
                Ok(outcome) => outcome,
                Err(_) => bail!("the cluster was not ready within {PATIENCE:?}; the logs are in {}", self.places.logs().display()),
            },
            name = death => {
                let log = process::log(&self.places.logs(), name);
                let text = fs::read_to_string(&log).unwrap_or_default();
                bail!("{name} ended during the start; its log {} ends with:\n{}", log.display(), tail(&text))
            }
        }
    }

    /// Waits for a node's containerd and sees that it has the image that every pod needs first.
    async fn containerd_with_pause(&self, node: &Node) -> Result<()> {
        while run(&mut node.ctr(["version"])).await.is_err() {
            tokio::time::sleep(PAUSE).await;
        }
        images::ensure_pause(self.places, node, &self.binaries.pause(), PAUSE_IMAGE).await
    }

    /// A kubectl that knows its cluster, so that nobody has to install one.
    fn write_kubectl(&self) -> Result<()> {
        let path = self.places.kubectl();
        let folder = path.parent().context("kubectl lies in a folder")?;
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let script = format!(
            "#!/bin/sh\nexport KUBECONFIG=\"${{KUBECONFIG:-{}}}\"\nexec '{}' kubectl \"$@\"\n",
            self.places.kubeconfig().display(),
            self.binaries.cluster().display(),
        );
        fs::write(&path, script)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .with_context(|| format!("writing {}", path.display()))
    }
}

/// The folders that would have to be made for this one to exist, outermost first.
fn missing(folder: &Path) -> Vec<PathBuf> {
    let mut missing: Vec<_> =
        folder.ancestors().take_while(|ancestor| !ancestor.exists()).map(Path::to_owned).collect();
    missing.reverse();
    missing
}

async fn api_ready(client: &Client) -> Result<()> {
    loop {
        let request = http::Request::get("/readyz").body(Vec::new())?;
        if client.request_text(request).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Applies objects that carry their own kind.
async fn apply_all(client: &Client, objects: Vec<serde_json::Value>) -> Result<()> {
    for object in objects {
        let object: DynamicObject = serde_json::from_value(object)?;
        let types = object.types.clone().context("an object without a kind")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let api: Api<DynamicObject> = match object.namespace() {
            Some(namespace) => Api::namespaced_with(client.clone(), &namespace, &resource),
            None => Api::all_with(client.clone(), &resource),
        };
        let name = object.name_any();
        api.patch(&name, &PatchParams::apply("fairlead.dev/cluster").force(), &Patch::Apply(&object))
            .await
            .with_context(|| format!("applying {} {name}", types.kind))?;
    }
    Ok(())
}

/// Waits until both nodes reported themselves ready since this start: what an earlier run reported does not count.
async fn nodes_ready(client: &Client, since: Timestamp) -> Result<()> {
    let api: Api<NodeObject> = Api::all(client.clone());
    for node in plan::nodes() {
        while !api.get_opt(node.name).await?.is_some_and(|object| is_ready(&object, since)) {
            tokio::time::sleep(PAUSE).await;
        }
    }
    Ok(())
}

fn is_ready(node: &NodeObject, since: Timestamp) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "Ready"
            && condition.status == "True"
            // Written in whole seconds.
            && condition.last_heartbeat_time.as_ref().is_some_and(|time| time.0.as_second() >= since.as_second())
    })
}

/// Pods are refused until their namespace has its service account.
async fn accounts_ready(client: &Client) -> Result<()> {
    let api: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    while api.get_opt("default").await?.is_none() {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Waits until CoreDNS has read all Services. It opens its port earlier.
async fn dns_ready() {
    let probe = format!(
        r"exec 3<>/dev/tcp/127.0.0.1/{}; printf 'GET /ready HTTP/1.0\r\n\r\n' >&3; head -1 <&3 | grep -q ' 200 '",
        dns::READY_PORT
    );
    until_it_succeeds(plan::control_plane(), &probe).await;
}

/// Waits until the DNS Service answers on a node: then kube-proxy has written its rules there.
async fn services_ready(node: &Node) {
    until_it_succeeds(node, &format!("exec 3<>/dev/tcp/{DNS_SERVICE}/53")).await;
}

/// Waits until NetworkPolicies are enforced on a node.
async fn policies_ready(node: &Node) {
    until_it_succeeds(node, &format!("nft list table inet {}", policy::TABLE)).await;
}

/// Waits until the first node reaches the metrics API by its Service, as the API server will.
async fn metrics_listen() {
    until_it_succeeds(plan::control_plane(), &format!("exec 3<>/dev/tcp/{METRICS_SERVICE}/443")).await;
}

/// Waits until the API server answers for the metrics API: before that no namespace can be deleted for good.
async fn metrics_ready(client: &Client) -> Result<()> {
    let kind = GroupVersionKind::gvk("apiregistration.k8s.io", "v1", "APIService");
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::from_gvk(&kind));
    let available = |object: &DynamicObject| {
        let conditions = object.data["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|condition| condition["type"] == "Available" && condition["status"] == "True")
    };
    while !available(&api.get(metrics::API).await?) {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Runs a line of bash, which can open connections by itself, inside a node.
async fn until_it_succeeds(node: &Node, line: &str) {
    while run(node.command("timeout").args(["1", "bash", "-c", line])).await.is_err() {
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_folders_are_named_from_the_outside() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        assert_eq!(missing(&inner), [folder.path().join("a"), inner.clone()]);
        fs::create_dir_all(&inner).unwrap();
        assert!(missing(&inner).is_empty());
    }

    #[test]
    fn readiness_of_an_earlier_run_does_not_count() {
        let node: NodeObject = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "node-a"},
            "status": {"conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:10Z"}]},
        }))
        .unwrap();
        assert!(is_ready(&node, "2026-01-01T00:00:10.9Z".parse().unwrap()));
        assert!(!is_ready(&node, "2026-01-01T00:00:11Z".parse().unwrap()));
    }
}
