//! The record of what was started, at `/run/fairlead/state.json`: enough to end exactly that, and to tell a running
//! cluster from the remains of one. It also is the claim on the machine, which runs one embedded cluster at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::plan;

/// A process, told from a later one with the same number by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// In clock ticks since the machine came up: field 22 of `/proc/<pid>/stat`.
    pub(crate) started: u64,
}

impl Process {
    /// The process that runs under this number now.
    pub(crate) fn running(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(Self { pid, started: start_of_living(&stat)? })
    }

    pub(crate) fn is_alive(&self) -> bool {
        Self::running(self.pid) == Some(*self)
    }
}

/// When a process started, from its `stat` line; nothing if it is a zombie, which only waits to be collected.
fn start_of_living(stat: &str) -> Option<u64> {
    // The second field is the program's name in parentheses, which may hold spaces and parentheses of its own.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // `state` is field 3, the start field 22: eighteen lie between.
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok()).flatten()
}

/// A part of the cluster that runs as a process of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Component {
    /// As its log file is called.
    pub(crate) name: String,
    pub(crate) process: Process,
}

/// What the record holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct State {
    /// The checkout whose cluster this is.
    pub(crate) checkout: PathBuf,
    /// The machine's boot that it was started in: process numbers mean nothing in another.
    pub(crate) boot: String,
    /// The command that starts it, alive while it is being started.
    pub(crate) starter: Process,
    /// Whether the start came to its end.
    pub(crate) ready: bool,
    pub(crate) components: Vec<Component>,
    /// Folders that were made on the machine as mount points, innermost last.
    pub(crate) folders: Vec<PathBuf>,
    /// Kernel settings of the whole machine that components change, as they were before.
    pub(crate) sysctls: BTreeMap<PathBuf, String>,
}

/// What a record says about the cluster it describes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Everything that was started still runs.
    Running,
    /// Another command is starting it.
    Starting(u32),
    /// It crashed, was half started, or the machine was restarted: to be cleaned up.
    Remains,
    /// It belongs to another checkout, which still exists.
    Foreign(PathBuf),
}

impl State {
    /// A new record by this process for a checkout.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub(crate) fn new(checkout: &Path) -> Result<Self> {
        Ok(Self {
            checkout: checkout.to_owned(),
            boot: boot()?,
            starter: Process::running(std::process::id()).context("reading /proc/self/stat")?,
            ready: false,
            components: Vec::new(),
            folders: Vec::new(),
            sysctls: BTreeMap::new(),
        })
    }

    /// Reads the machine's record, if there is one.
    ///
    /// # Errors
    /// If it exists but cannot be read or parsed.
    pub(crate) fn read() -> Result<Option<Self>> {
        match fs::read_to_string(path()) {
            Ok(text) => Self::parse(&text).map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path().display())),
        }
    }

    fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).with_context(|| {
            format!("{} is damaged: remove it after `ip netns del` of the fairlead-* namespaces", path().display())
        })
    }

    /// Claims the machine: fails if another record exists, however close the race.
    ///
    /// # Errors
    /// If the record exists or cannot be written.
    pub(crate) fn claim(&self) -> Result<()> {
        fs::create_dir_all(plan::run_folder()).with_context(|| format!("making {}", plan::run_folder().display()))?;
        let draft = self.draft()?;
        let claimed = fs::hard_link(&draft, path());
        fs::remove_file(&draft).with_context(|| format!("removing {}", draft.display()))?;
        claimed.context("another command is starting an embedded cluster at this moment")
    }

    /// Replaces the record, so that a reader sees the old or the new one, never half of one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub(crate) fn write(&self) -> Result<()> {
        fs::rename(self.draft()?, path()).with_context(|| format!("writing {}", path().display()))
    }

    fn draft(&self) -> Result<PathBuf> {
        let draft = plan::run_folder().join(format!("state.{}", std::process::id()));
        fs::write(&draft, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", draft.display()))?;
        Ok(draft)
    }

    /// What this record means to a command that runs in `checkout`.
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub(crate) fn standing(&self, checkout: &Path) -> Result<Standing> {
        Ok(self.judge(checkout, &boot()?, &Process::is_alive, &Path::exists))
    }

    fn judge(
        &self,
        checkout: &Path,
        boot: &str,
        is_alive: &dyn Fn(&Process) -> bool,
        exists: &dyn Fn(&Path) -> bool,
    ) -> Standing {
        if self.boot != boot {
            return Standing::Remains;
        }
        if self.checkout != checkout {
            // Nobody can end the cluster of a checkout that was deleted but the next one to come.
            let exists = exists(&self.checkout);
            return if exists { Standing::Foreign(self.checkout.clone()) } else { Standing::Remains };
        }
        if self.ready && self.components.iter().all(|component| is_alive(&component.process)) {
            Standing::Running
        } else if !self.ready && is_alive(&self.starter) {
            Standing::Starting(self.starter.pid)
        } else {
            Standing::Remains
        }
    }
}

