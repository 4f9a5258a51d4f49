//! The embedded cluster: a real Kubernetes of two nodes on this machine, without any image registry. [`up`] brings it
//! up, [`down`] takes it away without a trace, [`load`] brings images onto its nodes; [`client`] and [`kubeconfig`]
//! are how the rest of this crate reaches it. Where `KUBECONFIG` names another cluster, that one is used instead.
//!
//! Each node is a network namespace with its own containerd, kubelet, kube-proxy and enforcement of NetworkPolicies; the
//! first also holds the control plane, the DNS and the metrics API. Pods and Services have IPv4 and IPv6 addresses. Nothing outside of the cluster can be reached from it.

mod archive;
mod binary;
mod cgroups;
mod control_plane;
mod dns;
mod down;
mod load;
mod metrics;
mod mounts;
mod network;
mod node;
mod pki;
mod plan;
mod policy;
mod process;
mod state;
mod up;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};

pub(crate) use binary::hex;
pub(crate) use load::{built, is_current};
pub use plan::{Node, Places};

use crate::prerequisites;
use state::{Standing, State};

/// Starts the cluster and returns when pods can run on both nodes; at once if it runs already.
///
/// # Errors
/// If a prerequisite is missing, another checkout's cluster runs, or a part does not come up.
pub async fn up() -> Result<()> {
    if let Some(path) = other_cluster()? {
        eprintln!("KUBECONFIG is set: using the cluster of {}, starting none", path.display());
        return Ok(());
    }
    up::up(&Places::find()?).await
}

/// Ends the cluster and leaves nothing of it on the machine. Its data stays in `.cluster` for the next start, unless
/// `purge` asks for that to go too.
///
/// # Errors
/// If the running cluster is another checkout's, or something cannot be removed.
pub async fn down(purge: bool) -> Result<()> {
    if let Some(path) = other_cluster()? {
        eprintln!("KUBECONFIG is set: the cluster of {} was not started here and stays as it is", path.display());
        return Ok(());
    }
    down::down(&Places::find()?, purge).await
}

/// Brings a Docker or OCI archive, compressed or not, onto both nodes. Returns the images' names as pods use them.
///
/// # Errors
/// If the file is no image archive, or there is no embedded cluster to load it into.
pub async fn load(path: &Path) -> Result<Vec<String>> {
    if let Some(kubeconfig) = other_cluster()? {
        bail!(
            "KUBECONFIG is set: push the image to a registry that the cluster of {} pulls from",
            kubeconfig.display()
        );
    }
    prerequisites::root()?;
    require_running(&Places::find()?)?;
    load::archive(path).await
}

/// The nodes of the embedded cluster, by whose [`Node::command`] other programs run inside of them.
///
/// # Errors
/// If `KUBECONFIG` names another cluster: its nodes cannot be entered.
pub fn nodes() -> Result<&'static [Node; 2]> {
    if let Some(path) = other_cluster()? {
        bail!("this needs the embedded cluster, and KUBECONFIG names that of {}: unset it", path.display());
    }
    Ok(plan::nodes())
}

/// The kubeconfig of the cluster in use: `KUBECONFIG` if it is set, else `.cluster/kubeconfig`.
///
/// # Errors
/// If the working directory lies in no checkout.
pub fn kubeconfig() -> Result<PathBuf> {
    other_cluster()?.map_or_else(|| Places::find().map(|places| places.kubeconfig()), Ok)
}

/// A client of the cluster in use, with all rights that its kubeconfig gives.
///
/// # Errors
/// If there is no kubeconfig, or it cannot be used.
pub async fn client() -> Result<Client> {
    let path = kubeconfig()?;
    if !path.exists() {
        bail!("{} does not exist: start a cluster with `make cluster`", path.display());
    }
    client_from(&path).await
}

/// Says whether the images of this checkout can be put onto nodes, or only be built.
///
/// # Errors
/// If the embedded cluster is meant and does not run.
pub(crate) fn accepts_images() -> Result<bool> {
    if other_cluster()?.is_some() {
        return Ok(false);
    }
    require_running(&Places::find()?)?;
    Ok(true)
}

fn require_running(places: &Places) -> Result<()> {
    match State::read()?.map(|state| state.standing(&places.checkout)).transpose()? {
        Some(Standing::Running) => Ok(()),
        Some(Standing::Foreign(other)) => {
            bail!("the cluster on this machine is that of {}", other.display())
        }
        _ => bail!("the cluster is not running: start it with `make cluster`"),
    }
}

/// The cluster that `KUBECONFIG` names, unless that is the embedded one.
fn other_cluster() -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    let own = Places::find()?.kubeconfig();
    let same = path == own || matches!((path.canonicalize(), own.canonicalize()), (Ok(path), Ok(own)) if path == own);
    Ok((!same).then_some(path))
}

async fn client_from(path: &Path) -> Result<Client> {
    // Fails only if there is one already, which is just as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let kubeconfig = Kubeconfig::read_from(path).with_context(|| format!("reading {}", path.display()))?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .with_context(|| format!("using {}", path.display()))?;
    Ok(Client::try_from(config)?)
}
