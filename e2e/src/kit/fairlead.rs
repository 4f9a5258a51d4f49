//! Runs the `fairlead` command of this checkout, the way users ask a mesh.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::process::Command;

use super::Output;
use crate::cluster::{Places, kubeconfig};
use crate::command::{command, run};

/// The command, built.
#[derive(Debug, Clone)]
pub struct Fairlead {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Fairlead {
    /// Builds it where cargo puts what it builds for tests.
    pub async fn build() -> Result<Self> {
        let words = ["build", "--quiet", "--locked", "--package", "fairlead-cli", "--message-format", "json"];
        let printed = run(command("cargo", words).current_dir(Places::find()?.checkout)).await?;
        let artifacts = printed.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let mut built = artifacts.filter(|artifact| artifact["target"]["name"] == "fairlead");
        let program = built.find_map(|artifact| artifact["executable"].as_str().map(PathBuf::from));
        let program = program.context("cargo built no `fairlead`")?;
        Ok(Self { program, kubeconfig: kubeconfig()? })
    }

    /// Runs it to its end; the exit code is the second.
    pub async fn run(&self, words: &[&str]) -> Result<(Output, Option<i32>)> {
        let mut command = Command::new(&self.program);
        let output = command.arg("--kubeconfig").arg(&self.kubeconfig).args(words).kill_on_drop(true).output().await?;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output.status.code();
        Ok((
            Output { success: output.status.success(), stdout: text(output.stdout), stderr: text(output.stderr) },
            code,
        ))
    }
}
