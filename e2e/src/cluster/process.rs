//! Starting the parts of the cluster so that they outlive this command, and finding them again, whatever became of
//! the record: each carries a mark in its environment, which its own children (containerd's shims) inherit.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio::process::Command;

use super::state::Process;

/// The environment variable that marks a process as a part of the cluster; its value is the checkout.
const MARK: &str = "FAIRLEAD_CLUSTER";
/// Where the parts find `runc`, `ip`, `nft` and the rest: Debian's places and no others.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a killed process may take to be gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts a part in a session of its own, its output in a log file. It gets no more of this command's environment
/// than it needs. `argv[0]` must end up replacing itself by the program, so that the process number stays the same.
///
/// # Errors
/// If the log cannot be made or the program cannot be started.
pub(crate) fn start(checkout: &Path, log: &Path, argv: &[OsString]) -> Result<Process> {
    let output = File::create(log).with_context(|| format!("making the log {}", log.display()))?;
    let child = Command::new("setsid")
        .args(argv)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("HOME", "/root")
        .env(MARK, checkout)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone().context("sharing the log between both outputs")?)
        .stderr(output)
        .spawn()
        .with_context(|| format!("starting {}", argv.join(OsStr::new(" ")).display()))?;
    let pid = child.id().context("the process ended at once")?;
    Process::running(pid).with_context(|| format!("the process ended at once: see {}", log.display()))
}

/// All living processes that carry a checkout's mark.
pub(crate) fn marked(checkout: &Path) -> Vec<Process> {
    let mark = [MARK.as_bytes(), b"=", checkout.as_os_str().as_encoded_bytes()].concat();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| {
            fs::read(format!("/proc/{pid}/environ"))
                .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == mark))
        })
        .filter_map(Process::running)
        .collect()
}

/// Asks a process to end, if it still is the same one.
pub(crate) fn ask_to_end(process: &Process) {
    if process.is_alive() {
        signal(process.pid, Signal::TERM);
    }
}

/// Ends a process, if it still is the same one.
pub(crate) fn kill(process: &Process) {
    if process.is_alive() {
        signal(process.pid, Signal::KILL);
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended in between, which is what was wanted.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits until none of the processes is alive.
///
/// # Errors
/// If one still is after the time given.
pub(crate) async fn gone(processes: &[Process], within: Duration) -> Result<()> {
    let all_gone = async {
        while processes.iter().any(Process::is_alive) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(within, all_gone).await.is_err() {
        let left: Vec<_> = processes.iter().filter(|process| process.is_alive()).map(|process| process.pid).collect();
        bail!("processes {left:?} did not end within {within:?}");
    }
    Ok(())
}

/// Ends every marked process, until there is none: one may be starting another at this moment.
///
/// # Errors
/// If some survive.
pub(crate) async fn end_marked(checkout: &Path) -> Result<()> {
    // One that is just replacing itself by another program has no environment for an instant: look twice.
    let mut looks_without_any = 0;
    while looks_without_any < 2 {
        let processes = marked(checkout);
        looks_without_any = if processes.is_empty() { looks_without_any + 1 } else { 0 };
        processes.iter().for_each(kill);
        gone(&processes, PATIENCE).await?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The words of a command line, from whatever they are made of.
pub(crate) fn words<W: Into<OsString>>(words: impl IntoIterator<Item = W>) -> Vec<OsString> {
    words.into_iter().map(Into::into).collect()
}

/// `--name=path`, for options that name a file.
pub(crate) fn option(name: &str, path: &Path) -> OsString {
    let mut option = OsString::from(format!("--{name}="));
    option.push(path);
    option
}

/// A log file's name for a part.
pub(crate) fn log(logs: &Path, name: &str) -> PathBuf {
    logs.join(format!("{name}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_started_process_is_found_by_its_mark_and_ended() {
        let folder = tempfile::tempdir().unwrap();
        let log = log(folder.path(), "sleeper");
        let process = start(folder.path(), &log, &words(["sleep", "60"])).unwrap();
        let found = async {
            while marked(folder.path()) != [process] {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("the process carries the mark");
        assert!(marked(Path::new("/another/checkout")).is_empty());
        end_marked(folder.path()).await.unwrap();
        assert!(!process.is_alive());
    }

    #[tokio::test]
    async fn waiting_names_who_stays() {
        let me = Process::running(std::process::id()).unwrap();
        let error = gone(&[me], Duration::from_millis(30)).await.unwrap_err().to_string();
        assert!(error.contains(&me.pid.to_string()), "{error}");
    }
}
