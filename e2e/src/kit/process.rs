//! The processes of the cluster's containers, which run on this machine.

use std::path::PathBuf;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

/// A process, seen from outside its container.
#[derive(Debug, Clone)]
pub struct Process {
    pid: i32,
    folder: PathBuf,
}

/// All processes of this name.
pub fn processes(name: &str) -> Result<Vec<Process>> {
    // The kernel keeps 15 characters.
    let wanted: String = name.chars().take(15).collect();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let folder = entry?.path();
        let pid = folder.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
        // A process may end between the listing and the reading.
        let (Some(pid), Ok(comm)) = (pid, std::fs::read_to_string(folder.join("comm"))) else { continue };
        if comm.trim_end() == wanted {
            found.push(Process { pid, folder });
        }
    }
    Ok(found)
}

impl Process {
    /// The process of this id.
    pub fn with_id(pid: u32) -> Self {
        Self { pid: pid.cast_signed(), folder: PathBuf::from(format!("/proc/{pid}")) }
    }

    /// A variable of the environment that it was started with.
    pub fn environment(&self, name: &str) -> Option<String> {
        let environment = std::fs::read(self.folder.join("environ")).ok()?;
        let variables = environment.split(|byte| *byte == 0).filter_map(|entry| std::str::from_utf8(entry).ok());
        variables
            .filter_map(|entry| entry.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    }

    /// Resident memory in MiB; `None` once it has ended.
    pub fn resident(&self) -> Option<f64> {
        let status = std::fs::read_to_string(self.folder.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches(" kB").parse::<f64>().ok().map(|kib| kib / 1024.0)
    }

    /// Ends it as the kernel does when memory runs out: without a chance to say goodbye.
    pub fn kill(&self) -> Result<()> {
        let pid = Pid::from_raw(self.pid).context("not a process id")?;
        kill_process(pid, Signal::KILL).with_context(|| format!("process {} cannot be killed", self.pid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_and_has_memory() {
        let own = std::fs::read_to_string("/proc/self/comm").unwrap();
        let found = processes(own.trim_end()).unwrap();
        let own = found.iter().find(|process| process.pid == std::process::id().cast_signed()).unwrap();
        assert!(own.resident().unwrap() > 0.1);
        assert_eq!(own.environment("CARGO_PKG_NAME").as_deref(), std::env::var("CARGO_PKG_NAME").ok().as_deref());
    }
}
