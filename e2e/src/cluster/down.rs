//! Taking the cluster down, whatever state it is in. Each step looks for what is there and is content with nothing,
//! so the same code ends a running cluster, a crashed one and one that was never more than half started.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::plan::{self, Places};
use super::state::{self, Standing, State};
use super::{cgroups, mounts, network, process};
use crate::prerequisites;
use crate::progress::Step;

/// How long etcd may take to close its files. Everything else can be killed at once.
const ETCD_PATIENCE: Duration = Duration::from_secs(5);

/// Ends this checkout's cluster; with `purge` its data goes too.
///
/// # Errors
/// If the cluster belongs to another checkout, is just being started, or something cannot be removed.
pub(super) async fn down(places: &Places, purge: bool) -> Result<()> {
    prerequisites::root()?;
    let state = State::read()?;
    if let Some(state) = &state {
        match state.standing(&places.checkout)? {
            Standing::Starting(pid) => {
                bail!("process {pid} is starting the cluster: end that first")
            }
            Standing::Foreign(other) => {
                bail!("the cluster on this machine is that of {0}: end it with `make -C {0} down`", other.display())
            }
            Standing::Running | Standing::Remains => {}
        }
    } else {
        eprintln!("no cluster is running");
    }
    let step = state.is_some().then(|| Step::begin("ending the cluster"));
    clean(&state.map_or_else(|| State::new(&places.checkout), Ok)?).await?;
    if let Some(step) = step {
        step.done();
    }
    if purge {
        let data = places.data();
        mounts::detach_below(&data).await?;
        remove(&data)?;
        eprintln!("removed {}", data.display());
    }
    Ok(())
}

/// Ends everything that carries the checkout's mark and undoes what the record says was done to the machine. A record
/// that was lost is no obstacle: a new one makes this find all but a few empty folders.
///
/// # Errors
/// If something survives or cannot be removed; another call may succeed.
pub(super) async fn clean(state: &State) -> Result<()> {
    let (etcd, others): (Vec<_>, Vec<_>) = state.components.iter().partition(|component| component.name == "etcd");
    // etcd closes its files at once when nobody asks it for anything any more.
    for component in others {
        process::kill(&component.process);
    }
    for component in etcd {
        process::ask_to_end(&component.process);
        // If it does not listen, it is killed with the rest.
        let _ = process::gone(&[component.process], ETCD_PATIENCE).await;
    }
    process::end_marked(&state.checkout).await?;
    cgroups::remove().await?;
    network::remove().await?;
    for (path, value) in &state.sysctls {
        restore(path, value)?;
    }
    for folder in state.folders.iter().rev() {
        remove_if_empty(folder)?;
    }
    mounts::detach_below(plan::run_folder()).await?;
    // The record goes last: until then a failed attempt can be repeated.
    for node in plan::nodes() {
        remove(&node.run_folder())?;
    }
    match fs::remove_file(state::path()) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("removing {}", state::path().display()));
        }
        _ => {}
    }
    remove(plan::run_folder())
}

fn restore(setting: &Path, value: &str) -> Result<()> {
    // A reboot has put it back already, and written as it is it would only need rights that may be missing.
    if fs::read_to_string(setting).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(setting, value).with_context(|| format!("putting back {}", setting.display()))
}

fn remove_if_empty(folder: &Path) -> Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("removing {}", folder.display()))
        }
        _ => Ok(()),
    }
}