/// Where the record lies.
pub(crate) fn path() -> PathBuf {
    plan::run_folder().join("state.json")
}

fn boot() -> Result<String> {
    let id = "/proc/sys/kernel/random/boot_id";
    Ok(fs::read_to_string(id).with_context(|| format!("reading {id}"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> State {
        State {
            checkout: "/src/fairlead".into(),
            boot: "this".into(),
            starter: Process { pid: 10, started: 100 },
            ready: true,
            components: vec![Component { name: "etcd".into(), process: Process { pid: 11, started: 101 } }],
            folders: vec!["/var/lib/kubelet".into()],
            sysctls: BTreeMap::from([("/proc/sys/kernel/panic".into(), "0".into())]),
        }
    }

    fn standing(state: &State, alive: &[u32]) -> Standing {
        state.judge(Path::new("/src/fairlead"), "this", &|process| alive.contains(&process.pid), &|_| true)
    }

    #[test]
    fn a_record_survives_being_written_and_read() {
        assert_eq!(State::parse(&serde_json::to_string(&record()).unwrap()).unwrap(), record());
    }

    #[test]
    fn a_damaged_record_says_what_to_do() {
        let error = State::parse("{\"checkout\": ").unwrap_err().to_string();
        assert!(error.contains("state.json is damaged") && error.contains("ip netns del"), "{error}");
    }

    #[test]
    fn standing_follows_what_still_lives() {
        let mut state = record();
        assert_eq!(standing(&state, &[11]), Standing::Running);
        assert_eq!(standing(&state, &[]), Standing::Remains);
        state.ready = false;
        assert_eq!(standing(&state, &[10, 11]), Standing::Starting(10));
        assert_eq!(standing(&state, &[11]), Standing::Remains);
    }

    #[test]
    fn another_boot_leaves_only_remains() {
        assert_eq!(record().judge(Path::new("/src/fairlead"), "next", &|_| true, &|_| true), Standing::Remains);
    }

    #[test]
    fn another_checkout_keeps_its_cluster_as_long_as_it_exists() {
        let judge = |exists: bool| record().judge(Path::new("/elsewhere"), "this", &|_| true, &|_| exists);
        assert_eq!(judge(true), Standing::Foreign("/src/fairlead".into()));
        assert_eq!(judge(false), Standing::Remains);
    }

    #[test]
    fn the_start_is_read_past_a_hostile_program_name() {
        let tail = "1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 4242 1000 1";
        assert_eq!(start_of_living(&format!("7 (a) b (c) S {tail}")), Some(4242));
        assert_eq!(start_of_living(&format!("7 (gone) Z {tail}")), None);
        assert_eq!(start_of_living("7 (short) S 1"), None);
        assert_eq!(start_of_living(""), None);
    }

    #[test]
    fn this_process_is_alive_and_one_with_another_start_is_not() {
        let me = Process::running(std::process::id()).unwrap();
        assert!(me.is_alive());
        assert!(!Process { started: me.started + 1, ..me }.is_alive());
    }
}
