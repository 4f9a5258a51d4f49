//! Running other programs: every failure says which program, with which arguments, and what it complained about.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// How much of a failed program's output an error carries: its last lines hold the reason.
const TAIL_LINES: usize = 15;

/// Runs the command to its end and returns its standard output.
///
/// # Errors
/// If the program cannot be started or ends with another status than 0; the error carries the end of its output.
pub async fn run(command: &mut Command) -> Result<String> {
    finish(command.stdin(Stdio::null()).output().await, command)
}

/// Like [`run`], with text on the program's standard input.
///
/// # Errors
/// As for [`run`].
pub async fn run_with_input(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", describe(command)))?;
    let mut stdin = child.stdin.take().context("the child's standard input is piped")?;
    // A program that ends before it read everything says why on its standard error, which is the better message.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    finish(child.wait_with_output().await, command)
}

/// Where programs are looked for: in the caller's `PATH`, which for an ordinary user may lack the folders of system
/// programs, and then in those.
pub(crate) fn search_path() -> OsString {
    let own = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    // Only a folder with a colon in its name could not be joined, and none came from `PATH`.
    std::env::join_paths(std::env::split_paths(&own).chain(system)).unwrap_or(own)
}

/// A command from a program and its arguments, killed if the future that runs it is dropped.
pub fn command<A: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env("PATH", search_path()).kill_on_drop(true);
    command
}

fn finish(output: std::io::Result<Output>, command: &Command) -> Result<String> {
    let output = output.with_context(|| format!("starting {}", describe(command)))?;
    if !output.status.success() {
        let both = [output.stdout, output.stderr].concat();
        bail!("{} failed ({}): {}", describe(command), output.status, tail(&String::from_utf8_lossy(&both)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(command.get_args().map(OsStr::to_string_lossy));
    format!("`{}`", words.join(" "))
}

/// The last lines of a text, without trailing blank ones.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_failure_names_the_command_and_its_complaint() {
        let error = run(&mut command("sh", ["-c", "echo lost >&2; exit 3"])).await.unwrap_err().to_string();
        assert!(error.contains("`sh -c") && error.contains("exit status: 3") && error.contains("lost"), "{error}");
    }

    #[tokio::test]
    async fn input_reaches_the_program() {
        assert_eq!(run_with_input(&mut command("cat", [""; 0]), "through").await.unwrap(), "through");
    }

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let text = (0..100).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");
        assert!(tail(&text).starts_with("85\n") && tail(&text).ends_with("\n99"));
    }
}
