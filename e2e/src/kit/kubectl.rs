//! Runs `kubectl`, the way users change a cluster.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// `kubectl` with a kubeconfig.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// What a command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether it exited with 0.
    pub success: bool,
    /// What it wrote to its standard output.
    pub stdout: String,
    /// What it wrote to its standard error.
    pub stderr: String,
}

impl Output {
    /// The standard output of a command that succeeded; otherwise what it complained of.
    pub fn ok(self) -> Result<String> {
        if self.success {
            return Ok(self.stdout);
        }
        bail!("{}{}", self.stdout, self.stderr)
    }
}

impl Kubectl {
    /// The cluster's own `kubectl` where there is one, else the one on the PATH.
    pub fn new(kubeconfig: &Path) -> Result<Self> {
        let own = kubeconfig.parent().map(|folder| folder.join("bin/kubectl")).filter(|path| path.exists());
        let program = own.unwrap_or_else(|| PathBuf::from("kubectl"));
        Ok(Self { program, kubeconfig: kubeconfig.to_path_buf() })
    }

    /// Runs it to its end.
    pub async fn run(&self, words: &[&str]) -> Result<Output> {
        self.with_input(words, "").await
    }

    /// Runs it to its end with this text as its standard input.
    pub async fn with_input(&self, words: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("{} cannot be started: run `make cluster`, or put kubectl on the PATH", self.program.display())
            })?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes it; its exit code says what it thought of that.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        let output = child.wait_with_output().await?;
        Ok(Output {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// The command itself, for what runs on (`logs -f`, `port-forward`); it ends when its handle is dropped.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(words).kill_on_drop(true);
        command
    }
}
