//! The control groups of the nodes' pods. Under cgroup v1 a kubelet wants its root group to exist in every hierarchy,
//! with the processors and memory nodes filled in; under v2 the controllers have to be handed down.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::mounts::{self, Mount};
use super::plan::Node;
use super::process;
use super::state::Process;

/// The group that holds the groups of both nodes.
const TOP: &str = "fairlead";
/// What a kubelet sets on v2.
const CONTROLLERS: &str = "+cpu +cpuset +memory +pids";
/// How long killed containers may take to leave their groups; a process in an uninterruptible wait takes a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// A node's root group, as its kubelet is told.
pub(crate) fn root(node: &Node) -> String {
    format!("/{TOP}/{}", node.name)
}

/// Makes a node's root group in every hierarchy.
///
/// # Errors
/// If a group cannot be made or filled in.
pub(crate) fn make(node: &Node) -> Result<()> {
    let mounts = mounts::list()?;
    let legacy: Vec<_> = mounts.iter().filter(|mount| mount.kind == "cgroup").collect();
    for hierarchy in &legacy {
        let top = hierarchy.point.join(TOP);
        for (parent, group) in [(&hierarchy.point, &top), (&top, &top.join(node.name))] {
            make_folder(group)?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                copy_down(parent, group, file)?;
            }
        }
    }
    if legacy.is_empty() {
        let unified =
            mounts.iter().find(|mount| mount.kind == "cgroup2").context("no cgroup file system is mounted")?;
        let top = unified.point.join(TOP);
        for (parent, group) in [(&unified.point, &top), (&top, &top.join(node.name))] {
            let control = parent.join("cgroup.subtree_control");
            fs::write(&control, CONTROLLERS)
                .with_context(|| format!("writing {CONTROLLERS} to {}", control.display()))?;
            make_folder(group)?;
        }
    }
    Ok(())
}

/// Ends every process in the nodes' groups and removes the groups. Nothing to do if there are none.
///
/// # Errors
/// If a group does not become empty in time.
pub(crate) async fn remove() -> Result<()> {
    let tops: Vec<PathBuf> = mounts::list()?
        .into_iter()
        .filter(|Mount { kind, .. }| kind == "cgroup" || kind == "cgroup2")
        .map(|mount| mount.point.join(TOP))
        .filter(|top| top.exists())
        .collect();
    let groups: Vec<PathBuf> = tops.iter().flat_map(|top| below(top)).collect();
    let empty = tokio::time::timeout(PATIENCE, async {
        loop {
            let members: Vec<_> = groups.iter().flat_map(|group| members(group)).collect();
            if members.is_empty() {
                break;
            }
            members.iter().for_each(process::kill);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    if empty.is_err() {
        bail!(
            "containers of the embedded cluster did not end within {PATIENCE:?}: see `cat /sys/fs/cgroup/*/{TOP}/**/cgroup.procs`"
        );
    }
    for group in groups {
        remove_folder(&group).await?;
    }
    Ok(())
}

fn make_folder(group: &Path) -> Result<()> {
    fs::create_dir_all(group).with_context(|| format!("making the control group {}", group.display()))
}

/// Copies a setting from the parent's group where the hierarchy has it and the group's is still empty.
fn copy_down(parent: &Path, group: &Path, file: &str) -> Result<()> {
    let (from, to) = (parent.join(file), group.join(file));
    let Ok(value) = fs::read_to_string(&from) else {
        return Ok(());
    };
    if fs::read_to_string(&to).is_ok_and(|present| present.trim().is_empty()) {
        fs::write(&to, value.trim()).with_context(|| format!("writing {}", to.display()))?;
    }
    Ok(())
}

/// A group and all groups in it, inner before outer.
fn below(group: &Path) -> Vec<PathBuf> {
    let mut groups: Vec<PathBuf> = fs::read_dir(group)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .flat_map(|entry| below(&entry.path()))
        .collect();
    groups.push(group.to_owned());
    groups
}

/// The living processes of a group. Zombies do not keep it from being removed.
fn members(group: &Path) -> Vec<Process> {
    let list = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    list.lines().filter_map(|line| Process::running(line.parse().ok()?)).collect()
}

/// A group stays busy for a moment after its last process was collected.
async fn remove_folder(group: &Path) -> Result<()> {
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(error) if error.kind() == ErrorKind::ResourceBusy => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            other => {
                return other.with_context(|| format!("removing the control group {}", group.display()));
            }
        }
    }
    bail!("the control group {} stays busy", group.display())
}
